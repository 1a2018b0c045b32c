"""The fields of a body, nested ones too, and what is made of each, read from its JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from palma.api.docs.openapi import resolve
from palma.api.fields import SUPPORT

Support = Literal["honoured", "neutral_only", "refused"]

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BodyField:
    """A field.

    Attributes:
        name: With the names of the objects around it; `*` stands for the index in a list, or
            the key in a map.
        schema: Its JSON Schema.
        is_required: Whether the object around it must have it.
        support: What is made of it.
        neutral: The values that are taken beside null when it is `neutral_only`; "any" for a
            label, which changes nothing whatever it says.
    """

    name: str
    schema: Schema
    is_required: bool
    support: Support
    neutral: list[Any] | Literal["any"]


def body_fields(schema: Schema, definitions: Schema) -> list[BodyField]:
    """Return the fields of a body and of the objects in it, each once.

    Where a value may be one of several kinds of object, a field is honoured if one kind
    honours it, or if the kinds are told apart by it.

    Args:
        schema: The body's.
        definitions: What references point to.
    """
    fields: dict[str, BodyField] = {}
    for field in _walk(schema, definitions, "", ()):
        known = fields.setdefault(field.name, field)
        if (known.support, known.neutral) != (field.support, field.neutral):
            fields[field.name] = replace(
                known if known.support == "honoured" else field, support="honoured", neutral=[]
            )
    return list(fields.values())


def _walk(
    schema: Schema, definitions: Schema, prefix: str, above: tuple[Schema, ...]
) -> Iterator[BodyField]:
    """Yield the fields of the objects that a value holds, however deep in lists they are."""
    for kind in _kinds(schema, definitions):
        if any(kind is one for one in above):  # a type that holds itself
            continue
        inside = (*above, kind)
        required = kind.get("required", [])
        for name, nested in kind.get("properties", {}).items():
            support, neutral = _support(nested, definitions)
            yield BodyField(prefix + name, nested, name in required, support, neutral)
            if neutral != "any":
                yield from _walk(nested, definitions, f"{prefix}{name}.", inside)
        for nested in (kind.get("items"), kind.get("additionalProperties")):
            if isinstance(nested, dict):
                yield from _walk(nested, definitions, f"{prefix}*.", inside)


def _support(schema: Schema, definitions: Schema) -> tuple[Support, list[Any] | Literal["any"]]:
    """Return what is made of a field: its marks say it, or that it leaves no choice."""
    neutral: list[Any] = []
    for kind in _kinds(schema, definitions):
        if kind.get(SUPPORT) == "label":
            return "neutral_only", "any"
        if kind.get(SUPPORT) == "neutral_only":
            neutral += [value for value in kind["enum"] if value is not None]
        elif "const" in kind:
            neutral.append(kind["const"])
        elif _asks_for_nothing(kind, definitions):
            neutral.append({})
        elif kind.get("type") != "null":
            return "honoured", []
    return ("neutral_only" if neutral else "refused"), neutral


def _asks_for_nothing(kind: Schema, definitions: Schema) -> bool:
    """Whether an object has fields, and none of them is honoured."""
    fields = kind.get("properties", {}).values()
    return bool(fields) and all(_support(field, definitions)[0] != "honoured" for field in fields)


def _kinds(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """Yield the alternatives that a value may be."""
    schema = resolve(schema, definitions)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if SUPPORT in schema or not alternatives:
        yield schema
        return
    for alternative in alternatives:
        yield from _kinds(alternative, definitions)
