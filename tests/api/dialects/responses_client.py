"""The official client at its strictest, and short ways to ask it for responses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.live_server import LiveServer
from tests.strict_clients import strict_openai_client

PATH = "/v1/responses"

LOGPROBS = ["message.output_text.logprobs"]

WHOLE_STREAM = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
"""The kinds of events of an answer with some text; each delta after the first is left out."""


@contextlib.contextmanager
def sdk(server: LiveServer) -> Iterator[Any]:
    """Open the official client; it has too many types of items to be typed here."""
    with strict_openai_client(server) as client:
        yield client


def ask(client: Any, content: Any, **kwargs: Any) -> Any:
    """Ask the mock engine, or another model."""
    return client.responses.create(**{"model": "mock", "input": content, **kwargs})


def ask_palmita(client: Any, content: Any, **kwargs: Any) -> Any:
    """Ask the bundled model for its likeliest answer."""
    return ask(client, content, model="palmita", temperature=0, **kwargs)


def assert_refused_by_name(server: LiveServer, fields: dict[str, Any], param: str) -> None:
    """Ask with some fields; the answer must be 400 and name the one at fault."""
    response = server.post(PATH, {"model": "mock", "input": "say x", **fields})

    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"


def texts(items: Any) -> list[str]:
    """Return what messages say."""
    return [item.content[0].text for item in items]
