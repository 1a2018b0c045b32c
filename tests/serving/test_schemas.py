"""Objects that say what they have are closed, where that changes nothing else."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from palma.serving.schemas import close_objects
from tests.generated_forms import random_schema

TEXT = {"type": "string"}


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a closed object's schema."""
    return {"properties": properties, **more, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"a": TEXT}}, closed({"a": TEXT})),
        ({"properties": {}}, closed({})),
        (
            {"properties": {"a": {"properties": {"b": TEXT}}}},
            closed({"a": closed({"b": TEXT})}),
        ),
        ({"items": {"properties": {"a": TEXT}}}, {"items": closed({"a": TEXT})}),
        (
            {"anyOf": [{"properties": {"a": TEXT}}, {"type": "null"}]},
            {"anyOf": [closed({"a": TEXT}), {"type": "null"}]},
        ),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": TEXT}}}},
            {"$ref": "#/$defs/a", "$defs": {"a": closed({"b": TEXT})}},
        ),
        (
            {"additionalProperties": {"properties": {"a": TEXT}}},
            {"additionalProperties": closed({"a": TEXT})},
        ),
    ],
)
def test_objects_are_closed_wherever_they_are(
    schema: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = json.dumps(schema)

    assert close_objects(schema) == expected
    assert json.dumps(schema) == before, "the given one stays as it is"


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"type": "object"},
        {"properties": {"a": TEXT}, "additionalProperties": True},
        {"properties": {"a": TEXT}, "additionalProperties": {"type": "integer"}},
        {"properties": {"a": TEXT}, "patternProperties": {"^x": TEXT}},
        {"properties": {"a": TEXT}, "required": ["b"]},
        {"properties": {"a": TEXT}, "minProperties": 2},
        {"allOf": [{"properties": {"a": TEXT}}, {"properties": {"b": TEXT}}]},
        {"properties": {"a": TEXT}, "anyOf": [{"properties": {"b": TEXT}}]},
        {"properties": {"a": TEXT}, "$ref": "#/$defs/b", "$defs": {"b": {"properties": {}}}},
        {"oneOf": [{"properties": {"a": TEXT}}, {"properties": {"a": TEXT, "b": TEXT}}]},
        {"properties": {"a": {"not": {"properties": {"b": TEXT}}}}},
        {"enum": [{"properties": {"a": 1}}]},
    ],
)
def test_what_could_mean_something_else_then_stays_open(schema: Any) -> None:
    assert close_objects(schema) == schema


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = {"properties": {"properties": {"properties": {"items": TEXT}}, "required": TEXT}}

    inner = closed({"items": TEXT})
    assert close_objects(schema) == closed({"properties": inner, "required": TEXT})


def test_closed_schemas_are_schemas() -> None:
    for seed in range(200):
        jsonschema.Draft202012Validator.check_schema(close_objects(random_schema(seed)))
