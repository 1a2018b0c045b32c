"""A response while it is made: whole at its end, or as typed events in OpenAI's order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from palma.api.dialects.openai_responses.draft import Draft
from palma.api.dialects.openai_responses.event_shapes import (
    LifecycleEvent,
    ResponseEvent,
    StateName,
)
from palma.api.dialects.openai_responses.output import Output
from palma.api.dialects.openai_responses.shapes import ResponseAnswer
from palma.core.errors import PalmaError, RequestCancelled
from palma.core.types import TextChunk
from palma.serving.generation import Generation

Keep = Callable[[ResponseAnswer], Awaitable[ResponseAnswer]]
"""Stores a response that has ended, and returns it as clients shall see it."""


async def whole_response(draft: Draft, generation: Generation) -> ResponseAnswer:
    """Return a response at its end; raises what went wrong."""
    events = EventMaker(draft, generation)
    async for chunk in generation:
        for _ in events.push(chunk):
            pass
    return events.answer()


async def response_events(
    draft: Draft, generation: Generation, keep: Keep
) -> AsyncIterator[ResponseEvent]:
    """Yield a response as events; before the last one it is stored.

    One that is cancelled ends with `response.incomplete` and the status `cancelled`, because that
    has no event of its own; one that fails with `error` and `response.failed`.
    """
    events = EventMaker(draft, generation)
    try:
        async for event in _begin(events, is_background=bool(draft.body.background)):
            yield event
        async for chunk in generation:
            for event in events.push(chunk):
                yield event
    except PalmaError as error:
        answer = draft.broken_off(generation, error, events.output.items("incomplete"))
        for event in events.broken_off(error, await keep(answer)):
            yield event
        return
    answer = events.answer()
    is_whole = answer["status"] == "completed"
    name: StateName = "response.completed" if is_whole else "response.incomplete"
    yield events.state(name, await keep(answer))


async def _begin(events: EventMaker, *, is_background: bool) -> AsyncIterator[ResponseEvent]:
    """Yield what comes before the answer; work in the background says that it waits."""
    draft, generation = events.draft, events.generation
    answer = draft.answer(generation, "queued" if is_background else "in_progress")
    yield events.state("response.created", answer)
    if is_background:
        yield events.state("response.queued", answer)
        await generation.started.wait()
    yield events.state("response.in_progress", draft.answer(generation, "in_progress"))


class EventMaker:
    """Makes the events of one response, each with the next number.

    Args:
        draft: What the response will be.
        generation: What makes its answer.

    Attributes:
        output: Its items.
    """

    def __init__(self, draft: Draft, generation: Generation) -> None:
        self.draft = draft
        self.generation = generation
        self.output = Output(self._number)
        self._last: TextChunk | None = None
        self._num_events = 0

    def push(self, chunk: TextChunk) -> Iterator[ResponseEvent]:
        """Take the next chunk; the last one ends the items."""
        yield from self.output.push(chunk)
        if chunk.finish_reason is not None:
            self._last = chunk
            yield from self.output.end(self.draft.end_of(chunk))

    def answer(self) -> ResponseAnswer:
        """Return the whole response, once the last chunk was pushed."""
        assert self._last is not None, "a generation ends with a finish_reason or an error"
        status = self.draft.end_of(self._last)
        items = self.output.items(status)
        return self.draft.answer(self.generation, status, items, usage=self._last.usage)

    def state(self, name: StateName, answer: ResponseAnswer) -> LifecycleEvent:
        """Say that the response is in a new state."""
        return {"type": name, "sequence_number": self._number(), "response": answer}

    def broken_off(self, error: PalmaError, answer: ResponseAnswer) -> Iterator[ResponseEvent]:
        """Say that no more comes, and why."""
        if isinstance(error, RequestCancelled):
            yield self.state("response.incomplete", answer)
            return
        yield {
            "type": "error",
            "sequence_number": self._number(),
            "code": error.code,
            "message": error.message,
            "param": error.param,
        }
        yield self.state("response.failed", answer)

    def _number(self) -> int:
        self._num_events += 1
        return self._num_events - 1
