"""Work with one answer, not a stream of text: it holds a place in the queue while it runs."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Generic, TypeVar

from palma.core.errors import PalmaError, RequestCancelled

T = TypeVar("T")


class Job(Generic[T]):
    """The answer to be. Lives on the event loop.

    Attributes:
        engine_id: Unique among what runs.
        public_id: Unique for ever; for answers.
        arrived_at: By `time.monotonic`.
        outcome: How it ended, in a word.
    """

    def __init__(self, engine_id: str) -> None:
        self.engine_id = engine_id
        self.public_id = uuid.uuid4().hex
        self.arrived_at = time.monotonic()
        self.outcome = "cancelled"
        self._answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    async def result(self) -> T:
        """Wait for the answer.

        Raises:
            PalmaError: It was refused, has failed, or was cancelled.
        """
        return await asyncio.shield(self._answer)

    def cancel(self) -> None:
        """End it; the model stops after the batch that it computes. Harmless when it has ended."""
        self.fail(RequestCancelled("the request was cancelled"))

    def succeed(self, answer: T, outcome: str) -> None:
        """End with an answer, unless it has ended."""
        if not self._answer.done():
            self.outcome = outcome
            self._answer.set_result(answer)

    def fail(self, error: PalmaError) -> None:
        """End with an error, unless it has ended."""
        if self._answer.done():
            return
        self.outcome = error.code
        self._answer.set_exception(error)
        self._answer.exception()  # nobody may be left who reads it
        if self.task is not None:
            self.task.cancel()
