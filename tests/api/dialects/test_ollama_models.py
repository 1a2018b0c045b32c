"""Ollama's routes about models, and its embeddings, judged by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from palma.version import __version__
from tests.live_server import LiveServer, running_server


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(mock_server.url) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(palmita_server.url) as client:
        yield client


def test_the_models_are_listed_and_described(palmita: Any) -> None:
    (listed,) = palmita.list().models
    (process,) = palmita.ps().models
    shown = palmita.show("palmita:latest")

    assert listed.model == process.model == "palmita"
    assert listed.digest == process.digest
    assert listed.details.family == "llama"
    assert int(listed.size) == int(process.size) > 4 * 4_000_000
    assert int(process.size_vram) == 0
    assert process.expires_at.year == 9999
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["general.parameter_count"] > 4_000_000
    assert shown.modelinfo["llama.context_length"] == process.context_length
    assert shown.details.parameter_size == listed.details.parameter_size
    assert "completion" in shown.capabilities


def test_a_model_without_weights_has_no_size(mock_server: LiveServer) -> None:
    (listed,) = mock_server.get("/api/tags").json()["models"]

    assert listed["name"] == "mock"
    assert "size" not in listed


def test_show_of_an_unknown_model_is_404(client: ollama.Client) -> None:
    for name in ("other", "llama3:8b"):
        with pytest.raises(ollama.ResponseError) as caught:
            client.show(name)
        assert caught.value.status_code == 404


def test_the_root_and_the_version_answer(mock_server: LiveServer) -> None:
    assert mock_server.get("/").text == "Ollama is running"
    assert mock_server.client.head("/").status_code == 200
    assert mock_server.get("/api/version").json() == {"version": __version__}


def test_what_is_here_is_pulled_at_once(client: ollama.Client) -> None:
    assert client.pull("mock").status == "success"
    assert client.pull("palmita").status == "success"  # bundled, though another one is served
    assert [part.status for part in client.pull("mock:latest", stream=True)] == [
        "pulling manifest",
        "success",
    ]


def test_pulling_another_model_needs_the_operators_leave(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="ALLOW_MODEL_MANAGEMENT") as caught:
        client.pull("hf.co/org/other")

    assert caught.value.status_code == 403


def test_a_pull_that_fails_says_why() -> None:
    with (
        running_server(allow_model_management=True) as server,
        ollama.Client(server.url) as client,
    ):
        answer = server.post("/api/pull", {"name": "org/no-such-model"})
        found = [json.loads(line) for line in answer.text.splitlines()]  # the tests are offline
        with pytest.raises(ollama.ResponseError) as caught:
            client.pull("org/no-such-model")

    assert found[0] == {"status": "pulling manifest"}
    assert found[-1].keys() == {"error"}
    assert caught.value.error == found[-1]["error"]


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("delete", ["mock"]),
        ("copy", ["mock", "mock2"]),
        ("create", ["mock2", None, "mock"]),
        ("push", ["mock"]),
    ],
)
def test_requests_do_not_change_the_models(client: Any, method: str, args: list[Any]) -> None:
    with pytest.raises(ollama.ResponseError, match="operator") as caught:
        getattr(client, method)(*args)

    assert caught.value.status_code == 403


def test_each_text_has_an_embedding_of_length_one(palmita: Any) -> None:
    both = palmita.embed("palmita", ["Paris is in France.", "Fish swim."])
    first = palmita.embed("palmita", "Paris is in France.")
    old = palmita.embeddings("palmita", "Paris is in France.")
    short = palmita.embed("palmita", "Paris is in France.", dimensions=8)

    assert both.model == "palmita"
    assert len(both.embeddings) == 2
    assert sum(x * x for x in both.embeddings[1]) == pytest.approx(1, abs=1e-4)
    assert first.embeddings[0] == pytest.approx(both.embeddings[0], abs=1e-4)
    assert list(old.embedding) == pytest.approx(first.embeddings[0], abs=1e-4)
    assert len(short.embeddings[0]) == 8
    assert both.prompt_eval_count > first.prompt_eval_count > 0
    assert both.total_duration > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("truncate", True), ("options", {"temperature": 0}), ("input", []), ("dimensions", 0)],
)
def test_what_an_embedding_cannot_honour_is_refused_by_name(
    mock_server: LiveServer, field: str, value: Any
) -> None:
    response = mock_server.post("/api/embed", {"model": "mock", "input": "hi", field: value})

    assert response.status_code == 400
    assert field in response.json()["error"]


def test_options_that_are_all_null_ask_nothing_of_an_embedding(mock_server: LiveServer) -> None:
    body = {"model": "mock", "input": "hi", "options": {"temperature": None}, "keep_alive": "5m"}

    assert mock_server.post("/api/embed", body).status_code == 200
