"""What holds for every response: its id, version, CORS headers, OPTIONS, HEAD and gzip."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator

import pytest

from tests.live_server import LiveServer, running_server, unharmed_neighbour, user

ORIGINS = ("https://a.example", "http://localhost:3000")

GET_PATHS = (
    "/livez",
    "/readyz",
    "/startupz",
    "/metrics",
    "/v0.1.0/healthcheck",
    "/v1/healthcheck",
    "/v1/models",
    "/v1/models/mock",
)
POST_PATHS = ("/v0.1.0/inference", "/v0.1.0/stream", "/v1/chat/completions")
BODY = {"messages": user("count to 3"), "model": "mock"}
LONG_BODY = {"messages": user("say " + "palma! " * 200), "max_new_tokens": 2000}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server that two origins may call, and that takes small bodies."""
    with running_server(
        default_access_control_allow_origin=", ".join(ORIGINS),
        default_access_control_max_age=60,
        max_request_bytes=2048,
        max_header_bytes=4096,
    ) as live:
        yield live


def test_every_response_says_its_request_id_and_the_servers_version(server: LiveServer) -> None:
    responses = [
        server.get("/livez"),
        server.post("/v0.1.0/stream", BODY),
        server.client.options("/v0.1.0/stream"),
        server.post("/v1/chat/completions", {}),
        server.get("/nope"),
        server.get("/v0.1.0/inference"),
        server.post("/v1/chat/completions", "x" * 3000),
        server.client.post("/v0.1.0/inference", content=b"{}"),
        server.get("/livez", headers={"X-Long": "a" * 5000}),
    ]

    statuses = [response.status_code for response in responses]
    assert statuses == [200, 200, 204, 400, 404, 405, 413, 415, 431]
    for response in responses:
        assert response.headers["palmapy-server-version"] == "0.1.0"
        assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
    for no_http in (
        b"\x16\x03\x01",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 9999,
    ):
        head = server.send_raw(no_http).partition(b"\r\n\r\n")[0].lower()
        assert b"palmapy-server-version: 0.1.0" in head
        assert b"x-request-id: req_" in head


def test_a_sane_request_id_comes_back_and_any_other_is_replaced(server: LiveServer) -> None:
    for sane in ("a", "req_1", "A-b.c:d_9", "x" * 128):
        response = server.get("/nope", headers={"x-request-id": sane})
        assert response.headers["x-request-id"] == sane
    for odd in ("", "a b", "a,b", "a\tb", 'a"b', "<b>", "x" * 129, "é", "${jndi:ldap://x}"):
        response = server.get("/livez", headers={b"x-request-id": odd.encode()})
        assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"]), odd


def test_two_requests_of_the_same_id_are_two_requests(server: LiveServer) -> None:
    body = {"messages": user("slowly count to 5")}
    headers = {"x-request-id": "twin"}
    with server.client.stream("POST", "/v0.1.0/stream", json=body, headers=headers) as first:
        second = server.post("/v0.1.0/inference", body, headers=headers)
        lines = [line for line in first.iter_lines() if line.startswith("data:")]

    assert second.json() == {"data": "1 2 3 4 5 "}
    assert len(lines) == 6


def test_options_answers_204_with_the_methods_on_every_route(server: LiveServer) -> None:
    for path in GET_PATHS:
        response = server.client.options(path)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    for path in POST_PATHS:
        response = server.client.options(path)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["access-control-allow-methods"] == "OPTIONS, POST"
        assert response.headers["allow"] == "OPTIONS, POST"
        assert response.headers["access-control-max-age"] == "60"
    for path in ("/nope", "/v0.1.0", "*"):
        assert server.client.options(path).status_code == 404


def test_a_preflight_is_granted_the_headers_it_asks_for(server: LiveServer) -> None:
    asked = "authorization, content-type, palmapy-server-api-key, x-stainless-lang"
    headers = {
        "Origin": ORIGINS[0],
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }

    response = server.client.options("/v1/chat/completions", headers=headers)

    assert response.headers["access-control-allow-origin"] == ORIGINS[0]
    assert response.headers["access-control-allow-headers"] == asked
    assert "access-control-allow-credentials" not in response.headers


def test_head_answers_like_get_without_a_body_and_starts_no_stream(server: LiveServer) -> None:
    """Fault 15."""
    with unharmed_neighbour(server):
        for path in GET_PATHS:
            response = server.client.head(path)
            assert (response.status_code, response.content) == (200, b""), path
            assert int(response.headers["content-length"]) > 0
            assert response.headers["content-type"] == server.get(path).headers["content-type"]
        for path in POST_PATHS:
            response = server.client.head(path)
            assert (response.status_code, response.content) == (405, b"")
            assert response.headers["allow"] == "POST"


def test_a_listed_origin_alone_is_echoed_also_on_errors_and_streams(server: LiveServer) -> None:
    for origin in ORIGINS:
        headers = {"Origin": origin}
        for response in (
            server.get("/livez", headers=headers),
            server.get("/nope", headers=headers),
            server.post("/v0.1.0/stream", BODY, headers=headers),
            server.post("/v1/chat/completions", {}, headers=headers),
            server.client.options("/livez", headers=headers),
        ):
            assert response.headers.get_list("access-control-allow-origin") == [origin]
            assert "Origin" in response.headers["vary"]
            assert "x-request-id" in response.headers["access-control-expose-headers"]


def test_an_origin_that_is_not_listed_is_told_nothing(server: LiveServer) -> None:
    strangers = (
        "null",
        "*",
        "https://a.example.evil.example",
        "http://a.example",
        "https://A.example",
    )
    for origin in (*strangers, ", ".join(ORIGINS), ""):
        response = server.get("/livez", headers={"Origin": origin})
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers, origin
        assert response.headers["vary"] == "Origin"


def test_a_star_allows_all_origins_and_never_with_credentials(mock_server: LiveServer) -> None:
    for headers in ({}, {"Origin": "https://anybody.example"}):
        response = mock_server.get("/livez", headers=headers)
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
        assert "vary" not in response.headers


def test_long_bodies_are_gzipped_when_the_client_asks_and_only_then(server: LiveServer) -> None:
    def encoding(accepted: str) -> str:
        headers = {"Accept-Encoding": accepted, "Origin": ORIGINS[0]}
        response = server.post("/v0.1.0/inference", LONG_BODY, headers=headers)
        assert response.json() == {"data": "palma! " * 200}
        assert {"Origin", "Accept-Encoding"} == set(response.headers["vary"].split(", "))
        return str(response.headers.get("content-encoding", "identity"))

    for accepted in ("gzip", "gzip, deflate, br", "deflate, gzip;q=0.5"):
        assert encoding(accepted) == "gzip"
    for accepted in ("", "identity", "br", "deflate"):
        assert encoding(accepted) == "identity"


def test_short_bodies_are_not_gzipped(server: LiveServer) -> None:
    for path in ("/livez", "/v1/models"):
        response = server.get(path, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in response.headers


def test_streams_are_never_gzipped(server: LiveServer) -> None:
    for path in ("/v0.1.0/stream", "/v1/chat/completions"):
        chat = {"messages": LONG_BODY["messages"], "model": "mock", "stream": True}
        body = chat if path.startswith("/v1") else LONG_BODY
        response = server.post(path, body, headers={"Accept-Encoding": "gzip"})
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in response.headers
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert gzip.compress(b"")[:2] not in response.content[:2]
