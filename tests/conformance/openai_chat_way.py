"""Ways of asking: OpenAI's chat completions."""

from __future__ import annotations

from typing import Any

import httpx

from tests.conformance.demonstrations import (
    MESSAGES,
    SAMPLING,
    bounds_tokens,
    counts_choices,
)
from tests.conformance.gallama_demonstrations import AROUND_GALLAMA, GALLAMA
from tests.conformance.llama_cpp_fields import LLAMA_CPP
from tests.conformance.openai_choices import read_choices
from tests.conformance.openai_tools_demonstrations import AROUND as AROUND_TOOLS
from tests.conformance.openai_tools_demonstrations import TOOLS
from tests.conformance.structured_demonstrations import AROUND, STRUCTURED
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.live_server import user

BODY = {"model": "palmita", "messages": user("Who are you?"), "max_tokens": 16}


def read(response: httpx.Response) -> Heard:
    """Read an answer, whole or in events."""
    return read_choices(response, _text_of)


def _text_of(choice: dict[str, Any]) -> str:
    """Return the text, and name and arguments of calls."""
    part: dict[str, Any] = choice.get("message") or choice["delta"]
    called = [call["function"] for call in part.get("tool_calls", ())]
    called += [part["function_call"]] if "function_call" in part else []
    pieces = [f"{function.get('name', '')}{function['arguments']}" for function in called]
    return "".join([part.get("content") or "", *pieces])


def _scored(heard: Heard) -> list[Any]:
    """Return the scored tokens of the first choice, whole or streamed."""
    events = heard.raw if isinstance(heard.raw, list) else [heard.raw]
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == 0]
    return [token for c in choices if c["logprobs"] for token in c["logprobs"]["content"]]


def reports_logprobs(subject: Subject, name: str) -> None:
    """The tokens, and how likely they were."""
    heard = subject.likeliest({name: True})

    scored = _scored(heard)
    assert "".join(token["token"] for token in scored).startswith(heard.text)
    assert all(token["logprob"] <= 0 for token in scored)
    assert not _scored(subject.likeliest())


def reports_rivals(subject: Subject, name: str) -> None:
    """So many tokens beside each one, likeliest first."""
    for number in (1, 4):
        heard = subject.likeliest({"logprobs": True, name: number})
        assert _scored(heard)
        for token in _scored(heard):
            assert len(token["top_logprobs"]) == number
            assert token["top_logprobs"][0]["token"] == token["token"]


def streams(subject: Subject, name: str) -> None:
    """Events, with the same text as the whole answer."""
    streamed = subject.likeliest({name: True})

    assert isinstance(streamed.raw, list)
    assert streamed.text == subject.likeliest().text


def includes_usage(subject: Subject, name: str) -> None:
    """One more event at the end."""
    told, untold = (subject.likeliest({"stream": True, name: told}) for told in (True, False))

    assert told.num_tokens is not None
    assert untold.num_tokens is None


DEMONSTRATIONS: dict[str, Demonstration] = {
    **SAMPLING,
    **MESSAGES,
    **LLAMA_CPP,
    **STRUCTURED,
    **TOOLS,
    **GALLAMA,
    "max_tokens": bounds_tokens(),
    "max_completion_tokens": bounds_tokens(beside={"max_tokens": None}),
    "n": counts_choices,
    "logprobs": reports_logprobs,
    "top_logprobs": reports_rivals,
    "stream": streams,
    "stream_options": lambda subject, name: includes_usage(subject, f"{name}.include_usage"),
    "stream_options.include_usage": includes_usage,
}

INSIDE = {**AROUND, **AROUND_TOOLS, **AROUND_GALLAMA}

WAYS = {
    "/v1/chat/completions": Way(
        BODY, read, DEMONSTRATIONS, around={"stream_options": {"stream": True}, **INSIDE}
    ),
    "/v1/chat/completions_full": Way(BODY, read, DEMONSTRATIONS, around=INSIDE),
    "/v1/chat/completions_stream": Way(
        {**BODY, "stream_options": {"include_usage": True}}, read, DEMONSTRATIONS, around=INSIDE
    ),
}
