"""Messages and tools take the form that a template's own text asks for."""

from __future__ import annotations

import json

from palma.core.types import ChatPrompt, Message, Tool, ToolCall
from palma.models.chat_turns import TurnStyle, turns

CALL = ToolCall("call_1", "clock", '{"zone": "UTC"}')
TURNS = (Message("user", "When?"), Message("assistant", "", (CALL,)), Message("tool", "noon"))
PLAIN = "{{ messages }}"


def test_a_call_is_transformers_own_form() -> None:
    _, call, _ = turns(ChatPrompt(TURNS), TurnStyle.of(PLAIN))

    function = {"name": "clock", "arguments": {"zone": "UTC"}}
    assert call["tool_calls"] == [{"type": "function", "id": "call_1", "function": function}]
    assert call["content"] == ""


def test_arguments_are_text_where_a_template_adds_them_to_text() -> None:
    for template in (
        "{{ f['arguments'] + 'x' }}",
        '{{ f["arguments"]+end }}',
        "{{ f.arguments + x }}",
    ):
        _, call, _ = turns(ChatPrompt(TURNS), TurnStyle.of(template))
        assert call["tool_calls"][0]["function"]["arguments"] == '{"zone": "UTC"}'


def test_the_systems_turn_brings_the_tools_where_a_template_looks_for_them_there() -> None:
    style = TurnStyle.of("{% if message['tools'] %}")

    system, *_ = turns(ChatPrompt(TURNS, (Tool("clock", "Tells it."),)), style)

    assert system["role"] == "system"
    assert [tool["name"] for tool in json.loads(system["tools"])] == ["clock"]
    assert "tools" not in turns(ChatPrompt(TURNS), style)[0]
