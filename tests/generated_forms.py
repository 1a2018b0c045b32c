"""Random JSON schemas and regular expressions, small ones, the same every time."""

from __future__ import annotations

import random
import string
from typing import Any

LETTERS = string.ascii_letters
FORMATS = ("date", "time", "ipv4", "uuid", "email")
PATTERNS = ("^[a-c]{1,5}$", "^(yes|no)$", "^x[0-9]+$", "[aeiou]", "^[A-Z][a-z]*$")
DEPTH = 3


def random_schema(seed: int) -> dict[str, Any]:
    """Return a schema that something fulfils."""
    rng = random.Random(seed)
    schema = _object(rng, DEPTH) if rng.random() < 0.6 else _any_kind(rng, DEPTH)
    if rng.random() < 0.2:
        shared = {"thing": _scalar(rng)}
        properties = {"first": {"$ref": "#/$defs/thing"}, "second": schema}
        return {"$defs": shared, "type": "object", "properties": properties, "required": ["first"]}
    if rng.random() < 0.1:
        node = {"type": "object", "properties": {"value": _scalar(rng), "next": {"$ref": "#"}}}
        return {**node, "additionalProperties": False, "required": ["value"]}
    return schema


def random_regex(seed: int) -> str:
    """Return a pattern that Python and Rust read alike."""
    return _alternatives(random.Random(seed), DEPTH)


def _any_kind(rng: random.Random, depth: int) -> dict[str, Any]:
    if depth == 0:
        return _scalar(rng)
    kind = rng.choice(("object", "array", "scalar", "scalar", "anyOf"))
    if kind == "object":
        return _object(rng, depth)
    if kind == "array":
        return _array(rng, depth)
    if kind == "anyOf":
        return {"anyOf": [_any_kind(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
    return _scalar(rng)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample([*LETTERS, "name", "a key", "ä", 'quo"te', "🗺️"], rng.randint(0, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any_kind(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
    }
    more = rng.choice((None, False, {"type": "integer"}))
    return schema if more is None else {**schema, "additionalProperties": more}


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    schema: dict[str, Any] = {"type": "array", "minItems": least, "maxItems": least + 2}
    if rng.random() < 0.3:
        schema["prefixItems"] = [_any_kind(rng, depth - 1)]
    return {**schema, "items": _any_kind(rng, depth - 1)}


def _scalar(rng: random.Random) -> dict[str, Any]:
    low, width = rng.randint(-50, 50), rng.randint(0, 100)
    return rng.choice(
        (
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": low, "maximum": low + width},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + width + 2},
            {"type": "integer", "multipleOf": rng.randint(1, 12)},
            {"type": "number", "minimum": low / 4, "maximum": (low + width) / 4},
            {"type": ["string", "null"], "maxLength": rng.randint(0, 8)},
            {"type": "string", "minLength": 2, "maxLength": rng.randint(2, 8)},
            {"type": "string", "pattern": rng.choice(PATTERNS)},
            {"type": "string", "format": rng.choice(FORMATS)},
            {"const": rng.choice(("fixed", 7, None, True, ["x", {"y": 1}]))},
            {"enum": rng.sample(["red", "green", "blau", 1, 2.5, None, False, "🏴‍☠️"], 3)},
        )
    )


def _alternatives(rng: random.Random, depth: int) -> str:
    return "|".join(_sequence(rng, depth) for _ in range(rng.choice((1, 1, 2, 3))))


def _sequence(rng: random.Random, depth: int) -> str:
    return "".join(_repeated(rng, depth) for _ in range(rng.randint(1, 4)))


def _repeated(rng: random.Random, depth: int) -> str:
    atoms = ("[a-z]", "[0-9]", "[^abc]", ".", "\\.", "\\\\", "/", '"', "é", "🗺", "ab", "[A-F0-9]")
    atom = f"({_alternatives(rng, depth - 1)})" if depth and rng.random() < 0.3 else None
    atom = atom or f"(?:{rng.choice(atoms)})"
    return atom + rng.choice(("", "", "?", "*", "+", "{2}", "{1,3}", "{2,}", "*?"))
