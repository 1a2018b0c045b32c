"""The API key on a real server: what needs it, how it may come, and what does not count as it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.live_server import LiveServer, running_server, user

KEY = "sk-clé-32"

POSTS = ("/v0.1.0/inference", "/v0.1.0/stream", "/v1/chat/completions")
GUARDED_GETS = ("/metrics", "/v1/models", "/v1/models/mock")
PROBES = ("/livez", "/readyz", "/startupz", "/v0.1.0/healthcheck", "/v1/healthcheck")
NOT_QUITE_PROBES = ("/livez/", "//livez", "/LIVEZ", "/x/../livez", "/livez%2f", "/v1/healthcheck/")
BODY = {"messages": user("count to 3"), "model": "mock"}

Headers = dict[bytes, bytes]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server that asks for a key."""
    with running_server(api_key=KEY) as live:
        yield live


def bearer(credentials: str, scheme: str = "Bearer") -> Headers:
    """Return an Authorization header, as UTF-8."""
    return {b"Authorization": f"{scheme} {credentials}".encode()}


def own_header(key: str) -> Headers:
    """Return the header of the founding API, as UTF-8."""
    return {b"Palmapy-Server-Api-Key": key.encode()}


def post(server: LiveServer, path: str, headers: Headers) -> httpx.Response:
    """POST a good request with these headers."""
    return server.client.post(path, json=BODY, headers=headers)


def test_the_key_is_taken_from_either_header_and_any_spelling_of_bearer(
    server: LiveServer,
) -> None:
    good = [
        own_header(KEY),
        *(bearer(KEY, scheme) for scheme in ("Bearer", "bearer", "BEARER", "Bearer ")),
        {**own_header(KEY), **bearer("another server's key")},
    ]
    for headers in good:
        for path in POSTS:
            assert post(server, path, headers).status_code == 200, headers
        for path in GUARDED_GETS:
            assert server.client.get(path, headers=headers).status_code == 200, headers


def test_without_the_key_every_route_is_401_in_its_dialect(server: LiveServer) -> None:
    for path in POSTS:
        response = post(server, path, {})
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        expected = "unauthorized" if path.startswith("/v0.1.0") else "invalid_api_key"
        assert response.json()["error"]["code"] == expected
    for path in GUARDED_GETS:
        for method in ("GET", "HEAD", "POST", "DELETE"):
            assert server.client.request(method, path).status_code == 401, (method, path)


def test_what_is_not_the_key_is_401(server: LiveServer) -> None:
    wrong = [
        own_header(""),
        own_header(KEY[:-1]),
        own_header(KEY + "x"),
        own_header(KEY.upper()),
        own_header("clave-ñ-鍵"),
        own_header(f"Bearer {KEY}"),
        {b"Palmapy-Server-Api-Key": KEY.encode("latin-1")},
        {b"Palmapy-Server-Api-Key": b"\xff\xfe\x80"},
        bearer("wrong"),
        bearer("k" * 20_000),
        bearer(KEY, "Basic"),
        {b"Authorization": b"Bearer"},
        {b"Authorization": f"Bearer{KEY}".encode()},
        {b"X-Api-Key": KEY.encode() + b"x"},
        {**own_header("wrong"), **bearer(KEY)},
    ]
    for headers in wrong:
        response = post(server, "/v0.1.0/inference", headers)
        assert response.status_code == 401, headers
        assert KEY not in response.text


def test_unknown_paths_and_bad_bodies_are_401_before_anything_else(server: LiveServer) -> None:
    """Without the key one learns neither which paths exist nor what they take."""
    for path in ("/", "/nope", "/v1", "/v0.1.0/nope", "//v1/models", "/V1/models", "/v1/models/"):
        assert server.client.get(path).status_code == 401, path
        assert server.client.options(path).status_code in (204, 401), path
    huge = server.client.post("/v1/chat/completions", content=b" " * 9_000_000)
    assert huge.status_code == 401
    assert server.client.get("/nope", headers=bearer(KEY)).status_code == 404


def test_probes_need_no_key_and_nothing_but_their_exact_paths_passes_for_one(
    server: LiveServer,
) -> None:
    for path in PROBES:
        assert server.client.get(path).status_code == 200
        assert server.client.head(path).status_code == 200
        assert server.client.get(path, headers=bearer("wrong")).status_code == 200
    for path in NOT_QUITE_PROBES:
        request = f"GET {path} HTTP/1.1\r\nHost: palma\r\nConnection: close\r\n\r\n"
        assert b" 401 " in server.send_raw(request.encode()).partition(b"\r\n")[0], path


def test_the_host_header_and_absolute_targets_do_not_decide_which_path_it_is(
    server: LiveServer,
) -> None:
    """Faults 4 and 5."""
    for target, host in (
        ("/v1/models", "palma/livez?"),
        ("/v1/models", "palma/livez#"),
        ("http://palma/livez", "palma/livez"),
        ("@palma/livez", "palma"),
        ("/v1/models?/livez", "palma"),
        ("/v1/models;/livez", "palma"),
    ):
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        status_line = server.send_raw(request.encode()).partition(b"\r\n")[0]
        assert status_line.split()[1] in (b"400", b"401"), target


def test_a_preflight_needs_no_key(server: LiveServer) -> None:
    for path in POSTS:
        assert server.client.options(path, headers={"Origin": "http://a"}).status_code == 204


def test_nobody_needs_a_key_where_none_is_set(mock_server: LiveServer) -> None:
    for path in POSTS:
        assert mock_server.post(path, BODY, headers=bearer("any")).status_code == 200
    assert mock_server.get("/metrics").status_code == 200
