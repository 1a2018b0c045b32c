"""A server with mock encoders beside its mock engine, and work for them that takes a while."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.live_server import LiveServer, running_server, wait_until

EMBEDDER = "org/embedder"
RANKER = "org/ranker"
SLOW_INPUTS = [f"slowly {number:0200d}" for number in range(400)]
"""One batch each, 20 ms: eight seconds if nobody ends it."""


@contextlib.contextmanager
def running_encoders(**flags: Any) -> Iterator[LiveServer]:
    """Start a server with an embedding model and a reranking model, and wait until all answer."""
    encoders = {"embedding_model_id": EMBEDDER, "rerank_model_id": RANKER}
    with running_server(**{**encoders, **flags}) as server:
        wait_until(lambda: len(served_models(server)) == 3, "the encoders are ready")
        yield server


def served_models(server: LiveServer) -> dict[str, dict[str, Any]]:
    """Return the cards of /v1/models by name."""
    return {card["id"]: card for card in server.get("/v1/models").json()["data"]}


def post_bytes(path: str, body: Any) -> bytes:
    """Return a whole HTTP request, for raw connections."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def outcomes(server: LiveServer, outcome: str) -> float:
    """Return how many requests have ended so, as /metrics counts them."""
    prefix = f'palma_requests_total{{outcome="{outcome}"}} '
    lines = server.get("/metrics").text.splitlines()
    return next((float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), 0)
