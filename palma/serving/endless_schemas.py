"""Finds schemas that only endless values fulfil: an object that must hold one like itself."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from palma.serving.schemas import parts_in

MAX_PASSES = 64
"""Through all parts of a schema; longer chains of references count as what may end."""


def is_endless(schema: Any) -> bool:
    """Return whether no value that ends fulfils a schema; False where that is not certain."""
    if not isinstance(schema, dict):
        return False
    parts = list(parts_in(schema))
    if not any("$ref" in part for part in parts):
        return False
    ending: set[int] = set()  # ids of parts that something fulfils which ends
    for _ in range(MAX_PASSES):
        num_before = len(ending)
        for part in reversed(parts):  # inner ones first
            if id(part) not in ending and _ends(part, schema, ending):
                ending.add(id(part))
        if len(ending) == num_before:
            return id(schema) not in ending
    return False


def _ends(part: dict[str, Any], whole: dict[str, Any], ending: set[int]) -> bool:
    """Return whether something that ends fulfils a part, as far as is known of those in it."""
    if "const" in part or "enum" in part:
        return True
    choices = [part[word] for word in ("anyOf", "oneOf") if isinstance(part.get(word), list)]
    return all(_may_end(inner, ending) for inner in _needed(part, whole)) and all(
        not choice or any(_may_end(inner, ending) for inner in choice) for choice in choices
    )


def _may_end(schema: Any, ending: set[int]) -> bool:
    return not isinstance(schema, dict) or id(schema) in ending


def _needed(part: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    """Return the schemas that must be fulfilled as well wherever a part is."""
    needed = list(part["allOf"]) if isinstance(part.get("allOf"), list) else []
    if isinstance(part.get("$ref"), str):
        needed.append(_target(part["$ref"], whole))
    kind = part.get("type")
    if kind in ("object", ["object"]):
        needed += _required(part)
    if kind in ("array", ["array"]):
        needed += _least_items(part)
    return needed


def _required(part: dict[str, Any]) -> list[Any]:
    properties, required = part.get("properties"), part.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return []
    return [properties.get(name) for name in required if isinstance(name, str)]


def _least_items(part: dict[str, Any]) -> list[Any]:
    least, first = part.get("minItems"), part.get("prefixItems")
    if not isinstance(least, int):
        return []
    first = first if isinstance(first, list) else []
    return [*first[:least], *([part.get("items")] if least > len(first) else [])]


def _target(reference: str, whole: dict[str, Any]) -> Any:
    """Return what a reference within a schema names; None if it is none of those, or is wrong."""
    if not reference.startswith("#"):
        return None
    found: Any = whole
    for name in unquote(reference[1:]).split("/")[1:]:
        try:
            key = name.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (LookupError, TypeError, ValueError):
            return None
    return found if reference == "#" or reference.startswith("#/") else None
