"""The official client at its strictest, and short ways to ask it for responses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import openai

from tests.live_server import LiveServer

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
    with openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="unused",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


def ask(client: Any, content: Any, **kwargs: Any) -> Any:
    """Ask the mock engine, or another model."""
    return client.responses.create(**{"model": "mock", "input": content, **kwargs})


def ask_palmita(client: Any, content: Any, **kwargs: Any) -> Any:
    """Ask the bundled model for its likeliest answer."""
    return ask(client, content, model="palmita", temperature=0, **kwargs)


def texts(items: Any) -> list[str]:
    """Return what messages say."""
    return [item.content[0].text for item in items]
