"""The reference engine: Hugging Face `generate`, one sequence a worker thread.

It runs every model that Transformers can generate with. What it says under greedy decoding in
float32 is right by definition: it is `generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TextIteratorStreamer,
)

from palma.core.errors import InsufficientMemory
from palma.core.types import FinishReason
from palma.engine.base import (
    EngineInfo,
    EngineRequest,
    EngineStats,
    Sink,
    TokenDelta,
    TokenLogprobs,
    check_request,
    stop_token_ids,
)
from palma.engine.mean_states import MeanStates, last_hidden_states
from palma.engine.sampler import Sampler, report_prompt_logprobs, require_finite
from palma.engine.thread_scheduler import Sequence, ThreadScheduler

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from palma.models.loader import LoadedModel


MAX_PROMPT_LOGITS = 2**27
"""Numbers of a prompt's logits that are held at once: half a gigabyte in float32."""


class ThreadsEngine:
    """Decodes each sequence by a `generate` call of its own on a worker thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        executor: Executor,
        max_running: int,
        *,
        engine_reason: str = "it was asked for",
    ) -> None:
        self.info = EngineInfo(
            engine="threads",
            vocab_size=loaded.vocab_size,
            max_model_len=loaded.max_model_len,
            device=loaded.choice.device,
            dtype=loaded.choice.dtype,
            device_reason=loaded.choice.reason,
            engine_reason=engine_reason,
            stop_token_ids=loaded.stop_token_ids,
            weights=loaded.weights,
        )
        self.tokenizer = loaded.tokenizer
        self._model = loaded.model
        self._num_threads = loaded.choice.num_threads
        self._scheduler = ThreadScheduler(self._decode, executor, max_running)

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Queue a sequence; see `Engine.submit`."""
        check_request(request, self.info)
        self._scheduler.submit(request, sink)

    def cancel(self, request_id: str) -> None:
        """End a sequence; see `Engine.cancel`."""
        self._scheduler.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Cancel everything, wait for the running steps and let the model go."""
        self._scheduler.close()
        self._model = None

    def _decode(self, sequence: Sequence) -> FinishReason:
        request = sequence.request
        prompt = torch.tensor([request.prompt_token_ids], device=self._model.device)
        stops = stop_token_ids(request.sampling_params, self.info)
        sampler = Sampler(
            request.sampling_params,
            request.prompt_token_ids,
            stops,
            prompt.device,
            request.logits_hook,
            mask=request.token_mask,
        )
        streamer = TokenStreamer(sequence, chooser := TokenChooser(sampler))
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)  # OpenMP keeps it for each thread
        try:
            with torch.inference_mode():
                if request.wants_prompt_logprobs:
                    self._report_prompt(sequence, prompt)
                if request.wants_embedding:
                    self._report_embedding(sequence, prompt)
                if request.sampling_params.max_tokens == 0:
                    return "length"
                self._model.generate(
                    inputs=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=_generation_config(request, stops),
                    logits_processor=LogitsProcessorList([chooser]),
                    streamer=streamer,
                )
        except Cancelled:
            return "cancelled"
        except Completed:
            return "stop"
        except (torch.OutOfMemoryError, MemoryError):
            raise InsufficientMemory(
                f"{prompt.shape[1]} prompt tokens and their completion did not fit into memory "
                "beside the requests that run now",
                retry_after_s=10,
            ) from None
        return "stop" if streamer.last_token_id in stops else "length"

    def _report_embedding(self, sequence: Sequence, prompt: torch.Tensor) -> None:
        """Say the embedding of the prompt (1, num_prompt_tokens)."""
        states = MeanStates()
        states.add(last_hidden_states(self._model, prompt))
        sequence.emit(TokenDelta(embedding=states.embedding()))

    def _report_prompt(self, sequence: Sequence, prompt: torch.Tensor) -> None:
        """Say how likely each token of the prompt (1, num_prompt_tokens) was."""
        next_token_ids = sequence.request.prompt_token_ids[1:]
        num_top = sequence.request.sampling_params.num_logprobs or 0
        num_rows = len(next_token_ids)
        if self._model._supports_logits_to_keep():
            num_rows = max(1, MAX_PROMPT_LOGITS // self.info.vocab_size)
        reports: list[TokenLogprobs] = []
        for start in range(0, len(next_token_ids), num_rows):
            if sequence.cancelled.is_set():
                raise Cancelled
            part = next_token_ids[start : start + num_rows]
            logits = self._prompt_logits(prompt, start, start + len(part))
            reports += report_prompt_logprobs(logits, part, num_top)
        sequence.emit(TokenDelta(prompt_logprobs=tuple(reports)))

    def _prompt_logits(self, prompt: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Return the logits after some tokens of a prompt: (end - start, vocab_size).

        A pass over the whole prompt for each part costs time and no memory. To go on from a KV
        cache would be faster, and wrong with models that can take only one token at a time then.
        """
        if end - start == prompt.shape[1] - 1:
            logits = self._model(prompt, use_cache=False).logits[0, :-1]
        else:
            kept = torch.arange(start, end, device=prompt.device)
            logits = self._model(prompt, use_cache=False, logits_to_keep=kept).logits[0]
        assert isinstance(logits, torch.Tensor)
        return logits


