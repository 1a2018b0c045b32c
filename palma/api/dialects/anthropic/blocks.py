"""The blocks that messages to Anthropic's API are made of, and the turns that they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from palma.api.fields import MAX_PARTS, Label, NeutralOnly
from palma.api.tool_fields import MAX_CALLS, ArgumentsObject, CallId, ToolName
from palma.core.errors import InvalidRequest
from palma.core.types import Message, ToolCall

ERROR_PREFIX = "Error: "
"""What the model reads before the result of a call that failed."""

Role = Literal["system", "user", "assistant"]

CacheControl = Annotated[Any, Label()]
"""How far the prompt shall be cached, which changes no answer: every beginning is, by itself."""


class StrictBody(BaseModel):
    """An object that takes no field but its own."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TextBlock(StrictBody):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl = None
    citations: Annotated[Any, NeutralOnly([])] = None


class ThinkingBlock(StrictBody):
    """What the assistant thought; the signature of who thought it is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str | None, Label()] = None


class ToolUseBlock(StrictBody):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: CallId
    name: ToolName
    input: ArgumentsObject
    cache_control: CacheControl = None
    caller: Annotated[Any, NeutralOnly({"type": "direct"})] = None
    toolset_name: Annotated[Any, NeutralOnly()] = None


def _as_blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


TextBlocks = Annotated[
    list[TextBlock],
    Field(max_length=MAX_PARTS, fail_fast=True),
    BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock]),
]
"""A string, or a list of text blocks, which are joined as they are."""


class ToolResultBlock(StrictBody):
    """What a call brought; the model reads of one that failed that it did."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: TextBlocks = Field(default_factory=list)
    is_error: bool | None = None
    cache_control: CacheControl = None
    toolset_name: Annotated[Any, NeutralOnly()] = None

    @property
    def turn(self) -> Message:
        """What the model reads."""
        prefix = ERROR_PREFIX if self.is_error else ""
        text = prefix + joined(self.content)
        return Message("tool", text, tool_call_id=self.tool_use_id)


Block = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]
Blocks = Annotated[
    list[Block],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block]),
]

KINDS_OF_ROLE = {
    "system": {"text"},
    "user": {"text", "tool_result"},
    "assistant": {"text", "thinking", "tool_use"},
}

PLACES = {"tool_result": 0, "thinking": 1, "text": 1, "tool_use": 2}
"""In a turn: results answer the turn before, and calls wait for the turn after."""


class MessageBody(StrictBody):
    """One turn; turns of one role that follow each other become one, a line each."""

    role: Role
    content: Blocks

    @model_validator(mode="after")
    def _require_blocks_of_its_role(self) -> Self:
        for block in self.content:
            if block.type not in KINDS_OF_ROLE[self.role]:
                raise ValueError(f"{block.type} blocks have no place in a turn of the {self.role}")
        return self

    @property
    def text(self) -> str | None:
        """Its text blocks, joined as they are; None without any."""
        texts = [block for block in self.content if isinstance(block, TextBlock)]
        return joined(texts) if texts else None


def joined(blocks: Sequence[TextBlock]) -> str:
    """Return the text of blocks."""
    return "".join(block.text for block in blocks)


def conversation(system: Sequence[TextBlock], messages: Sequence[MessageBody]) -> list[Message]:
    """Return the turns that a model reads.

    Raises:
        InvalidRequest: Blocks of a turn are in an impossible order, or the last turn's calls have
            no results.
    """
    turns = [Message("system", text)] if (text := joined(system)) else []
    for role, same in groupby(messages, key=lambda message: message.role):
        turns += _turns(role, list(same))
    if turns[-1].tool_calls:
        raise InvalidRequest(
            "messages: the last turn's tool_use blocks wait for tool_result blocks",
            param="messages",
        )
    return turns


def _turns(role: Role, same: list[MessageBody]) -> Iterator[Message]:
    """Yield the turns of messages of one role: results of calls are turns of their own."""
    first, *more = same[0].content
    if isinstance(first, TextBlock) and not more and len(same) == 1:  # as most are: no more to do
        yield Message(role, first.text)
        return
    blocks = [block for message in same for block in message.content]
    _require_order(blocks)
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    yield from (result.turn for result in results)
    texts = [text for message in same if (text := message.text) is not None]
    if results and not texts:
        return
    calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    yield Message(
        role,
        "\n".join(texts),
        tool_calls=tuple(ToolCall(call.id, call.name, call.input) for call in calls),
        reasoning="\n".join(thoughts),
    )


def _require_order(blocks: list[Block]) -> None:
    for block, following in pairwise(blocks):
        if PLACES[following.type] < PLACES[block.type]:
            raise InvalidRequest(
                f"messages: a {following.type} block cannot follow a {block.type} block: results "
                "of calls come first in a turn, and calls last",
                param="messages",
            )
    if sum(isinstance(block, ToolUseBlock) for block in blocks) > MAX_CALLS:
        raise InvalidRequest(f"messages: at most {MAX_CALLS} calls are a turn", param="messages")
