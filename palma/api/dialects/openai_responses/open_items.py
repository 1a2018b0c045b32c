"""Items while they are made: each says its own events, in OpenAI's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import orjson

from palma.api.dialects.openai_responses.event_shapes import (
    ArgumentsDeltaEvent,
    ContentPartEvent,
    OutputItemEvent,
    ReasoningDeltaEvent,
    ResponseEvent,
    TextDeltaEvent,
)
from palma.api.dialects.openai_responses.item_shapes import (
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ReasoningPart,
    TextPart,
    new_id,
    output_part,
    reasoning_part,
)
from palma.api.openai_shapes import TokenLogprob, token_logprob
from palma.core.types import ScoredToken

ItemStep = Literal["response.output_item.added", "response.output_item.done"]
PartStep = Literal["response.content_part.added", "response.content_part.done"]


class _OpenItem:
    """What the kinds have in common.

    Args:
        item_id: Its own.
        output_index: Its place among the response's items.
        number: Returns the next event's number.
    """

    def __init__(self, item_id: str, output_index: int, number: Callable[[], int]) -> None:
        self._id = item_id
        self._output_index = output_index
        self._number = number
        self._pieces: list[str] = []

    @property
    def _text(self) -> str:
        return "".join(self._pieces)

    def _item_event(self, step: ItemStep, item: OutputItem) -> OutputItemEvent:
        return {
            "type": step,
            "sequence_number": self._number(),
            "output_index": self._output_index,
            "item": item,
        }

    def _part_event(self, step: PartStep, part: TextPart | ReasoningPart) -> ContentPartEvent:
        return {
            "type": step,
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "part": part,
        }


class OpenMessage(_OpenItem):
    """What the model says."""

    def __init__(self, output_index: int, number: Callable[[], int]) -> None:
        super().__init__(new_id("msg"), output_index, number)
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> Iterator[ResponseEvent]:
        """Say that the message and its text begin."""
        yield self._item_event(
            "response.output_item.added", {**self.item("in_progress"), "content": []}
        )
        yield self._part_event("response.content_part.added", output_part(""))

    def add(self, text: str, scored_tokens: Sequence[ScoredToken]) -> TextDeltaEvent:
        """Say the next piece of the text."""
        logprobs = [token_logprob(scored) for scored in scored_tokens]
        self._pieces.append(text)
        self._logprobs += logprobs
        return {
            "type": "response.output_text.delta",
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "delta": text,
            "logprobs": logprobs,
        }

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Say that the text and the message are whole."""
        message = self.item(status)
        (part,) = message["content"]
        yield {
            "type": "response.output_text.done",
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "text": part["text"],
            "logprobs": self._logprobs,
        }
        yield self._part_event("response.content_part.done", part)
        yield self._item_event("response.output_item.done", message)

    def item(self, status: ItemStatus) -> MessageItem:
        """Return the message as it is now."""
        return {
            "id": self._id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [{**output_part(self._text), "logprobs": self._logprobs}],
        }


class OpenReasoning(_OpenItem):
    """What the model thinks."""

    def __init__(self, output_index: int, number: Callable[[], int]) -> None:
        super().__init__(new_id("rs"), output_index, number)

    def begin(self) -> Iterator[ResponseEvent]:
        """Say that the thoughts begin."""
        yield self._item_event(
            "response.output_item.added", {**self.item("in_progress"), "content": []}
        )
        yield self._part_event("response.content_part.added", reasoning_part(""))

    def add(self, text: str) -> ReasoningDeltaEvent:
        """Say the next piece of them."""
        self._pieces.append(text)
        return {
            "type": "response.reasoning_text.delta",
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "delta": text,
        }

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Say that they are whole."""
        thoughts = self.item(status)
        (part,) = thoughts["content"]
        yield {
            "type": "response.reasoning_text.done",
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "text": part["text"],
        }
        yield self._part_event("response.content_part.done", part)
        yield self._item_event("response.output_item.done", thoughts)

    def item(self, status: ItemStatus) -> ReasoningItem:
        """Return the thoughts as they are now."""
        return {
            "id": self._id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [reasoning_part(self._text)],
        }


class OpenCall(_OpenItem):
    """A call that the model makes: complete when its arguments are, whatever comes after it."""

    def __init__(
        self, output_index: int, number: Callable[[], int], call_id: str, name: str
    ) -> None:
        super().__init__(new_id("fc"), output_index, number)
        self._call_id = call_id
        self._name = name

    def begin(self) -> Iterator[ResponseEvent]:
        """Say that the call begins."""
        yield self._item_event(
            "response.output_item.added", {**self.item("in_progress"), "status": "in_progress"}
        )

    def add(self, arguments: str) -> ArgumentsDeltaEvent:
        """Say the next piece of the arguments."""
        self._pieces.append(arguments)
        return {
            "type": "response.function_call_arguments.delta",
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "delta": arguments,
        }

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Say that the arguments and the call are whole."""
        call = self.item(status)
        yield {
            "type": "response.function_call_arguments.done",
            "sequence_number": self._number(),
            "item_id": self._id,
            "output_index": self._output_index,
            "arguments": call["arguments"],
        }
        yield self._item_event("response.output_item.done", call)

    def item(self, status: ItemStatus) -> FunctionCallItem:
        """Return the call as it is now; whether its arguments are whole outweighs the status."""
        arguments = self._text
        return {
            "id": self._id,
            "type": "function_call",
            "status": "completed" if _is_json(arguments) else "incomplete",
            "call_id": self._call_id,
            "name": self._name,
            "arguments": arguments,
        }


OpenItem = OpenMessage | OpenReasoning | OpenCall


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
