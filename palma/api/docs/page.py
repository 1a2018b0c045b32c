"""The OpenAPI document as one page of HTML that needs no script and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palma.api.docs.capabilities import request_schema
from palma.api.docs.fields import BodyField, Schema, body_fields
from palma.api.docs.openapi import REF, resolve

TEMPLATE_PATH = Path(__file__).with_name("page.html")

NUMBER_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}

LENGTHS = (
    ("minLength", "maxLength", "characters"),
    ("minItems", "maxItems", "items"),
    ("minProperties", "maxProperties", "keys"),
)


def render_page(document: Schema) -> str:
    """Return the page."""
    import jinja2

    template = jinja2.Template(
        TEMPLATE_PATH.read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = template.render(
        version=document["info"]["version"],
        needs_key="security" in document,
        groups=[_group(document, tag["name"]) for tag in document["tags"]],
    )
    return page


def _group(document: Schema, tag: str) -> dict[str, Any]:
    operations = [
        _operation(document["components"]["schemas"], method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if tag in operation["tags"]
    ]
    return {"name": tag, "operations": operations}


def _operation(definitions: Schema, method: str, path: str, operation: Schema) -> dict[str, Any]:
    content = operation["responses"].get("200", {}).get("content", {})
    answers = [(kind, _answer(answer["schema"], definitions)) for kind, answer in content.items()]
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "is_public": operation.get("security") == [],
        "parameters": [
            {
                "name": parameter["name"],
                "place": parameter["in"],
                "is_required": parameter["required"],
                "kind": words(parameter["schema"], definitions),
            }
            for parameter in operation.get("parameters", [])
        ],
        "fields": _fields(operation, definitions),
        "answers": answers,
        "errors": [status for status in operation["responses"] if status != "200"],
    }


def _fields(operation: Schema, definitions: Schema) -> list[dict[str, Any]]:
    """Return the rows of the table: what is required comes first, with all that is in it."""
    fields = body_fields(request_schema(operation), definitions)
    required = {field.name for field in fields if field.is_required}
    fields.sort(key=lambda field: field.name.partition(".")[0] not in required)
    return [_field(field, definitions) for field in fields]


def _field(field: BodyField, definitions: Schema) -> dict[str, Any]:
    default = field.schema.get("default")
    neutral = field.neutral if isinstance(field.neutral, list) else []
    return {
        "name": field.name,
        "is_required": field.is_required,
        "kind": words(field.schema, definitions),
        "default": None if default is None else _json(default),
        "support": "label" if field.neutral == "any" else field.support,
        "neutral": [_json(value) for value in neutral],
    }


def _answer(schema: Schema, definitions: Schema) -> str:
    data = schema.get("properties", {}).get("data", {})
    for alternative in data.get("anyOf", [data]):
        if "contentSchema" in alternative:
            return f"events of {_shape(alternative['contentSchema'], definitions)}"
    return _shape(schema, definitions)


def _shape(schema: Schema, definitions: Schema) -> str:
    """Name the types of an answer as the document does."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(REF)
    if "anyOf" in schema:
        return " or ".join(_shape(one, definitions) for one in schema["anyOf"])
    return words(schema, definitions)


def words(schema: Schema, definitions: Schema) -> str:
    """Say in words what a value may be: its type, its bounds, its alternatives."""
    schema = resolve(schema, definitions)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        said = [words(one, definitions) for one in alternatives if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(said)) or "null"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(_json(value) for value in values)
    bounds = list(_bounds(schema))
    kind = _type(schema, definitions)
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def _bounds(schema: Schema) -> Iterator[str]:
    for keyword, text in NUMBER_BOUNDS.items():
        if keyword in schema:
            yield text.format(schema[keyword])
    for least, most, unit in LENGTHS:
        if least in schema and most in schema:
            yield f"{schema[least]} to {schema[most]} {unit}"
        elif least in schema:
            yield f"at least {schema[least]} {unit}"
        elif most in schema:
            yield f"at most {schema[most]} {unit}"


def _type(schema: Schema, definitions: Schema) -> str:
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {words(schema['items'], definitions)}"
    return str(schema.get("type", "any"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
