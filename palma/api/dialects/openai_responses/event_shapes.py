"""The shapes of a streamed response's events."""

from __future__ import annotations

from typing import Literal, final

from typing_extensions import TypedDict

from palma.api.dialects.openai_responses.item_shapes import OutputItem, ReasoningPart, TextPart
from palma.api.dialects.openai_responses.shapes import ResponseAnswer
from palma.api.openai_shapes import TokenLogprob

StateName = Literal[
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.completed",
    "response.incomplete",
    "response.failed",
]


@final
class LifecycleEvent(TypedDict):
    """A new state of the whole response."""

    type: StateName
    sequence_number: int
    response: ResponseAnswer


@final
class OutputItemEvent(TypedDict):
    """An item begins or is whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


@final
class ContentPartEvent(TypedDict):
    """A piece of a message, or of thoughts, begins or is whole."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: TextPart | ReasoningPart


@final
class TextDeltaEvent(TypedDict):
    """More text."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[TokenLogprob]


@final
class TextDoneEvent(TypedDict):
    """All of the text."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[TokenLogprob]


@final
class ReasoningDeltaEvent(TypedDict):
    """More thoughts."""

    type: Literal["response.reasoning_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


@final
class ReasoningDoneEvent(TypedDict):
    """All of the thoughts."""

    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


@final
class ArgumentsDeltaEvent(TypedDict):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


@final
class ArgumentsDoneEvent(TypedDict):
    """All of a call's arguments."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


@final
class ErrorEvent(TypedDict):
    """What went wrong; `response.failed` follows."""

    type: Literal["error"]
    sequence_number: int
    code: str
    message: str
    param: str | None


ResponseEvent = (
    LifecycleEvent
    | OutputItemEvent
    | ContentPartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | ErrorEvent
)
