"""Responses that are made in the background: polled, streamed again, cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from palma.api.dialects.openai_responses.draft import Draft
from palma.api.dialects.openai_responses.event_shapes import ResponseEvent
from palma.api.dialects.openai_responses.events import Keep, response_events
from palma.api.dialects.openai_responses.shapes import ResponseAnswer
from palma.core.errors import EngineFailure
from palma.serving.generation import Generation

logger = logging.getLogger(__name__)

MAX_ENDED_RUNS = 32
"""So many runs that have ended are remembered with their events; their answers are stored."""


class BackgroundRun:
    """A response that is made whether or not anybody waits for it. Lives on the event loop.

    Attributes:
        answer: The response in its latest state.
        events: Those so far, if the client asked for a stream; else none.
    """

    def __init__(self, draft: Draft, generation: Generation, keep: Keep) -> None:
        self.answer = draft.answer(generation, "queued")
        self.events: list[ResponseEvent] = []
        self._draft = draft
        self._generation = generation
        self._keep = keep
        self._has_news = asyncio.Event()
        self._task = asyncio.create_task(self._work(), name=draft.response_id)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self._task.done()

    @property
    def has_events(self) -> bool:
        """Whether its events are kept for whoever wants to read them."""
        return bool(self._draft.body.stream)

    async def ended(self) -> ResponseAnswer:
        """Wait until nothing more will happen; return how it ended."""
        await asyncio.wait([self._task])
        return self.answer

    async def cancel(self) -> ResponseAnswer:
        """End it; harmless when it has ended."""
        self._generation.cancel()
        return await self.ended()

    async def read(self, after: int) -> AsyncIterator[ResponseEvent]:
        """Yield the events behind the one with the number `after`, those to come included."""
        position = after + 1
        while True:
            while position < len(self.events):
                yield self.events[position]
                position += 1
            if self.is_over:
                return
            await self._has_news.wait()

    async def _work(self) -> None:
        try:
            async for event in response_events(self._draft, self._generation, self._keep):
                if "response" in event:
                    self.answer = event["response"]
                if self.has_events:
                    self.events.append(event)
                self._has_news.set()
                self._has_news = asyncio.Event()
        except Exception:  # nobody awaits this task: an error lost here is a client that hangs
            logger.exception("%s: failed in the background", self._draft.response_id)
            error = EngineFailure("the response failed; the log says why")
            self.answer = self._draft.broken_off(self._generation, error)
        finally:
            self._generation.cancel()
            self._has_news.set()


class BackgroundResponses:
    """The runs of one server."""

    def __init__(self) -> None:
        self._runs: dict[str, BackgroundRun] = {}

    def start(self, draft: Draft, generation: Generation, keep: Keep) -> BackgroundRun:
        """Begin a run; the oldest ones that have ended may be forgotten."""
        ended = [response_id for response_id, run in self._runs.items() if run.is_over]
        for response_id in ended[: max(0, len(ended) - MAX_ENDED_RUNS + 1)]:
            del self._runs[response_id]
        run = self._runs[draft.response_id] = BackgroundRun(draft, generation, keep)
        return run

    def find(self, response_id: str) -> BackgroundRun | None:
        """Return a run that goes on, or ended not long ago."""
        return self._runs.get(response_id)

    async def forget(self, response_id: str) -> None:
        """End a run, if there is one, and remember nothing of it."""
        if run := self._runs.get(response_id):
            await run.cancel()
            self._runs.pop(response_id, None)

    async def close(self) -> None:
        """Wait until what the draining service has ended is stored."""
        for run in list(self._runs.values()):
            await run.ended()
