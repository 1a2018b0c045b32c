"""The answer to one request, built on the engine's thread and read on the event loop."""

from __future__ import annotations

from collections.abc import Callable

from palma.core.errors import EngineFailure, PalmaError, RequestCancelled
from palma.core.types import TextChunk, Usage
from palma.engine.base import TokenDelta
from palma.serving.detokenizer import Detokenizer
from palma.serving.stop_strings import StopMatcher


class AnswerBuilder:
    """The sink of one sequence: turns its deltas into chunks of text.

    Runs on the engine's thread, so that the event loop never detokenizes. Says the end exactly
    once, whether the engine, a stop string or an error brings it.
    """

    def __init__(
        self,
        *,
        detokenizer: Detokenizer,
        stop: tuple[str, ...],
        stop_token_ids: frozenset[int],
        num_prompt_tokens: int,
        emit: Callable[[TextChunk], object],
        fail: Callable[[PalmaError], object],
        cancel: Callable[[], None],
    ) -> None:
        self._detokenizer = detokenizer
        self._stop_matcher = StopMatcher(stop)
        self._stop_token_ids = stop_token_ids
        self._num_prompt_tokens = num_prompt_tokens
        self._num_completion_tokens = 0
        self._num_cached_tokens = 0
        self._emit = emit
        self._fail = fail
        self._cancel = cancel
        self._ended = False

    def __call__(self, delta: TokenDelta) -> None:
        """Take the next delta of the sequence."""
        if self._ended:
            return
        self._num_cached_tokens += delta.num_cached_tokens
        if delta.token_ids:
            self._take_tokens(delta)
        if delta.finish_reason is not None and not self._ended:
            self._end(delta)

    def _take_tokens(self, delta: TokenDelta) -> None:
        self._num_completion_tokens += len(delta.token_ids)
        visible = [t for t in delta.token_ids if t not in self._stop_token_ids]
        text = self._stop_matcher.push(self._detokenizer.push(visible))
        if self._stop_matcher.matched:
            self._ended = True
            self._emit(TextChunk(text, "stop", self._usage()))
            self._cancel()
        elif text:
            self._emit(TextChunk(text))

    def _end(self, delta: TokenDelta) -> None:
        if delta.finish_reason == "stop" or delta.finish_reason == "length":
            text = self._stop_matcher.push(self._detokenizer.flush())
            if not self._stop_matcher.matched:
                text += self._stop_matcher.flush()
            reason = "stop" if self._stop_matcher.matched else delta.finish_reason
            self._emit(TextChunk(text, reason, self._usage()))
        elif delta.finish_reason == "cancelled":
            self._fail(RequestCancelled("the request was cancelled"))
        else:
            self._fail(delta.error or EngineFailure("the engine failed on this request"))
        self._ended = True

    def _usage(self) -> Usage:
        return Usage(self._num_prompt_tokens, self._num_completion_tokens, self._num_cached_tokens)
