"""Ways of asking: Llama Stack's inference API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx

from tests.conformance.demonstrations import (
    CAPITALS,
    MESSAGES,
    NUM_SAME,
    bounds_tokens,
    changes_the_answer,
    changes_the_likeliest,
    changes_the_prompt,
    chooses_the_model,
    cuts_at_strings,
    heats,
    narrows_to,
    seeds,
)
from tests.conformance.openai_tools_demonstrations import fits
from tests.conformance.structured_demonstrations import ZEBRA, is_a_zebra
from tests.conformance.subject import MAX_DRAWS, NOTHING, Demonstration, Heard, Subject, Way
from tests.live_server import parse_event, user

PARAMS = "sampling_params"
STRATEGY = f"{PARAMS}.strategy"
SHORT = {"max_tokens": 16}


def templated(question: str) -> str:
    """Return palmita's prompt for a question, for routes that continue a text."""
    return (
        f"<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def read(response: httpx.Response) -> Heard:
    """Read an answer: whole, in lines or in events."""
    media_type = response.headers["content-type"].partition(";")[0]
    if media_type == "application/json":
        answer = response.json()
        message = answer["completion_message"]
        text = message["content"] + "".join(map(_called, message["tool_calls"]))
        return _heard(text, message["stop_reason"], answer["metrics"], answer)
    lines = [line for line in response.iter_lines() if line]
    parse = json.loads if media_type == "application/x-ndjson" else parse_event
    chunks = [parse(line) for line in lines]
    news = [chunk.get("event", chunk) for chunk in chunks]
    texts = [n["delta"] if isinstance(n["delta"], str) else n["delta"]["text"] for n in news]
    return _heard("".join(texts), news[-1]["stop_reason"], chunks[-1]["metrics"], chunks)


def _called(call: dict[str, Any]) -> str:
    """Return the name and the arguments of a call, without spaces."""
    return str(call["tool_name"]) + "".join(call["arguments_json"].split())


def _heard(text: str, stop_reason: str, metrics: list[Any], raw: Any) -> Heard:
    counts = {metric["metric"]: metric["value"] for metric in metrics}
    return Heard((text,), counts["completion_tokens"], stop_reason == "out_of_tokens", raw)


def is_drawn(subject: Subject, strategy: Mapping[str, Any], **beside: Any) -> bool:
    """Whether answers with this strategy are not all the same."""
    params = {PARAMS: {**SHORT, **beside, "strategy": strategy}}
    first = subject.hear(params).text
    return any(subject.hear(params).text != first for _ in range(MAX_DRAWS))


def is_fixed(subject: Subject, strategy: Mapping[str, Any], **beside: Any) -> bool:
    """Whether some answers with this strategy are all the likeliest one."""
    params = {PARAMS: {**SHORT, **beside, "strategy": strategy}}
    return {subject.hear(params).text for _ in range(NUM_SAME)} == {subject.likeliest().text}


def chooses_a_strategy(subject: Subject, name: str) -> None:
    """Greedy takes the likeliest token; the others draw."""
    assert is_fixed(subject, {"type": "greedy"})
    assert is_drawn(subject, {"type": "top_p", "temperature": 2, "top_p": 1})
    assert is_drawn(subject, {"type": "top_k", "top_k": 500}, temperature=2)


def heats_the_strategy(subject: Subject, name: str) -> None:
    """The temperature of the strategy top_p."""
    assert is_fixed(subject, {"type": "top_p", "temperature": 0.01, "top_p": 1})
    assert is_drawn(subject, {"type": "top_p", "temperature": 2, "top_p": 1})


def narrows_the_strategy(subject: Subject, name: str) -> None:
    """The share of the probability in the strategy top_p."""
    assert is_fixed(subject, {"type": "top_p", "temperature": 2, "top_p": 1e-6})
    assert is_drawn(subject, {"type": "top_p", "temperature": 2, "top_p": 1})


def counts_in_the_strategy(subject: Subject, name: str) -> None:
    """The number of tokens in the strategy top_k."""
    assert is_fixed(subject, {"type": "top_k", "top_k": 1}, temperature=2)
    assert is_drawn(subject, {"type": "top_k", "top_k": 500}, temperature=2)


def chooses_the_model_by_its_first_name(subject: Subject, name: str) -> None:
    """`model` is what `model_id` was called first."""
    for model, status in (("palmita", 200), ("another", 404)):
        assert subject.send({"model_id": None, name: model}).status_code == status


def bounds_tokens_within(subject: Subject, name: str) -> None:
    """The object around the sampling parameters."""
    heard = subject.hear({name: {"max_tokens": 3}})

    assert (heard.num_tokens, heard.is_cut) == (3, True)


def reports_logprobs(subject: Subject, name: str) -> None:
    """A mapping for each token of the answer; the chosen one stands first."""
    heard = subject.likeliest({name: {"top_k": 1}})

    chosen = [next(iter(place["logprobs_by_token"])) for place in heard.raw["logprobs"]]
    assert "".join(chosen).startswith(heard.text)
    assert subject.likeliest().raw["logprobs"] is None


def reports_rivals(subject: Subject, name: str) -> None:
    """So many of the likeliest tokens in each place."""
    for number in (1, 4):
        heard = subject.likeliest({name: number})
        assert {len(place["logprobs_by_token"]) for place in heard.raw["logprobs"]} == {number}


def streams(subject: Subject, name: str) -> None:
    """Objects, with the same text as the whole answer."""
    streamed = subject.likeliest({name: True})

    assert isinstance(streamed.raw, list)
    assert streamed.text == subject.likeliest().text


FORMAT = {"type": "json_schema", "json_schema": dict(ZEBRA)}

ENOUGH = {f"{PARAMS}.max_tokens": 64}

DEMONSTRATIONS: dict[str, Demonstration] = {
    "model": chooses_the_model_by_its_first_name,
    "model_id": chooses_the_model,
    "stream": streams,
    "logprobs": reports_logprobs,
    "logprobs.top_k": reports_rivals,
    "response_format": is_a_zebra(FORMAT, beside=ENOUGH),
    "response_format.json_schema": is_a_zebra(
        dict(ZEBRA), beside={"response_format": FORMAT, **ENOUGH}
    ),
    PARAMS: bounds_tokens_within,
    f"{PARAMS}.max_tokens": bounds_tokens(),
    f"{PARAMS}.temperature": heats,
    f"{PARAMS}.top_p": narrows_to(1e-6),
    f"{PARAMS}.top_k": narrows_to(1),
    f"{PARAMS}.min_p": narrows_to(1),
    f"{PARAMS}.seed": seeds,
    f"{PARAMS}.stop": cuts_at_strings,
    STRATEGY: chooses_a_strategy,
    f"{STRATEGY}.type": chooses_a_strategy,
    f"{STRATEGY}.temperature": heats_the_strategy,
    f"{STRATEGY}.top_p": narrows_the_strategy,
    f"{STRATEGY}.top_k": counts_in_the_strategy,
}


def _way(
    asked: Mapping[str, Any],
    asks: str,
    demonstrations: Mapping[str, Demonstration],
    around: Mapping[str, Mapping[str, Any]] = NOTHING,
) -> Way:
    return Way(
        {"model_id": "palmita", PARAMS: SHORT, **asked},
        read,
        {**DEMONSTRATIONS, **demonstrations},
        asks=asks,
        greedy={f"{PARAMS}.temperature": 0},
        hot={f"{PARAMS}.temperature": 2},
        around={
            PARAMS: {STRATEGY: {"type": "greedy"}},
            "response_format": {"response_format": FORMAT, **ENOUGH},
            **around,
        },
    )


COMPLETION = _way(
    {"content": templated("Who are you?")},
    "content",
    {
        "content": changes_the_answer(templated("Hello"), templated(CAPITALS)),
        f"{PARAMS}.repetition_penalty": changes_the_likeliest(100, question=templated(CAPITALS)),
    },
)


def calls(value: Any, pattern: str, *, beside: Mapping[str, Any]) -> Demonstration:
    """Return the demonstration of a field that changes which call is made.

    Args:
        value: The field's.
        pattern: What the answer then begins with.
        beside: Other fields, with which the zebra is called.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        assert re.match(r"zebra\{", subject.likeliest(ENOUGH, beside).text)
        assert re.match(pattern, subject.likeliest(ENOUGH, beside, {name: value}).text)

    return demonstrate


ZEBRA_TOOL = {"tool_name": "zebra", "description": "Stripes."}
FAR = {"param_type": "bool", "description": "Or near.", "required": True, "default": None}
FORCED = {"tools": [ZEBRA_TOOL], "tool_choice": "required"}
FAR_FORCED = {**FORCED, "tools": [{**ZEBRA_TOOL, "parameters": {"far": FAR}}]}
NAMED = {"tools": [ZEBRA_TOOL, {"tool_name": "gnu"}], "tool_config": {"tool_choice": "zebra"}}
FAR_FIELD = "tools.*.parameters.*"

CALLED = {"call_id": "call_1", "tool_name": "zebra", "arguments": {"far": True}}
TURNS = {
    "messages": [
        {"role": "assistant", "content": "", "tool_calls": [CALLED]},
        {"role": "tool", "call_id": "call_1", "content": "7"},
    ]
}

TOOLS: dict[str, Demonstration] = {
    "tools": calls([{"tool_name": "gnu"}], r"gnu\{\}", beside=FORCED),
    "tools.*.tool_name": calls("gnu", r"gnu\{\}", beside=FORCED),
    "tools.*.description": changes_the_prompt("Stripes.", "Horns.", beside=FORCED),
    "tools.*.parameters": calls({"far": FAR}, r'zebra\{"far":(true|false)\}', beside=FORCED),
    f"{FAR_FIELD}.param_type": calls("list[bool]", r'zebra\{"far":\[', beside=FAR_FORCED),
    f"{FAR_FIELD}.description": changes_the_prompt("Or near.", "Away.", beside=FAR_FORCED),
    f"{FAR_FIELD}.required": changes_the_prompt(True, False, beside=FAR_FORCED),
    f"{FAR_FIELD}.default": changes_the_prompt(True, False, beside=FAR_FORCED),
    "tool_choice": calls("none", r"[^{]+$", beside=FORCED),
    "tool_config": calls({"tool_choice": "gnu"}, r"gnu\{\}", beside=NAMED),
    "tool_config.tool_choice": calls("gnu", r"gnu\{\}", beside=NAMED),
    "messages.*.call_id": fits(1, "call_1", "call_2", turns=TURNS),
    "messages.*.tool_calls": changes_the_prompt(
        *([{**CALLED, "arguments": {"far": far}}] for far in (True, False)), beside=TURNS
    ),
    "messages.*.tool_calls.*.call_id": fits(0, "call_1", "call_2", turns=TURNS),
    "messages.*.tool_calls.*.tool_name": changes_the_prompt("zebra", "gnu", beside=TURNS),
    "messages.*.tool_calls.*.arguments": changes_the_prompt(
        {"far": True}, '{"far":false}', beside=TURNS
    ),
}

CHAT = _way(
    {"messages": user("Who are you?")},
    "messages.*.content",
    {
        **MESSAGES,
        **TOOLS,
        f"{PARAMS}.repetition_penalty": changes_the_likeliest(100, question=CAPITALS),
    },
    {"messages": TURNS, "tools": FAR_FORCED, "tool_config": NAMED},
)

WAYS = {
    "/inference/completion": COMPLETION,
    "/v1/inference/completion": COMPLETION,
    "/inference/chat_completion": CHAT,
    "/v1/inference/chat-completion": CHAT,
}
