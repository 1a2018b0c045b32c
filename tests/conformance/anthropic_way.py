"""Ways of asking: Anthropic's messages, and the count of their tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.conformance import anthropic_tools_demonstrations as tools
from tests.conformance.demonstrations import (
    MESSAGES,
    UNCLEAR,
    bounds_tokens,
    changes_the_answer,
    chooses_the_model,
    cuts_at_strings,
    heats,
    narrows_to,
)
from tests.conformance.structured_demonstrations import ENOUGH, ZEBRA, is_a_zebra
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.live_server import parse_event, user

PROMPT = {"model": "palmita", "messages": user(UNCLEAR)}

PIRATE = "Talk like a pirate."


def read(response: httpx.Response) -> Heard:
    """Read an answer, whole or in events."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return _read_stream(response)
    answer = response.json()
    return Heard(
        ("".join(map(_text_of, answer["content"])),),
        answer["usage"]["output_tokens"],
        answer["stop_reason"] == "max_tokens",
        answer,
    )


def _text_of(block: dict[str, Any]) -> str:
    """Return a block's text, or the name and the input of a call."""
    if block["type"] == "tool_use":
        return f"{block['name']}{json.dumps(block['input'])}"
    return str(block.get("text", ""))


def _read_stream(response: httpx.Response) -> Heard:
    events = [parse_event(line) for line in response.iter_lines() if line.startswith("data:")]
    assert events[-1] == {"type": "message_stop"}
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return Heard(("".join(delta["text"] for delta in deltas),), raw=events)


def read_count(response: httpx.Response) -> Heard:
    """Read a count of tokens, as if it were an answer."""
    return Heard((str(response.json()["input_tokens"]),))


def streams(subject: Subject, name: str) -> None:
    """Events, with the same text as the whole answer."""
    streamed = subject.likeliest({name: True})

    assert isinstance(streamed.raw, list)
    assert streamed.text == subject.likeliest().text


FORMAT = {"type": "json_schema", "schema": dict(ZEBRA)}

DEMONSTRATIONS: dict[str, Demonstration] = {
    **MESSAGES,
    **tools.DEMONSTRATIONS,
    "model": chooses_the_model,
    "system": changes_the_answer(None, PIRATE),
    "max_tokens": bounds_tokens(),
    "output_config": is_a_zebra({"format": FORMAT}, beside=ENOUGH),
    "output_config.format": is_a_zebra(FORMAT, beside=ENOUGH),
    "output_config.format.schema": is_a_zebra(
        dict(ZEBRA), beside={"output_config": {"format": FORMAT}, **ENOUGH}
    ),
    "temperature": heats,
    "top_p": narrows_to(1e-6),
    "top_k": narrows_to(1),
    "stop_sequences": cuts_at_strings,
    "stream": streams,
}

COUNT_DEMONSTRATIONS: dict[str, Demonstration] = {
    **MESSAGES,
    **tools.COUNT_DEMONSTRATIONS,
    "messages.*.role": changes_the_answer("user", "assistant"),
    "model": chooses_the_model,
    "system": changes_the_answer(None, PIRATE),
}

WAYS = {
    "/v1/messages": Way(
        {**PROMPT, "max_tokens": 16},
        read,
        DEMONSTRATIONS,
        hot={"temperature": 1},
        around={"output_config": {"output_config": {"format": FORMAT}, **ENOUGH}, **tools.AROUND},
    ),
    "/v1/messages/count_tokens": Way(
        PROMPT, read_count, COUNT_DEMONSTRATIONS, greedy={}, around=tools.AROUND
    ),
}
