"""The turns of a conversation as OpenAI's clients send them, and the messages that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from palma.api.fields import Label
from palma.api.openai_shapes import TextContent, join_text_parts
from palma.api.tool_fields import (
    Arguments,
    CallBodies,
    CallId,
    FunctionType,
    ToolName,
)
from palma.core.errors import InvalidRequest
from palma.core.types import Message, ToolCall

TurnRole = Literal["system", "user", "assistant", "tool", "function"]


def _as_known_role(role: Any) -> Any:
    return "system" if role == "developer" else role


class CalledFunction(BaseModel):
    """Which function was called, and with what."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: ToolName
    arguments: Arguments
    parsed_arguments: Annotated[Any, Label()] = None


class CallBody(BaseModel):
    """A call in a turn of the assistant's; the client's helpers add the labels."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: CallId
    type: FunctionType
    function: CalledFunction
    index: Annotated[int | None, Label()] = None


class ChatTurn(BaseModel):
    """One turn; `developer` is OpenAI's newer word for `system`, `function` the older for `tool`.

    The last fields come with answers that clients send back as they got them; `parsed` is what
    the official client's helper made of the content.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Annotated[
        TurnRole,
        BeforeValidator(_as_known_role, json_schema_input_type=TurnRole | Literal["developer"]),
    ]
    content: Annotated[
        str | None, BeforeValidator(join_text_parts, json_schema_input_type=TextContent | None)
    ] = None
    reasoning_content: str | None = None
    tool_calls: CallBodies[CallBody] | None = None
    tool_call_id: CallId | None = None
    function_call: CalledFunction | None = None
    name: ToolName | None = None
    annotations: None = None
    audio: None = None
    refusal: None = None
    parsed: Annotated[Any, Label()] = None


ROLES_OF = MappingProxyType(
    {
        "reasoning_content": ("assistant",),
        "tool_calls": ("assistant",),
        "function_call": ("assistant",),
        "tool_call_id": ("tool",),
        "name": ("tool", "function"),
    }
)
"""Whose turns a field belongs to."""

FIELDS_OF = MappingProxyType({"tool": ("tool_call_id",), "function": ("name",)})
"""What a turn needs beside its content."""


def conversation(turns: Sequence[ChatTurn]) -> tuple[Message, ...]:
    """Return the messages that the turns mean.

    Raises:
        InvalidRequest: A turn lacks what its role needs, has what belongs to another, or brings
            the result of a call that nobody made.
    """
    names: dict[str, str] = {}  # of what was called, by the calls' ids
    messages = []
    for index, turn in enumerate(turns):
        param = f"messages.{index}"
        _check_fields(turn, param)
        message = _message(turn, index, names)
        _check_calls(turn, message, names, param)
        names |= {call.call_id: call.name for call in message.tool_calls}
        messages.append(message)
    return tuple(messages)


def _check_calls(turn: ChatTurn, message: Message, names: dict[str, str], param: str) -> None:
    if len({call.call_id for call in message.tool_calls}) < len(message.tool_calls):
        raise InvalidRequest(f"{param}.tool_calls: two have one id", param=f"{param}.tool_calls")
    call_id = message.tool_call_id
    if call_id is None:
        return
    if call_id not in names:
        raise InvalidRequest(
            f"{param}.tool_call_id: no earlier call has the id {call_id!r}",
            param=f"{param}.tool_call_id",
        )
    if turn.name not in (None, names[call_id]):
        raise InvalidRequest(
            f"{param}.name: the call is of {names[call_id]!r}, not of {turn.name!r}",
            param=f"{param}.name",
        )


def _check_fields(turn: ChatTurn, param: str) -> None:
    for name, roles in ROLES_OF.items():
        if getattr(turn, name) and turn.role not in roles:
            raise InvalidRequest(
                f"{param}.{name} goes with role {' or '.join(roles)}, found {turn.role}",
                param=f"{param}.{name}",
            )
    needed = FIELDS_OF.get(turn.role, ())
    if not (turn.tool_calls or turn.function_call or turn.role == "function"):
        needed = (*needed, "content")
    for name in needed:
        if getattr(turn, name) is None:
            raise InvalidRequest(f"{param}.{name} is missing", param=f"{param}.{name}")
    if turn.tool_calls and turn.function_call:
        raise InvalidRequest(
            f"{param}.function_call is the deprecated word for tool_calls; send only those",
            param=f"{param}.function_call",
        )


def _message(turn: ChatTurn, index: int, names: dict[str, str]) -> Message:
    content = turn.content or ""
    if turn.role == "tool":
        return Message("tool", content, tool_call_id=turn.tool_call_id)
    if turn.role == "function":
        return Message("tool", content, tool_call_id=_latest_call(turn.name, index, names))
    return Message(
        turn.role, content, tool_calls=_calls(turn, index), reasoning=turn.reasoning_content or ""
    )


def _calls(turn: ChatTurn, index: int) -> tuple[ToolCall, ...]:
    called = turn.function_call
    if called is not None:  # in words that know no ids
        return (ToolCall(f"call_{index:024x}", called.name, called.arguments),)
    return tuple(
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in turn.tool_calls or ()
    )


def _latest_call(name: str | None, index: int, names: dict[str, str]) -> str:
    """Return the id of the latest call of a function."""
    for call_id, called in reversed(names.items()):
        if called == name:
            return call_id
    param = f"messages.{index}.name"
    raise InvalidRequest(f"{param}: no earlier function_call names {name!r}", param=param)
