"""Streams that are broken off, by the client, by the network or by us; and what SDKs make of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest

from palma.api import http_protocol
from palma.core.types import GenerationRequest, Message, TextChunk
from palma.engine.base import TokenDelta
from palma.serving.generation import Generation
from tests.calls import CALLS, CHAT, CHAT_STREAM, INFERENCE, STREAM, STREAMS, Call
from tests.live_server import (
    NEIGHBOUR_TEXT,
    LiveServer,
    read_to_end,
    running_server,
    unharmed_neighbour,
    user,
    wait_until,
)
from tests.spy_engine import Spy

every_call = pytest.mark.parametrize("call", CALLS, ids=str)
every_stream = pytest.mark.parametrize("call", STREAMS, ids=str)

MAX_STEPS_AFTER_CANCEL = 2
NOTICED_S = 1.0
"""Longest time between a client's leaving and the end of its generation, on a busy machine."""


def send(server: LiveServer, call: Call, content: str, **params: Any) -> socket.socket:
    """Send a request on a raw connection and return that, unread."""
    connection = server.connect()
    connection.sendall(call.request_bytes(content, **params))
    return connection


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


def reset(connection: socket.socket) -> None:
    """Leave with a RST instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    connection.close()


# --- Clients that leave ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spy() -> Spy:
    """What the `spied_server` did."""
    return Spy()


@pytest.fixture(scope="module")
def spied_server(spy: Spy) -> Iterator[LiveServer]:
    """A server whose engine's steps are counted."""
    with running_server(load=spy.load) as server:
        yield server


@every_call
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


_numbers = iter(range(20_000, 30_000))


def next_number() -> int:
    """Return a number that no other test counts to."""
    return next(_numbers)


