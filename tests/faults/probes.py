"""What a server says of itself: its probes, and when to come back."""

from __future__ import annotations

from tests.calls import Answer
from tests.live_server import LiveServer

PROBES = ("/livez", "/readyz", "/startupz")
HEALTHCHECKS = ("/v0.1.0/healthcheck", "/v1/healthcheck")


def status_of(server: LiveServer, path: str) -> tuple[int, str]:
    """Return the HTTP status of a probe and the word that it says."""
    response = server.get(path)
    return response.status_code, response.json()["status"]


def check_retry_after(answer: Answer) -> None:
    """Assert that an SDK would try again, and when."""
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert "x-should-retry" not in answer.headers
