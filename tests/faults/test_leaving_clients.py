"""Clients that leave before their answer is whole: no token more is made for them."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from tests.calls import CALLS, INFERENCE, STREAM, Call
from tests.faults.raw_http import reset, send
from tests.live_server import QUEUE_HEAD, LiveServer, running_server, unharmed_neighbour, wait_until
from tests.spy_engine import MAX_STEPS_AFTER_CANCEL, Spy

NOTICED_S = 5.0
"""Longest time between a client's leaving and the end of its generation, on a busy machine.

Less than the 15 s between keep-alives: those are not what notices."""

_numbers = itertools.count(20_000)


def next_number() -> int:
    """Return a number that no other test counts to."""
    return next(_numbers)


@pytest.fixture(scope="module")
def spy() -> Spy:
    """What the `spied_server` did."""
    return Spy()


@pytest.fixture(scope="module")
def spied_server(spy: Spy) -> Iterator[LiveServer]:
    """A server whose engine's steps are counted."""
    with running_server(load=spy.load) as server:
        yield server


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_client_that_leaves_stops_its_running_generation(
    spied_server: LiveServer, spy: Spy, call: Call
) -> None:
    """Faults 83 and 84."""
    with unharmed_neighbour(spied_server):
        for leave in (socket.socket.close, reset):
            words = f"slowly count to {next_number()}"
            connection = send(spied_server, call, words, max_tokens=10_000)
            wait_until(lambda: spy.num_tokens(words) >= 3, "it runs")  # noqa: B023
            leave(connection)

            wait_until(lambda: spy.only(words).finish_reason, "it ends", NOTICED_S)  # noqa: B023
            assert spy.only(words).finish_reason == "cancelled"
            assert spy.only(words).num_tokens_after_cancel <= MAX_STEPS_AFTER_CANCEL


def test_clients_that_leave_the_queue_are_never_decoded_for() -> None:
    """Faults 83 and 84."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1) as server:
        with unharmed_neighbour(server, QUEUE_HEAD):
            connections = [send(server, call, "count to 9999") for call in CALLS]
            wait_until(lambda: len(spy.find("9999")) == len(CALLS), "they are queued")
            assert server.counts() == (1, len(CALLS))
            for connection in connections:
                connection.close()
            wait_until(lambda: server.counts()[1] == 0, "the queue is empty", NOTICED_S)

        for request in spy.find("9999"):
            assert (request.finish_reason, request.num_tokens) == ("cancelled", 0)
        assert INFERENCE.ask(server, "count to 2").text == "1 2 "


def test_clients_that_leave_are_counted_as_cancelled(spied_server: LiveServer, spy: Spy) -> None:
    """Faults 83 and 84."""

    def num_cancelled() -> float:
        lines = spied_server.get("/metrics").text.splitlines()
        name = 'palma_requests_total{outcome="cancelled"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = num_cancelled()
    with unharmed_neighbour(spied_server):
        for call in CALLS:
            words = f"slowly count to {next_number()}"
            connection = send(spied_server, call, words)
            wait_until(lambda: spy.num_tokens(words) >= 1, "it runs")  # noqa: B023
            connection.close()
            wait_until(lambda: spy.only(words).finish_reason, "it ends", NOTICED_S)  # noqa: B023

    assert num_cancelled() == before + 4


def test_a_hundred_streams_that_are_dropped_leave_room_at_once(
    spied_server: LiveServer, spy: Spy
) -> None:
    """Fault 83: ten run, ninety wait, all of them leave."""
    words = f"slowly count to {next_number()}"
    with unharmed_neighbour(spied_server):
        connections = [send(spied_server, STREAM, words, max_tokens=10_000) for _ in range(100)]
        wait_until(lambda: len(spy.find(words)) == 100, "all are taken")
        for connection in connections:
            connection.close()

        started = time.monotonic()
        assert STREAM.ask(spied_server, "count to 3").text == "1 2 3 "
        assert time.monotonic() - started < 5
