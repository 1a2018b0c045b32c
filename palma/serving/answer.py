"""The answer to one request, built on the engine's thread and read on the event loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from palma.core.errors import EngineFailure, PalmaError, RequestCancelled
from palma.core.types import TextChunk, Tokenizer, Usage
from palma.engine.base import TokenDelta
from palma.serving.detokenizer import Detokenizer
from palma.serving.scored_tokens import ScoredTokens
from palma.serving.stop_strings import StopMatcher


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What an answer is built from, and by which rules.

    Attributes:
        tokenizer: The model's.
        prompt_token_ids: What the engine was given.
        echo: Text that the answer begins with: a prompt that shall be repeated.
        stop: Strings that end the answer.
        stop_token_ids: Tokens that end it; they are no text.
        interval_s: Least time between two chunks.
    """

    tokenizer: Tokenizer
    prompt_token_ids: list[int]
    echo: str
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    interval_s: float


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
        plan: AnswerPlan,
        *,
        emit: Callable[[TextChunk], object],
        fail: Callable[[PalmaError], object],
        cancel: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._detokenizer = Detokenizer(plan.tokenizer.decode)
        self._stop_matcher = StopMatcher(plan.stop)
        self._scored = ScoredTokens(plan.tokenizer)
        self._num_completion_tokens = 0
        self._num_cached_tokens = 0
        self._token_ids: list[int] = []  # not yet text
        self._text = plan.echo  # not yet said
        self._num_chars = len(plan.echo)  # detokenized so far
        self._num_said = 0
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
        if delta.prompt_logprobs:
            self._scored.add_prompt(self._plan.prompt_token_ids[0], delta.prompt_logprobs)
        if delta.token_ids:
            self._take_tokens(delta)
        if delta.finish_reason is not None and not self._ended:
            self._end(delta)

    def _take_tokens(self, delta: TokenDelta) -> None:
        self._num_completion_tokens += len(delta.token_ids)
        self._token_ids += [t for t in delta.token_ids if t not in self._plan.stop_token_ids]
        now = time.monotonic()
        is_due = now - self._emitted_at >= self._plan.interval_s
        if not (is_due or self._plan.stop or delta.logprobs):
            return
        for report in delta.logprobs:
            if report.token_id not in self._plan.stop_token_ids:
                self._scored.add(self._num_chars, report)
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
        text = self._detokenizer.push(token_ids) if token_ids else ""
        self._num_chars += len(text)
        return text

    def _emit_text(self) -> None:
        self._num_said += len(self._text)
        scored = self._scored.take_before(self._num_said)
        self._emit(TextChunk(self._text, scored_tokens=scored))
        self._text = ""

    def _emit_last(self, finish_reason: Literal["stop", "length"]) -> None:
        self._num_said += len(self._text)
        is_cut = self._stop_matcher.matched
        scored = self._scored.take_before(self._num_said) if is_cut else self._scored.take_all()
        self._emit(TextChunk(self._text, finish_reason, self._usage(), scored))

    def _usage(self) -> Usage:
        num_prompt_tokens = len(self._plan.prompt_token_ids)
        return Usage(num_prompt_tokens, self._num_completion_tokens, self._num_cached_tokens)
