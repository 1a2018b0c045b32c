"""Ways of asking: Palma's own API."""

from __future__ import annotations

import httpx

from tests.conformance.demonstrations import (
    MESSAGES,
    SAMPLING,
    UNCLEAR,
    bounds_tokens,
)
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.live_server import parse_event, user

END_MARKER = "<|eot_id|>"

BODY = {"messages": user(UNCLEAR), "max_new_tokens": 16}


def read(response: httpx.Response) -> Heard:
    """Read a whole answer."""
    return Heard((response.json()["data"],), raw=response.json())


def read_stream(response: httpx.Response) -> Heard:
    """Read an answer in events."""
    events = [parse_event(line) for line in response.iter_lines() if line.startswith("data:")]
    text = "".join(events)
    assert text.endswith(END_MARKER)
    return Heard((text.removesuffix(END_MARKER),), raw=events)


def chooses_to_sample(subject: Subject, name: str) -> None:
    """Without sampling the temperature is nothing."""
    assert len({subject.draw({name: False}).text for _ in range(5)}) == 1
    assert subject.varies({name: True})


DEMONSTRATIONS: dict[str, Demonstration] = {
    **SAMPLING,
    **MESSAGES,
    "do_sample": chooses_to_sample,
    "max_new_tokens": bounds_tokens(),
}

WAYS = {
    "/v0.1.0/inference": Way(BODY, read, DEMONSTRATIONS),
    "/v0.1.0/stream": Way(BODY, read_stream, DEMONSTRATIONS),
}
