"""What clients of OpenAI's responses may call, and how they choose among it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from palma.api.fields import NeutralOnly
from palma.api.tool_fields import (
    CHOICE_WORDS,
    MAX_TOOLS,
    FunctionBody,
    FunctionType,
    ToolChoice,
    choice_word,
)


class _Typed(BaseModel):
    """Its type is looked at before anything else of it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: FunctionType


class FlatToolBody(FunctionBody, _Typed):
    """A function that the model may call: its fields stand beside the type."""

    allowed_callers: Annotated[Any, NeutralOnly(["direct"])] = None
    defer_loading: Annotated[Any, NeutralOnly(False)] = None
    is_async: Annotated[Any, NeutralOnly(False)] = Field(None, alias="async")
    output_schema: Annotated[Any, NeutralOnly()] = None

    @property
    def answer(self) -> dict[str, Any]:
        """The tool as answers show it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": None if self.parameters is None else orjson.loads(self.parameters),
            "strict": self.strict,
        }


FlatOffer = Annotated[list[FlatToolBody], Field(max_length=MAX_TOOLS, fail_fast=True)]


class NamedFunction(_Typed):
    """One of the functions that were offered."""

    name: str


class FlatChoiceObject(BaseModel):
    """One function that must be called, or some that may be."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Annotated[
        Literal["none", "auto", "required", "function", "allowed_tools"],
        WithJsonSchema({"enum": ["function", "allowed_tools"], "type": "string"}),
    ]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: (
        Annotated[list[NamedFunction], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]
        | None
    ) = None

    @model_validator(mode="after")
    def _require_its_own_parts(self) -> Self:
        if (self.type == "function") != (self.name is not None):
            raise ValueError("name goes with type function, and only with that")
        for part in (self.mode, self.tools):
            if (self.type == "allowed_tools") != (part is not None):
                raise ValueError("mode and tools go with type allowed_tools, and only with that")
        return self

    @property
    def choice(self) -> ToolChoice:
        """What it means."""
        if self.type == "function":
            return ToolChoice("required", name=self.name)
        if self.type == "allowed_tools":
            assert self.mode is not None
            return ToolChoice(self.mode, allowed=tuple(tool.name for tool in self.tools or ()))
        return ToolChoice(self.type)

    @property
    def answer(self) -> Any:
        """The choice as answers show it."""
        return self.type if self.type in CHOICE_WORDS else self.model_dump(exclude_none=True)


FlatChoice = Annotated[
    FlatChoiceObject,
    BeforeValidator(
        choice_word,
        json_schema_input_type=Literal["none", "auto", "required"] | FlatChoiceObject,
    ),
]
"""`tool_choice`."""
