"""The OpenAPI 3.1 document: every operation, what it takes, and every answer it can give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Never

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from palma.api.operation import Dialect, Operation
from palma.core.access import BARE_KEY_HEADERS
from palma.version import __version__

REF = "#/components/schemas/"

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    **{name: {"type": "apiKey", "in": "header", "name": name} for name in BARE_KEY_HEADERS},
}

EVENTS_MEDIA_TYPE = "text/event-stream"

RETRY_STATUSES = frozenset({429, 503})

Shape = tuple[Any, JsonSchemaMode]
"""A type, and whether it is read (`validation`) or written (`serialization`)."""


def openapi_document(dialects: Sequence[Dialect], *, needs_key: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        dialects: What the server speaks.
        needs_key: Whether all but the public operations want a key or a token.
    """
    shapes = Shapes(dialects)
    paths: dict[str, Any] = {}
    for dialect in dialects:
        for operation in dialect.operations:
            item = paths.setdefault(plain_path(operation.path), {})
            item[operation.method.lower()] = _operation(dialect, operation, shapes, needs_key)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Palma", "version": __version__},
        "tags": [{"name": dialect.name} for dialect in dialects],
        "paths": paths,
        "components": {
            "schemas": shapes.definitions,
            "headers": _headers(),
            **({"securitySchemes": SECURITY_SCHEMES} if needs_key else {}),
        },
        **({"security": [{name: []} for name in SECURITY_SCHEMES]} if needs_key else {}),
    }


def plain_path(path: str) -> str:
    """Return a path without Starlette's converters: `{id:path}` is `{id}`."""
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


class UntitledJsonSchema(GenerateJsonSchema):
    """JSON Schema in which fields have no title: it would only repeat their name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


class Shapes:
    """The JSON Schema of every type that the operations name; a shared type is there once.

    Attributes:
        definitions: Name to schema, as components of the document.
    """

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        shapes = [shape for dialect in dialects for shape in _shapes(dialect)]
        schemas, definitions = TypeAdapter.json_schemas(
            [(number, mode, TypeAdapter(kind)) for number, (kind, mode) in enumerate(shapes)],
            schema_generator=UntitledJsonSchema,
            ref_template=REF + "{model}",
        )
        by_number = {number: schema for (number, _), schema in schemas.items()}
        named = _with_short_names({"all": by_number, "$defs": definitions.get("$defs", {})})
        self.definitions: dict[str, Any] = named["$defs"]
        self._schemas = [(shape, named["all"][str(number)]) for number, shape in enumerate(shapes)]

    def read(self, kind: Any) -> Any:
        """Return the schema of a type that the server reads."""
        return self._find((kind, "validation"))

    def written(self, kind: Any) -> Any:
        """Return the schema of a type that the server writes."""
        return self._find((kind, "serialization"))

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow a reference."""
        return resolve(schema, self.definitions)

    def _find(self, wanted: Shape) -> Any:
        return next(schema for shape, schema in self._schemas if shape == wanted)


def resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Follow a schema's reference into the components, if it is one."""
    while "$ref" in schema:
        target: dict[str, Any] = definitions[schema["$ref"].removeprefix(REF)]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **beside} if beside else target
    return schema


def _shapes(dialect: Dialect) -> Iterator[Shape]:
    yield dialect.error, "serialization"
    for operation in dialect.operations:
        for kind in (operation.body, operation.query):
            if kind is not None:
                yield kind, "validation"
        for kind in (operation.answer, operation.event):
            if kind is not None and kind is not Never:
                yield kind, "serialization"
        for _, kind in operation.other_answers:
            yield kind, "serialization"


def _with_short_names(schemas: dict[str, Any]) -> Any:
    """Shorten the names by which pydantic tells types of the same name apart."""
    text = orjson.dumps(schemas, option=orjson.OPT_NON_STR_KEYS).decode()
    long_name = re.compile(r"\bpalma__api__(?:dialects__)?(\w+)")
    return orjson.loads(long_name.sub(lambda found: found[1].replace("__", "."), text))


def _operation(
    dialect: Dialect, operation: Operation, shapes: Shapes, needs_key: bool
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [dialect.name],
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "responses": _responses(dialect, operation, shapes, needs_key),
    }
    parameters = [*_path_parameters(operation), *_query_parameters(operation, shapes)]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        schema = shapes.read(operation.body)
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if operation.is_public and needs_key:
        described["security"] = []
    return described


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"\w+", plain_path(operation.path))
    return "_".join([operation.method.lower(), *words])


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)", operation.path)
    ]


def _query_parameters(operation: Operation, shapes: Shapes) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = shapes.resolve(shapes.read(operation.query))
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def _responses(
    dialect: Dialect, operation: Operation, shapes: Shapes, needs_key: bool
) -> dict[str, Any]:
    error = shapes.written(dialect.error)
    responses = {status: _json_response(status, error) for status in _errors(operation, needs_key)}
    for status, kind in operation.other_answers:
        own = shapes.written(kind)
        both = {"anyOf": [own, error]} if status in responses else own
        responses[status] = _json_response(status, both)
    if operation.answer is not Never:
        responses[200] = {**_response(200), "content": _content(dialect, operation, shapes)}
    return {str(status): responses[status] for status in sorted(responses)}


def _content(dialect: Dialect, operation: Operation, shapes: Shapes) -> dict[str, Any]:
    content = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": shapes.written(operation.answer)}
    if operation.event is not None:
        schema = {"anyOf": [shapes.written(operation.event), shapes.written(dialect.error)]}
        if operation.media_type == EVENTS_MEDIA_TYPE:
            schema = _event(schema, operation.last_event)
        content[operation.media_type] = {"schema": schema}
    return content or {operation.media_type: {"schema": {"type": "string"}}}


def _event(shape: Any, last_event: str | None) -> dict[str, Any]:
    """Return the schema of one server-sent event, in the way of OpenAPI 3.2."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": shape}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "data": data if last_event is None else {"anyOf": [data, {"const": last_event}]},
        },
    }


def _errors(operation: Operation, needs_key: bool) -> set[int]:
    """Return the statuses of the errors that an operation can end with."""
    statuses = {400, 431, 500}
    if needs_key and not operation.is_public:
        statuses.add(401)
    if operation.body is not None:
        statuses |= {404, 408, 413, 415, 429, 503}
    if "{" in operation.path:
        statuses |= {404, 503}
    return statuses


def _json_response(status: int, schema: Any) -> dict[str, Any]:
    return {**_response(status), "content": {"application/json": {"schema": schema}}}


def _response(status: int) -> dict[str, Any]:
    names = [*_headers()]
    if status not in RETRY_STATUSES:
        names.remove("Retry-After")
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": HTTPStatus(status).phrase, "headers": headers}


def _headers() -> dict[str, Any]:
    return {
        "x-request-id": {
            "description": "The request's id: the client's own if it sent a short plain word.",
            "schema": {"type": "string"},
        },
        "Palmapy-Server-Version": {
            "description": "The version of the founding API.",
            "schema": {"type": "string"},
        },
        "Retry-After": {
            "description": "Seconds after which the same request may succeed, if waiting helps.",
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        },
    }
