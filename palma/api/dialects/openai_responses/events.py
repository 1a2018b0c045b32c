"""The typed events of a streamed response, numbered, in OpenAI's order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Literal

from palma.api.dialects.openai_responses.bodies import output_part
from palma.api.dialects.openai_responses.draft import Draft
from palma.api.dialects.openai_responses.shapes import (
    LifecycleEvent,
    MessageItem,
    ResponseAnswer,
    ResponseEvent,
    TextDeltaEvent,
)
from palma.api.openai_shapes import token_logprob
from palma.core.errors import PalmaError, RequestCancelled
from palma.core.types import ScoredToken, TextChunk
from palma.serving.generation import Completion, Generation

Keep = Callable[[ResponseAnswer], Awaitable[ResponseAnswer]]
"""Stores a response that has ended, and returns it as clients shall see it."""

StateName = Literal[
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.completed",
    "response.incomplete",
    "response.failed",
]


async def response_events(
    draft: Draft, generation: Generation, keep: Keep
) -> AsyncIterator[ResponseEvent]:
    """Yield a response as events; before the last one it is stored.

    One that is cancelled ends with `response.incomplete` and the status `cancelled`, because that
    has no event of its own; one that fails with `error` and `response.failed`.
    """
    events = EventMaker(draft, generation)
    answer: ResponseAnswer | None = None
    try:
        async for event in _begin(events, generation, is_background=bool(draft.body.background)):
            yield event
        async for chunk in generation:
            if chunk.text or chunk.scored_tokens:
                yield events.delta(chunk)
            if chunk.finish_reason is not None and chunk.usage is not None:
                completion = events.completion(chunk.finish_reason, chunk)
                answer = draft.finished(generation, completion)
    except PalmaError as error:
        broken = draft.broken_off(generation, error, events.text, events.scored_tokens)
        for event in events.broken_off(error, await keep(broken)):
            yield event
        return
    assert answer is not None, "a generation ends with a finish_reason or an error"
    for event in events.closing(answer["output"][0]):
        yield event
    is_whole = answer["status"] == "completed"
    name: StateName = "response.completed" if is_whole else "response.incomplete"
    yield events.state(name, await keep(answer))


async def _begin(
    events: EventMaker, generation: Generation, *, is_background: bool
) -> AsyncIterator[ResponseEvent]:
    """Yield what comes before the text; work in the background says that it waits."""
    draft = events.draft
    answer = draft.answer(generation, "queued" if is_background else "in_progress")
    yield events.state("response.created", answer)
    if is_background:
        yield events.state("response.queued", answer)
        await generation.started.wait()
    yield events.state("response.in_progress", draft.answer(generation, "in_progress"))
    for event in events.opening():
        yield event


class EventMaker:
    """Makes the events of one response, each with the next number, and adds its text up.

    Args:
        draft: What the response will be.
        generation: What makes its text.
    """

    def __init__(self, draft: Draft, generation: Generation) -> None:
        self.draft = draft
        self.scored_tokens: list[ScoredToken] = []
        self._generation = generation
        self._texts: list[str] = []
        self._num_events = 0

    @property
    def text(self) -> str:
        """All of the text so far."""
        return "".join(self._texts)

    def completion(self, finish_reason: Literal["stop", "length"], last: TextChunk) -> Completion:
        """Return the whole answer, whose last chunk has been made an event."""
        assert last.usage is not None
        scored = tuple(self.scored_tokens)
        return Completion(self.text, finish_reason, last.usage, scored, last.stop_string)

    def state(self, name: StateName, answer: ResponseAnswer) -> LifecycleEvent:
        """Say that the response is in a new state."""
        return {"type": name, "sequence_number": self._number(), "response": answer}

    def opening(self) -> Iterator[ResponseEvent]:
        """Say that the message and its text begin."""
        message = self.draft.message("", (), "in_progress")
        yield {
            "type": "response.output_item.added",
            "sequence_number": self._number(),
            "output_index": 0,
            "item": {**message, "content": []},
        }
        yield {
            "type": "response.content_part.added",
            "sequence_number": self._number(),
            "item_id": self.draft.message_id,
            "output_index": 0,
            "content_index": 0,
            "part": output_part(""),
        }

    def delta(self, chunk: TextChunk) -> TextDeltaEvent:
        """Say the next piece of the text."""
        self._texts.append(chunk.text)
        self.scored_tokens += chunk.scored_tokens
        return {
            "type": "response.output_text.delta",
            "sequence_number": self._number(),
            "item_id": self.draft.message_id,
            "output_index": 0,
            "content_index": 0,
            "delta": chunk.text,
            "logprobs": [token_logprob(scored) for scored in chunk.scored_tokens],
        }

    def closing(self, message: MessageItem) -> Iterator[ResponseEvent]:
        """Say that the text and the message are whole."""
        (part,) = message["content"]
        yield {
            "type": "response.output_text.done",
            "sequence_number": self._number(),
            "item_id": self.draft.message_id,
            "output_index": 0,
            "content_index": 0,
            "text": part["text"],
            "logprobs": part.get("logprobs", []),
        }
        yield {
            "type": "response.content_part.done",
            "sequence_number": self._number(),
            "item_id": self.draft.message_id,
            "output_index": 0,
            "content_index": 0,
            "part": part,
        }
        yield {
            "type": "response.output_item.done",
            "sequence_number": self._number(),
            "output_index": 0,
            "item": message,
        }

    def broken_off(self, error: PalmaError, answer: ResponseAnswer) -> Iterator[ResponseEvent]:
        """Say that no more text comes, and why."""
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
