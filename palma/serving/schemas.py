"""JSON schemas as models should be held to them: objects that say what they have have no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_pattern": r"( |\r?\n[ \t]{0,32})",
    "coerce_one_of": False,
    "lenient": False,
}
"""White space as JSON's writers put it: a weak model must not fill its answer with blanks."""

MIXED = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "allOf",
        "dependencies",
        "dependentSchemas",
        "if",
        "not",
        "oneOf",
        "unevaluatedProperties",
    }
)
"""With one of these a schema's objects are described in several places at once."""

REFERENCES = frozenset({"$ref", "anyOf"})
"""The same, where the object's own properties stand beside it."""

OWN = frozenset({"properties", "patternProperties", "additionalProperties", "required"})

OPEN_WORDS = frozenset(
    {"additionalProperties", "patternProperties", "propertyNames", "minProperties"}
)
"""With one of these an object may have, or need, others than it names."""

BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
ONE = (
    "items",
    "additionalProperties",
    "contains",
    "additionalItems",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
)
SEVERAL = ("anyOf", "allOf", "oneOf", "prefixItems")


def close_objects(schema: Any) -> Any:
    """Return a schema whose objects have the properties that it names, and no others.

    What fulfils it fulfils the given one. An object that says which others it may have keeps them;
    so does all of a schema that describes one object in several places.
    """
    parts = list(parts_in(schema))
    if any(_is_mixed(part) for part in parts):
        return schema
    return _closed(schema)


def patterns_in(schema: Any) -> set[str]:
    """Return the regular expressions that a schema holds strings and names of properties to."""
    patterns: set[str] = set()
    for part in parts_in(schema):
        if isinstance(part.get("pattern"), str):
            patterns.add(part["pattern"])
        if isinstance(part.get("patternProperties"), dict):
            patterns.update(part["patternProperties"])
    return patterns


def parts_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all those in it; as deep as it was parsed."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += [inner for _, _, inner in _inner(part)]


def _inner(schema: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the schemas right in a schema, each with where it stands."""
    for keyword in (*BY_NAME, *ONE, *SEVERAL):
        value = schema.get(keyword)
        if keyword in BY_NAME and isinstance(value, dict):
            yield from ((keyword, name, inner) for name, inner in value.items())
        elif keyword in ONE and isinstance(value, dict):
            yield keyword, None, value
        elif keyword in SEVERAL and isinstance(value, list):
            yield from ((keyword, index, inner) for index, inner in enumerate(value))


def _is_mixed(schema: dict[str, Any]) -> bool:
    keys = schema.keys()
    return not MIXED.isdisjoint(keys) or not (REFERENCES.isdisjoint(keys) or OWN.isdisjoint(keys))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = schema.copy()
    for keyword, place, inner in list(_inner(schema)):
        if place is None:
            closed[keyword] = _closed(inner)
            continue
        if closed[keyword] is schema[keyword]:
            closed[keyword] = schema[keyword].copy()
        closed[keyword][place] = _closed(inner)
    if _may_be_closed(schema):
        closed["additionalProperties"] = False
    return closed


def _may_be_closed(schema: dict[str, Any]) -> bool:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not OPEN_WORDS.isdisjoint(schema):
        return False
    required = schema.get("required", [])
    return isinstance(required, list) and all(
        isinstance(name, str) and name in properties for name in required
    )
