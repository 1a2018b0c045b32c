"""A real uvicorn on loopback, in a thread of the test process."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from palma.api.app import create_app
from palma.api.server import bind, build_server
from palma.core.config import Settings
from palma.serving.instance import LoadEngine
from palma.serving.registry import load_engine

PATIENCE_S = 20.0
"""Longest wait for anything that a healthy server does at once."""

STREAM_PATH = "/v0.1.0/stream"


@dataclass
class LiveServer:
    """Where the server listens, and short ways to talk to it."""

    port: int
    settings: Settings
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = new_client(self.url)

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        """GET a path."""
        return self.client.get(path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        """POST a JSON body."""
        return self.client.post(path, json=body, **kwargs)

    def events(self, path: str, body: Any, **kwargs: Any) -> list[Any]:
        """POST a JSON body and return the data of all server-sent events, JSON parsed."""
        with self.client.stream("POST", path, json=body, **kwargs) as response:
            assert response.status_code == 200, response.read()
            return [parse_event(line) for line in response.iter_lines() if line.startswith("data:")]

    def connect(self) -> socket.socket:
        """Open a raw TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def send_raw(self, request: bytes) -> bytes:
        """Send bytes and return everything that comes until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def counts(self) -> tuple[float, float]:
        """Return the requests that run and that wait, as /metrics shows them."""
        metrics = self.get("/metrics").text
        return _metric(metrics, "palma_requests_running"), _metric(
            metrics, "palma_requests_waiting"
        )

    def wait_until_idle(self) -> None:
        """Wait until nothing runs and nothing waits; fails when that takes too long."""
        wait_until(lambda: self.counts() == (0, 0), "running and waiting counts return to 0")


def new_client(url: str) -> httpx.Client:
    """Return a client that trusts no certificate: reading them all takes it 30 ms."""
    return httpx.Client(base_url=url, timeout=PATIENCE_S, verify=False)


def wait_until(condition: Any, what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until a condition holds; fails with `what` when it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(0.01)


def url_when_ready(server: subprocess.Popen[bytes], log: Path, patience_s: float) -> str:
    """Wait until a `palma serve` that logs to a file is ready, and return its URL.

    Raises:
        RuntimeError: It ended, or took too long; the message is its log.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and server.poll() is None:
        time.sleep(0.1)
        listening = re.search(r"listening on (http://\S+)", log.read_text())
        if listening and _is_ready(listening[1]):
            return listening[1]
    raise RuntimeError(f"palma serve did not become ready:\n{log.read_text()}")


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def read_to_end(connection: socket.socket) -> bytes:
    """Return all bytes until the peer closes, or resets, the connection."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return bytes(received)


def parse_event(line: str) -> Any:
    """Return the data of one event: JSON, or the bare word `[DONE]`."""
    data = line.removeprefix("data:").strip()
    return data if data == "[DONE]" else json.loads(data)


def user(content: str) -> list[dict[str, str]]:
    """Return a conversation of one user message."""
    return [{"role": "user", "content": content}]


@contextlib.contextmanager
def running_server(*, load: LoadEngine = load_engine, **flags: Any) -> Iterator[LiveServer]:
    """Start a server, wait until it is ready, and stop it at the end.

    Args:
        load: Makes the engine; the default obeys the settings.
        flags: Settings; unless they say otherwise the mock engine, and each token by itself.
            `wait_ready=False` returns as soon as the port answers.
    """
    wait_ready = flags.pop("wait_ready", True)
    settings = Settings(**{"engine": "mock", "port": 0, "stream_interval_s": 0, **flags})
    listener = bind(settings.host, settings.port)
    server = build_server(create_app(settings, load=load), settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    live = LiveServer(listener.getsockname()[1], settings)
    try:
        path = "/readyz" if wait_ready else "/livez"
        wait_until(lambda: server.started and live.get(path).status_code == 200, f"{path} is ok")
        yield live
    finally:
        live.client.close()
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Neighbour:
    """A stream of some duration, and what it brings when nobody else is there.

    Attributes:
        body: Its request on the streaming route of the founding API.
        text: Its answer, the end marker included.
    """

    body: dict[str, Any]
    text: str

    @classmethod
    def heard_alone(cls, server: LiveServer, body: dict[str, Any]) -> Neighbour:
        """Ask a server that is idle, and remember what it says."""
        return cls(body, "".join(server.events(STREAM_PATH, body)))


def counting_neighbour(last: int) -> Neighbour:
    """Return a neighbour for servers with the mock engine: 20 ms a number."""
    numbers = "".join(f"{n} " for n in range(1, last + 1))
    return Neighbour({"messages": user(f"slowly count to {last}")}, f"{numbers}<|eot_id|>")


COUNTING = counting_neighbour(10)
QUEUE_HEAD = counting_neighbour(40)
"""For servers that run one request at a time, so that others wait while it runs."""


@contextlib.contextmanager
def unharmed_neighbour(server: LiveServer, neighbour: Neighbour = COUNTING) -> Iterator[None]:
    """Keep a stream running beside the body; it must end unchanged, and the counts at 0."""
    texts: list[str] = []
    first_text = threading.Event()

    def read() -> None:
        with (
            new_client(server.url) as client,
            client.stream("POST", STREAM_PATH, json=neighbour.body) as response,
        ):
            for line in response.iter_lines():
                if line.startswith("data:"):
                    texts.append(parse_event(line))
                    first_text.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert first_text.wait(PATIENCE_S), "the neighbour's stream never began"
        yield
    finally:
        reader.join(PATIENCE_S)
    assert "".join(texts) == neighbour.text
    server.wait_until_idle()


def _metric(metrics: str, name: str) -> float:
    line = next(line for line in metrics.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])