def test_clients_that_leave_the_queue_are_never_decoded_for() -> None:
    """Faults 83 and 84."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1) as server:
        with unharmed_neighbour(server):
            connections = [send(server, call, "count to 9999") for call in CALLS]
            wait_until(lambda: len(spy.find("9999")) == len(CALLS), "they are queued")
            assert server.counts() == (1, len(CALLS))
            for connection in connections:
                connection.close()
            wait_until(lambda: server.counts()[1] == 0, "the queue is empty", NOTICED_S)

        for request in spy.find("9999"):
            assert (request.finish_reason, request.num_tokens) == ("cancelled", 0)
        assert INFERENCE.ask(server, "count to 2").text == "1 2 "


def test_clients_that_leave_are_counted_as_cancelled(spied_server: LiveServer) -> None:
    """Faults 83 and 84."""

    def num_cancelled() -> float:
        lines = spied_server.get("/metrics").text.splitlines()
        name = 'palma_requests_total{outcome="cancelled"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = num_cancelled()
    for call in CALLS:
        connection = send(spied_server, call, "slowly count to 100")
        wait_until(lambda: spied_server.counts()[0] == 1, "it runs")
        connection.close()
        spied_server.wait_until_idle()

    assert num_cancelled() == before + 4


def test_a_hundred_streams_that_are_dropped_leave_room_at_once(
    spied_server: LiveServer, spy: Spy
) -> None:
    """Fault 83: ten run, ninety wait, all of them leave."""
    words = f"slowly count to {next_number()}"
    connections = [send(spied_server, STREAM, words, max_tokens=10_000) for _ in range(100)]
    wait_until(lambda: len(spy.find(words)) == 100, "all are taken")
    for connection in connections:
        connection.close()

    started = time.monotonic()
    assert STREAM.ask(spied_server, "count to 3").text == "1 2 3 "

    assert time.monotonic() - started < 5
    spied_server.wait_until_idle()


# --- Clients that vanish -----------------------------------------------------------------------


def test_connections_are_watched_for_peers_that_vanish(mock_server: LiveServer) -> None:
    """Fault 85: the kernel ends a connection whose peer does not answer, sent to or not."""
    with mock_server.connect() as client:
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
    """Fault 85: the cable is pulled; the timeout is 1 s here instead of 30 s."""
    monkeypatch.setattr(http_protocol, "USER_TIMEOUT_MS", 1000)
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
    """A stream of 15 steps of 20 ms beside others that go on."""
    started = time.monotonic()
    answer = STREAM.ask(server, "slowly count to 15")
    assert (answer.text, answer.is_whole) == (NEIGHBOUR_TEXT, True)
    assert time.monotonic() - started < 2


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

        assert max(times_s) < 1
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


# --- What official clients make of it ----------------------------------------------------------


def sdk(server: LiveServer, **options: Any) -> openai.OpenAI:
    """Return the official client in its strictest mode."""
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        _strict_response_validation=True,
        **{"max_retries": 0, "timeout": 20, **options},
    )


def sdk_stream(client: openai.OpenAI, content: str, **params: Any) -> Any:
    """Ask for a stream and return it."""
    return client.chat.completions.create(
        model="mock", messages=cast(Any, user(content)), stream=True, **params
    )


def test_the_sdk_raises_on_an_error_after_the_first_byte(mock_server: LiveServer) -> None:
    """Fault 88: and the text that came before it is not lost."""
    texts: list[str] = []

    def read(stream: Any) -> None:
        for chunk in stream:
            texts.extend(choice.delta.content or "" for choice in chunk.choices)

    with unharmed_neighbour(mock_server), sdk(mock_server) as client:
        stream = sdk_stream(client, "slowly fail after 3")
        with pytest.raises(openai.APIError) as caught:
            read(stream)

    assert "".join(texts) == "1 2 3 "
    assert (caught.value.code, caught.value.type) == ("engine_error", "server_error")


@every_stream
@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_a_failed_stream_ends_with_an_error_event_and_not_like_a_success(
    mock_server: LiveServer, call: Call, num_tokens: int
) -> None:
    """Faults 88 and 89."""
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

    async def broken(generation: Generation) -> Any:
        yield TextChunk("one ")
        raise ZeroDivisionError("a bug at /secret/path")

    monkeypatch.setattr(Generation, "__aiter__", broken)
    with running_server() as server:
        connection = send(server, call, "slowly count to 100")
        received = read_to_end(connection)
        connection.close()

        assert b"one " in received
        assert not received.endswith(b"0\r\n\r\n"), "it ended as if it were complete"
        assert b"secret" not in received
        server.wait_until_idle()


@pytest.mark.parametrize(
    ("order", "expected"), [("count to 3", "stop"), ("count to 9", "length"), ("say ", "stop")]
)
def test_finish_reasons_are_stop_and_length_and_nothing_else(
    mock_server: LiveServer, order: str, expected: str
) -> None:
    """Fault 90: each choice has one, at its end."""
    with sdk(mock_server) as client:
        chunks = list(sdk_stream(client, order, max_tokens=5))

    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + [expected]
    assert CHAT.ask(mock_server, order, max_tokens=5).finish_reason == expected


@every_stream
def test_keep_alives_are_comment_lines_only(call: Call) -> None:
    """Fault 91: while a request waits, and between its tokens."""
    with (
        running_server(sse_ping_s=0.05, threads_max_workers=1) as server,
        unharmed_neighbour(server),
        server.client.stream("POST", call.path, json=call.body("count to 3")) as response,
    ):
        lines = list(response.iter_lines())

    comments = [line for line in lines if line.startswith(":")]
    others = [line for line in lines if line and not line.startswith(":")]
    assert len(comments) >= 3
    assert set(comments) == {": ping"}
    assert others
    assert all(line.startswith("data: ") for line in others)


def test_the_strict_sdk_reads_past_keep_alives() -> None:
    """Fault 91."""
    with running_server(sse_ping_s=0.005) as server, sdk(server) as client:
        chunks = list(sdk_stream(client, "slowly count to 5"))

    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "1 2 3 4 5 "


@pytest.mark.parametrize("include_usage", [None, False, True])
def test_the_usage_chunk_comes_last_and_only_when_asked_for(
    mock_server: LiveServer, include_usage: bool | None
) -> None:
    """Fault 92."""
    options = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
    with sdk(mock_server) as client:
        *chunks, last = sdk_stream(client, "count to 3", **options)

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    if include_usage:
        assert last.choices == []
        assert (last.usage.completion_tokens, last.usage.total_tokens) == (
            4,
            last.usage.prompt_tokens + 4,
        )
    else:
        assert last.choices
        assert last.usage is None


@every_stream
def test_no_proxy_and_no_gzip_may_hold_events_back(mock_server: LiveServer, call: Call) -> None:
    """Fault 93: the first event is here long before the last one is made."""
    body = call.body("slowly count to 20")
    headers = {"Accept-Encoding": "gzip, br"}
    with mock_server.client.stream("POST", call.path, json=body, headers=headers) as response:
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


# --- Retries and deadlines ---------------------------------------------------------------------


def test_the_sdk_does_not_repeat_what_will_fail_again(spied_server: LiveServer, spy: Spy) -> None:
    """Fault 94: x-should-retry is false, so there is one call, not three."""
    with (
        sdk(spied_server, max_retries=2) as client,
        unharmed_neighbour(spied_server),
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="mock", messages=cast(Any, user("fail after 0, once")))

    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.code == "engine_error"
    assert len(spy.find("fail after 0, once")) == 1


def test_the_sdk_repeats_what_was_refused_for_want_of_room() -> None:
    """Fault 94: 429 says when, and the second try succeeds."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1, max_waiting_requests=0) as server:
        with unharmed_neighbour(server):
            refused = CHAT.ask(server, "count to 3")
            assert refused.status == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert "x-should-retry" not in refused.headers

            with sdk(server, max_retries=2) as client:
                answer = client.chat.completions.create(
                    model="mock", messages=cast(Any, user("count to 3"))
                )

        assert answer.choices[0].message.content == "1 2 3 "
        assert len(spy.find("count to 3")) == 1


def test_a_request_whose_client_has_given_up_is_dropped_from_the_queue() -> None:
    """Fault 95: the SDK tells its timeout; no token is made for an answer that nobody awaits."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1) as server:
        with unharmed_neighbour(server):
            headers = {"x-stainless-read-timeout": "0.1"}
            response = server.post(CHAT.path, CHAT.body("count to 7777"), headers=headers)

        assert response.status_code == 503
        assert response.json()["error"]["code"] == "queue_timeout"
        assert 1 <= int(response.headers["retry-after"]) <= 120
        assert spy.only("7777").num_tokens == 0
        assert spy.only("7777") not in spy.started
        assert spy.only("7777").finish_reason == "cancelled"


def test_a_queued_stream_whose_client_has_given_up_ends_with_an_error_event() -> None:
    """Fault 95."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1) as server:
        with (
            unharmed_neighbour(server),
            sdk(server, timeout=0.1) as client,
            pytest.raises(openai.APIError),
        ):
            list(sdk_stream(client, "count to 7777"))

        assert spy.only("7777").num_tokens == 0


@pytest.mark.parametrize("value", ["600", "0.5", "inf", "nan", "-1", "0", "soon", "1e400", ""])
def test_any_read_timeout_is_taken_while_there_is_room(mock_server: LiveServer, value: str) -> None:
    """Fault 95: what is no time is no deadline."""
    headers = {"x-stainless-read-timeout": value}

    response = mock_server.post(CHAT.path, CHAT.body("count to 2"), headers=headers)

    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "1 2 "
