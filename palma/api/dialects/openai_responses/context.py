"""From the items before an answer to the conversation that the model reads."""

from __future__ import annotations

from collections.abc import Sequence

from palma.api.dialects.openai_responses.item_shapes import Item
from palma.api.wire import shown
from palma.core.errors import InvalidRequest
from palma.core.types import Message, ToolCall

ASSISTANT_ORDER = {"reasoning": 0, "message": 1, "function_call": 2}
"""How the items of one turn of the assistant's follow each other."""


def turns_of(items: Sequence[Item]) -> list[list[Item]]:
    """Gather the items that are one turn: the assistant thinks, speaks, then calls."""
    turns: list[list[Item]] = []
    for item in items:
        if turns and _continues(turns[-1][-1], item):
            turns[-1].append(item)
        else:
            turns.append([item])
    return turns


def message_of(turn: Sequence[Item]) -> Message:
    """Return a turn as the model reads it; a call that was cut off was never made.

    `developer` is OpenAI's newer word for `system`.
    """
    first = turn[0]
    if first["type"] == "function_call_output":
        return Message("tool", first["output"], tool_call_id=first["call_id"])
    if first["type"] == "message" and first["role"] != "assistant":
        role = "system" if first["role"] == "developer" else first["role"]
        return Message(role, _texts(first))
    calls = tuple(
        ToolCall(item["call_id"], item["name"], item["arguments"])
        for item in turn
        if item["type"] == "function_call" and item["status"] != "incomplete"
    )
    return Message(
        "assistant",
        "".join(_texts(item) for item in turn if item["type"] == "message"),
        tool_calls=calls,
        reasoning="".join(_texts(item) for item in turn if item["type"] == "reasoning"),
    )


def require_calls(items: Sequence[Item], num_new: int, param: str = "input") -> None:
    """Check that every output answers a call before it.

    Args:
        items: All that the model is to read.
        num_new: So many of them, at the end, came with this request.
        param: The request field that brings those.

    Raises:
        InvalidRequest: An output does not.
    """
    call_ids: set[str] = set()
    for number, item in enumerate(items, start=num_new - len(items)):
        if item["type"] == "function_call" and item["status"] != "incomplete":
            call_ids.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in call_ids:
            where = f"{param}.{number}.call_id" if number >= 0 else f"item {item['id']}"
            raise InvalidRequest(
                f"{where}: no earlier call has the id {shown(item['call_id'])}",
                param=where if number >= 0 else param,
            )


def _continues(last: Item, item: Item) -> bool:
    if not (_is_assistants(last) and _is_assistants(item)):
        return False
    before, after = ASSISTANT_ORDER[last["type"]], ASSISTANT_ORDER[item["type"]]
    return before < after or (before == after and item["type"] != "message")


def _is_assistants(item: Item) -> bool:
    if item["type"] == "message":
        return item["role"] == "assistant"
    return item["type"] != "function_call_output"


def _texts(item: Item) -> str:
    parts = item["content"] if item["type"] in ("message", "reasoning") else []
    return "".join(part["text"] for part in parts)
