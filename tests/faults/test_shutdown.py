"""Signals: running answers get their time, new requests are refused, and the process ends."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.calls import CALLS, CHAT, CHAT_STREAM, STREAM, Answer
from tests.faults.probes import HEALTHCHECKS, check_retry_after, status_of
from tests.faults.server_process import COMMANDS, server_process
from tests.live_server import LiveServer, read_to_end, unharmed_neighbour, wait_until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no SIGTERM to send to a process"
)


@pytest.fixture(autouse=True)
def other_server(mock_server: LiveServer) -> Iterator[None]:
    """Another server on this machine, whose stream goes on while the one under test ends."""
    with unharmed_neighbour(mock_server):
        yield


every_command = pytest.mark.parametrize("command", COMMANDS)


def ask_all(
    server: LiveServer, clients: ThreadPoolExecutor, content: str, **params: object
) -> list[Future[Answer]]:
    """Send a message in the four ways and return when the engine computes all four."""
    asked = [clients.submit(call.ask, server, content, **params) for call in CALLS]
    wait_until(lambda: server.counts()[0] == len(CALLS), "all are running")
    return asked


@every_command
def test_a_signal_lets_running_answers_finish_and_takes_nothing_new(command: str) -> None:
    """Fault 102: an idle connection does not hold it up, either."""
    with (
        server_process(command) as server,
        server.connect(),
        ThreadPoolExecutor(len(CALLS)) as clients,
    ):
        asked = ask_all(server, clients, "slowly count to 100")

        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/readyz").status_code == 503, "it drains")

        for path in ("/readyz", *HEALTHCHECKS):
            assert status_of(server, path) == (503, "draining")
        assert status_of(server, "/livez") == (200, "ok")
        for call in CALLS:
            refused = call.ask(server, "count to 3")
            call.check_error(refused, 503, "draining")
            check_retry_after(refused)
        assert not any(one.done() for one in asked), "nothing was running: this proves nothing"
        for answer in (one.result() for one in asked):
            assert answer.is_whole
            assert answer.text == "".join(f"{n} " for n in range(1, 101))
        status, stderr = server.end()
        assert status == 0
        assert "Traceback" not in stderr


def test_answers_longer_than_the_grace_end_with_an_error() -> None:
    """Fault 102."""
    with (
        server_process("palma serve", SHUTDOWN_GRACE_S="0.2") as server,
        ThreadPoolExecutor(len(CALLS)) as clients,
    ):
        asked = ask_all(server, clients, "slowly count to 9999", max_tokens=10_000)

        server.process.send_signal(signal.SIGTERM)

        for call, answer in zip(CALLS, (one.result() for one in asked), strict=True):
            call.check_error(answer, 503, "draining")
            if call.is_stream:
                assert answer.text.startswith("1 2 3 ")
            else:
                check_retry_after(answer)
        status, stderr = server.end()
        assert status == 0
        assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("command", "first", "second"),
    [
        ("palma serve", signal.SIGTERM, signal.SIGTERM),
        ("uvicorn server:app", signal.SIGTERM, signal.SIGINT),
    ],
)
def test_a_second_signal_ends_the_process_at_once(
    command: str, first: signal.Signals, second: signal.Signals
) -> None:
    """Fault 103."""
    with (
        server_process(command, SHUTDOWN_GRACE_S="60") as server,
        server.connect() as connection,
    ):
        connection.sendall(STREAM.request_bytes("slowly count to 9999", max_tokens=10_000))
        assert connection.recv(1)
        server.process.send_signal(first)
        wait_until(lambda: server.get("/readyz").status_code == 503, "it drains")
        assert server.process.poll() is None

        server.process.send_signal(second)

        status, _ = server.end()  # without the second signal it would take a minute
        assert status == 1


def test_a_body_that_never_ends_does_not_hold_up_the_end() -> None:
    """Fault 102."""
    with (
        server_process("palma serve", BODY_TIMEOUT_S="0.3") as server,
        server.connect() as connection,
    ):
        connection.sendall(CHAT.request_bytes("count to 3")[:-1])
        assert server.get("/livez").status_code == 200

        server.process.send_signal(signal.SIGTERM)

        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")
        status, _ = server.end()
        assert status == 0


def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    """Fault 102: plain uvicorn waits for ever for it to take what has been written."""
    timeouts = {"SEND_TIMEOUT_S": "0.5", "BODY_TIMEOUT_S": "0.5"}
    with (
        server_process("uvicorn server:app", **timeouts) as server,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(CHAT_STREAM.request_bytes("count to 100000", max_tokens=100_000))
        wait_until(lambda: server.counts()[0] == 1, "it is running")
        server.wait_until_idle()  # dropped, with all buffers full

        server.process.send_signal(signal.SIGTERM)

        status, _ = server.end()
        assert status == 0


def test_an_interrupt_stops_an_idle_server_with_status_0() -> None:
    """Fault 102: Ctrl-C in a terminal."""
    with server_process("palma serve") as server:
        server.process.send_signal(signal.SIGINT)

        status, stderr = server.end()

    assert status == 0
    assert "Traceback" not in stderr
