"""Tools as Llama Stack's clients describe them: parameters by their Python or JSON types."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, Field, model_validator

from palma.api.dialects.llama_stack.turns import StrictBody
from palma.api.fields import NeutralOnly
from palma.api.tool_fields import NO_PARAMETERS, Description, ToolChoice, ToolName
from palma.core.types import Tool

BUILT_IN = ("brave_search", "code_interpreter", "photogen", "wolfram_alpha")
"""Tools that Llama's models know by name, and that only Llama Stack's own server runs."""

MAX_PARAMETERS = 128

TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
} | {name: name for name in ("string", "integer", "number", "boolean", "array", "object")}
"""Words for the type of a parameter, and JSON Schema's."""

_LIST_OF = re.compile(r"list\[(\w+)\]", re.IGNORECASE)


def _type_schema(param_type: str) -> dict[str, Any] | None:
    if found := _LIST_OF.fullmatch(param_type):
        items = _type_schema(found[1])
        return None if items is None else {"type": "array", "items": items}
    name = TYPES.get(param_type.lower())
    return None if name is None else {"type": name}


def _known_type(param_type: str) -> str:
    if _type_schema(param_type) is None:
        raise ValueError(f"must be list[...] of, or one of {', '.join(sorted(TYPES))}")
    return param_type


class ParameterBody(StrictBody):
    """One parameter of a tool; it is required unless it says otherwise."""

    param_type: Annotated[str, Field(max_length=64), AfterValidator(_known_type)]
    description: Description | None = None
    required: bool | None = None
    default: Any = None

    @property
    def json_schema(self) -> dict[str, Any]:
        """The same as a JSON schema."""
        schema = dict(_type_schema(self.param_type) or {})
        if self.description:
            schema["description"] = self.description
        if self.default is not None:
            schema["default"] = self.default
        return schema


class ToolBody(StrictBody):
    """A tool of the client's, with all of its parameters."""

    tool_name: ToolName
    description: Description | None = None
    parameters: Annotated[dict[str, ParameterBody], Field(max_length=MAX_PARAMETERS)] | None = None

    @model_validator(mode="after")
    def _refuse_built_in_tools(self) -> Self:
        if self.tool_name in BUILT_IN and self.parameters is None:
            raise ValueError(
                f"{self.tool_name} is a tool of Llama Stack's own, which this server has not; "
                "describe its parameters to offer one of your own by that name"
            )
        return self

    @property
    def tool(self) -> Tool:
        """What it means."""
        if not self.parameters:
            return Tool(self.tool_name, self.description or "", NO_PARAMETERS)
        required = [name for name, each in self.parameters.items() if each.required is not False]
        schema = {
            "type": "object",
            "properties": {name: each.json_schema for name, each in self.parameters.items()},
            "required": required,
            "additionalProperties": False,
        }
        return Tool(self.tool_name, self.description or "", orjson.dumps(schema).decode())


PromptFormat = Annotated[Any, NeutralOnly("json")]
"""How calls are written in the model's own text: as its template says, and nobody reads that."""


class ToolConfig(StrictBody):
    """How tools are used; `tool_choice` may name the one to call."""

    tool_choice: str | None = None
    tool_prompt_format: PromptFormat = None
    system_message_behavior: Annotated[Any, NeutralOnly("append")] = None


CHOICES = {
    "auto": ToolChoice("auto"),
    "none": ToolChoice("none"),
    "required": ToolChoice("required"),
}


def choice_of(word: str | None) -> ToolChoice:
    """Return what `tool_choice` means: one of three words, or the name of the tool to call."""
    if word is None:
        return ToolChoice("auto")
    return CHOICES.get(word) or ToolChoice("required", word)
