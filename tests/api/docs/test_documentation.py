"""/openapi.json, /docs and the table of fields: well formed, complete, and true of the routes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from palma.api.app import DIALECTS, ROUTES
from palma.api.docs.capabilities import capabilities
from palma.api.docs.openapi import openapi_document, plain_path
from palma.api.docs.page import render_page
from palma.api.fields import Label, NeutralOnly
from palma.api.operation import Dialect, Operation
from tests.live_server import LiveServer, running_server

DOCUMENT = openapi_document(DIALECTS, needs_key=True)

OPERATIONS = [
    (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]


def test_every_route_is_in_the_document_and_every_operation_has_a_name_of_its_own() -> None:
    served = {
        (plain_path(route.path), min((route.methods or set()) - {"HEAD"})) for route in ROUTES
    }

    assert {(path, method.upper()) for path, method, _ in OPERATIONS} == served
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    found = references(DOCUMENT)

    assert found
    for reference in found:
        _, kind, name = reference.removeprefix("#/").split("/")
        assert name in DOCUMENT["components"][kind], reference


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=str)
def test_path_parameters_are_those_of_the_path(path: str, method: str, operation: Any) -> None:
    named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}

    assert named == set(re.findall(r"{(\w+)}", path))


def test_the_key_is_asked_for_everywhere_but_on_public_paths() -> None:
    public = {path for path, _, operation in OPERATIONS if operation.get("security") == []}

    assert public == {
        plain_path(operation.path)
        for dialect in DIALECTS
        for operation in dialect.operations
        if operation.is_public
    }
    assert all(
        ("401" in operation["responses"]) == (path not in public)
        for path, _, operation in OPERATIONS
    )


def test_a_server_without_a_key_asks_for_none(mock_server: LiveServer) -> None:
    document = mock_server.get("/openapi.json").json()

    assert "security" not in document
    assert "401" not in document["paths"]["/v1/models"]["get"]["responses"]


def test_the_documentation_needs_the_key_like_all_else() -> None:
    with running_server(api_key="k") as server:
        for path in ("/openapi.json", "/docs", "/v1/capabilities"):
            assert server.get(path).status_code == 401
            answer = server.get(path, headers={"Authorization": "Bearer k"})
            assert answer.status_code == 200
        assert {"bearer": []} in server.get(
            "/openapi.json", headers={"Authorization": "Bearer k"}
        ).json()["security"]


def test_the_page_works_without_a_network_and_without_scripts(mock_server: LiveServer) -> None:
    response = mock_server.get("/docs")

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in response.text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    for path, _, _ in OPERATIONS:
        assert f"<code>{path}</code>" in response.text


class Part(BaseModel):
    """Inside a list."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["a", "b"]
    mark: Annotated[Any, Label()] = None


class Quiet(BaseModel):
    """Asks for nothing."""

    model_config = ConfigDict(extra="forbid")

    none: Annotated[Any, NeutralOnly()] = None


class Nested(BaseModel):
    """Holds itself."""

    model_config = ConfigDict(extra="forbid")

    word: str
    inner: Nested | None = None


class Body(BaseModel):
    """One of each."""

    model_config = ConfigDict(extra="forbid")

    honoured: int = 7
    zero: Annotated[Any, NeutralOnly(0)] = None
    false: Annotated[Any, NeutralOnly(False)] = None
    either: Annotated[Any, NeutralOnly(1, {"a": []})] = None
    never: Annotated[Any, NeutralOnly()] = None
    only_null: None = None
    label: Annotated[str | None, Label()] = None
    one_word: Literal["only"] = "only"
    parts: list[Part] | None = None
    by_name: dict[str, Part] | None = None
    quiet: Quiet | None = None
    nested: Nested | None = None


async def _handler(_: Request) -> Response:
    return Response()


OWN = Dialect(
    name="<Own>",
    operations=(Operation("POST", "/own/{id:path}", _handler, "Do <it>.", body=Body, answer=Part),),
    error=Part,
)


def test_the_table_says_what_becomes_of_each_field() -> None:
    (dialect,) = capabilities(openapi_document([OWN], needs_key=False))["dialects"]
    (operation,) = dialect["operations"]

    assert (operation["method"], operation["path"]) == ("POST", "/own/{id}")
    assert {
        field["name"]: field.get("neutral", field["support"]) for field in operation["fields"]
    } == {
        "honoured": "honoured",
        "zero": [0],
        "false": [False],
        "either": [1, {"a": []}],
        "never": "refused",
        "only_null": "refused",
        "label": "any",
        "one_word": ["only"],
        "parts": "honoured",
        "parts.*.kind": "honoured",
        "parts.*.mark": "any",
        "by_name": "honoured",
        "by_name.*.kind": "honoured",
        "by_name.*.mark": "any",
        "quiet": [{}],
        "quiet.none": "refused",
        "nested": "honoured",
        "nested.word": "honoured",
        "nested.inner": "honoured",
    }


def test_a_neutral_0_is_not_a_neutral_false() -> None:
    """typing keeps one Annotated for arguments that are equal, and 0 == False."""
    fields = {f["name"]: f for f in _own_fields()}

    assert repr(fields["zero"]["neutral"]) == "[0]"
    assert repr(fields["false"]["neutral"]) == "[False]"
    assert Body(zero=0, false=False)
    for wrong in ({"zero": False}, {"false": 0}):
        with pytest.raises(ValueError, match="only"):
            Body(**wrong)


def _own_fields() -> list[Any]:
    (dialect,) = capabilities(openapi_document([OWN], needs_key=False))["dialects"]
    return list(dialect["operations"][0]["fields"])


def test_the_page_escapes_what_it_shows_and_says_types_and_defaults() -> None:
    page = render_page(openapi_document([OWN], needs_key=True))

    assert "&lt;Own&gt;" in page
    assert "Do &lt;it&gt;." in page
    assert "<it>" not in page
    assert "integer" in page
    assert "default <code>7</code>" in page
    assert "Authorization: Bearer KEY" in page


def test_names_of_types_are_short_and_unlike() -> None:
    names = DOCUMENT["components"]["schemas"].keys()

    assert "palma.ErrorAnswer" in names
    assert not [name for name in names if "__" in name]
