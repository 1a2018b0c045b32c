"""Ways of asking: text completions, by OpenAI's, gallama's and cria's names."""

from __future__ import annotations

from typing import Any

import httpx

from tests.conformance.demonstrations import (
    CAPITALS,
    SAMPLING,
    bounds_tokens,
    changes_the_answer,
    changes_the_likeliest,
    counts_choices,
)
from tests.conformance.llama_cpp_fields import LLAMA_CPP
from tests.conformance.openai_choices import read_choices
from tests.conformance.structured_demonstrations import AROUND, STRUCTURED
from tests.conformance.subject import Demonstration, Heard, Subject, Way


def turn(question: str) -> str:
    """Return a question as palmita's template writes it."""
    return (
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


BODY = {"model": "palmita", "prompt": turn("Who are you?"), "max_tokens": 16}


def read(response: httpx.Response) -> Heard:
    """Read an answer, whole or in events."""
    return read_choices(response, _text_of)


def _text_of(choice: dict[str, Any]) -> str:
    text: str = choice["text"]
    return text


def reports_logprobs(subject: Subject, name: str) -> None:
    """So many tokens beside each one, and always itself."""
    for number in (0, 1, 4):
        logprobs = _logprobs(subject.likeliest({name: number}))
        assert logprobs is not None
        assert {len(top) for top in logprobs["top_logprobs"]} == {max(1, number)}
    assert _logprobs(subject.likeliest()) is None


def _logprobs(heard: Heard) -> dict[str, list[dict[str, float]]] | None:
    """Return the first ones told: those of a whole answer, or of an event."""
    first = heard.raw[0] if isinstance(heard.raw, list) else heard.raw
    found: dict[str, list[dict[str, float]]] | None = first["choices"][0]["logprobs"]
    return found


def repeats_the_prompt(subject: Subject, name: str) -> None:
    """The answer begins with it."""
    assert subject.likeliest({name: True}).text == f"{BODY['prompt']}{subject.likeliest().text}"


def keeps_the_best(subject: Subject, name: str) -> None:
    """As many are made, and counted, and one of them is answered."""
    beside = {"n": 1, "max_tokens": 3, "ignore_eos": True}

    heard = subject.draw(beside, {name: 8})

    assert len(heard.texts) == 1
    assert heard.num_tokens == 8 * 3


def streams(subject: Subject, name: str) -> None:
    """Events, with the same text as the whole answer."""
    streamed = subject.likeliest({name: True})

    assert isinstance(streamed.raw, list)
    assert streamed.text == subject.likeliest().text


def includes_usage(subject: Subject, name: str) -> None:
    """One more event at the end."""
    name = name if "." in name else f"{name}.include_usage"
    told, untold = ({"stream": True, name: is_told} for is_told in (True, False))

    assert subject.likeliest(told).num_tokens is not None
    assert subject.likeliest(untold).num_tokens is None


COMMON: dict[str, Demonstration] = {
    **SAMPLING,
    **LLAMA_CPP,
    **STRUCTURED,
    "repetition_penalty": changes_the_likeliest(100, beside={"prompt": turn(CAPITALS)}),
    "prompt": changes_the_answer(turn("Hello"), turn(CAPITALS)),
    "max_tokens": bounds_tokens(),
    "n": counts_choices,
    "logprobs": reports_logprobs,
    "echo": repeats_the_prompt,
}

STREAM_OPTIONS: dict[str, Demonstration] = {
    "stream_options": includes_usage,
    "stream_options.include_usage": includes_usage,
}

EITHER = Way(
    BODY,
    read,
    {**COMMON, **STREAM_OPTIONS, "best_of": keeps_the_best, "stream": streams},
    asks="prompt",
    around={"stream_options": {"stream": True}, **AROUND},
)

WAYS = {
    "/v1/completions": EITHER,
    "/v1/chat/generate": EITHER,
    "/v1/completions_full": Way(
        BODY, read, {**COMMON, "best_of": keeps_the_best}, asks="prompt", around=AROUND
    ),
    "/v1/completions_stream": Way(
        {**BODY, "stream_options": {"include_usage": True}},
        read,
        {**COMMON, **STREAM_OPTIONS},
        asks="prompt",
        around=AROUND,
    ),
}
