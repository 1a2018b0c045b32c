"""Demonstrations of the fields about tools in OpenAI's chat completions."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from palma.core.types import ChatPrompt
from palma.engine.mock import MockTokenizer
from tests.conformance.demonstrations import changes_the_prompt
from tests.conformance.structured_demonstrations import ZEBRA
from tests.conformance.subject import (
    Demonstration,
    Heard,
    Subject,
    set_field,
    token_id,
)
from tests.live_server import running_server
from tests.spy_engine import Spy

GNU = {"type": "object", "properties": {"gnu": {"const": 8}}, "required": ["gnu"]}

ZEBRA_FUNCTION = {"name": "zebra", "description": "Stripes.", "parameters": dict(ZEBRA)}
GNU_FUNCTION = {"name": "gnu", "parameters": {**GNU, "additionalProperties": False}}
ZEBRA_TOOL: Mapping[str, Any] = {"type": "function", "function": ZEBRA_FUNCTION}
GNU_TOOL: Mapping[str, Any] = {"type": "function", "function": GNU_FUNCTION}
ZEBRA_CALL, GNU_CALL = ("zebra", {"zebra": 7}), ("gnu", {"gnu": 8})

ENOUGH = MappingProxyType({"max_tokens": 64})
FORCED: Mapping[str, Any] = {
    "tools": [ZEBRA_TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    **ENOUGH,
}
FORCED_FUNCTION: Mapping[str, Any] = {
    "functions": [ZEBRA_FUNCTION],
    "function_call": {"name": "zebra"},
    **ENOUGH,
}


def named(name: str) -> dict[str, Any]:
    """Return the choice of one tool."""
    return {"type": "function", "function": {"name": name}}


def allowed(name: str, mode: str = "required") -> dict[str, Any]:
    """Return the choice among one tool."""
    return {
        "type": "allowed_tools",
        "allowed_tools": {"mode": mode, "tools": [named(name)]},
    }


BOTH = {"tools": [ZEBRA_TOOL, GNU_TOOL], "parallel_tool_calls": False, **ENOUGH}
ZEBRA_NAMED: Mapping[str, Any] = {**BOTH, "tool_choice": named("zebra")}
ZEBRA_ALLOWED: Mapping[str, Any] = {**BOTH, "tool_choice": allowed("zebra")}


def call_in(heard: Heard) -> tuple[str, Any] | None:
    """Return the name and the arguments of an answer's one call."""
    name, brace, rest = heard.text.partition("{")
    return (name, json.loads(brace + rest)) if brace else None


def calls(value: Any, call: tuple[str, Any] | None, *, beside: Mapping[str, Any]) -> Demonstration:
    """Return the demonstration of a field that changes which call is made.

    Args:
        value: The field's.
        call: What is then called; None for nothing.
        beside: Other fields, with which the zebra is called.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        assert call_in(subject.likeliest(beside)) == ZEBRA_CALL

        assert call_in(subject.likeliest(beside, {name: value})) == call

    return demonstrate


def allows_several(subject: Subject, name: str) -> None:
    """Several calls, or one at most, also where the end is unlikely."""
    unending = {**FORCED, "max_tokens": 160, "logit_bias": {str(token_id("<|eot_id|>")): -100}}

    assert subject.likeliest(unending, {name: False}).text.count("zebra{") == 1
    assert subject.likeliest(unending, {name: True}).text.count("zebra{") > 1


def names_a_function(subject: Subject, name: str) -> None:
    """The function that must be called: its schema goes with the name."""
    beside = {**FORCED_FUNCTION, "function_call": {"name": "gnu"}}
    assert subject.send(beside).status_code == 400

    heard = subject.likeliest(beside, {name: "gnu"})

    assert call_in(heard) == ("gnu", {"zebra": 7})


def tells_choices_apart(subject: Subject, name: str) -> None:
    """What the choice consists of: one tool, or those that are allowed."""
    parts = {"tool_choice": {**named("zebra"), **allowed("zebra")}}
    assert subject.send({**BOTH, **parts}).status_code == 400

    for choice in (named("gnu"), allowed("gnu")):
        fields = {"tool_choice": {k: v for k, v in choice.items() if k != "type"}}
        heard = subject.likeliest(BOTH, fields, {name: choice["type"]})
        assert call_in(heard) == GNU_CALL


CALLED = {"name": "zebra", "arguments": "{}"}
CALLING: Mapping[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": CALLED}],
}
RESULT: Mapping[str, Any] = {"role": "tool", "tool_call_id": "call_1", "content": "7"}
TURNS: Mapping[str, Any] = {"messages": [CALLING, RESULT]}
FUNCTION_TURNS: Mapping[str, Any] = {
    "messages": [
        {"role": "assistant", "function_call": CALLED},
        {"role": "function", "name": "zebra", "content": "7"},
    ]
}


def fits(turn: int, good: Any, bad: Any, *, turns: Mapping[str, Any] = TURNS) -> Demonstration:
    """Return the demonstration of a field that binds a call and its result together.

    Args:
        turn: Which message has it.
        good: A value that fits the other message.
        bad: One that does not.
        turns: Both messages.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        for value, status in ((good, 200), (bad, 400)):
            messages = copy.deepcopy(turns["messages"])
            set_field(messages[turn], name.removeprefix("messages.*.").split("."), value)
            assert subject.send({"messages": messages}).status_code == status, value

    return demonstrate


