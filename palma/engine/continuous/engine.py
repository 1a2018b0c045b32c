"""The continuous engine: one thread, one step at a time, every running sequence in each.

A step takes what was submitted and cancelled since the last one, lets the scheduler choose,
runs the forward passes, samples, and tells each sequence's sink. Whatever goes wrong for one
sequence ends that sequence alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence as Rows
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import torch

from palma.core.errors import EngineFailure, InsufficientMemory, InvalidRequest, PalmaError
from palma.core.types import FinishReason
from palma.engine.base import (
    EngineInfo,
    EngineRequest,
    EngineStats,
    Sink,
    TokenDelta,
    check_request,
    stop_token_ids,
)
from palma.engine.continuous.adoption import Adoption, KernelAdoption
from palma.engine.continuous.block_pool import BlockPool
from palma.engine.continuous.cpu_kernel import DecodeKernel, KernelBuild
from palma.engine.continuous.hybrid_cache import StatePool, has_states
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.pacer import PrefillPacer
from palma.engine.continuous.packed_linear import WeightFormat
from palma.engine.continuous.runner import ForwardPasses, Runner
from palma.engine.continuous.scheduler import Chunk, Scheduler, Sequence
from palma.engine.likeliest import likeliest
from palma.engine.mean_states import MeanStates
from palma.engine.sampler import Choice, Sampler, report_prompt_logprobs

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

logger = logging.getLogger(__name__)

SAME_RESULTS = "the model computes the same through it as by itself"
WHOLE_PROMPTS = "each prompt in one pass"


class ContinuousEngine:
    """Decodes all running sequences together.

    Args:
        loaded: The model; its attention belongs to this engine until `close`.
        executor: Where the step loop runs, as one long-lived job.
        max_running: Most sequences that compute at once.
        num_blocks: Size of the KV cache, in blocks for each layer.
        block_size: Tokens a block holds.
        kernel: Computes decode steps; the linear layers are packed for it.
        builds_kernel: Whether to build one meanwhile, and to take it into use.
        weights: The format that the linear layers were packed in.
        max_prefill_tokens: Most prompt tokens of a step; while others decode it is mostly less.
        splits_prompts: Whether a prompt may be computed in several steps.
        runner: Computes the passes; unset: the one that runs on every device.
        max_chunks: Most prompts of a step.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        executor: Executor,
        max_running: int,
        *,
        num_blocks: int,
        block_size: int = 16,
        kernel: DecodeKernel | None = None,
        builds_kernel: bool = False,
        weights: WeightFormat = "as_loaded",
        max_prefill_tokens: int = 512,
        splits_prompts: bool = True,
        runner: ForwardPasses | None = None,
        max_chunks: int | None = None,
    ) -> None:
        self.info = EngineInfo(
            engine="continuous",
            vocab_size=loaded.vocab_size,
            max_model_len=min(loaded.max_model_len, num_blocks * block_size),
            device=loaded.choice.device,
            dtype=loaded.choice.dtype,
            device_reason=loaded.choice.reason,
            engine_reason=SAME_RESULTS if splits_prompts else f"{SAME_RESULTS}, {WHOLE_PROMPTS}",
            stop_token_ids=loaded.stop_token_ids,
            weights=loaded.weights,
        )
        self.tokenizer = loaded.tokenizer
        states = StatePool(loaded.model, max_running) if has_states(loaded.model) else None
        self._portable = None
        if runner is None:
            runner = Runner(loaded.model, KVCache(num_blocks, block_size), states)
            self._portable = runner
        self._runner = runner
        # A prefix is more than its blocks where layers keep states, and those are not kept.
        pool = BlockPool(num_blocks, block_size, reuse_prefixes=states is None)
        self._scheduler = Scheduler(
            pool, max_running, splits_prompts=splits_prompts, max_chunks=max_chunks
        )
        self._pacer = PrefillPacer(max_prefill_tokens)
        self._device = loaded.model.device
        self._num_threads = loaded.choice.num_threads
        self._samplers: dict[Sequence, Sampler] = {}
        self._states: dict[Sequence, MeanStates] = {}
        self._lock = threading.Lock()  # guards what other threads touch: the next five
        self._wake = threading.Condition(self._lock)
        self._submitted: deque[tuple[EngineRequest, Sink]] = deque()
        self._cancelled: set[str] = set()
        self._ids: set[str] = set()
        self._is_closing = False
        self._next_adoption: Adoption | None = None
        self._adoption: Adoption | None = None
        self._model, self._weights = loaded.model, weights
        if kernel is not None:
            self._adopt(kernel).finish()
        self._kernel_build = KernelBuild(self._note_kernel, is_enabled=builds_kernel)
        self._sequences: dict[str, Sequence] = {}
        self._last_step = time.monotonic()
        self._has_lost_device = False
        self._loop = executor.submit(self._run)

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Queue a sequence; see `Engine.submit`."""
        check_request(request, self.info)
        with self._wake:
            if self._is_closing:
                raise EngineFailure("the engine is closed")
            if request.request_id in self._ids:
                raise InvalidRequest(f"request id {request.request_id!r} is in use")
            self._ids.add(request.request_id)
            self._submitted.append((request, sink))
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """End a sequence at the next step; see `Engine.cancel`."""
        with self._wake:
            if request_id in self._ids:
                self._cancelled.add(request_id)
                self._wake.notify()

    def stats(self) -> EngineStats:
        """Return the counts of this moment, without waiting for a step."""
        num_running = len(self._scheduler.running)
        num_waiting = self._scheduler.num_waiting + len(self._submitted)
        stalled_s = time.monotonic() - self._last_step if num_running else 0.0
        if self._has_lost_device:
            stalled_s = math.inf
        return EngineStats(num_running, num_waiting, max(0.0, stalled_s))

    def close(self) -> None:
        """Cancel everything and wait for the running step."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._loop.result()
        self._kernel_build.close()
        self._runner.close()

    def _note_kernel(self, kernel: DecodeKernel) -> None:
        """Have a kernel taken into use; called by the thread that built it."""
        self._begin_adoption(self._adopt(kernel))

    def _begin_adoption(self, adoption: Adoption) -> None:
        """Have something faster taken into use, part by part; any thread may call it."""
        with self._wake:
            self._next_adoption = adoption
            self._wake.notify()

    def _adopt(self, kernel: DecodeKernel) -> KernelAdoption:
        assert self._portable is not None, "the kernel is for the CPU"
        return KernelAdoption(self._model, self._portable, kernel, self._weights)

    def step(self) -> None:
        """Advance the scheduled sequences by one forward pass of each kind."""
        self._advance_adoption()
        budget = self._pacer.budget(
            anybody_decodes=any(s.is_decoding for s in self._scheduler.running),
            num_waiting=self._scheduler.num_prompts,
        )
        batch = self._scheduler.schedule(budget)
        chunks = [chunk for chunk in batch.prefills if self._is_started(chunk)]
        if self._runner.has_step_decoder:
            chunks = self._step_together(batch.decodes, chunks)
        elif batch.decodes:
            started = time.perf_counter()
            self._decode(batch.decodes)
            self._pacer.note_decode(time.perf_counter() - started)
        for chunk in chunks:
            started = time.perf_counter()
            self._prefill(chunk)
            self._pacer.note_prefill(chunk.num_tokens, time.perf_counter() - started)
        self._last_step = time.monotonic()

    def _advance_adoption(self) -> None:
        """Take the next part of what was made meanwhile into use."""
        if self._adoption is None:
            return
        try:
            is_done = not self._adoption.advance()
        except Exception:
            logger.exception("what was made meanwhile could not be taken into use")
            is_done = True
        if is_done:
            self._adoption = None

    def _step_together(self, decodes: list[Sequence], chunks: list[Chunk]) -> list[Chunk]:
        """Compute all in one pass but what needs one of its own, which is returned."""
        shared = [chunk for chunk in chunks if not needs_own_pass(chunk)]
        if not decodes and not shared:
            return chunks
        started = time.perf_counter()
        try:
            logits = self._runner.step(decodes, shared)
        except Exception:
            logger.exception("a step failed as a whole; its sequences are computed one by one")
            for sequence in decodes:
                self._decode([sequence])
            return chunks
        duration_s = time.perf_counter() - started
        num_tokens = sum(chunk.num_tokens for chunk in shared)
        if shared:
            self._pacer.note_together(num_tokens, duration_s)
        else:
            self._pacer.note_decode(duration_s)
        self._commit_step(decodes, shared, logits)
        return [chunk for chunk in chunks if needs_own_pass(chunk)]

    def _commit_step(
        self, decodes: list[Sequence], chunks: list[Chunk], logits: torch.Tensor
    ) -> None:
        """Note what a pass has computed, and choose the next token of whoever has one."""
        for sequence in decodes:
            self._scheduler.commit(sequence, 1)
        rows = list(range(len(decodes)))
        for row, chunk in enumerate(chunks, len(decodes)):
            self._scheduler.commit(chunk.sequence, chunk.num_tokens)
            if chunk.sequence.num_uncomputed == 0:
                rows.append(row)
        complete = [*decodes, *(chunk.sequence for chunk in chunks)]
        if rows:
            chosen = logits if len(rows) == len(complete) else logits[rows]
            self._choose_tokens([complete[row] for row in rows], chosen)

    def _run(self) -> None:
        """The step loop; ends when the engine closes."""
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        while self._take_news():
            try:
                self.step()
            except Exception as error:  # the loop must not end: nobody would be answered again
                logger.exception("a step failed outside of any sequence; all of them end")
                for sequence in list(self._sequences.values()):
                    self._fail(sequence, error)
        for sequence in list(self._sequences.values()):
            self._end(sequence, TokenDelta(finish_reason="cancelled"))

    def _take_news(self) -> bool:
        """Take what other threads asked for, waiting while there is nothing to do."""
        with self._wake:
            while not (self._submitted or self._cancelled or self._is_closing):
                if self._scheduler.has_work or self._next_adoption:
                    break
                if self._adoption is not None and not self._adoption.is_blocked:
                    break
                self._wake.wait(0.05 if self._adoption is not None else None)
            submitted, cancelled = list(self._submitted), set(self._cancelled)
            self._submitted.clear()
            self._cancelled.clear()
            is_closing = self._is_closing
            if self._next_adoption is not None:
                self._adoption, self._next_adoption = self._next_adoption, None
        for request, sink in submitted:
            self._sequences[request.request_id] = self._scheduler.add(request, sink)
        for request_id in cancelled & self._sequences.keys():
            self._end(self._sequences[request_id], TokenDelta(finish_reason="cancelled"))
        self._last_step = time.monotonic()
        return not is_closing

    def _decode(self, sequences: Rows[Sequence]) -> None:
        """Decode sequences together; halve the batch until whoever breaks it stands alone."""
        try:
            logits = self._runner.decode(sequences)  # (num_sequences, vocab_size)
        except Exception as error:  # noqa: BLE001  # the engine's border: one sequence fails
            if len(sequences) == 1:
                self._fail(sequences[0], error)
                return
            middle = len(sequences) // 2
            self._decode(sequences[:middle])
            self._decode(sequences[middle:])
            return
        for sequence in sequences:
            self._scheduler.commit(sequence, 1)
        self._choose_tokens(sequences, logits)

    def _is_started(self, chunk: Chunk) -> bool:
        """Make a sequence ready for its first pass; return whether it still runs."""
        sequence = chunk.sequence
        if sequence.num_completion_tokens == 0 and sequence not in self._samplers:
            try:
                self._samplers[sequence] = self._make_sampler(sequence.request)
            except Exception as error:  # noqa: BLE001  # the engine's border: one sequence fails
                self._fail(sequence, error)
                return False
            num_cached = sequence.num_cached or 0
            self._tell(sequence, TokenDelta(started=True, num_cached_tokens=num_cached))
        return sequence in self._scheduler.running

    def _prefill(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        try:
            if sequence.request.wants_embedding:
                self._read(chunk)
                return
            wants_all = sequence.prompt_logprobs is not None
            logits = self._runner.prefill(chunk, all_logits=wants_all)
            if wants_all:
                self._score_prompt(sequence, logits)
        except Exception as error:  # noqa: BLE001  # the engine's border: one sequence fails
            self._fail(sequence, error)
            return
        self._scheduler.commit(sequence, chunk.num_tokens)
        self._tell_prompt_scores(sequence)
        if sequence in self._scheduler.running and sequence.num_uncomputed == 0:
            self._choose_tokens([sequence], logits[-1:])

    def _read(self, chunk: Chunk) -> None:
        """Compute a part of a text to be embedded, and after its last part say the embedding."""
        sequence = chunk.sequence
        if sequence.num_computed == 0:  # true again after a preemption
            self._states[sequence] = MeanStates()
        states = self._states[sequence]
        states.add(self._runner.read(chunk))
        self._scheduler.commit(sequence, chunk.num_tokens)
        if sequence.num_uncomputed == 0:
            delta = TokenDelta(finish_reason="length", embedding=states.embedding())
            self._end(sequence, delta)

    def _score_prompt(self, sequence: Sequence, logits: torch.Tensor) -> None:
        """Note how likely the prompt tokens after this chunk's were.

        Args:
            sequence: Its `num_computed` is still the chunk's start.
            logits: (num_tokens, vocab_size), float32, of the chunk.
        """
        assert sequence.prompt_logprobs is not None
        prompt = sequence.request.prompt_token_ids
        num_known = len(sequence.prompt_logprobs)  # a preemption may have come in between
        first = max(0, num_known - sequence.num_computed)
        next_token_ids = prompt[num_known + 1 : sequence.num_computed + len(logits) + 1]
        num_top = sequence.request.sampling_params.num_logprobs or 0
        rows = logits[first : first + len(next_token_ids)]
        sequence.prompt_logprobs += report_prompt_logprobs(rows, next_token_ids, num_top)

    def _tell_prompt_scores(self, sequence: Sequence) -> None:
        """Pass the prompt's log-probabilities on as soon as all are known, and only once."""
        reports = sequence.prompt_logprobs
        if reports is not None and len(reports) == sequence.num_prompt_tokens - 1:
            sequence.prompt_logprobs = None
            self._tell(sequence, TokenDelta(prompt_logprobs=tuple(reports)))

    def _choose_tokens(self, sequences: Rows[Sequence], logits: torch.Tensor) -> None:
        """Choose each sequence's next token from its row of (num_sequences, vocab_size)."""
        masks = self._take_masks(sequences)
        found = likeliest(logits, [masks.get(sequence) for sequence in sequences])
        choices: dict[Sequence, Choice] = {}
        for row, sequence in enumerate(sequences):
            if sequence not in masks:
                continue
            sampler = self._samplers[sequence]
            token_id, logit = found[row]
            try:
                if sampler.takes_likeliest and math.isfinite(logit):
                    choices[sequence] = sampler.accept(token_id)
                else:
                    choices[sequence] = sampler.sample(logits[row])
            except Exception as error:  # noqa: BLE001  # the engine's border: one sequence fails
                self._fail(sequence, error)
        for sequence in choices:
            self._samplers[sequence].prepare()
        for sequence, choice in choices.items():
            self._add_token(sequence, choice)

    def _take_masks(self, sequences: Rows[Sequence]) -> dict[Sequence, bytes | None]:
        """Return the masks of those that take their likeliest token, None for those that draw.

        A sequence that wants no token, or whose mask is lost, ends here.
        """
        masks: dict[Sequence, bytes | None] = {}
        for sequence in sequences:
            if sequence.request.sampling_params.max_tokens == 0:
                self._end(sequence, TokenDelta(finish_reason="length"))
                continue
            sampler = self._samplers[sequence]
            try:
                masks[sequence] = sampler.allowed() if sampler.takes_likeliest else None
            except Exception as error:  # noqa: BLE001  # the engine's border: one sequence fails
                self._fail(sequence, error)
        return masks

    def _add_token(self, sequence: Sequence, choice: Choice) -> None:
        sequence.token_ids.append(choice.token_id)
        self._tell_token(sequence, choice)

    def _tell_token(self, sequence: Sequence, choice: Choice) -> None:
        """Pass the newest known token on, and end its sequence if it was the last."""
        delta = TokenDelta(
            token_ids=(choice.token_id,),
            finish_reason=self._finish_reason(sequence, choice.token_id),
            logprobs=(choice.logprobs,) if choice.logprobs is not None else (),
        )
        if delta.finish_reason is None:
            self._tell(sequence, delta)
        else:
            self._end(sequence, delta)

    def _make_sampler(self, request: EngineRequest) -> Sampler:
        return Sampler(
            request.sampling_params,
            request.prompt_token_ids,
            stop_token_ids(request.sampling_params, self.info),
            self._device,
            request.logits_hook,
            mask=request.token_mask,
        )

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        params = sequence.request.sampling_params
        if token_id in stop_token_ids(params, self.info) or self._samplers[sequence].is_complete:
            return "stop"
        if sequence.num_completion_tokens - sequence.num_pending == params.max_tokens:
            return "length"
        return None

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        request_id = sequence.request.request_id
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            failure: PalmaError = InsufficientMemory(
                "this request did not fit into memory beside those that run now", retry_after_s=10
            )
        elif isinstance(error, PalmaError):
            failure = error
        else:
            logger.error("%s: failed while decoding", request_id, exc_info=error)
            self._has_lost_device |= isinstance(error, torch.AcceleratorError)
            failure = EngineFailure("the engine failed on this request; the log says why")
        self._end(sequence, TokenDelta(finish_reason="error", error=failure))

    def _end(self, sequence: Sequence, delta: TokenDelta) -> None:
        """Take a sequence out of everything, then say its last word."""
        request_id = sequence.request.request_id
        self._scheduler.remove(sequence)
        self._samplers.pop(sequence, None)
        self._states.pop(sequence, None)
        del self._sequences[request_id]
        with self._lock:
            self._ids.discard(request_id)
            self._cancelled.discard(request_id)
        self._tell(sequence, delta)

    def _tell(self, sequence: Sequence, delta: TokenDelta) -> None:
        """Pass a delta on; a sink that raises ends its sequence, and is told so."""
        try:
            sequence.sink(delta)
        except Exception:
            logger.exception("%s: the sink failed", sequence.request.request_id)
            failure = EngineFailure("the answer could not be passed on; the log says why")
            last = TokenDelta(finish_reason="error", error=failure)
            if delta.finish_reason is None:
                self._end(sequence, last)
            else:
                with contextlib.suppress(Exception):
                    sequence.sink(last)


def needs_own_pass(chunk: Chunk) -> bool:
    """Whether more than the logits after a chunk's last token is wanted."""
    sequence = chunk.sequence
    return sequence.request.wants_embedding or sequence.prompt_logprobs is not None
