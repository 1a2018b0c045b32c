"""Demonstrations of tools, and of items about calls and thoughts, in OpenAI's responses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.conformance.demonstrations import changes_the_prompt
from tests.conformance.openai_tools_demonstrations import (
    GNU,
    GNU_CALL,
    GNU_FUNCTION,
    ZEBRA_FUNCTION,
    call_in,
    calls,
)
from tests.conformance.subject import Demonstration, Subject, set_field, token_id
from tests.live_server import user

ZEBRA_TOOL: Mapping[str, Any] = {"type": "function", **ZEBRA_FUNCTION}
GNU_TOOL: Mapping[str, Any] = {"type": "function", **GNU_FUNCTION}

ENOUGH = MappingProxyType({"max_output_tokens": 64})
FORCED: Mapping[str, Any] = {
    "tools": [ZEBRA_TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    **ENOUGH,
}


def named(name: str) -> dict[str, Any]:
    """Return the choice of one tool."""
    return {"type": "function", "name": name}


def allowed(name: str) -> dict[str, Any]:
    """Return the choice among one tool."""
    return {"type": "allowed_tools", "mode": "required", "tools": [named(name)]}


BOTH = {"tools": [ZEBRA_TOOL, GNU_TOOL], "parallel_tool_calls": False, **ENOUGH}
ZEBRA_NAMED: Mapping[str, Any] = {**BOTH, "tool_choice": named("zebra")}
ZEBRA_ALLOWED: Mapping[str, Any] = {**BOTH, "tool_choice": allowed("zebra")}


def allows_several(subject: Subject, name: str) -> None:
    """Several calls, or one at most, also where the end is unlikely."""
    unlikely = {"logit_bias": {str(token_id("<|eot_id|>")): -100}}
    unending = {**FORCED, **unlikely, "max_output_tokens": 160}

    assert subject.likeliest(unending, {name: False}).text.count("zebra{") == 1
    assert subject.likeliest(unending, {name: True}).text.count("zebra{") > 1


def tells_choices_apart(subject: Subject, name: str) -> None:
    """What the choice consists of: one tool, or those that are allowed."""
    parts = {"tool_choice": {**named("zebra"), **allowed("zebra")}}
    assert subject.send({**BOTH, **parts}).status_code == 400

    for choice in (named("gnu"), allowed("gnu")):
        fields = {"tool_choice": {k: v for k, v in choice.items() if k != "type"}}
        heard = subject.likeliest(BOTH, fields, {name: choice["type"]})
        assert call_in(heard) == GNU_CALL


CALL: Mapping[str, Any] = {
    "type": "function_call",
    "call_id": "call_1",
    "name": "zebra",
    "arguments": "{}",
}
OUTPUT: Mapping[str, Any] = {
    "type": "function_call_output",
    "call_id": "call_1",
    "output": [{"type": "input_text", "text": "7"}],
}
REASONING: Mapping[str, Any] = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "stripes"}],
}


def _with(number: int, name: str, value: Any) -> list[Any]:
    """Return a call and its output; one of the two with a field set."""
    items: list[Any] = copy.deepcopy([dict(CALL), dict(OUTPUT)])
    set_field(items[number], name.split(".")[2:], value)
    return items


def reads(number: int, *values: Any) -> Demonstration:
    """Return the demonstration of a part of an item that the model reads: each value, another.

    Args:
        number: 0 for the call's part, 1 for its output's.
        values: The field's.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        changes_the_prompt(*[_with(number, name, value) for value in values])(subject, "input")

    return demonstrate


def stores(number: int, *values: Any) -> Demonstration:
    """Return the demonstration of the same part where items are only kept."""

    def demonstrate(subject: Subject, name: str) -> None:
        kept = []
        for value in values:
            answer = subject.hear({"items": _with(number, name, value)}).raw
            if answer["object"] == "conversation":
                path = f"/v1/conversations/{answer['id']}/items?order=asc"
                answer = subject.server.get(path).json()
            kept.append({**answer["data"][number], "id": None})

        assert len({str(item) for item in kept}) == len(values)

    return demonstrate


def fits(subject: Subject, name: str) -> None:
    """The output is that of a call."""
    items = name.partition(".")[0]

    for call_id, status in (("call_1", 200), ("call_2", 400)):
        assert subject.send({items: _with(1, name, call_id)}).status_code == status


def tells_items_apart(subject: Subject, name: str) -> None:
    """What an item consists of: a message's parts, or a call's."""
    items = name.partition(".")[0]
    message = user("Hello")[0]
    call = {key: value for key, value in CALL.items() if key != "type"}

    for item, kind, status in (
        (message, "message", 200),
        (call, "message", 400),
        (call, "function_call", 200),
        (message, "function_call", 400),
    ):
        assert subject.send({items: [item], name: kind}).status_code == status


TOOLS: Mapping[str, Demonstration] = MappingProxyType(
    {
        "tools": calls([GNU_TOOL], GNU_CALL, beside=FORCED),
        "tools.*.name": calls("gnu", ("gnu", {"zebra": 7}), beside=FORCED),
        "tools.*.description": changes_the_prompt("Stripes.", "Horns.", beside=FORCED),
        "tools.*.parameters": calls(GNU, ("zebra", {"gnu": 8}), beside=FORCED),
        "tool_choice": calls(named("gnu"), GNU_CALL, beside=ZEBRA_NAMED),
        "tool_choice.type": tells_choices_apart,
        "tool_choice.name": calls("gnu", GNU_CALL, beside=ZEBRA_NAMED),
        "tool_choice.mode": calls("auto", None, beside=ZEBRA_ALLOWED),
        "tool_choice.tools": calls([named("gnu")], GNU_CALL, beside=ZEBRA_ALLOWED),
        "tool_choice.tools.*.name": calls("gnu", GNU_CALL, beside=ZEBRA_ALLOWED),
        "parallel_tool_calls": allows_several,
    }
)

AROUND: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"tools": FORCED, "tool_choice": ZEBRA_NAMED, "tool_choice.tools": ZEBRA_ALLOWED}
)
"""What the fields inside these need around them."""


def demonstrations_of(items: str) -> dict[str, Demonstration]:
    """Return those of calls and outputs in the field of this name, which is read or kept."""
    shows = reads if items == "input" else stores
    return {
        f"{items}.*.type": tells_items_apart,
        f"{items}.*.call_id": fits,
        f"{items}.*.name": shows(0, "zebra", "gnu"),
        f"{items}.*.arguments": shows(0, "{}", '{"a":1}'),
        f"{items}.*.output": shows(1, "7", "8"),
        f"{items}.*.output.*.text": shows(1, "7", "8"),
    }


def around(items: str) -> dict[str, Mapping[str, Any]]:
    """Return what the fields inside the items need around them."""
    thoughts = {items: [REASONING]}
    call = {items: [CALL, OUTPUT]}
    of_calls = ("caller", "created_by", "namespace", "async", "output")
    return {
        **{f"{items}.*.{name}": thoughts for name in ("summary", "encrypted_content")},
        **{f"{items}.*.{name}": call for name in of_calls},
    }
