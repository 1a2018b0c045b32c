"""What a refused client got: one shape for both dialects."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.calls import check_envelope
from tests.live_server import LiveServer, user

PALMA = "/v0.1.0/inference"
PALMA_STREAM = "/v0.1.0/stream"
CHAT = "/v1/chat/completions"
PATHS = (PALMA, PALMA_STREAM, CHAT)
ONE_OF_EACH = (PALMA, CHAT)

BODIES: dict[str, dict[str, Any]] = {
    PALMA: {"messages": user("count to 3")},
    PALMA_STREAM: {"messages": user("count to 3")},
    CHAT: {"messages": user("count to 3"), "model": "mock"},
}
"""A request on each path that would be answered."""

SOON_S = 5
"""On a busy machine: a refusal costs nothing."""

MAX_ERROR_BYTES = 2000
"""Whatever is sent, an error does not send it back whole."""


@dataclass(frozen=True)
class Refusal:
    """An error that came in the envelope of its dialect.

    Attributes:
        code: In v0.1.0 checked against the status and otherwise not interesting.
        param: Always None in v0.1.0: its envelope has no such key, its message names the field.
    """

    status: int
    code: str
    message: str
    param: str | None


def refusal(response: httpx.Response, path: str) -> Refusal:
    """Check what every error response must have, and return what differs."""
    assert response.status_code >= 400, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.headers["palmapy-server-version"] == "0.1.0"
    assert len(response.content) < MAX_ERROR_BYTES
    error = response.json()["error"]
    check_envelope(path, response.status_code, error)
    return Refusal(response.status_code, error["code"], error["message"], error.get("param"))


def refused(server: LiveServer, path: str, param: str, fields: dict[str, Any]) -> Refusal:
    """POST a request that must be refused with 400, soon, naming the field at fault."""
    begun_at = time.monotonic()
    answer = refusal(server.post(path, {**BODIES[path], **fields}), path)
    assert answer.status == 400, (path, param)
    assert time.monotonic() - begun_at < SOON_S, (path, param)
    if path == CHAT:
        assert answer.param == param, answer
    assert param in answer.message, answer
    return answer
