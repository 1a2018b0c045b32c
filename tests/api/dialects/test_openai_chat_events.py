"""The events that one chunk of an answer becomes, whatever comes in it at once."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from palma.api.dialects.openai_chat.answers import AnswerStyle
from palma.api.dialects.openai_chat.events import ChoiceEvents, chat_events
from palma.api.openai_shapes import usage_answer
from palma.core.types import (
    GenerationRequest,
    ScoredToken,
    TextChunk,
    TokenText,
    ToolCallDelta,
    Usage,
)
from palma.serving.generation import Generation
from palma.serving.group import GenerationGroup

CALLS = (
    ToolCallDelta(0, "a", "f", '{"x":'),
    ToolCallDelta(0, arguments="1}"),
    ToolCallDelta(1, "b", "g"),
)
SCORED = (ScoredToken(TokenText(7, "x", b"x", -1.5)),)
CALLING = AnswerStyle(may_call=True)


def deltas_of(style: AnswerStyle, *chunks: TextChunk) -> list[Any]:
    """Return all deltas of an answer, the opening too."""
    events = ChoiceEvents(0, style)
    opening = events.opening()
    return [opening["delta"], *(news["delta"] for c in chunks for news in events.push(c))]


def test_thoughts_text_and_calls_of_one_chunk_are_events_in_this_order() -> None:
    chunk = TextChunk("So.", "tool_calls", Usage(1, 1), reasoning="Hm.", tool_calls=CALLS)

    deltas = deltas_of(CALLING, chunk)

    def part(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        function = {**({"name": more.pop("name")} if more else {}), "arguments": arguments}
        return {"tool_calls": [{"index": index, **more, "function": function}]}

    assert deltas == [
        {"role": "assistant", "content": None, "refusal": None},
        {"reasoning_content": "Hm."},
        {"content": "So."},
        part(0, "", name="f", id="a", type="function"),
        part(0, '{"x":'),
        part(0, "1}"),
        part(1, "", name="g", id="b", type="function"),
        {},
    ]


def test_an_answer_with_neither_text_nor_calls_is_empty_text_at_its_end() -> None:
    end = TextChunk("", "stop", Usage(1, 1))

    assert deltas_of(CALLING, end)[1:] == [{"content": ""}]
    assert deltas_of(CALLING, TextChunk("a"), end)[1:] == [{"content": "a"}, {}]
    assert [delta.get("content") for delta in deltas_of(AnswerStyle(), end)] == ["", None]


def test_scored_tokens_come_once_with_whatever_comes_first() -> None:
    events = ChoiceEvents(0, AnswerStyle(has_logprobs=True, may_call=True))

    for chunk in (
        TextChunk("x", scored_tokens=SCORED, tool_calls=CALLS),
        TextChunk("", scored_tokens=SCORED, tool_calls=CALLS),
        TextChunk("", scored_tokens=SCORED),
    ):
        news = events.push(chunk)
        assert news[0]["logprobs"] is not None
        assert [token["token"] for token in news[0]["logprobs"]["content"]] == ["x"]
        assert not any((one["logprobs"] or {"content": []})["content"] for one in news[1:])


def test_usage_tells_how_many_tokens_were_thoughts() -> None:
    usage = usage_answer(Usage(5, 7, 2, num_reasoning_tokens=3))

    assert usage["completion_tokens"] == 7
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}


async def _events_of_two(first: Usage, second: Usage) -> list[bytes]:
    """Return the events of two answers, of which the second ends before the first."""
    card, engine = SimpleNamespace(model_id="m"), SimpleNamespace(cancel=lambda _: None)
    served: Any = SimpleNamespace(card=card, engine=engine)
    one, other = (Generation(GenerationRequest("r"), served, name) for name in "ab")
    stream = chat_events(GenerationGroup([one, other]), AnswerStyle(), include_usage=True)
    other.push(TextChunk("x", "stop", second))
    events = []
    async for event in stream:
        events.append(event)
        if b'"finish_reason":"stop"' in event:
            one.push(TextChunk("x", "stop", first))
    return events


def test_the_cached_tokens_of_a_prompt_are_those_of_the_first_answer() -> None:
    first, second = Usage(5, 2, num_cached_tokens=0), Usage(5, 1, num_cached_tokens=4)

    *_, last, _ = asyncio.run(_events_of_two(first, second))

    usage = json.loads(last.removeprefix(b"data: "))["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["completion_tokens"] == 3