def _generation_config(request: EngineRequest, stops: frozenset[int]) -> GenerationConfig:
    """Greedy as far as `generate` knows: `TokenChooser` has made the choice by then."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=request.sampling_params.max_tokens,
        eos_token_id=sorted(stops),  # no ids, and not None: that means the checkpoint's
        pad_token_id=min(stops, default=0),
    )


class Cancelled(Exception):
    """The sequence was cancelled. A stopping criterion would cost every token a tensor."""


class Completed(Exception):
    """The sequence's token mask lets nothing follow."""


class TokenStreamer(TextIteratorStreamer):  # type: ignore[misc]  # transformers is untyped here
    """A `TextIteratorStreamer` whose queue is the sequence's sink, and which hands on token ids.

    The original decodes by itself and waits for a space before it lets text go; here text is
    made above the engine, and a token leaves in the step that chose it.
    """

    def __init__(self, sequence: Sequence, chooser: TokenChooser) -> None:
        super().__init__(tokenizer=None, skip_prompt=True)
        self._sequence = sequence
        self._chooser = chooser
        self._next_is_prompt = True
        self.last_token_id: int | None = None

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (1, num_prompt_tokens) once, then each new token (1,).

        Raises:
            Cancelled: Nobody wants the token any more; this is what ends `generate`.
            Completed: This was the last token that may come.
        """
        if self._next_is_prompt:
            self._next_is_prompt = False
            return
        if self._sequence.cancelled.is_set():
            raise Cancelled
        self.last_token_id = int(value)
        logprobs = (self._chooser.logprobs,) if self._chooser.logprobs is not None else ()
        self._sequence.emit(TokenDelta(token_ids=(self.last_token_id,), logprobs=logprobs))
        if self._chooser.is_complete:
            raise Completed

    def end(self) -> None:
        """Do nothing: the scheduler sends the last delta."""


class TokenChooser(LogitsProcessor):  # type: ignore[misc]
    """The last logits processor: leaves one token possible, the one that was sampled."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.logprobs: TokenLogprobs | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow the token that was chosen."""
        return self._sampler.is_complete

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take ids (1, num_seen) and scores (1, vocab_size); return scores of that shape."""
        if self._sampler.takes_argmax:
            require_finite(scores)
            return scores
        choice = self._sampler.sample(scores[0])
        self._sampler.prepare()
        self.logprobs = choice.logprobs
        chosen = torch.tensor([choice.token_id], device=scores.device)
        return torch.full_like(scores, -torch.inf).index_fill_(1, chosen, 0.0)
