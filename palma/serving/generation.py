"""The answer to one request while it is made, as the rest of the server sees it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from palma.core.errors import PalmaError, RequestCancelled
from palma.core.types import (
    AnswerEnd,
    GenerationRequest,
    ScoredToken,
    TextChunk,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from palma.engine.base import TokenDelta
from palma.serving.instance import ServedModel

MAX_BATCH = 64
"""Chunks that are read at once; encoding so many delays the others by a millisecond."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, folded from its chunks."""

    text: str
    finish_reason: AnswerEnd
    usage: Usage
    scored_tokens: tuple[ScoredToken, ...] = ()
    stop_string: str | None = None
    stop_token: str | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class CompletionFold:
    """Folds the chunks of an answer into the whole of it."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._scored: list[ScoredToken] = []
        self._calls: list[_Call] = []

    def push(self, chunk: TextChunk) -> None:
        """Take the next chunk."""
        self._texts.append(chunk.text)
        self._reasoning.append(chunk.reasoning)
        self._scored += chunk.scored_tokens
        for delta in chunk.tool_calls:
            if delta.index == len(self._calls):
                self._calls.append(_Call(delta))
            self._calls[delta.index].arguments.append(delta.arguments)

    def completion(self, last: TextChunk) -> Completion:
        """Return the whole, once the last chunk was pushed."""
        assert last.finish_reason is not None
        assert last.usage is not None
        return Completion(
            "".join(self._texts),
            last.finish_reason,
            last.usage,
            tuple(self._scored),
            last.stop_string,
            last.stop_token,
            "".join(self._reasoning),
            tuple(call.whole() for call in self._calls),
        )


class _Call:
    """A call while it is folded; its first piece brings the id and the name."""

    def __init__(self, first: ToolCallDelta) -> None:
        self.arguments: list[str] = []
        self._first = first

    def whole(self) -> ToolCall:
        first = self._first
        return ToolCall(first.call_id or "", first.name or "", "".join(self.arguments))


class Generation:
    """The answer to one request, while it is made. Lives on the event loop.

    Iterate over it once for its chunks, or over its `batches`; the last chunk has a finish_reason.
    An error on the way is raised where the next chunk would have been.

    Attributes:
        num_prompt_tokens: Known once it is accepted.
        num_dropped_messages: So many were too much for the window; known once it is accepted.
        arrived_at: When the request came, by `time.monotonic`; the moments below are None until
            they are there.
        started_at: When the engine took it up.
        first_token_at: When the prompt was read: the first token is made.
        first_text_at: When the first text could leave.
        ended_at: When all was said, or it failed.
    """

    def __init__(self, request: GenerationRequest, served: ServedModel, engine_id: str) -> None:
        self.request = request
        self.served = served
        self.engine_id = engine_id
        self.public_id = uuid.uuid4().hex
        self.created = int(time.time())
        self.outcome = "cancelled"
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.arrived_at = time.monotonic()
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.first_text_at: float | None = None
        self.ended_at: float | None = None
        self.num_prompt_tokens = 0
        self.num_dropped_messages = 0
        self.usage: Usage | None = None
        self._accepted = asyncio.Event()
        self._chunks: list[TextChunk] = []  # not yet read
        self._has_news = asyncio.Event()
        self._error: PalmaError | None = None

    @property
    def error(self) -> PalmaError | None:
        """What it ended with, if it failed."""
        return self._error

    async def accepted(self) -> None:
        """Wait until the engine has the prompt.

        Raises:
            PalmaError: The request was refused, or has failed already.
        """
        await self._accepted.wait()
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[TextChunk]:
        """Yield the chunks; whoever stops early has cancelled the request."""
        try:
            async for batch in self.batches():
                for chunk in batch:
                    yield chunk
                    if chunk is not batch[-1]:
                        await asyncio.sleep(0)  # others get a turn between two chunks
        finally:
            self.cancel()

    async def batches(self) -> AsyncIterator[list[TextChunk]]:
        """Yield the chunks, all at once that have come since; else as iterating over it does."""
        try:
            while True:
                while not self._chunks:
                    if self._error is not None:
                        raise self._error
                    self._has_news.clear()
                    await self._has_news.wait()
                batch, self._chunks = self._chunks[:MAX_BATCH], self._chunks[MAX_BATCH:]
                yield batch
                if batch[-1].finish_reason is not None:
                    return
                if self._chunks:
                    await asyncio.sleep(0)  # there is nothing to wait for: others get a turn
        finally:
            self.cancel()

    async def completion(self) -> Completion:
        """Wait for the end and return the whole answer."""
        fold = CompletionFold()
        async for chunk in self:
            fold.push(chunk)
            if chunk.finish_reason is not None:
                return fold.completion(chunk)
        raise AssertionError("a generation ends with a finish_reason or an error")

    def cancel(self) -> None:
        """End the request; the engine stops within two decode steps. Harmless when it has ended."""
        if not self.ended.is_set():
            self.served.engine.cancel(self.engine_id)
            self.fail(RequestCancelled("the request was cancelled"))

    def accept(self, num_prompt_tokens: int) -> None:
        """Note that the engine has the prompt."""
        self.num_prompt_tokens = num_prompt_tokens
        self._accepted.set()

    def note_progress(self, delta: TokenDelta) -> None:
        """Note when it began and when the prompt was read; called in the engine's thread."""
        if delta.started:
            self.started_at = time.monotonic()
        if delta.token_ids and self.first_token_at is None:
            self.first_token_at = time.monotonic()

    def push(self, chunk: TextChunk) -> None:
        """Take a chunk from the engine."""
        if self.ended.is_set():
            return
        has_news = chunk.text or chunk.reasoning or chunk.tool_calls
        if has_news and self.first_text_at is None:
            self.first_text_at = time.monotonic()
        self._chunks.append(chunk)
        self._has_news.set()
        if chunk.finish_reason is not None:
            self.outcome = chunk.finish_reason
            self.usage = chunk.usage
            self.ended_at = time.monotonic()
            self.ended.set()

    def fail(self, error: PalmaError) -> None:
        """End with an error, unless it has ended."""
        if self.ended.is_set():
            return
        self._error = error
        self.outcome = error.code
        self._has_news.set()
        self.ended_at = time.monotonic()
        self._accepted.set()
        self.started.set()
        self.ended.set()
