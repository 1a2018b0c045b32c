"""Responses in the background: polled, streamed again, cancelled, deleted, restarted."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from palma.api.dialects.openai_responses import background
from palma.core.errors import StoreUnavailable
from palma.serving.response_store import ResponseStore, StoredResponse
from tests.api.dialects.responses_client import (
    WHOLE_STREAM,
    ask,
    sdk,
)
from tests.live_server import (
    LiveServer,
    running_server,
    unharmed_neighbour,
    wait_until,
)


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[Any]:
    with sdk(mock_server) as client:
        yield client


def test_a_response_in_the_background_is_polled_to_its_end(client: Any) -> None:
    begun = ask(client, "slowly count to 20", background=True)

    assert begun.status == "queued"
    assert begun.background is True
    seen = {client.responses.retrieve(begun.id).status}
    wait_until(lambda: client.responses.retrieve(begun.id).status == "completed", "it ends")
    ended = client.responses.retrieve(begun.id)
    assert seen <= {"queued", "in_progress"}
    assert ended.output_text == "".join(f"{n} " for n in range(1, 21))
    assert ended.usage.output_tokens == 21
    assert ask(client, "say x", previous_response_id=begun.id).output_text == "x"


def test_a_waiting_response_is_queued_and_then_in_progress() -> None:
    with running_server(threads_max_workers=1) as server, sdk(server) as client:
        first = ask(client, "slowly count to 1000", background=True)
        wait_until(lambda: client.responses.retrieve(first.id).status == "in_progress", "it runs")
        second = ask(client, "slowly count to 1000", background=True)

        wait_until(lambda: server.counts() == (1, 1), "the second waits")
        assert client.responses.retrieve(second.id).status == "queued"
        client.responses.cancel(first.id)
        wait_until(lambda: client.responses.retrieve(second.id).status == "in_progress", "it runs")
        client.responses.cancel(second.id)
        server.wait_until_idle()


def test_a_cancelled_response_keeps_what_was_said(mock_server: LiveServer, client: Any) -> None:
    begun = ask(client, "slowly count to 100000", background=True, stream=True)
    response_id = next(begun).response.id
    next(event for event in begun if event.type == "response.output_text.delta")

    with unharmed_neighbour(mock_server):
        cancelled = client.responses.cancel(response_id)
        again = client.responses.cancel(response_id)

    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith("1 ")
    assert cancelled.output[0].status == "incomplete"
    assert cancelled.usage is None
    assert again == client.responses.retrieve(response_id) == cancelled
    *_, last = begun
    assert (last.type, last.response) == ("response.incomplete", cancelled)


def test_only_what_runs_in_the_background_can_be_cancelled(client: Any) -> None:
    response = ask(client, "say x")

    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(response.id)


def test_a_stream_in_the_background_goes_on_without_its_reader_and_is_read_again(
    mock_server: LiveServer, client: Any
) -> None:
    stream = ask(client, "slowly count to 30", background=True, stream=True)
    first = [next(stream) for _ in range(7)]
    stream.close()

    response_id = first[0].response.id
    rest = list(
        client.responses.retrieve(
            response_id, stream=True, starting_after=first[-1].sequence_number
        )
    )
    again = list(client.responses.retrieve(response_id, stream=True))

    assert [*first, *rest] == again
    assert [event.sequence_number for event in again] == list(range(len(again)))
    queued = ["response.created", "response.queued", *WHOLE_STREAM[1:4]]
    assert [event.type for event in again[:5]] == queued
    deltas = [event.delta for event in again if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "".join(f"{n} " for n in range(1, 31))
    assert again[-1].response == client.responses.retrieve(response_id)
    with client.responses.stream(response_id=response_id, starting_after=3) as helper:
        assert helper.get_final_response().output_text == "".join(deltas)


def test_a_stream_of_what_was_not_streamed_is_refused(client: Any) -> None:
    for response in (ask(client, "say x"), ask(client, "say x", background=True)):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.retrieve(response.id, stream=True)
        assert caught.value.param == "stream"


def test_events_are_kept_for_a_while_and_answers_longer(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MAX_ENDED_RUNS", 1)

    ids = []
    for n in range(3):
        *_, completed = ask(client, f"say {n}", background=True, stream=True)
        ids.append(completed.response.id)

    assert [client.responses.retrieve(response_id).output_text for response_id in ids] == [*"012"]
    *_, last = client.responses.retrieve(ids[2], stream=True)
    assert last.type == "response.completed"
    with pytest.raises(openai.BadRequestError, match="for a while"):
        client.responses.retrieve(ids[0], stream=True)


def test_an_answer_whose_storing_failed_is_read_but_not_continued(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ResponseStore.put

    async def put_queued_only(store: ResponseStore, response: StoredResponse) -> None:
        if response.body["status"] != "queued":
            raise StoreUnavailable("the disk is full")
        await put(store, response)

    monkeypatch.setattr(ResponseStore, "put", put_queued_only)
    begun = ask(client, "say x", background=True)

    wait_until(lambda: client.responses.retrieve(begun.id).status == "completed", "it ends")
    response = client.responses.retrieve(begun.id)
    assert (response.output_text, response.store) == ("x", False)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "say y", previous_response_id=begun.id)
    assert caught.value.code == "previous_response_not_found"


def test_an_error_of_our_own_in_the_background_is_a_failed_response(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ResponseStore.put

    async def put_queued_only(store: ResponseStore, response: StoredResponse) -> None:
        if response.body["status"] != "queued":
            raise ZeroDivisionError
        await put(store, response)

    monkeypatch.setattr(ResponseStore, "put", put_queued_only)
    begun = ask(client, "say x", background=True)

    wait_until(lambda: client.responses.retrieve(begun.id).status == "failed", "it fails")
    assert client.responses.retrieve(begun.id).error.code == "server_error"


def test_deleting_a_running_response_ends_it(client: Any, mock_server: LiveServer) -> None:
    begun = ask(client, "slowly count to 100000", background=True)

    client.responses.delete(begun.id)

    mock_server.wait_until_idle()
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.id)


def test_a_response_that_is_not_there_yet_cannot_be_continued(client: Any) -> None:
    begun = ask(client, "slowly count to 100000", background=True)

    with pytest.raises(openai.BadRequestError, match="still") as caught:
        ask(client, "say x", previous_response_id=begun.id)

    assert caught.value.param == "previous_response_id"
    client.responses.cancel(begun.id)


def test_a_failure_in_the_background_is_a_failed_response(client: Any) -> None:
    begun = ask(client, "fail after 2", background=True)

    wait_until(lambda: client.responses.retrieve(begun.id).status == "failed", "it fails")
    failed = client.responses.retrieve(begun.id)
    assert failed.error.code == "server_error"
    assert failed.output_text == "1 2 "


def test_what_the_server_could_not_end_is_failed_after_its_restart(tmp_path: Path) -> None:
    file = tmp_path / "responses.db"
    url = f"sqlite:///{file}"
    with running_server(responses_database_url=url) as server, sdk(server) as client:
        ended = ask(client, "slowly count to 100000", background=True)
        killed = ask(client, "say x", background=True)
        wait_until(lambda: client.responses.retrieve(killed.id).status == "completed", "it ends")
    with (
        contextlib.closing(sqlite3.connect(file)) as database,
        database,
    ):  # as a kill would leave it
        queued = killed.to_json()
        database.execute("UPDATE owners SET body = ? WHERE id = ?", (queued, killed.id))

    with running_server(responses_database_url=url) as server, sdk(server) as client:
        for begun, words in ((ended, "shut down"), (killed, "ended before")):
            response = client.responses.retrieve(begun.id)
            assert response.status == "failed"
            assert words in response.error.message
