"""Request fields that offer tools, choose among them and bring calls back, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from palma.api.fields import Label
from palma.api.wire import shown
from palma.core.errors import InvalidRequest
from palma.core.types import Tool, ToolUse

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 16 * 1024
MAX_PARAMETERS_CHARS = 64 * 1024
MAX_ARGUMENTS_CHARS = 1024 * 1024
MAX_CALLS = 128
"""In one turn of a conversation."""

NO_PARAMETERS = '{"type":"object","properties":{},"additionalProperties":false}'
"""The parameters of a function that has none: what OpenAI takes left out ones for."""

Call = TypeVar("Call")

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
CallBodies = Annotated[list[Call], Field(max_length=MAX_CALLS, fail_fast=True)]
"""The calls of one turn in the dialect's own kind of call."""

Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)]


def _schema_text(schema: Any) -> str:
    if not isinstance(schema, dict):
        raise ValueError("must be the JSON schema of an object")
    if schema.get("type", "object") != "object":
        raise ValueError('arguments are an object: its type must be "object"')
    try:
        text = orjson.dumps({"type": "object", **schema}).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(f"is too deeply nested: {error}") from None
    if len(text) > MAX_PARAMETERS_CHARS:
        raise ValueError(
            f"has {len(text)} characters, and at most {MAX_PARAMETERS_CHARS} are taken"
        )
    return text


Parameters = Annotated[str, BeforeValidator(_schema_text, json_schema_input_type=dict[str, Any])]
"""The JSON schema of a tool's arguments, which comes as an object; as JSON text."""


def _arguments_text(arguments: Any) -> str:
    if not isinstance(arguments, str):
        raise ValueError("must be a string that holds a JSON object")
    if len(arguments) > MAX_ARGUMENTS_CHARS:
        raise ValueError(
            f"has {len(arguments)} characters, and at most {MAX_ARGUMENTS_CHARS} are taken"
        )
    try:
        parsed = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError("must hold a JSON object")
    return arguments or "{}"


Arguments = Annotated[str, BeforeValidator(_arguments_text, json_schema_input_type=str)]
"""A call's arguments in a conversation: the text of a JSON object; none at all are none."""


def _object_text(arguments: Any) -> str:
    if not isinstance(arguments, dict):
        raise ValueError("must be an object")
    try:
        return _arguments_text(orjson.dumps(arguments).decode())
    except orjson.JSONEncodeError as error:
        raise ValueError(f"is too deeply nested: {error}") from None


ArgumentsObject = Annotated[
    str, BeforeValidator(_object_text, json_schema_input_type=dict[str, Any])
]
"""The same where they come as an object, not as text; as JSON text."""


def _only_function(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "function":
        only = "only tools of type 'function' are taken"
        raise PydanticCustomError("unsupported_value", f"{kind[:64]!r} is not supported: {only}")
    return kind


FunctionType = Annotated[
    Literal["function"],
    BeforeValidator(_only_function, json_schema_input_type=Literal["function"]),
]
"""The only type of tools that a server without tools of its own can offer."""


class FunctionBody(BaseModel):
    """A function that the model may call; `strict` or not, arguments are held to `parameters`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: ToolName
    description: Description | None = None
    parameters: Parameters | None = None
    strict: Annotated[bool | None, Label()] = None

    @property
    def tool(self) -> Tool:
        """What it means."""
        return Tool(self.name, self.description or "", self.parameters or NO_PARAMETERS)


class ToolBody(BaseModel):
    """OpenAI's chat completions' and Ollama's word for a tool."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: FunctionType
    function: FunctionBody


Offer = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS, fail_fast=True)]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which of the offered tools an answer may or must call, in no dialect.

    Attributes:
        mode: As in `ToolUse`.
        name: The one that must be called; only with `required`.
        allowed: The only ones that exist for this answer; None for all.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    allowed: tuple[str, ...] | None = None


class FunctionName(BaseModel):
    """One of the functions that were offered."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str


class NamedTool(BaseModel):
    """One of the tools that were offered."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: FunctionType
    function: FunctionName


class AllowedTools(BaseModel):
    """The only tools that may be called."""

    model_config = ConfigDict(strict=True, extra="forbid")

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


CHOICE_WORDS = ("none", "auto", "required")


def choice_word(value: Any) -> Any:
    """Turn a choice that is one word into an object of that type, as the longer ones are.

    Raises:
        ValueError: It is neither one of the words nor an object of another type.
    """
    if value in CHOICE_WORDS:
        return {"type": value}
    if not isinstance(value, dict) or value.get("type") in CHOICE_WORDS:
        raise ValueError(f"must be one of {', '.join(CHOICE_WORDS)}, or an object")
    return value


class ToolChoiceObject(BaseModel):
    """One tool that must be called, or some that may be.

    Hugging Face's client types a named function without `type`: then it is one.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Annotated[
        Literal["none", "auto", "required", "function", "allowed_tools"],
        WithJsonSchema({"enum": ["function", "allowed_tools"], "type": "string"}),
    ] = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _require_its_own_part(self) -> Self:
        if (self.type == "function") != (self.function is not None):
            raise ValueError("function goes with type function, and only with that")
        if (self.type == "allowed_tools") != (self.allowed_tools is not None):
            raise ValueError("allowed_tools goes with type allowed_tools, and only with that")
        return self

    @property
    def choice(self) -> ToolChoice:
        """What it means."""
        if self.function is not None:
            return ToolChoice("required", name=self.function.name)
        if self.allowed_tools is not None:
            names = tuple(tool.function.name for tool in self.allowed_tools.tools)
            return ToolChoice(self.allowed_tools.mode, allowed=names)
        assert self.type == "none" or self.type == "auto" or self.type == "required"
        return ToolChoice(self.type)


ToolChoiceBody = Annotated[
    ToolChoiceObject,
    BeforeValidator(
        choice_word,
        json_schema_input_type=Literal["none", "auto", "required"] | ToolChoiceObject,
    ),
]
"""OpenAI's chat completions' `tool_choice`."""


def tool_use(
    tools: Sequence[Tool],
    choice: ToolChoice | None = None,
    *,
    parallel: bool = True,
    param: str = "tools",
    choice_param: str = "tool_choice",
) -> ToolUse | None:
    """Return what an answer may call; None where no tool was offered.

    Args:
        tools: All that were offered.
        choice: Among them; None leaves it to the model.
        parallel: Whether one answer may make several calls.
        param: The request field that offers them.
        choice_param: The request field that chooses.

    Raises:
        InvalidRequest: Two tools have one name, or the choice is of a tool that was not offered.
    """
    choice = choice or ToolChoice()
    named = (*(choice.allowed or ()), *([choice.name] if choice.name is not None else []))
    if not tools:
        if choice.mode == "required" or named:
            raise InvalidRequest(f"{choice_param} needs {param}", param=choice_param)
        return None
    offered = _different_names(tools, param)
    for name in named:
        if name not in offered:
            raise InvalidRequest(
                f"{choice_param} names {shown(name)}, which is not among {param}",
                param=choice_param,
            )
    if choice.allowed is not None:
        tools = [tool for tool in tools if tool.name in choice.allowed]
    return ToolUse(tuple(tools), choice.mode, choice.name, parallel, param)


def _different_names(tools: Iterable[Tool], param: str) -> set[str]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in names:
            raise InvalidRequest(
                f"{param}.{index}: there is already a tool named {tool.name!r}",
                param=f"{param}.{index}",
            )
        names.add(tool.name)
    return names
