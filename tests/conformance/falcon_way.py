"""Ways of asking: Falcon's API."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from tests.conformance.demonstrations import (
    CAPITALS,
    NUM_SAME,
    bounds_tokens,
    changes_the_answer,
    narrows_to,
)
from tests.conformance.llama_stack_way import templated
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.live_server import parse_event

END_MARKER = "<|endoftext|>"
QUESTION = "Who are you?"


def read(response: httpx.Response) -> Heard:
    """Read plain text, which ends with the marker."""
    assert response.text.endswith(END_MARKER)
    return Heard((response.text.removesuffix(END_MARKER),), raw=response.headers)


def read_events(response: httpx.Response) -> Heard:
    """Read the text so far of the last event but the farewell."""
    events = [parse_event(line) for line in response.iter_lines() if line.startswith("data:")]
    assert events.pop() == {"message": "Connection closed"}
    return Heard((events[-1]["message"],), raw=response.headers)


def heats(subject: Subject, name: str) -> None:
    """A temperature: greedy at its least, random at its most."""
    assert {subject.draw({name: 0.01}).text for _ in range(NUM_SAME)} == {subject.likeliest().text}
    assert subject.varies()


def cuts_at_a_string(subject: Subject, name: str) -> None:
    """A stop sequence."""
    whole = subject.likeliest().text

    assert subject.likeliest({name: "small"}).text == whole[: whole.index("small")]


def returns_the_prompt(subject: Subject, name: str) -> None:
    """The text that was sent, before the answer to it."""
    answer = subject.likeliest().text

    assert subject.likeliest({name: True}).text == subject.way.body["text"] + answer


def names_the_session(subject: Subject, name: str) -> None:
    """The name comes back."""
    assert subject.hear({name: "mine"}).raw["x-session-id"] == "mine"
    assert "x-session-id" not in subject.hear().raw


DEMONSTRATIONS: Mapping[str, Demonstration] = {
    "temperature": heats,
    "top_p": narrows_to(0.01),
    "top_k": narrows_to(1),
    "max_tokens": bounds_tokens(),
    "stop_sequence": cuts_at_a_string,
    "return_prompt": returns_the_prompt,
    "session_id": names_the_session,
}


def _way(route: str, *, is_raw: bool) -> Way:
    question, *others = (
        templated(text) if is_raw else text for text in (QUESTION, "Hello", CAPITALS)
    )
    return Way(
        {"text": question, "max_tokens": 16},
        read_events if route == "chat" else read,
        {**DEMONSTRATIONS, "text": changes_the_answer(*others)},
        asks="text",
        greedy={"top_k": 1},
        hot={"temperature": 2, "top_p": 1, "top_k": 1000},
        url=f"/{route}/palmita",
    )


WAYS = {
    "/inference/{model}": _way("inference", is_raw=True),
    "/predictions/{model}": _way("predictions", is_raw=False),
    "/chat/{model}": _way("chat", is_raw=False),
}
