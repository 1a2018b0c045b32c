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
        prompt_offsets: Where each prompt token begins in it, when its scores are asked for.
        scores_end_token: Whether the end token's score is passed on.
        stop: Strings that end the answer.
        stop_token_ids: Tokens that end it; they are no text.
        interval_s: Least time between two chunks.
    """

    tokenizer: Tokenizer
    prompt_token_ids: list[int]
    echo: str
    prompt_offsets: list[int]
    scores_end_token: bool
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
        self._stop_token_id: int | None = None

    def __call__(self, delta: TokenDelta) -> None:
        """Take the next delta of the sequence."""
        if self._ended:
            return
        self._num_cached_tokens += delta.num_cached_tokens
        if delta.prompt_logprobs is not None:
            plan = self._plan
            reports = delta.prompt_logprobs
            self._scored.add_prompt(plan.prompt_token_ids, plan.prompt_offsets, reports)
        if delta.token_ids:
            self._take_tokens(delta)
        if delta.finish_reason is not None and not self._ended:
            self._end(delta)

    def _take_tokens(self, delta: TokenDelta) -> None:
        self._num_completion_tokens += len(delta.token_ids)
        for token_id in delta.token_ids:
            if token_id in self._plan.stop_token_ids:
                self._stop_token_id = token_id
            else:
                self._token_ids.append(token_id)
        now = time.monotonic()
        is_due = now - self._emitted_at >= self._plan.interval_s
        if not (is_due or self._plan.stop or delta.logprobs):
            return
        for report in delta.logprobs:
            is_end_token = report.token_id in self._plan.stop_token_ids
            if self._plan.scores_end_token or not is_end_token:
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
        stop = self._stop_matcher.matched
        scored = self._scored.take_before(self._num_said) if stop else self._scored.take_all()
        token = None if stop else self._stop_token()
        self._emit(TextChunk(self._text, finish_reason, self._usage(), scored, stop, token))

    def _stop_token(self) -> str | None:
        if self._stop_token_id is None:
            return None
        return self._plan.tokenizer.token_bytes(self._stop_token_id).decode(errors="replace")

    def _usage(self) -> Usage:
        num_prompt_tokens = len(self._plan.prompt_token_ids)
        return Usage(num_prompt_tokens, self._num_completion_tokens, self._num_cached_tokens)
