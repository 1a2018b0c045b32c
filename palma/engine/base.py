"""The protocol between what a request means (serving) and what computes it (an engine).

Token ids in, token ids out. An engine knows no roles, templates, text, JSON or HTTP. It owns its
waiting queue and keeps to `max_running` sequences at once, so it may run them in threads of their
own or all in one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from palma.core.errors import InvalidRequest, PalmaError
from palma.core.model_card import Weights
from palma.core.types import FinishReason, SamplingParams, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LogitsHook = Callable[["torch.Tensor", Sequence[int]], "torch.Tensor"]
"""Takes float32 logits (vocab_size,) and the completion so far; returns logits of that shape."""


class TokenMask(Protocol):
    """Which tokens may come next in one sequence; belongs to the thread that decodes it.

    Attributes:
        is_complete: The completion is whole and nothing may follow: the sequence ends as if an
            end token had come.
        is_free: Any token may come, now and ever after.
    """

    is_complete: bool
    is_free: bool

    def allowed(self) -> bytes:
        """Return a bit a token, the lowest bit of the first byte for id 0; ids beyond are not.

        Raises:
            InvalidRequest: What was asked for is too complex to be followed further.
        """

    def commit(self, token_id: int) -> None:
        """Take an allowed token as the next one.

        Raises:
            InvalidRequest: See `allowed`.
        """

    def prepare(self) -> None:
        """Begin with the next masks, this one's and others', beside what this thread does next.

        To be called when all of a step's tokens have been taken, as often as one likes.
        """


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to decode.

    Attributes:
        request_id: Unique among the requests that have not ended.
        prompt_token_ids: At least one id, each within the vocabulary.
        sampling_params: `max_tokens` is set, and prompt and completion fit `max_model_len`.
        logits_hook: Changes the logits before sampling; an error in it fails this request alone.
        token_mask: Bounds what is sampled. Log-probabilities are reported as if there were none.
        priority: Smaller numbers go first; equal ones in the order they came.
        wants_prompt_logprobs: Whether a delta before the first token reports those of the
            prompt; `num_logprobs` is set then.
        wants_embedding: Whether the prompt is only read, and a delta has its embedding;
            `max_tokens` is 0 then.
        cache_salt: Requests share cached prefixes only with those of the same salt.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling_params: SamplingParams
    logits_hook: LogitsHook | None = None
    token_mask: TokenMask | None = None
    priority: int = 0
    wants_prompt_logprobs: bool = False
    wants_embedding: bool = False
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a chosen token and its likeliest rivals were, before any sampling.

    Attributes:
        token_id: The chosen token.
        logprob: Its natural log-probability; -9999 stands for minus infinity.
        top: The likeliest tokens and their log-probabilities, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """News of one sequence: new tokens, or its end, or both.

    Attributes:
        token_ids: The tokens since the last delta, the end token included.
        finish_reason: Set on the last delta of a sequence, and only there.
        error: What went wrong, when finish_reason is "error".
        started: True on the first delta: the sequence left the queue.
        num_cached_tokens: Prompt tokens that were not computed anew; on the first delta.
        logprobs: One entry for each of `token_ids`, when the request asked for them.
        prompt_logprobs: One entry for each prompt token but the first, in one delta before any
            token, when the request asked for them; otherwise None.
        embedding: (hidden_size,), float32, of length 1: the mean of the last layer's hidden
            states over the prompt; in one delta, when the request asked for it.
    """

    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: PalmaError | None = None
    started: bool = False
    num_cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    embedding: NDArray[np.float32] | None = None


Sink = Callable[[TokenDelta], None]
"""Takes the deltas of one sequence, in order, from a thread of the engine; must not block."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A glance at an engine that never waits for it.

    Attributes:
        num_running: Sequences that are being computed.
        num_waiting: Sequences that wait for their turn.
        stalled_s: Seconds without any sign of progress although sequences run; 0 when idle, and
            infinite once the device has failed: only a new process can use it again.
    """

    num_running: int = 0
    num_waiting: int = 0
    stalled_s: float = 0.0


MEAN_STATES = "mean of the last hidden states, normalized; the model was not trained to embed"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine runs, and where.

    Attributes:
        engine: Name of the engine, as the ENGINE setting spells it.
        vocab_size: Ids lie in [0, vocab_size).
        max_model_len: Most tokens of prompt and completion together.
        device: Torch's name of the device, or "none".
        dtype: Torch's name of the precision, or "none".
        device_reason: Why this device and precision.
        engine_reason: Why this engine, where it was not simply asked for.
        stop_token_ids: Any of these ends a sequence.
        weights: What the model is made of.
        embeddings: What the embedding of a prompt is.
    """

    engine: str
    vocab_size: int
    max_model_len: int
    device: str
    dtype: str
    device_reason: str
    engine_reason: str = ""
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    weights: Weights = field(default_factory=Weights)
    embeddings: str = MEAN_STATES


class Engine(Protocol):
    """A running model. Every method may be called from any thread and returns at once."""

    info: EngineInfo

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Queue a sequence, first in first out.

        From here on `sink` gets exactly one delta with a finish_reason, whatever happens: also
        when the sequence is cancelled while it waits, fails, or the engine closes.

        Raises:
            InvalidRequest: The request breaks a promise of EngineRequest; the sink stays silent.
        """

    def cancel(self, request_id: str) -> None:
        """End a sequence within two decode steps; an unknown id is ignored."""

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""

    def close(self) -> None:
        """Cancel everything and free the model; blocks until the running steps have ended."""


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Refuse what no engine can decode, before it reaches the device.

    Raises:
        InvalidRequest: No token, a token outside the vocabulary, or more than the window holds.
    """
    params = request.sampling_params
    prompt, max_tokens = request.prompt_token_ids, params.max_tokens
    if not prompt:
        raise InvalidRequest("the prompt has no tokens")
    check_vocabulary("prompt", prompt, info)
    check_vocabulary("logit_bias", params.logit_bias, info)
    check_vocabulary("stop_token_ids", params.stop_token_ids, info)
    if max_tokens is None or len(prompt) + max_tokens > info.max_model_len:
        raise InvalidRequest(
            f"{len(prompt)} prompt tokens and {max_tokens} completion tokens do not fit "
            f"a window of {info.max_model_len}"
        )


def check_vocabulary(param: str, token_ids: Iterable[int], info: EngineInfo) -> None:
    """Refuse token ids that the model does not have.

    Raises:
        InvalidRequest: One lies outside the vocabulary; it and the field are named.
    """
    outside = next((token for token in token_ids if not 0 <= token < info.vocab_size), None)
    if outside is not None:
        raise InvalidRequest(
            f"{param} has the token id {outside}, which is outside the vocabulary: ids go from 0 "
            f"to {info.vocab_size - 1}",
            param=param,
        )


def stop_token_ids(params: SamplingParams, info: EngineInfo) -> frozenset[int]:
    """Return the tokens that end a completion: the request's own, and mostly the model's."""
    return params.stop_token_ids | (frozenset() if params.ignore_eos else info.stop_token_ids)
