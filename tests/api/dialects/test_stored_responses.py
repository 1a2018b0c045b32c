"""Responses that are kept: read again, deleted, outliving the server, or not storable at all."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from palma.serving import database
from tests.api.dialects.responses_client import (
    PATH,
    ask,
    sdk,
    texts,
)
from tests.live_server import (
    LiveServer,
    running_server,
    unharmed_neighbour,
)


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[Any]:
    with sdk(mock_server) as client:
        yield client


def test_a_stored_response_is_read_as_it_was_answered(client: Any) -> None:
    response = ask(
        client,
        "say añb",
        user="me",
        safety_identifier="id",
        prompt_cache_key="k",
        metadata={"a": "b"},
    )

    assert client.responses.retrieve(response.id) == response
    assert (response.user, response.safety_identifier, response.prompt_cache_key) == (
        "me",
        "id",
        "k",
    )


def test_a_response_that_shall_not_be_stored_is_not(client: Any) -> None:
    whole = ask(client, "say x", store=False)
    *_, completed = ask(client, "say x", store=False, stream=True)

    for response in (whole, completed.response):
        assert response.store is False
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.retrieve(response.id)
        assert caught.value.code == "not_found"


def test_a_deleted_response_is_gone_but_not_for_those_that_continued_it(
    client: Any, mock_server: LiveServer
) -> None:
    first = ask(client, "say one")
    second = ask(client, "say two", previous_response_id=first.id)

    deleted = mock_server.client.delete(f"{PATH}/{first.id}")

    assert deleted.json() == {"id": first.id, "object": "response", "deleted": True}
    for again in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            again(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(first.id)
    third = ask(client, "say three", previous_response_id=second.id)
    assert texts(client.responses.input_items.list(third.id, order="asc")) == [
        "say one",
        "one",
        "say two",
        "two",
        "say three",
    ]


def test_input_items_come_in_pages(client: Any) -> None:
    response = ask(client, [{"role": "user", "content": f"say {n}"} for n in range(25)])

    first = client.responses.input_items.list(response.id, limit=10)

    assert texts(first.data) == [f"say {n}" for n in range(24, 14, -1)]
    assert first.has_more
    assert texts(first) == [f"say {n}" for n in range(24, -1, -1)]  # the client asks for the rest
    oldest = client.responses.input_items.list(response.id, order="asc", limit=3)
    assert texts(oldest.data) == ["say 0", "say 1", "say 2"]
    behind = client.responses.input_items.list(response.id, order="asc", after=oldest.data[-1].id)
    assert texts(behind.data)[0] == "say 3"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "order=up", "after=x", "colour=red", "include[]=x"]
)
def test_pages_that_cannot_be_are_refused_by_name(
    client: Any, mock_server: LiveServer, query: str
) -> None:
    response = ask(client, "say x")

    refused = mock_server.get(f"{PATH}/{response.id}/input_items?{query}")

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == query.partition("=")[0].removesuffix("[]")


def test_stored_responses_outlive_the_server(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/responses.db"
    with running_server(responses_database_url=url) as server, sdk(server) as client:
        first = ask(client, "say one")
        conversation = client.conversations.create(items=[{"role": "user", "content": "x"}])

    with running_server(responses_database_url=url) as server, sdk(server) as client:
        assert client.responses.retrieve(first.id) == first
        second = ask(client, "say two", previous_response_id=first.id)
        assert client.conversations.retrieve(conversation.id) == conversation
        assert texts(client.responses.input_items.list(second.id)) == ["say two", "one", "say one"]


def test_an_answer_that_cannot_be_stored_is_answered_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "responses.db"
    monkeypatch.setattr(database, "MAX_LOCK_S", 0.05)
    with (
        running_server(responses_database_url=f"sqlite:///{file}") as server,
        sdk(server) as client,
        unharmed_neighbour(server),
    ):
        first = ask(client, "say one")
        conversation = client.conversations.create()
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            whole = ask(client, "say two", previous_response_id=first.id)
            *_, streamed = ask(client, "say two", conversation=conversation.id, stream=True)
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, "say two", background=True)

        assert first.store is True
        assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")
        assert streamed.response.conversation is None
        assert list(client.conversations.items.list(conversation.id)) == []
        for response in (whole, streamed.response):
            assert response.output_text == "two"
            assert response.store is False
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(response.id)


def test_a_broken_database_refuses_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "responses.db"
    file.write_bytes(b"this is no database " * 100)
    with (
        running_server(responses_database_url=f"sqlite:///{file}") as server,
        sdk(server) as client,
    ):
        assert ask(client, "say x").store is False
        for refused in (
            lambda: client.responses.retrieve("resp_x"),
            lambda: ask(client, "say x", previous_response_id="resp_x"),
            client.conversations.create,
        ):
            with pytest.raises(openai.InternalServerError) as caught:
                refused()
            assert (caught.value.status_code, caught.value.code) == (500, "store_failed")
