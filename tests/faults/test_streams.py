"""Streams as they travel: their headers, their keep-alives, and how one ends that has failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from palma.core.types import TextChunk
from palma.serving.generation import Generation
from tests.calls import STREAMS, Call
from tests.faults.raw_http import send
from tests.live_server import (
    QUEUE_HEAD,
    LiveServer,
    read_to_end,
    running_server,
    unharmed_neighbour,
)

every_stream = pytest.mark.parametrize("call", STREAMS, ids=str)


@pytest.fixture
def server(mock_server: LiveServer) -> LiveServer:
    """The server with default settings."""
    return mock_server


def test_a_failed_stream_ends_with_an_error_event_and_not_like_a_success(
    mock_server: LiveServer,
) -> None:
    """Faults 88 and 89."""
    with unharmed_neighbour(mock_server):
        for call in STREAMS:
            for num_tokens in (0, 1, 5):
                answer = call.ask(mock_server, f"fail after {num_tokens}")

                call.check_error(answer, 500, "engine_error")
                assert answer.text == "".join(f"{n} " for n in range(1, num_tokens + 1))
                assert answer.finish_reason is None
                assert "[DONE]" not in answer.events
                assert not any("<|eot_id|>" in str(event) for event in answer.events)


@every_stream
def test_a_stream_that_breaks_where_no_event_can_be_made_is_torn_off(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 89: a bug of ours while events are made: the chunked body has no end."""
    whole = Generation.batches

    async def broken() -> AsyncIterator[list[TextChunk]]:
        yield [TextChunk("one ")]
        raise ZeroDivisionError("a bug at /secret/path")

    def iterate(generation: Generation) -> AsyncIterator[list[TextChunk]]:
        is_doomed = "9999" in generation.request.messages[-1].content
        return broken() if is_doomed else whole(generation)

    monkeypatch.setattr(Generation, "batches", iterate)
    with running_server() as server, unharmed_neighbour(server):
        connection = send(server, call, "slowly count to 9999")
        received = read_to_end(connection)
        connection.close()

        assert b"one " in received
        assert not received.endswith(b"0\r\n\r\n"), "it ended as if it were complete"
        assert b"secret" not in received


@every_stream
def test_keep_alives_are_comment_lines_only(call: Call) -> None:
    """Fault 91: while a request waits, and between its tokens."""
    with (
        running_server(sse_ping_s=0.05, threads_max_workers=1) as server,
        unharmed_neighbour(server, QUEUE_HEAD),
        server.client.stream("POST", call.path, json=call.body("count to 3")) as response,
    ):
        lines = list(response.iter_lines())

    comments = [line for line in lines if line.startswith(":")]
    others = [line for line in lines if line and not line.startswith(":")]
    assert len(comments) >= 3
    assert set(comments) == {": ping"}
    assert others
    assert all(line.startswith("data: ") for line in others)


@pytest.mark.usefixtures("neighbour")
@every_stream
def test_no_proxy_and_no_gzip_may_hold_events_back(server: LiveServer, call: Call) -> None:
    """Fault 93: the first event is here long before the last one is made."""
    body = call.body("slowly count to 20")
    headers = {"Accept-Encoding": "gzip, br"}
    with server.client.stream("POST", call.path, json=body, headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-cache"
        assert "content-encoding" not in response.headers
        assert response.headers["x-request-id"]
        started = time.monotonic()
        lines = response.iter_lines()
        while "1 " not in next(lines):
            pass
        first_s = time.monotonic() - started
        for _ in lines:
            pass
        assert first_s < (time.monotonic() - started) / 2
