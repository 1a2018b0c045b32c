"""The turns of a chat as Ollama's clients send them: results name their tool, not their call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from palma.api.fields import Label, NeutralOnly
from palma.api.tool_fields import ArgumentsObject, CallBodies, CallId, ToolName
from palma.core.errors import InvalidRequest
from palma.core.types import Message, Role, ToolCall

ROLE_OF = {
    "thinking": "assistant",
    "tool_calls": "assistant",
    "tool_name": "tool",
    "tool_call_id": "tool",
}
"""Fields that only turns of one role have."""


class _StrictBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class CalledFunctionBody(_StrictBody):
    """A tool and what it was called with."""

    name: ToolName
    arguments: ArgumentsObject
    index: Annotated[int | None, Label()] = None


class CallBody(_StrictBody):
    """A call that the assistant made."""

    function: CalledFunctionBody
    id: CallId | None = None
    type: Literal["function"] | None = None


class MessageBody(_StrictBody):
    """One turn."""

    role: Role
    content: str = ""
    thinking: str | None = None
    tool_calls: CallBodies[CallBody] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    images: Annotated[Any, NeutralOnly([])] = None

    @model_validator(mode="after")
    def _require_fields_of_its_role(self) -> Self:
        for name, role in ROLE_OF.items():
            if getattr(self, name) and role != self.role:
                raise ValueError(f"{name} goes with the role {role!r}, and only with that")
        return self


def turns_of(bodies: Sequence[MessageBody]) -> tuple[Message, ...]:
    """Return the turns that a model reads; calls without an id get one.

    Raises:
        InvalidRequest: No call waits for a result that is there.
    """
    turns: list[Message] = []
    waiting: list[ToolCall] = []
    for index, body in enumerate(bodies):
        if body.role == "tool":
            call = _answered(body, waiting, f"messages.{index}")
            waiting.remove(call)
            turns.append(Message("tool", body.content, tool_call_id=call.call_id))
            continue
        calls = tuple(
            ToolCall(
                call.id or f"call_{index}_{number}", call.function.name, call.function.arguments
            )
            for number, call in enumerate(body.tool_calls or ())
        )
        waiting = list(calls) or waiting
        turns.append(
            Message(body.role, body.content, tool_calls=calls, reasoning=body.thinking or "")
        )
    return tuple(turns)


def _answered(result: MessageBody, waiting: list[ToolCall], param: str) -> ToolCall:
    """Return the call that a result is of: the first that fits what the result says."""
    for call in waiting:
        if result.tool_call_id not in (None, "", call.call_id):
            continue
        if result.tool_name in (None, "", call.name):
            return call
    named = result.tool_call_id or result.tool_name
    of = f" of {named[:64]!r}" if named else ""
    raise InvalidRequest(f"{param}: no earlier call{of} waits for a result", param=param)
