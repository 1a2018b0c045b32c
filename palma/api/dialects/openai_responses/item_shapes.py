"""Items: what a response is made from, and what it puts out."""

from __future__ import annotations

import secrets
from typing import Any, Literal, NotRequired, final

from typing_extensions import TypedDict

from palma.api.openai_shapes import TokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class TextPart(TypedDict):
    """A piece of a message's text; what an assistant said has all of these fields."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: NotRequired[list[Any]]
    logprobs: NotRequired[list[TokenLogprob]]


class ReasoningPart(TypedDict):
    """A piece of what was thought."""

    type: Literal["reasoning_text"]
    text: str


@final
class MessageItem(TypedDict):
    """A message."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["user", "assistant", "system", "developer"]
    content: list[TextPart]


@final
class ReasoningItem(TypedDict):
    """What was thought before an answer: all of it, so there is no summary."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningPart]


@final
class FunctionCallItem(TypedDict):
    """A call of a function; an incomplete one was cut off, and its arguments may be no JSON."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


@final
class FunctionCallOutputItem(TypedDict):
    """What a function returned."""

    id: str
    type: Literal["function_call_output"]
    status: ItemStatus
    call_id: str
    output: str


OutputItem = MessageItem | ReasoningItem | FunctionCallItem

Item = OutputItem | FunctionCallOutputItem


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"


def output_part(text: str) -> TextPart:
    """Return a piece of what an assistant said."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_part(text: str) -> ReasoningPart:
    """Return a piece of what was thought."""
    return {"type": "reasoning_text", "text": text}
