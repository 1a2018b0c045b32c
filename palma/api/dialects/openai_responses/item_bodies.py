"""Items as clients send them, new or sent back as they came; each gets an id of ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from palma.api.dialects.openai_responses.item_shapes import (
    FunctionCallItem,
    FunctionCallOutputItem,
    ItemStatus,
    MessageItem,
    ReasoningItem,
    TextPart,
    new_id,
    output_part,
    reasoning_part,
)
from palma.api.fields import MAX_PARTS, Label, NeutralOnly
from palma.api.tool_fields import MAX_ARGUMENTS_CHARS, Arguments, CallId, ToolName

Role = Literal["user", "assistant", "system", "developer"]


class PartBody(BaseModel):
    """A piece of a message's text; the fields of answers may be sent back as they came."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[Any, NeutralOnly([])] = None
    logprobs: Annotated[Any, Label()] = None
    prompt_cache_breakpoint: Annotated[Any, NeutralOnly()] = None


class InputPartBody(BaseModel):
    """A piece of what a function returned."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Annotated[Any, NeutralOnly()] = None


class ReasoningPartBody(BaseModel):
    """A piece of what was thought."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["reasoning_text"]
    text: str


def _known_kind(kind: Any) -> Any:
    if isinstance(kind, str) and kind not in KINDS:
        raise ValueError(f"items are of type {', '.join(sorted(KINDS))}")
    return kind


def _as_parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


Text = Annotated[
    list[PartBody],
    Field(max_length=MAX_PARTS, fail_fast=True),
    BeforeValidator(_as_parts, json_schema_input_type=str | list[PartBody]),
]
Output = Annotated[
    list[InputPartBody],
    Field(max_length=MAX_PARTS, fail_fast=True),
    BeforeValidator(_as_parts, json_schema_input_type=str | list[InputPartBody]),
]


class _SentItem(BaseModel):
    """What every kind of item may have."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Annotated[str | None, Label()] = None
    status: ItemStatus | None = None


class _ToolItem(_SentItem):
    """What calls and their outputs may have beside that."""

    caller: Annotated[Any, NeutralOnly({"type": "direct"})] = None
    created_by: Annotated[Any, Label()] = None
    namespace: Annotated[Any, NeutralOnly()] = None


class MessageBody(_SentItem):
    """A message."""

    type: Annotated[
        Literal["message"] | None,
        BeforeValidator(_known_kind, json_schema_input_type=Literal["message"] | None),
    ] = None
    role: Role
    content: Text
    phase: Annotated[Any, NeutralOnly()] = None

    @model_validator(mode="after")
    def _only_assistants_put_out(self) -> Self:
        if self.role != "assistant" and any(part.type == "output_text" for part in self.content):
            raise ValueError(f"output_text is said by the assistant, not by role {self.role!r}")
        return self

    def item(self) -> MessageItem:
        """Return the message as it is stored and shown."""
        content: list[TextPart]
        if self.role == "assistant":
            content = [output_part(part.text) for part in self.content]
        else:
            content = [{"type": "input_text", "text": part.text} for part in self.content]
        return {
            "id": new_id("msg"),
            "type": "message",
            "status": self.status or "completed",
            "role": self.role,
            "content": content,
        }


class ReasoningItemBody(_SentItem):
    """What was thought before an answer."""

    type: Literal["reasoning"]
    summary: Annotated[Any, NeutralOnly([])] = None
    content: (
        Annotated[list[ReasoningPartBody], Field(max_length=MAX_PARTS, fail_fast=True)] | None
    ) = None
    encrypted_content: Annotated[Any, NeutralOnly()] = None

    def item(self) -> ReasoningItem:
        """Return the thoughts as they are stored and shown."""
        return {
            "id": new_id("rs"),
            "type": "reasoning",
            "status": self.status or "completed",
            "summary": [],
            "content": [reasoning_part(part.text) for part in self.content or ()],
        }


class FunctionCallBody(_ToolItem):
    """A call of a function; the official client's own dumps of it say `async_`."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: Arguments
    is_async: Annotated[Any, NeutralOnly(False)] = Field(
        None, validation_alias=AliasChoices("async", "async_")
    )

    def item(self) -> FunctionCallItem:
        """Return the call as it is stored and shown."""
        return {
            "id": new_id("fc"),
            "type": "function_call",
            "status": self.status or "completed",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }


class CutCallBody(FunctionCallBody):
    """The same, cut off."""

    status: Literal["incomplete"]
    arguments: Annotated[str, Field(max_length=MAX_ARGUMENTS_CHARS)]


class FunctionCallOutputBody(_ToolItem):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Output
    name: Annotated[Any, NeutralOnly()] = None

    def item(self) -> FunctionCallOutputItem:
        """Return the output as it is stored and shown."""
        return {
            "id": new_id("fco"),
            "type": "function_call_output",
            "status": self.status or "completed",
            "call_id": self.call_id,
            "output": "".join(part.text for part in self.output),
        }


AnyItemBody = MessageBody | ReasoningItemBody | FunctionCallBody | FunctionCallOutputBody

KINDS: dict[str, type[AnyItemBody]] = {
    "message": MessageBody,
    "reasoning": ReasoningItemBody,
    "function_call": FunctionCallBody,
    "function_call_output": FunctionCallOutputBody,
}


def _read_item(sent: Any) -> AnyItemBody:
    """Check an item by its type; one without a type is a message."""
    kind = sent.get("type") if isinstance(sent, dict) else None
    model = KINDS.get(kind, MessageBody) if isinstance(kind, str) else MessageBody
    if model is FunctionCallBody and sent.get("status") == "incomplete":
        model = CutCallBody
    return model.model_validate(sent)


ItemBody = Annotated[AnyItemBody, PlainValidator(_read_item, json_schema_input_type=AnyItemBody)]
