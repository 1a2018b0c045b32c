"""What happens to each field of each operation: honoured, only taken at neutral values, refused."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from palma.api.docs.fields import BodyField, Schema, Support, body_fields


class FieldAnswer(TypedDict):
    """One field; `*` in its name stands for the index in a list, or the key in a map.

    `neutral` has the values that are taken beside null; "any" for a label, which changes nothing
    whatever it says.
    """

    name: str
    support: Support
    neutral: NotRequired[list[Any] | Literal["any"]]


class OperationAnswer(TypedDict):
    """The fields of one operation's body. Every other field is refused by name."""

    method: str
    path: str
    fields: list[FieldAnswer]


class DialectAnswer(TypedDict):
    """One dialect."""

    name: str
    operations: list[OperationAnswer]


class CapabilitiesAnswer(TypedDict):
    """What becomes of every field of every operation."""

    dialects: list[DialectAnswer]


def capabilities(document: Schema) -> CapabilitiesAnswer:
    """Read from the OpenAPI document what each operation makes of the fields of its body."""
    dialects: dict[str, list[OperationAnswer]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            schema = request_schema(operation)
            fields = body_fields(schema, document["components"]["schemas"])
            answer: OperationAnswer = {
                "method": method.upper(),
                "path": path,
                "fields": [_field_answer(field) for field in fields],
            }
            dialects.setdefault(operation["tags"][0], []).append(answer)
    return {
        "dialects": [
            {"name": name, "operations": operations} for name, operations in dialects.items()
        ]
    }


def request_schema(operation: Schema) -> Schema:
    """Return the schema of an operation's body; that of nothing where it takes none."""
    content: Schema = operation.get("requestBody", {}).get("content", {})
    schema: Schema = content.get("application/json", {}).get("schema", {})
    return schema


def _field_answer(field: BodyField) -> FieldAnswer:
    answer: FieldAnswer = {"name": field.name, "support": field.support}
    if field.support == "neutral_only":
        answer["neutral"] = field.neutral
    return answer
