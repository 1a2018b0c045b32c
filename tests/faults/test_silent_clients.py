"""Clients that vanish without a word, and clients that stay and do not read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from palma.api import http_protocol
from palma.core.types import GenerationRequest, Message, TextChunk
from palma.engine.base import TokenDelta
from palma.serving.generation import Generation
from tests.calls import CHAT_STREAM, STREAM, Call
from tests.faults.raw_http import reset
from tests.live_server import (
    COUNTING,
    LiveServer,
    read_to_end,
    running_server,
    unharmed_neighbour,
    wait_until,
)
from tests.spy_engine import MAX_STEPS_AFTER_CANCEL, Spy

resource = pytest.importorskip("resource", reason="Windows has neither resource nor /dev/fd")


def send_and_never_read(
    server: LiveServer, call: Call, content: str, **params: Any
) -> socket.socket:
    """Send a request on a connection that has next to no buffers, and return that."""
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(65536), "the server has accepted the connection"
    with find_peer(connection) as accepted:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connection.sendall(call.request_bytes(content, **params))
    return connection


def find_peer(client: socket.socket) -> socket.socket:
    """Return a duplicate of the other end of a connection, which lies in this process."""
    for number in os.listdir("/dev/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            # An OSError says: closed meanwhile, no socket, or not connected.
            found = stack.enter_context(socket.socket(fileno=os.dup(int(number))))
            if found.getpeername() == client.getsockname():
                stack.pop_all()
                return found
    raise AssertionError("the other end is not in this process")


# --- Clients that vanish -----------------------------------------------------------------------


def test_connections_are_watched_for_peers_that_vanish(mock_server: LiveServer) -> None:
    """Fault 85: the kernel ends a connection whose peer does not answer, sent to or not."""
    with unharmed_neighbour(mock_server), mock_server.connect() as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(1), "the server has accepted the connection"
        with find_peer(client) as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in http_protocol.KEEPALIVE_OPTIONS.items():
                if hasattr(socket, name):
                    option = getattr(socket, name)
                    assert accepted.getsockopt(socket.IPPROTO_TCP, option) == value
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert timeout_ms == http_protocol.USER_TIMEOUT_MS


VANISHING_CLIENT = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(sys.stdin.buffer.read())
connection.recv(1)
print("receiving", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def other_machine() -> Iterator[tuple[str, str, str]]:
    """Make a network namespace that a cable connects to this one.

    Yields:
        The namespace, this end of the cable, and the address of this end.
    """
    name = f"palma{os.getpid()}"
    here, there = f"pa{os.getpid()}", f"pb{os.getpid()}"
    commands = (
        f"ip netns add {name}",
        f"ip link add {here} type veth peer name {there} netns {name}",
        f"ip address add 198.51.100.1/30 dev {here}",
        f"ip link set {here} up",
        f"ip -n {name} address add 198.51.100.2/30 dev {there}",
        f"ip -n {name} link set {there} up",
    )
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespace can be made here: {error}")
        yield name, here, "198.51.100.1"
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["ip", "link", "delete", here], capture_output=True)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_a_client_that_vanishes_without_a_word_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 85: the cable is pulled; the timeout is 2 s here instead of 30 s."""
    monkeypatch.setattr(http_protocol, "USER_TIMEOUT_MS", 2000)
    spy = Spy()
    with (
        other_machine() as (namespace, cable, address),
        running_server(load=spy.load, host="0.0.0.0") as server,
    ):
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", VANISHING_CLIENT]
        client = subprocess.Popen(
            [*command, address, str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(STREAM.request_bytes("slowly count to 9999", max_tokens=10_000))
            client.stdin.close()
            assert client.stdout.readline() == b"receiving\n"

            subprocess.run(["ip", "link", "set", cable, "down"], check=True)
            with unharmed_neighbour(server):
                assert spy.only("9999").finish_reason is None
                wait_until(lambda: spy.only("9999").finish_reason, "it ends", 10)
            client.kill()

        assert spy.only("9999").finish_reason == "cancelled"
        assert spy.only("9999").num_tokens_after_cancel <= MAX_STEPS_AFTER_CANCEL


# --- Clients that do not read ------------------------------------------------------------------


def test_a_client_that_never_reads_is_dropped_and_slows_nobody_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fault 86."""

    def take_time(prompt: str, delta: TokenDelta) -> None:
        if "100000" in prompt and delta.token_ids:
            time.sleep(0.0002)  # the generation is far from its end when the client is dropped

    spy = Spy(on_token=take_time)
    with running_server(load=spy.load, send_timeout_s=1, sse_ping_s=0.2) as server:
        peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection = send_and_never_read(server, CHAT_STREAM, "count to 100000", max_tokens=100_000)
        wait_until(lambda: spy.find("100000"), "it is taken")
        started = time.monotonic()
        while spy.only("100000").finish_reason is None:
            assert time.monotonic() - started < 15, "the client was never dropped"
            check_neighbour_at_full_speed(server)

        assert spy.only("100000").finish_reason == "cancelled"
        assert spy.only("100000").num_tokens_after_cancel <= MAX_STEPS_AFTER_CANCEL
        server.wait_until_idle()
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before
        assert peak_kib < 64 * 1024 * (1024 if sys.platform == "darwin" else 1)
        wait_until(
            lambda: not has_peer(connection), "the connection is dropped, not only the answer"
        )
        assert not read_to_end(connection).endswith(b"0\r\n\r\n"), "it ended like a whole answer"
        connection.close()
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR], "it is no fault of ours"


def has_peer(connection: socket.socket) -> bool:
    """Whether the server still holds the other end of a connection."""
    with contextlib.suppress(AssertionError), find_peer(connection):
        return True
    return False


def check_neighbour_at_full_speed(server: LiveServer) -> None:
    """A stream of 10 steps of 20 ms beside others that go on."""
    started = time.monotonic()
    assert "".join(server.events(STREAM.path, COUNTING.body)) == COUNTING.text
    # 0.2 s on a quiet machine; the client that is dropped may have 15 s.
    assert time.monotonic() - started < 5


def test_a_backlog_that_nobody_reads_any_more_does_not_freeze_the_server() -> None:
    """Fault 87: the client leaves while thousands of chunks wait for it."""
    spy = Spy()
    with running_server(load=spy.load) as server:
        connection = send_and_never_read(server, STREAM, "count to 100000", max_tokens=100_000)
        wait_until(lambda: spy.num_tokens("100000") > 10_000, "backlog")
        with unharmed_neighbour(server):
            reset(connection)
            times_s = []
            for _ in range(20):
                started = time.monotonic()
                assert server.get("/livez").status_code == 200
                times_s.append(time.monotonic() - started)

        # It used to stand still for as long as the whole backlog took: more than 4 s.
        assert max(times_s) < 3
        assert spy.only("100000").finish_reason == "cancelled"


def test_reading_a_backlog_lets_other_tasks_run() -> None:
    """Fault 87, exactly: a chunk, then a turn for everybody else."""

    async def read_all(generation: Generation) -> list[TextChunk]:
        return [chunk async for chunk in generation]

    async def count_turns_while_reading() -> int:
        engine = SimpleNamespace(cancel=lambda request_id: None)
        request = GenerationRequest("r", (Message("user", "hi"),))
        generation = Generation(request, cast(Any, SimpleNamespace(engine=engine)), "r#0")
        for _ in range(100):
            generation.push(TextChunk("text"))
        generation.push(TextChunk("", "stop"))
        reading = asyncio.create_task(read_all(generation))
        num_turns = 0
        while not reading.done():
            num_turns += 1
            await asyncio.sleep(0)
        return num_turns

    assert asyncio.run(count_turns_while_reading()) >= 100
