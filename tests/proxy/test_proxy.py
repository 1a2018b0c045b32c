"""The proxy on loopback, in front of real servers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import openai
import pytest

from palma.api.app import PUBLIC_PATHS
from palma.core.access import sign_token
from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.proxy.forward import OPEN_PATHS
from palma.proxy.server import build_server, create_proxy
from tests.live_server import (
    LiveServer,
    new_client,
    read_to_end,
    running_server,
    unharmed_neighbour,
    user,
    wait_until,
)

SECRET = "a secret that has thirty-two bytes."
CHAT = "/v1/chat/completions"
SLOW = {"model": "mock", "messages": user("slowly count to 9999"), "stream": True}


@contextlib.contextmanager
def running_proxy(
    *servers: LiveServer | str, check_interval_s: float = 0.05, **settings: Any
) -> Iterator[LiveServer]:
    """Run a proxy that checks its servers often."""
    urls = [server if isinstance(server, str) else server.url for server in servers]
    flags = Settings(port=0, **settings)
    app = create_proxy(flags, urls, check_interval_s=check_interval_s)
    server = build_server(app, flags)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    proxy = LiveServer(listener.getsockname()[1], flags)
    try:
        wait_until(lambda: server.started, "the proxy has started")
        yield proxy
    finally:
        proxy.client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def proxy(mock_server: LiveServer) -> Iterator[LiveServer]:
    """A proxy in front of the server with the mock engine."""
    with running_proxy(mock_server) as running:
        yield running


@pytest.fixture
def dead_url() -> str:
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "mock", "messages": user(content), **fields}


def healthy(proxy: LiveServer) -> int:
    return int(proxy.get("/readyz").json()["healthy_servers"])


def test_answers_come_through_as_they_are(proxy: LiveServer, mock_server: LiveServer) -> None:
    headers = {"x-request-id": "mine", "Origin": "http://a"}
    for body in (chat("count to 3"), chat("count to 3", tools=7), {}):
        direct = mock_server.post(CHAT, body, headers=headers)
        through = proxy.post(CHAT, body, headers=headers)

        assert through.status_code == direct.status_code
        ignored = ("date", "content-length")
        assert [(n, v) for n, v in through.headers.items() if n not in ignored] == [
            (n, v) for n, v in direct.headers.items() if n not in ignored
        ]
        assert len(through.headers.get_list("date")) == 1
    assert proxy.get("/v1/models?x=1").json() == mock_server.get("/v1/models").json()
    assert proxy.get("/nope").status_code == 404
    assert proxy.client.options(CHAT).status_code == 204
    assert proxy.client.head("/v1/models").status_code == 200


def test_the_official_client_works_through_it(proxy: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="x", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "count to 12"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert text == "".join(f"{n} " for n in range(1, 13))


def test_a_stream_is_not_buffered(proxy: LiveServer) -> None:
    with proxy.client.stream("POST", CHAT, json=SLOW) as response:
        first = next(response.iter_raw())  # the last would come after 200 s

    assert first.startswith(b"data: ")


def test_gzip_passes_as_it_is(proxy: LiveServer) -> None:
    response = proxy.post(CHAT, chat("count to 900"), headers={"Accept-Encoding": "gzip"})

    assert response.headers["content-encoding"] == "gzip"
    assert response.json()["choices"][0]["message"]["content"].endswith("900 ")


def test_a_body_of_megabytes_passes_and_one_too_large_is_refused_by_the_server(
    proxy: LiveServer,
) -> None:
    big = proxy.post(CHAT, chat("count to 3", user="x" * 5_000_000))
    huge = proxy.post(CHAT, chat("count to 3", user="x" * 9_000_000))

    assert big.status_code == 200
    assert huge.status_code in (413, 502)  # it may close before all has been sent


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_cancels_the_work_behind_the_proxy(
    is_stream: bool, proxy: LiveServer, mock_server: LiveServer
) -> None:
    body = {**SLOW, "stream": is_stream}
    with unharmed_neighbour(mock_server), new_client(proxy.url) as client:
        if is_stream:
            with client.stream("POST", CHAT, json=body) as response:
                next(response.iter_raw())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body, timeout=0.3)

    mock_server.wait_until_idle()


def test_a_token_opens_it_and_the_probes_need_none(mock_server: LiveServer) -> None:
    token = sign_token({"team_id": "a"}, SECRET.encode(), 60)
    with running_proxy(mock_server, jwt_secret=SECRET, api_key="sk-1") as proxy:
        for good in (token, "sk-1"):
            headers = {"Authorization": f"bearer {good}"}
            assert proxy.post(CHAT, chat("hi"), headers=headers).status_code == 200
        for bad in ("sk-2", token[:-2], "a.b.c"):
            response = proxy.post(CHAT, chat("hi"), headers={"Authorization": f"Bearer {bad}"})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.json()["status_code"] == 401
            assert response.headers["x-request-id"]
        for guarded in ("/v1/models", "/metrics", "/nope", "//livez", "/livez/"):
            assert proxy.get(guarded).status_code == 401
        for probe in ("/livez", "/readyz", "/startupz", "/v0.1.0/healthcheck", "/v1/healthcheck"):
            assert proxy.get(probe).status_code == 200


def test_what_needs_no_key_on_a_server_needs_none_here() -> None:
    assert PUBLIC_PATHS - {"/livez", "/readyz", "/startupz"} == OPEN_PATHS


def test_only_servers_whose_health_check_passes_are_asked(
    mock_server: LiveServer, dead_url: str
) -> None:
    with running_proxy(dead_url, mock_server) as proxy:
        assert healthy(proxy) == 1
        for _ in range(4):
            assert proxy.post(CHAT, chat("hi")).status_code == 200


def test_without_a_ready_server_it_is_503_with_retry_after(dead_url: str) -> None:
    with running_proxy(dead_url) as proxy:
        response = proxy.post("/inference/mock", {"text": "hi"}, headers={"x-request-id": "mine"})

        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.headers["x-request-id"] == "mine"
        body = response.json()
        assert body["status_code"] == 503
        assert body["message"] == body["error"]["message"]
        assert proxy.get("/readyz").status_code == 503
        assert proxy.get("/livez").status_code == 200


def test_a_server_comes_back_and_goes_away_with_its_health() -> None:
    with Scripted() as server, running_proxy(server.url) as proxy:
        assert proxy.get("/x").text == "hello"

        server.health = 503
        wait_until(lambda: healthy(proxy) == 0, "the proxy has noticed")
        assert proxy.get("/x").status_code == 503

        server.health = 200
        wait_until(lambda: healthy(proxy) == 1, "the proxy has noticed")
        assert proxy.get("/x").text == "hello"


def test_the_least_loaded_server_is_asked() -> None:
    with running_server() as one, running_server() as two, running_proxy(one, two) as proxy:
        with contextlib.ExitStack() as open_streams:
            for _ in range(4):
                stream = proxy.client.stream("POST", CHAT, json=SLOW)
                assert open_streams.enter_context(stream).status_code == 200
            running = (one.counts()[0], two.counts()[0])
        one.wait_until_idle()
        two.wait_until_idle()

    assert running == (2, 2)


def test_a_server_that_cannot_be_reached_is_passed_over(mock_server: LiveServer) -> None:
    """It was well at its last check: the request itself finds out, and goes elsewhere whole."""
    with Scripted() as gone, running_proxy(gone.url, mock_server, check_interval_s=60) as proxy:
        assert healthy(proxy) == 2
        gone.stop_listening()

        answers = [proxy.post(CHAT, chat("count to 3")) for _ in range(6)]

        texts = {a.json()["choices"][0]["message"]["content"] for a in answers}
        assert texts == {"1 2 3 "}
        assert healthy(proxy) == 1


@pytest.mark.parametrize("fault", ["before", "amid"])
def test_a_server_that_fails_with_a_request_is_not_asked_twice(fault: str) -> None:
    with Scripted(fault) as server, Scripted(fault) as other:
        with running_proxy(server.url, other.url) as proxy:
            if fault == "before":
                response = proxy.post("/x", {"a": 1})
                assert response.status_code == 502
                assert response.json()["error"]["code"] == "bad_gateway"
            else:
                with pytest.raises(httpx.RemoteProtocolError):
                    proxy.post("/x", {"a": 1})

        assert server.num_asked + other.num_asked == 1


def test_headers_of_one_connection_stay_on_it() -> None:
    with Scripted("echo") as server, running_proxy(server.url) as proxy:
        headers = {"Connection": "x-secret", "x-secret": "1", "TE": "trailers", "x-other": "2"}

        seen = proxy.post("/a%2Fb?c=d%20e", {"f": "ñ"}, headers=headers).json()

    assert seen["path"] == "/a%2Fb?c=d%20e"
    assert json.loads(seen["body"]) == {"f": "ñ"}
    assert seen["headers"]["x-other"] == "2"
    assert seen["headers"]["host"] == server.url.removeprefix("http://")
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert not {"x-secret", "te"} & seen["headers"].keys()


@pytest.mark.parametrize("lines", [
    "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "\r\n",
])  # fmt: skip
def test_what_could_be_read_in_two_ways_is_refused(lines: str, proxy: LiveServer) -> None:
    target = "/v1/models" if "Length" in lines else "http://x/livez"
    with proxy.connect() as connection:
        request = f"POST {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}"
        connection.sendall(request.encode())

        assert b" 400 " in read_to_end(connection).partition(b"\r\n")[0]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8001", "ftp://a", "http://", "http://a:b"])
def test_what_is_no_url_stops_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="no URL"):
        create_proxy(Settings(), [url])


class Scripted:
    """A server that fails as told, and counts what reaches it beside health checks."""

    def __init__(self, fault: str = "") -> None:
        self.health = 200
        self.num_asked = 0
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/readyz":
                    self._say(script.health, b"")
                else:
                    self._say(200, b"hello")

            def do_POST(self) -> None:
                script.num_asked += 1
                body = self.rfile.read(int(self.headers["content-length"]))
                if fault == "echo":
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    seen = {"path": self.path, "headers": headers, "body": body.decode()}
                    self._say(200, json.dumps(seen).encode())
                    return
                if fault == "amid":
                    self._say(200, b"half", claimed=100)
                self.close_connection = True

            def _say(self, status: int, body: bytes, claimed: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(claimed or len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop_listening(self) -> None:
        """Go away without a word to anybody."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_listening()
        self._thread.join()
