"""Demonstrations of the fields that give answers a form, which OpenAI's routes share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.conformance.demonstrations import cuts_at_strings
from tests.conformance.subject import Demonstration, Subject

ENOUGH = MappingProxyType({"max_tokens": 64})

ZEBRA = MappingProxyType(
    {
        "type": "object",
        "properties": {"zebra": {"const": 7}},
        "required": ["zebra"],
        "additionalProperties": False,
    }
)

ZEBRA_FORMAT: Mapping[str, Any] = MappingProxyType(
    {"type": "json_schema", "json_schema": {"name": "zebra", "schema": dict(ZEBRA)}}
)


def follows_the_schema(subject: Subject, name: str) -> None:
    """The answer is what the schema describes, and without it is not."""
    whole = dict(ZEBRA_FORMAT)
    values = {"response_format": whole, "json_schema": whole["json_schema"], "schema": dict(ZEBRA)}
    beside = {} if name == "response_format" else {"response_format": dict(ZEBRA_FORMAT)}

    heard = subject.likeliest(ENOUGH, beside, {name: values[name.rpartition(".")[2]]})

    assert json.loads(heard.text) == {"zebra": 7}
    other = {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"const": 1}},
        }
    }
    assert subject.likeliest(ENOUGH, other).text.strip() == "1"


def follows_the_value(subject: Subject, name: str) -> None:
    """The answer is what the schema describes that Hugging Face's client sends."""
    beside = {"response_format": {"type": "json_object"}}

    heard = subject.likeliest(ENOUGH, beside, {name: dict(ZEBRA)})

    assert json.loads(heard.text) == {"zebra": 7}


def is_a_zebra(value: Any, *, beside: Mapping[str, Any]) -> Demonstration:
    """Return the demonstration of a field that asks for what `ZEBRA` describes.

    Args:
        value: The field's.
        beside: Other fields: a bound on tokens that leaves room for it.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        assert json.loads(subject.likeliest(beside, {name: value}).text) == {"zebra": 7}
        assert "zebra" not in subject.likeliest().text

    return demonstrate


def chooses_the_format(subject: Subject, name: str) -> None:
    """JSON, or any text."""
    heard = subject.likeliest({name: "json_object"})

    assert heard.text.lstrip().startswith("{")
    assert subject.likeliest({name: "text"}).text == subject.likeliest().text


def is_wholly(value: Any, pattern: str) -> Demonstration:
    """Return the demonstration of a field that binds the whole answer."""

    def demonstrate(subject: Subject, name: str) -> None:
        heard = subject.likeliest(ENOUGH, {name: value})

        assert re.fullmatch(pattern, heard.text)

    return demonstrate


def begins_with(value: Any, pattern: str) -> Demonstration:
    """Return the demonstration of a field that binds the beginning of the answer."""

    def demonstrate(subject: Subject, name: str) -> None:
        heard = subject.likeliest({name: value})

        assert re.match(pattern, heard.text)
        assert not re.match(pattern, subject.likeliest().text)

    return demonstrate


STRUCTURED: Mapping[str, Demonstration] = MappingProxyType(
    {
        "response_format": follows_the_schema,
        "response_format.type": chooses_the_format,
        "response_format.json_schema": follows_the_schema,
        "response_format.json_schema.schema": follows_the_schema,
        "response_format.value": follows_the_value,
        "regex": is_wholly("zebra [0-9]{3}", "zebra [0-9]{3}"),
        "regex_pattern": is_wholly("zebra [0-9]{3}", "zebra [0-9]{3}"),
        "grammar": is_wholly('start: "zebra" | "gnu"', "zebra|gnu"),
        "choice": is_wholly(["zebra", "gnu"], "zebra|gnu"),
        "regex_prefix_pattern": begins_with("zebra [0-9]", "zebra [0-9]"),
        "prefix_strings": begins_with(["zebra", "gnu"], "zebra|gnu"),
        "leading_prompt": begins_with("zebra", "zebra"),
        "stop_words": cuts_at_strings,
    }
)
"""For the ways of OpenAI's chat and text completions."""

AROUND: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"response_format": {"response_format": dict(ZEBRA_FORMAT), **ENOUGH}}
)
"""What the fields inside `response_format` need around them."""
