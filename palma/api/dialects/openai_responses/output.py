"""What a response puts out: its items, made from the chunks of an answer as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from palma.api.dialects.openai_responses.event_shapes import ResponseEvent
from palma.api.dialects.openai_responses.item_shapes import ItemStatus, OutputItem
from palma.api.dialects.openai_responses.open_items import (
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)
from palma.core.types import ScoredToken, TextChunk, ToolCallDelta


class Output:
    """Makes the items of one response, one after the other, and the events that say so.

    Args:
        number: Returns the next event's number.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        self._number = number
        self._ended: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._scored: tuple[ScoredToken, ...] = ()  # whose text has not come yet

    def items(self, status: ItemStatus) -> list[OutputItem]:
        """Return the items so far; what has not ended yet has this status."""
        return [*self._ended, *([self._open.item(status)] if self._open is not None else [])]

    def push(self, chunk: TextChunk) -> Iterator[ResponseEvent]:
        """Take the next chunk."""
        scored = self._scored + chunk.scored_tokens
        self._scored = ()
        if chunk.reasoning:
            yield from self._think(chunk.reasoning)
        if chunk.text:
            said, self._scored = split_scored(chunk.text, scored)
            yield from self._say(chunk.text, said)
        elif not (chunk.reasoning or chunk.tool_calls):
            self._scored = scored
        for delta in chunk.tool_calls:
            yield from self._call(delta)

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """End the last item; an answer without any item is an empty message."""
        if self._open is None and not self._ended:
            yield from self._begin(OpenMessage(0, self._number))
        if isinstance(self._open, OpenMessage) and self._scored:
            yield self._open.add("", self._scored)
        yield from self._end_open(status)

    def _think(self, text: str) -> Iterator[ResponseEvent]:
        if not isinstance(self._open, OpenReasoning):
            yield from self._begin(OpenReasoning(self._next_index(), self._number))
        assert isinstance(self._open, OpenReasoning)
        yield self._open.add(text)

    def _say(self, text: str, scored_tokens: Sequence[ScoredToken]) -> Iterator[ResponseEvent]:
        if not isinstance(self._open, OpenMessage):
            yield from self._begin(OpenMessage(self._next_index(), self._number))
        assert isinstance(self._open, OpenMessage)
        yield self._open.add(text, scored_tokens)

    def _call(self, delta: ToolCallDelta) -> Iterator[ResponseEvent]:
        if delta.call_id is not None:
            index, name = self._next_index(), delta.name or ""
            yield from self._begin(OpenCall(index, self._number, delta.call_id, name))
        assert isinstance(self._open, OpenCall), "a call's first piece has its id"
        if delta.arguments:
            yield self._open.add(delta.arguments)

    def _next_index(self) -> int:
        return len(self._ended) + (self._open is not None)

    def _begin(self, item: OpenItem) -> Iterator[ResponseEvent]:
        yield from self._end_open("completed")
        self._open = item
        yield from item.begin()

    def _end_open(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        if self._open is not None:
            yield from self._open.end(status)
            self._ended.append(self._open.item(status))
            self._open = None


def split_scored(
    text: str, scored_tokens: tuple[ScoredToken, ...]
) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
    """Return the tokens that a text is made of, and those after it.

    Before it there may be the tokens of thoughts and of marks. Where the text is not found as it
    is, all the tokens are its own.
    """
    wanted, data = text.encode(), b"".join(scored.token.utf8 for scored in scored_tokens)
    start = data.find(wanted)
    if start < 0:
        return scored_tokens, ()
    own: list[ScoredToken] = []
    position = 0
    for number, scored in enumerate(scored_tokens):
        if position >= start + len(wanted):
            return tuple(own), scored_tokens[number:]
        position += len(scored.token.utf8)
        if position > start:
            own.append(scored)
    return tuple(own), ()