class ThinkingTokenizer(MockTokenizer):
    """The mock's, for a model that is shown what it thought before."""

    chat_template = "{role}: {reasoning_content} {content}"

    def render_chat(self, chat: ChatPrompt) -> str:
        """Return the turns, each with what was thought."""
        turns = [
            replace(message, content=f"{message.reasoning} {message.content}", reasoning="")
            for message in chat.messages
        ]
        return super().render_chat(replace(chat, messages=tuple(turns)))


def recalls_thoughts(subject: Subject, name: str) -> None:
    """What the assistant thought: a model whose template has a place for it sees it again."""
    spy = Spy(tokenizer=ThinkingTokenizer())
    with running_server(load=spy.load, engine="threads") as server:
        for thought in ("stripes", "horns"):
            fields = {"messages.*.role": "assistant", name: thought}
            response = replace(subject, server=server).send(fields)
            assert response.status_code == 200, response.text

    assert ["stripes" in spied.prompt for spied in spy.submitted] == [True, False]


OTHER_CALL = {"id": "call_1", "type": "function", "function": {**CALLED, "name": "gnu"}}

TOOLS: Mapping[str, Demonstration] = MappingProxyType(
    {
        "tools": calls([GNU_TOOL], GNU_CALL, beside=FORCED),
        "tools.*.function": calls(GNU_FUNCTION, GNU_CALL, beside=FORCED),
        "tools.*.function.name": calls("gnu", ("gnu", {"zebra": 7}), beside=FORCED),
        "tools.*.function.description": changes_the_prompt("Stripes.", "Horns.", beside=FORCED),
        "tools.*.function.parameters": calls(GNU, ("zebra", {"gnu": 8}), beside=FORCED),
        "tool_choice": calls(named("gnu"), GNU_CALL, beside=ZEBRA_NAMED),
        "tool_choice.type": tells_choices_apart,
        "tool_choice.function": calls({"name": "gnu"}, GNU_CALL, beside=ZEBRA_NAMED),
        "tool_choice.function.name": calls("gnu", GNU_CALL, beside=ZEBRA_NAMED),
        "tool_choice.allowed_tools": calls(
            allowed("gnu")["allowed_tools"], GNU_CALL, beside=ZEBRA_ALLOWED
        ),
        "tool_choice.allowed_tools.mode": calls("auto", None, beside=ZEBRA_ALLOWED),
        "tool_choice.allowed_tools.tools": calls([named("gnu")], GNU_CALL, beside=ZEBRA_ALLOWED),
        "tool_choice.allowed_tools.tools.*.function": calls(
            {"name": "gnu"}, GNU_CALL, beside=ZEBRA_ALLOWED
        ),
        "tool_choice.allowed_tools.tools.*.function.name": calls(
            "gnu", GNU_CALL, beside=ZEBRA_ALLOWED
        ),
        "parallel_tool_calls": allows_several,
        "functions": calls(
            [GNU_FUNCTION, {**ZEBRA_FUNCTION, "parameters": GNU}],
            ("zebra", {"gnu": 8}),
            beside=FORCED_FUNCTION,
        ),
        "functions.*.name": names_a_function,
        "functions.*.description": changes_the_prompt("Stripes.", "Horns.", beside=FORCED_FUNCTION),
        "functions.*.parameters": calls(GNU, ("zebra", {"gnu": 8}), beside=FORCED_FUNCTION),
        "function_call": calls("none", None, beside=FORCED_FUNCTION),
        "function_call.name": calls(
            "gnu",
            GNU_CALL,
            beside={**FORCED_FUNCTION, "functions": [ZEBRA_FUNCTION, GNU_FUNCTION]},
        ),
        "messages.*.tool_calls": changes_the_prompt(
            CALLING["tool_calls"], [OTHER_CALL], beside=TURNS
        ),
        "messages.*.tool_calls.*.id": fits(0, "call_1", "call_2"),
        "messages.*.tool_calls.*.function": changes_the_prompt(
            CALLED, OTHER_CALL["function"], beside=TURNS
        ),
        "messages.*.tool_calls.*.function.name": changes_the_prompt("zebra", "gnu", beside=TURNS),
        "messages.*.tool_calls.*.function.arguments": changes_the_prompt(
            '{"a":1}', '{"a":2}', beside=TURNS
        ),
        "messages.*.tool_call_id": fits(1, "call_1", "call_2"),
        "messages.*.name": fits(1, "zebra", "gnu"),
        "messages.*.function_call": fits(0, CALLED, OTHER_CALL["function"], turns=FUNCTION_TURNS),
        "messages.*.function_call.name": fits(0, "zebra", "gnu", turns=FUNCTION_TURNS),
        "messages.*.function_call.arguments": changes_the_prompt(
            '{"a":1}', '{"a":2}', beside=FUNCTION_TURNS
        ),
        "messages.*.reasoning_content": recalls_thoughts,
    }
)

AROUND: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tools": FORCED,
        "tool_choice": ZEBRA_NAMED,
        "tool_choice.allowed_tools": ZEBRA_ALLOWED,
        "functions": FORCED_FUNCTION,
        "function_call": FORCED_FUNCTION,
        "messages": TURNS,
        "messages.*.function_call": FUNCTION_TURNS,
    }
)
"""What the fields inside these need around them."""
