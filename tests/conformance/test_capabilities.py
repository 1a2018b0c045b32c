"""Every row of /v1/capabilities is true: shown on servers with the bundled model and the mock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from palma.api.app import DIALECTS
from palma.api.docs.capabilities import FieldAnswer, capabilities
from palma.api.docs.openapi import openapi_document
from tests.conformance.subject import Subject, Way
from tests.conformance.ways import WAYS
from tests.live_server import LiveServer, running_server

TABLE = capabilities(openapi_document(DIALECTS, needs_key=False))

OPERATIONS = [
    operation
    for dialect in TABLE["dialects"]
    for operation in dialect["operations"]
    if operation["fields"]
]

STRANGE_VALUES: tuple[Any, ...] = ("strange", 7, True, ["strange"], {"strange": 1}, {})
"""No field that is not honoured takes all of them, but for a label."""


def rows(*supports: str) -> list[Any]:
    """Return each field of each operation; what an earlier one has shown is slow."""
    shown: set[Any] = set()
    found = []
    for operation in OPERATIONS:
        way = WAYS.get(operation["path"])
        for field in operation["fields"]:
            if field["support"] not in supports:
                continue
            by = way and way.demonstrations.get(field["name"])
            proof = (by or str(field), way and way.read)
            marks = [pytest.mark.slow] if proof in shown else []
            shown.add(proof)
            path = operation["path"]
            found.append(pytest.param(path, field, id=f"{path}-{field['name']}", marks=marks))
    return found


Servers = Callable[[Way], LiveServer]


@pytest.fixture(scope="module")
def servers(
    palmita_server: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """Finds the server for a way, and starts it if it is not there yet."""
    started: dict[str, LiveServer] = {}
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))

        def server_for(way: Way) -> LiveServer:
            if not way.settings:
                return palmita_server
            key = str(way.settings)
            if key not in started:
                started[key] = stack.enter_context(running_server(**way.settings))
            return started[key]

        yield server_for


def subject_at(servers: Servers, path: str, field: str = "") -> tuple[Subject, dict[str, Any]]:
    """Return an operation, and the fields that a request with this field needs beside it."""
    assert path in WAYS, f"{path} takes a body: tests/conformance/ways.py must say how to ask it"
    way = WAYS[path]
    parts = field.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    beside = next((way.around[name] for name in names if name in way.around), {})
    return Subject(servers(way), path, way), dict(beside)


def assert_refused(subject: Subject, fields: dict[str, Any], name: str) -> None:
    response = subject.send(fields)

    assert response.status_code == 400, (fields, response.text)
    assert name.rpartition(".")[2] in " ".join(texts_in(response.json()))


def texts_in(answer: Any) -> Iterator[str]:
    """Yield the texts in an error; an envelope has fields such as `type` and `message` itself."""
    if isinstance(answer, dict):
        for value in answer.values():
            yield from texts_in(value)
    elif isinstance(answer, str):
        yield answer


def test_the_server_says_what_the_dialects_are(mock_server: LiveServer) -> None:
    assert mock_server.get("/v1/capabilities").json() == TABLE


@pytest.mark.parametrize(("path", "field"), rows("honoured"))
def test_an_honoured_field_changes_the_answer(
    servers: Servers, path: str, field: FieldAnswer
) -> None:
    name = field["name"]
    subject, _ = subject_at(servers, path)
    assert name in subject.way.demonstrations, f"nothing shows that {path} honours {name}"

    subject.way.demonstrations[name](subject, name)


@pytest.mark.parametrize(("path", "field"), rows("neutral_only", "refused"))
def test_a_field_that_is_not_honoured_is_taken_at_its_neutral_values_alone(
    servers: Servers, path: str, field: FieldAnswer
) -> None:
    name = field["name"]
    subject, beside = subject_at(servers, path, name)
    neutral = field.get("neutral", [])
    if neutral == "any":  # of its type, where it has one
        taken = [subject.send({**beside, name: value}).status_code for value in STRANGE_VALUES]
        assert 200 in taken
        return
    for value in neutral:
        response = subject.send({**beside, name: value})
        assert response.status_code == 200, (value, response.text)
    for value in (value for value in STRANGE_VALUES if value not in neutral):
        assert_refused(subject, {**beside, name: value}, name)


@pytest.mark.parametrize("path", [operation["path"] for operation in OPERATIONS])
def test_a_field_that_is_not_in_the_table_is_refused_at_every_depth(
    servers: Servers, path: str
) -> None:
    (operation,) = (operation for operation in OPERATIONS if operation["path"] == path)
    around = {name.rpartition(".")[0] for name in (f["name"] for f in operation["fields"])}

    for prefix in sorted(around):
        name = f"{prefix}.unheard_of".removeprefix(".")
        subject, beside = subject_at(servers, path, name)
        assert_refused(subject, {**beside, name: 1}, name)


def test_the_demonstrations_are_of_fields_that_exist() -> None:
    paths = {operation["path"] for operation in OPERATIONS}

    assert WAYS.keys() == paths
