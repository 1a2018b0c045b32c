"""Request fields that give answers a form, and the constraints that they mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from palma.api.fields import Label
from palma.core.errors import InvalidRequest
from palma.core.types import Constraint

MAX_CHOICES = 10_000

Pattern = Annotated[str, Field(min_length=1)]
Strings = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True),
]


class JsonSchemaBody(BaseModel):
    """A JSON schema, and words about it. It is always enforced, whatever `strict` says."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Label()]
    description: Annotated[str | None, Label()] = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: Annotated[bool | None, Label()] = None


class ResponseFormat(BaseModel):
    """OpenAI's word for the form of an answer: any text, any JSON object, or a schema's.

    Hugging Face's client sends a schema as the `value` of a JSON object.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaBody | None = None
    value: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _require_its_own_parts(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type json_schema, and only with that")
        if self.value is not None and self.type != "json_object":
            raise ValueError("value goes with type json_object")
        return self

    def constraint(self, param: str = "response_format") -> Constraint | None:
        """Return what it means; None for any text."""
        if self.json_schema is not None:
            return schema_constraint(self.json_schema.json_schema, f"{param}.json_schema.schema")
        if self.value is not None:
            return schema_constraint(self.value, f"{param}.value")
        return object_constraint(param) if self.type == "json_object" else None


class FlatFormat(BaseModel):
    """The same with the schema's fields beside the type: `text.format` of OpenAI's responses."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str | None, Label()] = None
    description: Annotated[str | None, Label()] = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: Annotated[bool | None, Label()] = None

    @model_validator(mode="after")
    def _require_its_own_parts(self) -> Self:
        parts = (self.name, self.description, self.json_schema, self.strict)
        if self.type == "json_schema" and None in (self.name, self.json_schema):
            raise ValueError("type json_schema needs name and schema")
        if self.type != "json_schema" and parts != (None,) * 4:
            raise ValueError("name, description, schema and strict go with type json_schema")
        return self

    def constraint(self, param: str) -> Constraint | None:
        """Return what it means; None for any text."""
        if self.json_schema is not None:
            return schema_constraint(self.json_schema, f"{param}.schema")
        return object_constraint(param) if self.type == "json_object" else None


class SchemaFormat(BaseModel):
    """Anthropic's word for the form of an answer: a schema, and nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")

    def constraint(self, param: str) -> Constraint:
        """Return what it means."""
        return schema_constraint(self.json_schema, f"{param}.schema")


class StructuredBody(BaseModel):
    """The forms that OpenAI's dialects take: its own, common extensions, and gallama's.

    `regex`, `grammar` (Lark) and `choice` bind the whole answer, as gallama's `regex_pattern`
    does; its other three bind the beginning.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    response_format: ResponseFormat | None = None
    regex: Pattern | None = None
    grammar: Pattern | None = None
    choice: Strings | None = None
    regex_pattern: Pattern | None = None
    regex_prefix_pattern: Pattern | None = None
    prefix_strings: Strings | None = None
    leading_prompt: Pattern | None = None

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What was asked for.

        Raises:
            InvalidRequest: gallama's prefix_strings stands beside a regular expression.
        """
        self._check_prefix_strings()
        found = [self.response_format.constraint() if self.response_format else None]
        if self.regex is not None:
            found.append(Constraint("regex", self.regex, "regex"))
        if self.regex_pattern is not None:
            found.append(Constraint("regex", self.regex_pattern, "regex_pattern"))
        if self.grammar is not None:
            found.append(Constraint("grammar", self.grammar, "grammar"))
        if self.choice is not None:
            found.append(strings_constraint("choice", self.choice, "choice"))
        if self.regex_prefix_pattern is not None:
            prefix = self.regex_prefix_pattern
            found.append(Constraint("regex_prefix", prefix, "regex_prefix_pattern"))
        if self.prefix_strings is not None:
            found.append(
                strings_constraint("prefix_strings", self.prefix_strings, "prefix_strings")
            )
        if self.leading_prompt is not None:
            leading = [self.leading_prompt]
            found.append(strings_constraint("prefix_strings", leading, "leading_prompt"))
        return tuple(constraint for constraint in found if constraint is not None)

    def _check_prefix_strings(self) -> None:
        if self.prefix_strings is None:
            return
        for name in ("regex", "regex_pattern", "regex_prefix_pattern"):
            if getattr(self, name) is not None:
                raise InvalidRequest(
                    f"prefix_strings and {name} cannot be combined; send one of them",
                    param="prefix_strings",
                )


def plain_constraint(form: str | dict[str, Any] | None, param: str) -> Constraint | None:
    """Return what Ollama's `format` means: a schema, "json" for any object, else no form."""
    if isinstance(form, dict):
        return schema_constraint(form, param)
    return object_constraint(param) if form else None


def object_constraint(param: str) -> Constraint:
    """Return the constraint to any JSON object."""
    return Constraint("json_object", "", param)


def schema_constraint(schema: dict[str, Any], param: str) -> Constraint:
    """Return the constraint to what a JSON schema describes.

    Args:
        schema: As it came with the request.
        param: Where in the request it stood.

    Raises:
        InvalidRequest: It is too large or too deeply nested.
    """
    try:
        text = orjson.dumps(schema).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"{param} is too deeply nested: {error}", param=param) from None
    return Constraint("json_schema", text, param)


def strings_constraint(
    kind: Literal["choice", "prefix_strings"], strings: list[str], param: str
) -> Constraint:
    """Return the constraint to one of some strings, or to a beginning that is one of them."""
    return Constraint(kind, orjson.dumps(strings).decode(), param)
