"""What an OpenAI answer with choices says, whole or streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tests.conformance.subject import Heard
from tests.live_server import parse_event

TextOf = Callable[[dict[str, Any]], str]
"""Takes a choice, of a whole answer or of one event, and returns its text."""


def read_choices(response: httpx.Response, text_of: TextOf) -> Heard:
    """Read an answer, whole or in events."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return _read_stream(response, text_of)
    answer = response.json()
    return Heard(
        tuple(text_of(choice) for choice in answer["choices"]),
        answer["usage"]["completion_tokens"],
        answer["choices"][0]["finish_reason"] == "length",
        answer,
    )


def _read_stream(response: httpx.Response, text_of: TextOf) -> Heard:
    events = [parse_event(line) for line in response.iter_lines() if line.startswith("data:")]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in event["choices"]]
    texts = [""] * (1 + max(choice["index"] for choice in choices))
    for choice in choices:
        texts[choice["index"]] += text_of(choice)
    num_tokens = events[-1]["usage"]["completion_tokens"] if events[-1].get("usage") else None
    reasons = [c["finish_reason"] for c in choices if c["finish_reason"] and c["index"] == 0]
    return Heard(tuple(texts), num_tokens, reasons == ["length"], events)
