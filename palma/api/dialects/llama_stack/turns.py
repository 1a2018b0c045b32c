"""The turns of a conversation as Llama Stack's clients send them, calls and results among them."""

from __future__ import annotations

from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from palma.api.fields import Label, NeutralOnly
from palma.api.openai_shapes import join_text_parts
from palma.api.tool_fields import Arguments, CallBodies, CallId, ToolName
from palma.core.types import Message, Role, ToolCall

ROLE_OF = {"tool_calls": "assistant", "call_id": "tool"}
"""Fields that only turns of one role have."""


class StrictBody(BaseModel):
    """An object that takes no field but its own."""

    model_config = ConfigDict(strict=True, extra="forbid")


def _text_of(content: Any) -> Any:
    """Take what Llama Stack calls interleaved content: a string, a text item, or several."""
    return join_text_parts([content] if isinstance(content, dict) else content)


Content = Annotated[str, BeforeValidator(_text_of)]


def _as_text(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    try:
        return orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(f"is too deeply nested: {error}") from None


class CallBody(StrictBody):
    """A call that the assistant made; `arguments_json` only says its arguments once more."""

    call_id: CallId
    tool_name: ToolName
    arguments: Annotated[
        Arguments, BeforeValidator(_as_text, json_schema_input_type=str | dict[str, Any])
    ]
    arguments_json: Annotated[str | None, Label()] = None


class MessageBody(StrictBody):
    """One turn; an answer may come back as it was given."""

    role: Role
    content: Content
    tool_calls: CallBodies[CallBody] | None = None
    call_id: CallId | None = None
    stop_reason: Annotated[Any, Label()] = None
    context: Annotated[Any, NeutralOnly()] = None

    @model_validator(mode="after")
    def _require_fields_of_its_role(self) -> Self:
        for name, role in ROLE_OF.items():
            if getattr(self, name) and role != self.role:
                raise ValueError(f"{name} goes with the role {role!r}, and only with that")
        if self.role == "tool" and self.call_id is None:
            raise ValueError("call_id is missing: a result says which call it is of")
        return self

    @property
    def turn(self) -> Message:
        """What the model reads."""
        calls = (
            ToolCall(call.call_id, call.tool_name, call.arguments) for call in self.tool_calls or ()
        )
        return Message(self.role, self.content, tool_calls=tuple(calls), tool_call_id=self.call_id)
