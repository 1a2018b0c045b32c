"""Demonstrations of the fields about tools and thoughts in Anthropic's messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from palma.core.config import Settings
from palma.engine.base import Engine
from tests.conformance.demonstrations import CAPITALS, changes_the_answer, changes_the_prompt
from tests.conformance.openai_tools_demonstrations import GNU, GNU_CALL, calls, fits
from tests.conformance.structured_demonstrations import ENOUGH, ZEBRA
from tests.conformance.subject import Demonstration, Subject
from tests.conformance.thinking_demonstrations import matters_to_thinkers
from tests.live_server import running_server, user
from tests.structured_models import random_engine
from tests.thinking_models import load_random_thinker, thinking_mock

ZEBRA_TOOL: Mapping[str, Any] = {
    "type": "custom",
    "name": "zebra",
    "description": "Stripes.",
    "input_schema": dict(ZEBRA),
}
GNU_TOOL: Mapping[str, Any] = {
    "name": "gnu",
    "input_schema": {**GNU, "additionalProperties": False},
}

ONE = {"disable_parallel_tool_use": True}
FORCED: Mapping[str, Any] = {
    "tools": [ZEBRA_TOOL],
    "tool_choice": {"type": "any", **ONE},
}
NAMED: Mapping[str, Any] = {
    "tools": [ZEBRA_TOOL, GNU_TOOL],
    "tool_choice": {"type": "tool", "name": "zebra", **ONE},
}

TURNS: Mapping[str, Any] = {
    "messages": [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "Wait.", "citations": [], "cache_control": None},
                {
                    "type": "tool_use",
                    "id": "call_1",
                    "name": "zebra",
                    "input": {"zebra": 7},
                    "caller": {"type": "direct"},
                    "toolset_name": None,
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [
                        {"type": "text", "text": "7", "citations": [], "cache_control": None}
                    ],
                    "is_error": False,
                }
            ],
        },
    ]
}
"""With every kind of block, and in them every field."""

TEXT: Mapping[str, Any] = {"messages.*.content": [{"type": "text", "text": "Hello"}]}
SYSTEM: Mapping[str, Any] = {"system": [{"type": "text", "text": "Be brief."}]}
NUM_DRAWS = 12

PIRATE = "Talk like a pirate."

THOUGHT = "say <think>\nHm.\n</think>\n\nHi."


def tells_blocks_apart(subject: Subject, name: str) -> None:
    """What a block consists of."""
    assert subject.send({**TEXT, name: "text"}).status_code == 200
    for kind in ("thinking", "tool_use", "tool_result", "image"):
        assert subject.send({**TEXT, name: kind}).status_code == 400


def allows_one(subject: Subject, name: str) -> None:
    """At most one call; a random model makes several where it may."""

    def load(settings: Settings, executor: Executor) -> Engine:
        return random_engine("threads", executor, settings.threads_max_workers)

    with running_server(load=load, engine="threads") as server:
        at_random = replace(subject, server=server)
        asked = {**FORCED, "max_tokens": 100}
        assert {_count_calls(at_random, asked, {name: True}) for _ in range(NUM_DRAWS)} == {1}
        assert any(_count_calls(at_random, asked, {name: False}) > 1 for _ in range(NUM_DRAWS))


def _count_calls(subject: Subject, *parts: Mapping[str, Any]) -> int:
    return subject.draw(*parts).text.count("zebra{")


def shows_thoughts(subject: Subject, name: str) -> None:
    """Thoughts, or an empty block in their place."""
    asked = {"messages": user(THOUGHT), "max_tokens": 64, "thinking": {"type": "adaptive"}}
    with running_server(load=thinking_mock().load, engine="threads") as server:
        thinker = replace(subject, server=server)
        for value, thought in (("summarized", "Hm."), ("omitted", "")):
            heard = thinker.hear(asked, {name: value})
            assert heard.raw["content"][0]["thinking"].strip() == thought


def bounds_thoughts(subject: Subject, name: str) -> None:
    """A bound on the tokens of a model that never stops to think."""
    asked = {"thinking": {"type": "enabled", "budget_tokens": 5}, "max_tokens": 60}
    with running_server(load=load_random_thinker, engine="threads") as server:
        thinker = replace(subject, server=server)
        counts = [
            thinker.likeliest(asked, {name: budget}).raw["usage"]["output_tokens_details"]
            for budget in (5, 25)
        ]

    assert counts[1]["thinking_tokens"] - counts[0]["thinking_tokens"] == 20


Changes = Callable[..., Demonstration]


def _of_the_prompt(changes: Changes) -> dict[str, Demonstration]:
    """Return what messages and counts share.

    Args:
        changes: Shows that each value makes another prompt.
    """
    switch = ({"type": "adaptive"}, {"type": "disabled"})
    return {
        "system.*.text": changes_the_answer("Be brief.", PIRATE, beside=SYSTEM),
        "messages.*.content.*.type": tells_blocks_apart,
        "messages.*.content.*.text": changes_the_answer("Hello", CAPITALS, beside=TEXT),
        "messages.*.content.*.thinking": matters_to_thinkers("Hm.", "Stripes!", beside=TURNS),
        "messages.*.content.*.id": fits(0, "call_1", "call_2", turns=TURNS),
        "messages.*.content.*.name": changes("zebra", "hippopotamus", beside=TURNS),
        "messages.*.content.*.input": changes({}, {"zebra": 8}, beside=TURNS),
        "messages.*.content.*.tool_use_id": fits(1, "call_1", "call_2", turns=TURNS),
        "messages.*.content.*.content": changes("7", "seven of them", beside=TURNS),
        "messages.*.content.*.content.*.text": changes("7", "seven of them", beside=TURNS),
        "messages.*.content.*.is_error": changes(True, False, beside=TURNS),
        "tools.*.description": changes("Stripes.", "It has horns.", beside=FORCED),
        "thinking": matters_to_thinkers(*switch),
        "thinking.type": matters_to_thinkers(*(value["type"] for value in switch)),
    }


FORCED_CALL, NAMED_CALL = {**FORCED, **ENOUGH}, {**NAMED, **ENOUGH}

DEMONSTRATIONS: Mapping[str, Demonstration] = MappingProxyType(
    {
        **_of_the_prompt(changes_the_prompt),
        "tools": calls([GNU_TOOL], GNU_CALL, beside=FORCED_CALL),
        "tools.*.name": calls("gnu", ("gnu", {"zebra": 7}), beside=FORCED_CALL),
        "tools.*.input_schema": calls(GNU, ("zebra", {"gnu": 8}), beside=FORCED_CALL),
        "tool_choice": calls({"type": "none"}, None, beside=FORCED_CALL),
        "tool_choice.type": calls("auto", None, beside=FORCED_CALL),
        "tool_choice.name": calls("gnu", GNU_CALL, beside=NAMED_CALL),
        "tool_choice.disable_parallel_tool_use": allows_one,
        "thinking.budget_tokens": bounds_thoughts,
        "thinking.display": shows_thoughts,
    }
)

UNNAMED: Mapping[str, Any] = {"tools": [ZEBRA_TOOL], "tool_choice": {"type": "auto"}}


def finds_the_tool(subject: Subject, name: str) -> None:
    """The name of a tool: it must be there."""
    for value, status in (("gnu", 200), ("okapi", 400)):
        assert subject.send({**NAMED, name: value}).status_code == status


COUNT_DEMONSTRATIONS: Mapping[str, Demonstration] = MappingProxyType(
    {
        **_of_the_prompt(changes_the_answer),
        "tools": changes_the_answer([ZEBRA_TOOL], [ZEBRA_TOOL, GNU_TOOL]),
        "tools.*.name": changes_the_answer("zebra", "hippopotamus", beside=UNNAMED),
        "tools.*.input_schema": changes_the_answer(dict(ZEBRA), {}, beside=UNNAMED),
        "tool_choice": changes_the_answer({"type": "none"}, {"type": "auto"}, beside=UNNAMED),
        "tool_choice.type": changes_the_answer("none", "auto", beside=UNNAMED),
        "tool_choice.name": finds_the_tool,
    }
)

AROUND: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "messages": TURNS,
        "system": SYSTEM,
        "tools": FORCED,
        "tool_choice": NAMED,
        "thinking": {"thinking": {"type": "adaptive"}},
        "thinking.budget_tokens": {"thinking": {"type": "enabled"}},
    }
)
"""What the fields inside these need around them."""
