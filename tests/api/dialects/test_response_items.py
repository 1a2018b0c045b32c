"""Items of responses: read as a conversation, and made from the chunks of an answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from palma.api.dialects.openai_responses.context import message_of, require_calls, turns_of
from palma.api.dialects.openai_responses.item_bodies import MessageBody
from palma.api.dialects.openai_responses.output import Output, split_scored
from palma.core.errors import InvalidRequest
from palma.core.types import (
    Message,
    ScoredToken,
    TextChunk,
    TokenText,
    ToolCall,
    ToolCallDelta,
    Usage,
)


def said(role: Any, text: str) -> Any:
    content = [{"type": "input_text", "text": text}]
    return MessageBody.model_validate({"role": role, "content": content}).item()


def thought(text: str) -> Any:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def called(call_id: str, status: str = "completed") -> Any:
    call = {"type": "function_call", "call_id": call_id, "name": "f", "arguments": '{"a":1}'}
    return {**call, "status": status}


def returned(call_id: str) -> Any:
    return {"type": "function_call_output", "id": "fco", "call_id": call_id, "output": "7"}


def made(*chunks: TextChunk, status: Any = "completed") -> tuple[list[Any], list[Any]]:
    """Return the items that chunks make, and the events on the way."""
    output = Output(itertools.count().__next__)
    events: list[Any] = [event for chunk in chunks for event in output.push(chunk)]
    events += output.end(status)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return list(output.items(status)), events


def kinds(items: list[Any]) -> list[tuple[str, str]]:
    return [(item["type"], item["status"]) for item in items]


def scored(text: str) -> ScoredToken:
    return ScoredToken(TokenText(0, text, text.encode(), -0.5))


def call_chunk(arguments: str, index: int = 0) -> TextChunk:
    return TextChunk("", tool_calls=(ToolCallDelta(index, f"call_{index}", "f", arguments),))


def test_the_assistant_thinks_speaks_and_calls_in_one_turn() -> None:
    items = [
        said("user", "q"),
        thought("hm"),
        said("assistant", "wait"),
        called("1"),
        called("2"),
        returned("2"),
        returned("1"),
        thought("oh"),
        said("assistant", "a"),
        said("assistant", "b"),
        said("developer", "d"),
    ]

    messages = [message_of(turn) for turn in turns_of(items)]

    calls = tuple(ToolCall(call_id, "f", '{"a":1}') for call_id in ("1", "2"))
    assert messages == [
        Message("user", "q"),
        Message("assistant", "wait", tool_calls=calls, reasoning="hm"),
        Message("tool", "7", tool_call_id="2"),
        Message("tool", "7", tool_call_id="1"),
        Message("assistant", "a", reasoning="oh"),
        Message("assistant", "b"),
        Message("system", "d"),
    ]


def test_a_call_that_was_cut_off_was_never_made() -> None:
    items = [said("user", "q"), called("1", "incomplete"), said("user", "r")]

    messages = [message_of(turn) for turn in turns_of(items)]

    assert messages[1] == Message("assistant", "")  # users and assistants still take turns
    with pytest.raises(InvalidRequest, match="no earlier call"):
        require_calls([*items, returned("1")], 1)


def test_an_output_needs_a_call_before_it() -> None:
    require_calls([called("1"), returned("1"), called("2"), returned("2")], 2)

    with pytest.raises(InvalidRequest) as caught:
        require_calls([called("1"), said("user", "x"), returned("2"), called("2")], 3)
    assert caught.value.param == "input.1.call_id"
    with pytest.raises(InvalidRequest, match="item fco: no earlier call") as caught:
        require_calls([returned("2"), said("user", "x")], 1)  # its call was deleted
    assert caught.value.param == "input"


def test_each_item_ends_before_the_next_begins() -> None:
    chunks = (
        TextChunk("", reasoning="h"),
        TextChunk("a", reasoning="m"),
        call_chunk('{"a"'),
        TextChunk("", tool_calls=(ToolCallDelta(0, arguments=":1}"),)),
        call_chunk("{}", 1),
    )

    items, events = made(*chunks)

    assert kinds(items) == [
        ("reasoning", "completed"),
        ("message", "completed"),
        ("function_call", "completed"),
        ("function_call", "completed"),
    ]
    assert items[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert [item["arguments"] for item in items[2:]] == ['{"a":1}', "{}"]
    names = [event["type"].removeprefix("response.") for event in events]
    call = ["output_item.added", "function_call_arguments.done", "output_item.done"]
    content = ["output_item.added", "content_part.added", "content_part.done", "output_item.done"]
    assert [name for name in names if not name.endswith("delta")] == [
        *content[:2],
        "reasoning_text.done",
        *content[2:],
        *content[:2],
        "output_text.done",
        *content[2:],
        *call,
        *call,
    ]
    assert [event["output_index"] for event in events] == sorted(e["output_index"] for e in events)
    assert len({item["id"] for item in items}) == 4


def test_what_is_cut_off_is_incomplete() -> None:
    thoughts, _ = made(TextChunk("", reasoning="h"), status="incomplete")
    message, _ = made(TextChunk("a", reasoning="h"), status="incomplete")
    half, _ = made(call_chunk('{"a"'), status="incomplete")
    whole, _ = made(call_chunk("{}"), status="incomplete")

    assert kinds(thoughts) == [("reasoning", "incomplete")]
    assert kinds(message) == [("reasoning", "completed"), ("message", "incomplete")]
    assert kinds(half) == [("function_call", "incomplete")]
    assert kinds(whole) == [("function_call", "completed")]  # whatever came after it


def test_an_answer_without_anything_is_an_empty_message() -> None:
    (message,), events = made(TextChunk("", "stop", Usage(1, 1)))

    assert message["content"][0]["text"] == ""
    assert events[-1]["item"] == message


def test_log_probabilities_are_those_of_the_text_alone() -> None:
    marks = (scored("<think>"), scored("hm"), scored("</think>"))
    first = TextChunk("a", reasoning="hm", scored_tokens=(*marks, scored("a"), scored("<")))
    second = TextChunk("<b", scored_tokens=(scored("b"), scored("<call>")))

    items, events = made(first, second, call_chunk("{}"))

    part = items[1]["content"][0]
    assert part["text"] == "a<b"
    assert [token["token"] for token in part["logprobs"]] == ["a", "<", "b"]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [token for delta in deltas for token in delta["logprobs"]] == part["logprobs"]


def test_a_text_that_its_tokens_do_not_spell_has_them_all() -> None:
    tokens = (scored("x"), scored("y"))

    assert split_scored("z", tokens) == (tokens, ())
    assert split_scored("y", tokens) == (tokens[1:], ())
