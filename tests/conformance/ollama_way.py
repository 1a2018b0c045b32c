"""Ways of asking: Ollama's chats, completions, embeddings and models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from tests.conformance.demonstrations import (
    CAPITALS,
    MESSAGES,
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
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.conformance.thinking_demonstrations import matters_to_thinkers
from tests.live_server import user

CHAT = {
    "model": "palmita",
    "messages": user("Who are you?"),
    "stream": False,
    "options": {"num_predict": 16},
}
COMPLETION = {
    "model": "palmita",
    "prompt": "Who are you?",
    "stream": False,
    "options": {"num_predict": 16},
}

GREEDY = {"options.temperature": 0, "options.repeat_penalty": 1}
HOT = {"options.temperature": 2, "options.top_k": 0, "options.top_p": 1}

COUNTING = "Count to thirty"
"""Has an answer in which the same tokens come again."""


def read(response: httpx.Response) -> Heard:
    """Read an answer, whole or in lines."""
    found = [json.loads(line) for line in response.iter_lines()]
    last = found[-1]
    assert last["done"]
    is_stream = response.headers["content-type"] == "application/x-ndjson"
    return Heard(
        ("".join(_text(each) for each in found),),
        last["eval_count"],
        last["done_reason"] == "length",
        found if is_stream else last,
    )


def _text(answer: Mapping[str, Any]) -> str:
    """Return the text; no model here is asked for calls, as nothing can force them."""
    return str(answer["response"] if "response" in answer else answer["message"]["content"])


def read_json(response: httpx.Response) -> Heard:
    """Read anything else."""
    return Heard((response.text,), raw=response.json())


def is_a_set_of_fields(subject: Subject, name: str) -> None:
    """The options, all at once."""
    heard = subject.hear({name: {"temperature": 0, "num_predict": 3}})

    assert heard.num_tokens == 3


def streams(subject: Subject, name: str) -> None:
    """Lines, with the same text as the whole answer; they are the default."""
    whole = subject.likeliest({name: False})

    for value in (True, None):
        streamed = subject.likeliest({name: value})
        assert isinstance(streamed.raw, list)
        assert streamed.text == whole.text


def reports_logprobs(subject: Subject, name: str) -> None:
    """The tokens, and how likely they were."""
    heard = subject.likeliest({name: True})

    assert "".join(scored["token"] for scored in heard.raw["logprobs"]) == heard.text
    assert all(scored["logprob"] <= 0 for scored in heard.raw["logprobs"])
    assert "logprobs" not in subject.likeliest().raw


def reports_rivals(subject: Subject, name: str) -> None:
    """So many tokens beside each one."""
    for number in (1, 4):
        heard = subject.likeliest({"logprobs": True, name: number})
        assert {len(scored["top_logprobs"]) for scored in heard.raw["logprobs"]} == {number}


def keeps_the_model(subject: Subject, name: str) -> None:
    """A time for which the model stays loaded; at once it never goes."""
    for value in (-1, 300, "5m"):
        assert subject.send({name: value}).status_code == 200
    for value in (0, "0s", "soon"):
        response = subject.send({name: value})
        assert response.status_code == 400
        assert name in response.text


def narrows_the_window(subject: Subject, name: str) -> None:
    """A window in which three tokens are left for the answer."""
    free = {"options.num_predict": -1}
    num_prompt_tokens = subject.likeliest(free).raw["prompt_eval_count"]

    heard = subject.likeliest(free, {name: num_prompt_tokens + 3})

    assert (heard.num_tokens, heard.is_cut) == (3, True)
    assert subject.send({name: 10**6}).status_code == 400


def drops_the_oldest(subject: Subject, name: str) -> None:
    """Whether a conversation that is too long loses its oldest turns."""
    turns = [*user("Hello"), {"role": "assistant", "content": "Hello. " * 40}, *user("Hello")]
    long = {"messages": turns, "options.num_ctx": 64}

    assert subject.send({**long, name: True}).status_code == 200
    assert subject.send(long).status_code == 400
    assert subject.send({**long, name: False}).status_code == 400


def steers_surprise(subject: Subject, name: str) -> None:
    """Mirostat: the least surprise leaves the likeliest token alone, a great one does not."""
    for version in (1, 2):
        calm = {"options.mirostat": version, "options.mirostat_tau": 0}
        assert len({subject.draw(calm).text for _ in range(5)}) == 1
        assert subject.varies({**calm, "options.mirostat_tau": 20})


def learns_faster(subject: Subject, name: str) -> None:
    """Mirostat's rate: the same dice, another answer."""
    fixed = {"options.mirostat": 2, "options.mirostat_tau": 2, "options.num_predict": 40}

    def answer(seed: int, eta: float) -> str:
        return subject.draw(fixed, {"options.seed": seed, name: eta}).text

    assert any(answer(seed, 0) != answer(seed, 1) for seed in range(12))


def needs_no_template(subject: Subject, name: str) -> None:
    """A prompt as it is: without the tokens that make it a turn."""
    plain = subject.likeliest({name: False}).raw["prompt_eval_count"]

    assert subject.likeliest({name: True}).raw["prompt_eval_count"] < plain


def shortens(subject: Subject, name: str) -> None:
    """So many numbers of each embedding."""
    for number in (4, 8):
        assert len(subject.hear({name: number}).raw["embeddings"][0]) == number


def asks_for_leave(subject: Subject, name: str) -> None:
    """A model's name: what is not here needs the operator's leave."""
    assert subject.send({name: "palmita"}).status_code == 200
    assert subject.send({name: "org/another"}).status_code == 403


def reports_progress(subject: Subject, name: str) -> None:
    """Lines."""
    found = [json.loads(line) for line in subject.send({name: True}).iter_lines()]

    assert [each["status"] for each in found] == ["pulling manifest", "success"]


