"""The answer to one request, built on the engine's thread and read on the event loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

from palma.core.errors import EngineFailure, PalmaError, RequestCancelled
from palma.core.types import TextChunk, Usage
from palma.engine.base import TokenDelta
from palma.serving.detokenizer import Detokenizer
from palma.serving.stop_strings import StopMatcher


class AnswerBuilder:
    """The sink of one sequence: turns its deltas into chunks of text.

    Runs on the engine's thread, so that the event loop never detokenizes. Says the end exactly
    once, whether the engine, a stop string or an error brings it.

    A chunk costs a hand-over between two threads, which a small model's step does not outweigh.
    So text that follows a chunk within `interval_s` waits for the next token after that; the
    tokens of a model that takes longer for each leave one by one.
    """

    def __init__(
        self,
        *,
        detokenizer: Detokenizer,
        stop: tuple[str, ...],
        stop_token_ids: frozenset[int],
        num_prompt_tokens: int,
        interval_s: float,
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
        self._interval_s = interval_s
        self._has_stop_strings = bool(stop)
        self._token_ids: list[int] = []  # not yet text
        self._text = ""  # not yet said
        self._emitted_at = -math.inf
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
        self._token_ids += [t for t in delta.token_ids if t not in self._stop_token_ids]
        now = time.monotonic()
        is_due = now - self._emitted_at >= self._interval_s
        if not (is_due or self._has_stop_strings):
            return
        self._text += self._stop_matcher.push(self._detokenize())
        if self._stop_matcher.matched:
            self._ended = True
            self._emit_last("stop")
            self._cancel()
        elif is_due and self._text:
            self._emitted_at = now
            self._emit_text()

    def _end(self, delta: TokenDelta) -> None:
        text = self._detokenize()
        if delta.finish_reason == "stop" or delta.finish_reason == "length":
            self._text += self._stop_matcher.push(text + self._detokenizer.flush())
            if not self._stop_matcher.matched:
                self._text += self._stop_matcher.flush()
            self._emit_last("stop" if self._stop_matcher.matched else delta.finish_reason)
        elif delta.finish_reason == "cancelled":
            self._fail(RequestCancelled("the request was cancelled"))
        else:
            self._text += self._stop_matcher.push(text)
            if self._text:
                self._emit_text()
            self._fail(delta.error or EngineFailure("the engine failed on this request"))
        self._ended = True

    def _detokenize(self) -> str:
        """Return the text of the waiting tokens; if that fails, they are not tried again."""
        token_ids, self._token_ids = self._token_ids, []
        return self._detokenizer.push(token_ids) if token_ids else ""

    def _emit_text(self) -> None:
        self._emit(TextChunk(self._text))
        self._text = ""

    def _emit_last(self, finish_reason: Literal["stop", "length"]) -> None:
        self._emit(TextChunk(self._text, finish_reason, self._usage()))

    def _usage(self) -> Usage:
        return Usage(self._num_prompt_tokens, self._num_completion_tokens, self._num_cached_tokens)
