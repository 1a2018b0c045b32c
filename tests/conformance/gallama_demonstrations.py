"""Demonstrations of gallama's fields in chat completions: templates, budgets, parts, agents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.conformance.subject import Demonstration, Heard, Subject
from tests.conformance.thinking_demonstrations import matters_to_thinkers

TEMPLATE = "<plan><goal>{goal}</goal></plan>"
FILLED = re.compile(r"<plan>\n  <goal>[^<]+</goal>\n</plan>")
ROOM = MappingProxyType({"max_tokens": 120})


def _messages(heard: Heard) -> list[dict[str, Any]]:
    """Return the messages of a whole answer, or the deltas of a streamed one."""
    events = heard.raw if isinstance(heard.raw, list) else [heard.raw]
    choices = [choice for event in events for choice in event["choices"]]
    return [choice.get("message") or choice["delta"] for choice in choices]


def _reasoning(heard: Heard) -> str:
    return "".join(message.get("reasoning_content", "") for message in _messages(heard))


def fills_the_template(subject: Subject, name: str) -> None:
    """The filled template is the reasoning; without one there is none."""
    assert FILLED.fullmatch(_reasoning(subject.likeliest(ROOM, {name: TEMPLATE})))
    assert _reasoning(subject.likeliest(ROOM)) == ""


def bounds_the_template(subject: Subject, name: str) -> None:
    """A bound on the tokens of a template, on top of what its tags take."""
    asked = {**ROOM, "thinking_template": TEMPLATE}

    short, long = (_reasoning(subject.draw(asked, {name: budget})) for budget in (30, 80))

    assert FILLED.fullmatch(short)
    assert FILLED.fullmatch(long)
    assert len(short) < len(long)


def takes_parts(subject: Subject, name: str) -> None:
    """An answer in parts says what each is."""
    for mode, is_there in (("Fast", True), ("No", False)):
        found = [m for m in _messages(subject.likeliest({name: mode})) if "artifact_meta" in m]
        assert bool(found) == is_there


def _num_tokens(subject: Subject, name: str, value: Any) -> int:
    num_tokens = subject.likeliest(ROOM, {name: value}).num_tokens
    assert num_tokens is not None
    return num_tokens


def asks_agents(subject: Subject, name: str) -> None:
    """More agents, more tokens."""
    is_list = name.endswith("agent_list")
    counts = [
        _num_tokens(subject, name, agents if is_list else {"agent_list": agents})
        for agents in (["palmita"], ["palmita"] * 3)
    ]

    assert counts[0] < counts[1]


def names_the_agent(subject: Subject, name: str) -> None:
    """An agent's name: it must be served."""
    for value, status in (("palmita", 200), ("another", 404)):
        assert subject.send({name: value}).status_code == status


def fills_the_agents_template(subject: Subject, name: str) -> None:
    """A template takes an agent some tokens."""
    agents = "mixture_of_agents.agent_list"
    plain = _num_tokens(subject, agents, ["palmita"])

    filled = [{"model": "palmita", name.rpartition(".")[2]: TEMPLATE}]

    assert _num_tokens(subject, agents, filled) > plain


GALLAMA: Mapping[str, Demonstration] = MappingProxyType(
    {
        "thinking_template": fills_the_template,
        "thinking_budget": bounds_the_template,
        "reasoning_effort": matters_to_thinkers("none", "high"),
        "chat_template_kwargs": matters_to_thinkers(
            {"enable_thinking": True}, {"enable_thinking": False}
        ),
        "chat_template_kwargs.enable_thinking": matters_to_thinkers(True, False),
        "artifact": takes_parts,
        "mixture_of_agents": asks_agents,
        "mixture_of_agents.agent_list": asks_agents,
        "mixture_of_agents.agent_list.*.model": names_the_agent,
        "mixture_of_agents.agent_list.*.thinking_template": fills_the_agents_template,
    }
)

AROUND_GALLAMA: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"mixture_of_agents": {"mixture_of_agents": {"agent_list": [{"model": "palmita"}]}}}
)
"""For nested fields: the values that others have while they are tried."""
