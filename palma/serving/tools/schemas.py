"""The schemas of tools' arguments, and how each argument is written where they are no JSON."""

from __future__ import annotations

import json
from typing import Any, Literal

from palma.core.types import Tool
from palma.serving.schemas import close_objects

Kind = Literal["text", "nullable", "json"]
"""A plain string, which is written as it is; that or `null`; or a value written as JSON."""

NOTES = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    }
)
"""Keywords that bind no value."""


def arguments_schema(parameters: str) -> dict[str, Any]:
    """Return the schema that a tool's arguments are held to: an object's.

    Raises:
        ValueError: It is none.
    """
    schema = json.loads(parameters)
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise ValueError("they must be the JSON schema of an object")
    if not isinstance(schema.get("properties", {}), dict):
        raise ValueError("their properties must be an object")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError("what is required of them must be a list of strings")
    closed: dict[str, Any] = close_objects({"type": "object", **schema})
    return closed


def property_kinds(tool: Tool) -> dict[str, Kind]:
    """Return how each of a tool's arguments is written."""
    properties = json.loads(tool.parameters).get("properties")
    if not isinstance(properties, dict):
        return {}
    return {name: kind_of(schema) for name, schema in properties.items()}


def kind_of(schema: Any) -> Kind:
    """Return how a value of this schema is written; strings that it bounds are JSON."""
    if not isinstance(schema, dict):
        return "json"
    if _is_any_string(schema) or choices(schema) is not None:
        return "text"
    return "nullable" if _is_any_string(_without_null(schema)) else "json"


def _is_any_string(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "string" and schema.keys() - NOTES == {"type"}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema allows beside null, if it says so in one of the usual two ways."""
    if schema.get("type") in (["string", "null"], ["null", "string"]):
        return {**schema, "type": "string"}
    options = schema.get("anyOf")
    if schema.keys() - NOTES != {"anyOf"} or not isinstance(options, list):
        return {}
    others = [option for option in options if option != {"type": "null"}]
    is_one = len(others) == 1 and isinstance(others[0], dict)
    return others[0] if is_one else {}


def choices(schema: dict[str, Any]) -> list[str] | None:
    """Return the strings that a schema allows, if it names them and nothing else."""
    binding = schema.keys() - NOTES - {"type"}
    if schema.get("type", "string") != "string" or binding not in ({"enum"}, {"const"}):
        return None
    allowed = schema["enum"] if "enum" in schema else [schema["const"]]
    is_text = isinstance(allowed, list) and allowed and all(isinstance(x, str) for x in allowed)
    return allowed if is_text else None
