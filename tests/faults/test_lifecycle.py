"""Full queues, and models that are still loading or cannot be loaded."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.engine.base import Engine
from palma.serving.registry import load_engine
from tests.calls import CALLS, CHAT, STREAM
from tests.faults.probes import HEALTHCHECKS, PROBES, check_retry_after, status_of
from tests.live_server import QUEUE_HEAD, LiveServer, running_server, unharmed_neighbour, wait_until

# --- Full queues -------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_next_and_serves_those_it_took() -> None:
    """Fault 97."""
    with (
        running_server(threads_max_workers=1, max_waiting_requests=2) as server,
        ThreadPoolExecutor(2) as clients,
        unharmed_neighbour(server, QUEUE_HEAD),
    ):
        accepted = [clients.submit(call.ask, server, "count to 3") for call in (STREAM, CHAT)]
        wait_until(lambda: server.counts() == (1, 2), "two wait")

        for call in CALLS:
            refused = call.ask(server, "count to 3")

            call.check_error(refused, 429, "queue_full")
            assert refused.error is not None
            assert refused.error["type"] == ("rate_limit_error" if call.is_chat else "api_error")
            check_retry_after(refused)
        assert status_of(server, "/readyz") == (200, "ok")
        assert [taken.result().text for taken in accepted] == ["1 2 3 ", "1 2 3 "]
        assert CHAT.ask(server, "count to 3").text == "1 2 3 "


def test_a_flood_is_refused_and_leaves_the_server_as_it_was() -> None:
    """Fault 97: every request is either served whole or refused with 429; none is lost."""
    with running_server(threads_max_workers=2, max_waiting_requests=4) as server:
        with ThreadPoolExecutor(24) as clients, unharmed_neighbour(server):
            flood = [clients.submit(CALLS[n % 4].ask, server, "count to 9") for n in range(96)]
            answers = [asked.result() for asked in flood]

        for answer in answers:
            if answer.status == 200:
                assert (answer.is_whole, answer.text) == (True, "1 2 3 4 5 6 7 8 9 ")
            else:
                assert answer.status == 429
                check_retry_after(answer)
        assert {answer.status for answer in answers} == {200, 429}


# --- Loading -----------------------------------------------------------------------------------


@contextlib.contextmanager
def loading_server() -> Iterator[tuple[LiveServer, threading.Event]]:
    """A server whose model is being loaded until the event is set."""
    may_load = threading.Event()

    def load(settings: Settings, executor: Executor) -> Engine:
        may_load.wait()
        return load_engine(settings, executor)

    try:
        with running_server(load=load, wait_ready=False) as server:
            yield server, may_load
    finally:
        may_load.set()


def test_while_the_model_loads_requests_are_told_to_come_back() -> None:
    """Fault 107."""
    with loading_server() as (server, may_load):
        for call in CALLS:
            answer = call.ask(server, "count to 3")
            call.check_error(answer, 503, "model_loading")
            check_retry_after(answer)
        assert [status_of(server, path) for path in PROBES] == [
            (200, "ok"),
            (503, "loading"),
            (503, "loading"),
        ]
        for path in HEALTHCHECKS:
            assert status_of(server, path) == (503, "loading")
            assert server.get(path).json()["reason"]
        assert server.get("/v1/models").json()["data"] == []

        may_load.set()
        wait_until(lambda: status_of(server, "/readyz") == (200, "ok"), "it is loaded")

        with unharmed_neighbour(server):
            assert [call.ask(server, "count to 3").text for call in CALLS] == ["1 2 3 "] * 4
        assert [status_of(server, path) for path in PROBES] == [(200, "ok")] * 3


def test_a_shutdown_does_not_wait_for_the_model(mock_server: LiveServer) -> None:
    """Fault 107: a download may take an hour."""
    with unharmed_neighbour(mock_server), loading_server():
        started = time.monotonic()

    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelLoadError("the weights are broken"), "the weights are broken"),
        (RuntimeError("a bug at /secret/path"), "the log says why"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said_to_all_and_not_retried(
    error: Exception, reason: str, mock_server: LiveServer
) -> None:
    """Fault 107."""

    def load(settings: Settings, executor: Executor) -> Engine:
        raise error

    with (
        unharmed_neighbour(mock_server),
        running_server(load=load, wait_ready=False) as server,
    ):
        wait_until(lambda: status_of(server, "/readyz")[1] == "unhealthy", "loading fails")

        assert reason in server.get("/readyz").json()["reason"]
        assert status_of(server, "/livez") == (200, "ok")
        for call in CALLS:
            answer = call.ask(server, "count to 3")
            call.check_error(answer, 503, "unavailable")
            assert answer.headers["x-should-retry"] == "false"
            assert "secret" not in str(answer.error)