OPTIONS: dict[str, Demonstration] = {
    "temperature": heats,
    "top_k": narrows_to(1),
    "top_p": narrows_to(1e-6),
    "min_p": narrows_to(1),
    "typical_p": narrows_to(1e-6),
    "repeat_penalty": changes_the_likeliest(
        100, beside={"options.repeat_last_n": -1}, question=CAPITALS
    ),
    "presence_penalty": changes_the_likeliest(
        2, beside={"options.num_predict": 60}, question=COUNTING
    ),
    "frequency_penalty": changes_the_likeliest(
        2, beside={"options.num_predict": 60}, question=COUNTING
    ),
    "mirostat": steers_surprise,
    "mirostat_tau": steers_surprise,
    "mirostat_eta": learns_faster,
    "seed": seeds,
    "num_predict": bounds_tokens(),
    "num_ctx": narrows_the_window,
    "stop": cuts_at_strings,
}


def forgets_early_tokens(asks: str) -> Demonstration:
    """Return the demonstration of how far back tokens are penalized."""
    return changes_the_answer(0, -1, beside={asks: CAPITALS, "options.repeat_penalty": 100})


def answers(asks: str) -> dict[str, Demonstration]:
    """Return what chats and completions share."""
    return {
        "model": chooses_the_model,
        "options": is_a_set_of_fields,
        **{f"options.{name}": shown for name, shown in OPTIONS.items()},
        "options.repeat_last_n": forgets_early_tokens(asks),
        "stream": streams,
        "think": matters_to_thinkers(True, False),
        "logprobs": reports_logprobs,
        "top_logprobs": reports_rivals,
        "keep_alive": keeps_the_model,
        "format": is_a_zebra(dict(ZEBRA), beside={"options.num_predict": 64}),
    }


PIRATE = "Talk like a pirate."

ZEBRA_FUNCTION = {"name": "zebra", "description": "Stripes.", "parameters": dict(ZEBRA)}
ZEBRA_TOOL = {"type": "function", "function": ZEBRA_FUNCTION}
OFFERED = {"tools": [ZEBRA_TOOL]}

CALLED = {"name": "zebra", "arguments": {"zebra": 7}}
TURNS = {
    "messages": [
        {
            "role": "assistant",
            "thinking": "Hm.",
            "tool_calls": [{"id": "call_1", "function": CALLED}],
        },
        {"role": "tool", "tool_name": "zebra", "tool_call_id": "call_1", "content": "7"},
    ]
}

TOOLS: dict[str, Demonstration] = {
    "tools": changes_the_prompt(None, [ZEBRA_TOOL]),
    "tools.*.function": changes_the_prompt(ZEBRA_FUNCTION, {"name": "gnu"}, beside=OFFERED),
    "tools.*.function.name": changes_the_prompt("zebra", "gnu", beside=OFFERED),
    "tools.*.function.description": changes_the_prompt("Stripes.", "Horns.", beside=OFFERED),
    "tools.*.function.parameters": changes_the_prompt(dict(ZEBRA), {}, beside=OFFERED),
    "messages.*.thinking": matters_to_thinkers("Hm.", "Stripes!", beside=TURNS),
    "messages.*.tool_calls": changes_the_prompt(
        *([{"id": "call_1", "function": {**CALLED, "arguments": {"n": n}}}] for n in (1, 2)),
        beside=TURNS,
    ),
    "messages.*.tool_calls.*.id": fits(0, "call_1", "call_2", turns=TURNS),
    "messages.*.tool_calls.*.function": changes_the_prompt(
        *({**CALLED, "arguments": {"n": n}} for n in (1, 2)), beside=TURNS
    ),
    "messages.*.tool_calls.*.function.name": fits(0, "zebra", "gnu", turns=TURNS),
    "messages.*.tool_calls.*.function.arguments": changes_the_prompt(
        {"n": 1}, {"n": 2}, beside=TURNS
    ),
    "messages.*.tool_name": fits(1, "zebra", "gnu", turns=TURNS),
    "messages.*.tool_call_id": fits(1, "call_1", "call_2", turns=TURNS),
}

WAYS = {
    "/api/chat": Way(
        CHAT,
        read,
        {**answers("messages.*.content"), **MESSAGES, **TOOLS, "truncate": drops_the_oldest},
        greedy=GREEDY,
        hot=HOT,
        around={"tools": OFFERED, "messages": TURNS},
    ),
    "/api/generate": Way(
        COMPLETION,
        read,
        {
            **answers("prompt"),
            "prompt": changes_the_answer("Hello", CAPITALS),
            "system": changes_the_answer(None, PIRATE),
            "raw": needs_no_template,
        },
        asks="prompt",
        greedy=GREEDY,
        hot=HOT,
    ),
    "/api/embed": Way(
        {"model": "palmita", "input": "Hello"},
        read_json,
        {
            "model": chooses_the_model,
            "input": changes_the_answer("Hello", ["Hello", CAPITALS]),
            "dimensions": shortens,
            "keep_alive": keeps_the_model,
        },
        greedy={},
    ),
    "/api/embeddings": Way(
        {"model": "palmita", "prompt": "Hello"},
        read_json,
        {
            "model": chooses_the_model,
            "prompt": changes_the_answer("Hello", CAPITALS),
            "keep_alive": keeps_the_model,
        },
        greedy={},
    ),
    "/api/show": Way({"model": "palmita"}, read_json, {"model": chooses_the_model}),
    "/api/pull": Way(
        {"model": "palmita", "stream": False},
        read_json,
        {"model": asks_for_leave, "stream": reports_progress},
    ),
}
