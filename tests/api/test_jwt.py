"""Signed tokens on a real server: what opens the door, and how the key stands beside them."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from palma.core.access import sign_token
from palma.core.config import Settings, load_settings
from palma.core.errors import SettingsError
from tests.live_server import LiveServer, running_server, user

SECRET = "sécret of thirty-two bytes at least"
KEY = "sk-1"
PATHS = ("/v0.1.0/inference", "/v1/chat/completions", "/inference/mock")
WEEK = 604_800
PROBES = ("/livez", "/readyz", "/startupz", "/v0.1.0/healthcheck", "/v1/healthcheck")


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server that asks for a token."""
    with running_server(jwt_secret=SECRET) as live:
        yield live


def in_s(seconds: float) -> int:
    """Return the Unix time so many seconds from now."""
    return int(time.time() + seconds)


def part(value: Any) -> bytes:
    """Return a part of a token: JSON, or bytes as they are, in base64."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def forge(claims: Any, *, secret: str = SECRET, header: Any = None, digest: str = "sha256") -> str:
    """Return a token made by hand, which need not be one that any library would make."""
    signed = (
        part({"alg": "HS256", "typ": "JWT"} if header is None else header) + b"." + part(claims)
    )
    signature = hmac.digest(secret.encode(), signed, digest)
    return (signed + b"." + part(signature)).decode()


def good_token() -> str:
    return forge({"team_id": "a", "exp": in_s(60)})


def status(server: LiveServer, token: str, scheme: str = "Bearer ") -> int:
    """Ask with a token; every way of asking must agree."""
    headers = {"Authorization": f"{scheme}{token}".strip()}
    statuses = {server.get("/v1/models", headers=headers).status_code}
    for path in PATHS:
        is_falcon = path == "/inference/mock"
        body: dict[str, Any] = {"text": "x: hi"} if is_falcon else {"messages": user("hi")}
        if path == "/v1/chat/completions":
            body["model"] = "mock"
        statuses.add(server.post(path, body, headers=headers).status_code)
    (found,) = statuses
    return found


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_a_signed_token_opens_every_route(scheme: str, server: LiveServer) -> None:
    assert status(server, good_token(), scheme) == 200


def test_our_own_tokens_are_taken(server: LiveServer) -> None:
    assert status(server, sign_token({"team_id": "a"}, SECRET.encode(), 60)) == 200


def test_clocks_may_differ_by_half_a_minute(server: LiveServer) -> None:
    """Fault 112."""
    assert status(server, forge({"exp": in_s(-10), "iat": in_s(10), "nbf": in_s(10)})) == 200


@pytest.mark.parametrize("token", [
    "",
    "a.b.c",
    "..",
    "not a token",
    "\xe9.\xff.\x80",
    forge({"exp": in_s(WEEK)}, secret="another secret of thirty-two bytes"),
    forge({"exp": in_s(WEEK)}, secret=""),
    forge({}),
    forge({"exp": None}),
    forge({"exp": "soon"}),
    forge({"exp": [in_s(WEEK)]}),
    forge(b'{"exp": 1e999}'),
    forge(b'{"exp": NaN}'),
    forge({"exp": in_s(-60)}),
    forge({"exp": 0}),
    forge({"exp": in_s(WEEK), "nbf": in_s(2 * WEEK)}),
    forge({"exp": in_s(WEEK), "iat": in_s(2 * WEEK)}),
    forge({"exp": in_s(WEEK), "aud": "another server"}),
    forge([in_s(WEEK)]),
    forge(b"\xff"),
    forge({"exp": in_s(WEEK)}, digest="sha512"),
    forge({"exp": in_s(WEEK)}, header={"alg": "HS512"}, digest="sha512"),
    forge({"exp": in_s(WEEK)}, header={"alg": "RS256"}),
    forge({"exp": in_s(WEEK)}, header={"alg": "none"}),
    forge({"exp": in_s(WEEK)}, header={"typ": "JWT"}),
    forge({"exp": in_s(WEEK)}, header=b"[" * 3000),
    forge({"exp": in_s(WEEK)}, header={"alg": "HS256", "kid": "../../dev/null"}, secret=""),
    forge({"exp": in_s(WEEK)}, header={"alg": "HS256", "jwk": {"kty": "oct", "k": ""}}, secret=""),
    forge({"exp": in_s(WEEK), "padding": "x" * 8192}),
], ids=itertools.count())  # fmt: skip
def test_anything_else_is_401(token: str, server: LiveServer) -> None:
    """Fault 134."""
    headers = {b"Authorization": f"Bearer {token}".strip().encode("latin-1")}
    for path in PATHS:
        response = server.client.post(path, json={}, headers=headers)

        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert SECRET not in response.text


def test_a_token_without_a_signature_is_401(server: LiveServer) -> None:
    claims = part({"exp": in_s(60)})
    for header in ({"alg": "none"}, {"alg": "None"}, {"alg": "HS256"}):
        assert status(server, (part(header) + b"." + claims + b".").decode()) == 401
        assert status(server, (part(header) + b"." + claims).decode()) == 401


def test_changed_claims_are_401(server: LiveServer) -> None:
    header, _, signature = good_token().split(".")
    changed = part({"team_id": "b", "exp": in_s(10**6)}).decode()

    assert status(server, f"{header}.{changed}.{signature}") == 401
    assert status(server, good_token()[:-2]) == 401


@pytest.mark.parametrize("scheme", ["Basic ", "JWT ", ""])
def test_another_scheme_is_401(scheme: str, server: LiveServer) -> None:
    assert status(server, good_token(), scheme) == 401


def test_an_error_says_what_is_wrong_with_a_token(server: LiveServer) -> None:
    for token, words in (
        (forge({"exp": in_s(-60)}), "expired"),
        (forge({}), "no exp"),
        (forge({"exp": in_s(60), "padding": "x" * 8192}), "8192 are allowed"),
        ("x", "not valid"),
        ("", "A token is needed"),
    ):
        headers = {"Authorization": f"Bearer {token}".strip()}
        error = server.post("/inference/mock", {"text": "hi"}, headers=headers).json()

        assert error["status_code"] == 401
        assert words in error["message"]


def test_only_the_probes_need_no_token(server: LiveServer) -> None:
    for path in PROBES:
        assert server.get(path).status_code == 200
    for path in ("/", "/metrics", "/v1/models", "/livez/", "/nope"):
        assert server.get(path).status_code == 401


def test_where_both_are_set_either_opens() -> None:
    with running_server(jwt_secret=SECRET, api_key=KEY) as server:
        assert status(server, good_token()) == 200
        assert status(server, KEY) == 200
        assert server.get("/v1/models", headers={"Palmapy-Server-Api-Key": KEY}).status_code == 200
        for neither in ("", "sk-2", forge({}), forge({"exp": in_s(60)}, secret=KEY)):
            assert status(server, neither) == 401


def test_an_operator_may_take_tokens_that_never_expire() -> None:
    with running_server(jwt_secret=SECRET, jwt_require_exp=False) as server:
        assert status(server, forge({})) == 200
        assert status(server, forge({"exp": in_s(-60)})) == 401


def test_a_token_is_nothing_to_a_server_that_asks_for_a_key() -> None:
    with running_server(api_key=KEY) as server:
        assert status(server, good_token()) == 401


@pytest.mark.parametrize("secret", ["test-secret-123", "é" * 15 + "x"])
def test_a_weak_secret_stops_the_start_and_is_not_printed(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", secret)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert "JWT_SECRET" in caught.value.message
    assert f"{len(secret.encode())} bytes; 32 are the least" in caught.value.message
    assert secret not in caught.value.message
    assert Settings(jwt_secret="é" * 16).jwt_secret  # bytes count, not characters
