"""What counts as an answer, what as which failure, and what the probe finds out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest

from palma.bench.client import Measurement, ServerClient, Target, Task, probe
from palma.core.errors import PalmaError, Unavailable

TEXT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
TASK = Task("a word", 2)

Handler = Callable[[httpx.Request], httpx.Response]


class Parts(httpx.AsyncByteStream):
    def __init__(self, *parts: bytes | Exception) -> None:
        self.parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part


def client(handler: Handler) -> ServerClient:
    return ServerClient("http://server/v1/", transport=httpx.MockTransport(handler))


def measure(*parts: bytes | Exception, status: int = 200, needs_done: bool = True) -> Measurement:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=Parts(*parts)))
    server = ServerClient("http://server", transport=transport, needs_done=needs_done)
    return asyncio.run(server.measure(Target("m"), TASK))


def test_a_whole_stream_is_a_success_with_the_servers_counts() -> None:
    measured = measure(TEXT, TEXT, USAGE, DONE)

    assert measured.error is None
    assert len(measured.itls_s) == 1
    assert measured.num_completion_tokens == 2
    assert 0 <= measured.ttft_s <= measured.e2e_s


@pytest.mark.parametrize(
    ("kind", "parts", "status"),
    [
        ("no_done", (TEXT, USAGE), 200),
        ("no_text", (USAGE, DONE), 200),
        ("no_done", (), 200),
        ("error_event", (TEXT, b'data: {"error":{"message":"oom"}}\n\n', DONE), 200),
        ("bad_event", (TEXT, b"data: {oops\n\n", DONE), 200),
        ("broken_stream", (TEXT, httpx.RemoteProtocolError("peer closed")), 200),
        ("broken_stream", (TEXT, httpx.ReadError("reset")), 200),
        ("timeout", (TEXT, httpx.ReadTimeout("slow")), 200),
        ("http_429", (b'{"error":{}}',), 429),
        ("http_503", (b"busy",), 503),
    ],
)
def test_a_failure_is_told_by_its_kind(
    kind: str, parts: tuple[bytes | Exception, ...], status: int
) -> None:
    assert measure(*parts, status=status).error == kind


def test_a_finish_reason_ends_a_stream_only_where_that_is_allowed() -> None:
    finish = b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'

    assert "--no-done" in measure(TEXT, finish).detail
    assert measure(TEXT, finish, needs_done=False).error is None
    assert measure(TEXT, needs_done=False).error == "no_done"


def test_a_server_that_is_not_there_is_a_failure_of_its_own() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert asyncio.run(client(refuse).measure(Target("m"), TASK)).error == "connect"


@pytest.mark.parametrize(("num_closed", "error"), [(1, None), (2, "broken_stream")])
def test_a_connection_that_was_closed_while_idle_is_opened_anew_once(
    num_closed: int, error: str | None
) -> None:
    num_asked = 0

    def close_first(request: httpx.Request) -> httpx.Response:
        nonlocal num_asked
        num_asked += 1
        if num_asked <= num_closed:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        return httpx.Response(200, stream=Parts(TEXT, USAGE, DONE))

    assert asyncio.run(client(close_first).measure(Target("m"), TASK)).error == error
    assert num_asked == 2


def picky(*refused: str) -> tuple[Handler, list[dict[str, Any]]]:
    bodies: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(orjson.loads(request.content))
        if bodies[-1].keys() & set(refused):
            return httpx.Response(400, json={"error": {"message": "unknown"}})
        return httpx.Response(200, stream=Parts(TEXT, USAGE, DONE))

    return handle, bodies


@pytest.mark.parametrize(
    ("refused", "length_fields", "asks_usage"),
    [
        ((), ("ignore_eos", "min_tokens"), True),
        (("min_tokens",), ("ignore_eos",), True),
        (("ignore_eos",), ("min_tokens",), True),
        (("ignore_eos", "min_tokens"), (), True),
        (("ignore_eos", "min_tokens", "stream_options"), (), False),
    ],
)
def test_the_probe_finds_the_fields_that_the_server_takes(
    refused: tuple[str, ...], length_fields: tuple[str, ...], asks_usage: bool
) -> None:
    handle, bodies = picky(*refused)

    target, _ = asyncio.run(probe(client(handle), Target("m"), lambda: TASK))

    assert target.length_fields == length_fields
    assert target.asks_usage == asks_usage
    assert not bodies[-1].keys() & set(refused)


def test_a_server_that_refuses_everything_ends_the_probe_with_its_words() -> None:
    handle, _ = picky("model")

    with pytest.raises(PalmaError, match="unknown"):
        asyncio.run(probe(client(handle), Target("m"), lambda: TASK))


def test_a_server_that_fails_ends_the_probe() -> None:
    server = client(lambda _: httpx.Response(500, text="broken"))

    with pytest.raises(Unavailable, match="http_500: broken"):
        asyncio.run(probe(server, Target("m"), lambda: TASK))


def test_completions_send_a_prompt_and_chat_sends_messages() -> None:
    assert Target("m", "completions").body(TASK)["prompt"] == "a word"
    assert Target("m").body(TASK)["messages"] == [{"role": "user", "content": "a word"}]


@pytest.mark.parametrize("body", [{}, {"data": []}, []])
def test_a_list_without_models_asks_for_a_name(body: Any) -> None:
    server = client(lambda _: httpx.Response(200, json=body))

    with pytest.raises(Unavailable, match="--model"):
        asyncio.run(server.first_model())


def test_a_key_travels_as_a_bearer_token() -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={"data": [{"id": "m"}]})

    server = ServerClient("http://server", api_key="k", transport=httpx.MockTransport(handle))

    assert asyncio.run(server.first_model()) == "m"
    assert seen == ["Bearer k"]
