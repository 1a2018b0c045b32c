"""The answer to one request while it is made, as the rest of the server sees it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from palma.core.errors import PalmaError, RequestCancelled
from palma.core.types import GenerationRequest, ScoredToken, TextChunk, Usage
from palma.engine.base import TokenDelta
from palma.serving.instance import ServedModel


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, folded from its chunks."""

    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    scored_tokens: tuple[ScoredToken, ...] = ()
    stop_string: str | None = None
    stop_token: str | None = None


class Generation:
    """The answer to one request, while it is made. Lives on the event loop.

    Iterate over it once for its chunks; the last one has a finish_reason. An error on the way
    is raised where the next chunk would have been.

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
        self._chunks: asyncio.Queue[TextChunk | PalmaError] = asyncio.Queue()
        self._error: PalmaError | None = None

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
            while True:
                item = await self._chunks.get()
                if isinstance(item, PalmaError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
                if not self._chunks.empty():
                    await asyncio.sleep(0)  # `get` would not wait: others would get no turn
        finally:
            self.cancel()

    async def completion(self) -> Completion:
        """Wait for the end and return the whole answer."""
        texts: list[str] = []
        scored: list[ScoredToken] = []
        async for chunk in self:
            texts.append(chunk.text)
            scored += chunk.scored_tokens
            if chunk.finish_reason is not None and chunk.usage is not None:
                text = "".join(texts)
                return Completion(
                    text,
                    chunk.finish_reason,
                    chunk.usage,
                    tuple(scored),
                    chunk.stop_string,
                    chunk.stop_token,
                )
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
        if chunk.text and self.first_text_at is None:
            self.first_text_at = time.monotonic()
        self._chunks.put_nowait(chunk)
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
        self._chunks.put_nowait(error)
        self.ended_at = time.monotonic()
        self._accepted.set()
        self.started.set()
        self.ended.set()
