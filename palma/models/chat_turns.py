"""Messages and tools as chat templates take them: Transformers' own form, and what some expect."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from palma.core.types import ChatPrompt, Message, Tool, ToolCall

ADDS_ARGUMENTS = re.compile(r"""arguments(['"]\])?\s*\+""")
TOOLS_IN_TURN = re.compile(r"""message(\[['"]tools['"]\]|\.tools\b)""")


@dataclass(frozen=True, slots=True)
class TurnStyle:
    """What a chat template expects of messages, as its own text shows.

    Attributes:
        arguments_are_text: It adds a call's arguments to other text (DeepSeek).
        tools_in_turn: The system's message brings the tools (Phi-4-mini).
    """

    arguments_are_text: bool
    tools_in_turn: bool

    @classmethod
    def of(cls, chat_template: str) -> TurnStyle:
        """Return the style of a template."""
        return cls(
            ADDS_ARGUMENTS.search(chat_template) is not None,
            TOOLS_IN_TURN.search(chat_template) is not None,
        )


def turns(chat: ChatPrompt, style: TurnStyle) -> list[dict[str, Any]]:
    """Return the messages of a chat; the first one brings the tools where the style says so."""
    made = [_turn(message, style) for message in chat.messages]
    if style.tools_in_turn and chat.tools:
        functions = [function(tool)["function"] for tool in chat.tools]
        text = json.dumps(functions, ensure_ascii=False)
        if made[0]["role"] != "system":
            made.insert(0, {"role": "system", "content": ""})
        made[0]["tools"] = text
    return made


def function(tool: Tool) -> dict[str, Any]:
    """Return a tool in OpenAI's form, which is Transformers' own."""
    fields = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": fields}


def _turn(message: Message, style: TurnStyle) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, style) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _call(call: ToolCall, style: TurnStyle) -> dict[str, Any]:
    arguments = call.arguments if style.arguments_are_text else json.loads(call.arguments)
    fields = {"name": call.name, "arguments": arguments}
    return {"type": "function", "id": call.call_id, "function": fields}
