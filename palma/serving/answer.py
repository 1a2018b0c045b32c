"""The answer to one request, built on the engine's thread and read on the event loop."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from palma.core.errors import EngineFailure, PalmaError, RequestCancelled
from palma.core.types import TextChunk, Tokenizer, Usage
from palma.engine.base import TokenDelta
from palma.serving.detokenizer import Detokenizer
from palma.serving.reading import NOTHING, AnswerReader, Pieces, PlainReader
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
        reader: Takes the text apart; this answer's own.
        marks: Control tokens that the reader looks for: they are text to it.
    """

    tokenizer: Tokenizer
    prompt_token_ids: list[int]
    echo: str
    prompt_offsets: list[int]
    scores_end_token: bool
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    interval_s: float
    reader: AnswerReader = field(default_factory=PlainReader)
    marks: frozenset[int] = frozenset()


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
        self._detokenizer = Detokenizer(marked_decoder(plan.tokenizer, plan.marks))
        self._stop_matcher = StopMatcher(plan.stop)
        self._scored = ScoredTokens(plan.tokenizer)
        self._num_completion_tokens = 0
        self._num_cached_tokens = 0
        self._num_reasoning_tokens = 0
        self._num_undecided = 0  # tokens that are thoughts, or the mark behind them
        self._token_ids: list[int] = []  # not yet text
        self._pieces = Pieces(text=plan.echo)  # not yet said
        self._has_calls = False
        self._takes_apart = not isinstance(plan.reader, PlainReader)
        self._reads_each_token = self._takes_apart or bool(plan.stop)
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
        if not (is_due or self._reads_each_token or delta.logprobs):
            return
        for report in delta.logprobs:
            is_end_token = report.token_id in self._plan.stop_token_ids
            if self._plan.scores_end_token or not is_end_token:
                self._scored.add(self._num_chars, report)
        reader = self._plan.reader
        self._num_undecided += len(self._token_ids) if reader.is_thinking else 0
        pieces = reader.push(self._detokenize())
        self._count_thoughts(pieces)
        self._take_pieces(pieces)
        if self._stop_matcher.matched:
            self._ended = True
            self._emit_last("stop")
            self._cancel()
        elif is_due and self._pieces:
            self._emitted_at = now
            self._emit_pieces()

    def _count_thoughts(self, pieces: Pieces) -> None:
        """Count the tokens of what was thought; those of its marks are not among them."""
        if pieces.reasoning:
            self._num_reasoning_tokens += self._num_undecided
        if pieces.reasoning or not self._plan.reader.is_thinking:
            self._num_undecided = 0

    def _end(self, delta: TokenDelta) -> None:
        text = self._detokenize()
        if delta.finish_reason == "stop" or delta.finish_reason == "length":
            reader = self._plan.reader
            pieces = reader.push(text + self._detokenizer.flush()) + reader.flush()
            self._count_thoughts(pieces)
            self._take_pieces(pieces)
            if not self._stop_matcher.matched:
                self._pieces += Pieces(text=self._stop_matcher.flush())
            self._emit_last("stop" if self._stop_matcher.matched else delta.finish_reason)
        elif delta.finish_reason == "cancelled":
            self._fail(RequestCancelled("the request was cancelled"))
        else:
            self._take_pieces(self._plan.reader.push(text))
            if self._pieces:
                self._emit_pieces()
            self._fail(delta.error or EngineFailure("the engine failed on this request"))
        self._ended = True

    def _take_pieces(self, pieces: Pieces) -> None:
        """Keep what may leave; stop strings end the content, and are no matter elsewhere."""
        if self._plan.stop:
            text = self._stop_matcher.push(pieces.text) if pieces.text else ""
            tool_calls = () if self._stop_matcher.matched else pieces.tool_calls
            pieces = Pieces(pieces.reasoning, text, tool_calls)
        self._has_calls = self._has_calls or bool(pieces.tool_calls)
        self._pieces += pieces

    def _detokenize(self) -> str:
        """Return the text of the waiting tokens; if that fails, they are not tried again."""
        token_ids, self._token_ids = self._token_ids, []
        text = self._detokenizer.push(token_ids) if token_ids else ""
        self._num_chars += len(text)
        return text

    def _emit_pieces(self) -> None:
        scored = self._scored.take_before(self._count_said())
        pieces, self._pieces = self._pieces, NOTHING
        chunk = TextChunk(
            pieces.text,
            scored_tokens=scored,
            reasoning=pieces.reasoning,
            tool_calls=pieces.tool_calls,
        )
        self._emit(chunk)

    def _emit_last(self, finish_reason: Literal["stop", "length"]) -> None:
        num_said = self._count_said()
        stop = self._stop_matcher.matched
        scored = self._scored.take_before(num_said) if stop else self._scored.take_all()
        is_call = self._has_calls and finish_reason == "stop" and not stop
        chunk = TextChunk(
            self._pieces.text,
            "tool_calls" if is_call else finish_reason,
            self._usage(),
            scored,
            stop,
            None if stop else self._stop_token(),
            self._pieces.reasoning,
            self._pieces.tool_calls,
        )
        self._emit(chunk)

    def _count_said(self) -> int:
        """Return how many characters of the answer have left once the waiting pieces have.

        The text of a reader's marks leaves nowhere, so there it is all that was read.
        """
        self._num_said += len(self._pieces.text)
        return self._num_chars if self._takes_apart else self._num_said

    def _stop_token(self) -> str | None:
        if self._stop_token_id is None:
            return None
        return self._plan.tokenizer.token_bytes(self._stop_token_id).decode(errors="replace")

    def _usage(self) -> Usage:
        return Usage(
            len(self._plan.prompt_token_ids),
            self._num_completion_tokens,
            self._num_cached_tokens,
            self._num_reasoning_tokens,
        )


def marked_decoder(tokenizer: Tokenizer, marks: frozenset[int]) -> Callable[[list[int]], str]:
    """Return a `decode` that spells these control tokens out, and leaves the others out."""
    if not marks:
        return tokenizer.decode

    def decode(token_ids: list[int]) -> str:
        runs = itertools.groupby(token_ids, key=marks.__contains__)
        return "".join(
            (tokenizer.decode_prompt if is_mark else tokenizer.decode)(list(run))
            for is_mark, run in runs
        )

    return decode
