"""Anthropic's messages as they are answered: blocks that begin, grow and end, or all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, cast

from pydantic_core import from_json

from palma.api.dialects.anthropic.shapes import (
    BlockEvent,
    ContentBlock,
    Delta,
    MessageAnswer,
    StopDelta,
    StopReason,
    StreamEvent,
    UsageAnswer,
    error_answer,
)
from palma.api.wire import event
from palma.core.errors import PalmaError
from palma.core.types import AnswerEnd, TextChunk, ToolCallDelta, Usage
from palma.serving.generation import Generation

BROKEN_INPUT = "INVALID_JSON"
"""Anthropic's name for the one field of an input that stands for text that is no JSON object."""


class BlockEvents:
    """Says an answer's chunks as blocks: one is open at a time.

    Args:
        shows_thinking: Whether the thoughts stand in their blocks.
    """

    def __init__(self, *, shows_thinking: bool) -> None:
        self._shows_thinking = shows_thinking
        self._open: ContentBlock | None = None
        self._index = -1

    def push(self, chunk: TextChunk) -> Iterator[BlockEvent]:
        """Yield what a chunk adds; the last one ends the last block."""
        if chunk.reasoning:
            yield from self._think(chunk.reasoning)
        if chunk.text:
            yield from self._write(chunk.text)
        for call in chunk.tool_calls:
            yield from self._call(call)
        if chunk.finish_reason is not None:
            if self._index < 0:  # an answer of nothing is an empty text
                yield from self._start(_text_block())
            yield from self._stop()

    def _think(self, text: str) -> Iterator[BlockEvent]:
        if self._open is None or self._open["type"] != "thinking":
            yield from self._start({"type": "thinking", "thinking": "", "signature": ""})
        if self._shows_thinking:
            yield self._delta({"type": "thinking_delta", "thinking": text})

    def _write(self, text: str) -> Iterator[BlockEvent]:
        if self._open is None or self._open["type"] != "text":
            yield from self._start(_text_block())
        yield self._delta({"type": "text_delta", "text": text})

    def _call(self, call: ToolCallDelta) -> Iterator[BlockEvent]:
        if call.call_id is not None and call.name is not None:
            yield from self._start(
                {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
            )
        if call.arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _start(self, block: ContentBlock) -> Iterator[BlockEvent]:
        yield from self._stop()
        self._index += 1
        self._open = block
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: Delta) -> BlockEvent:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop(self) -> Iterator[BlockEvent]:
        if self._open is None:
            return
        if self._open["type"] == "thinking":
            yield self._delta({"type": "signature_delta", "signature": ""})
        yield {"type": "content_block_stop", "index": self._index}
        self._open = None


def whole_blocks(events: Iterable[BlockEvent]) -> list[ContentBlock]:
    """Return the blocks that some events build."""
    blocks: list[ContentBlock] = []
    texts: list[list[str]] = []
    for each in events:
        if each["type"] == "content_block_start":
            blocks.append(each["content_block"])
            texts.append([])
        elif each["type"] == "content_block_delta":
            texts[-1].append(_added(each["delta"]))
    return [_filled(block, "".join(pieces)) for block, pieces in zip(blocks, texts, strict=True)]


async def message_answer(generation: Generation, *, shows_thinking: bool) -> MessageAnswer:
    """Wait for the end and return the body of a whole answer."""
    maker = BlockEvents(shows_thinking=shows_thinking)
    events: list[BlockEvent] = []
    async for chunk in generation:
        events += maker.push(chunk)
    assert chunk.finish_reason is not None
    assert chunk.usage is not None
    stop = _stop_delta(generation, chunk.finish_reason, chunk.stop_string)
    return {
        **_frame(generation),
        "content": whole_blocks(events),
        "stop_reason": stop["stop_reason"],
        "stop_sequence": stop["stop_sequence"],
        "usage": _usage_answer(chunk.usage),
    }


async def message_events(generation: Generation, *, shows_thinking: bool) -> AsyncIterator[bytes]:
    """Yield an answer as typed events; a failure is one `error` event and no `message_stop`."""
    maker = BlockEvents(shows_thinking=shows_thinking)
    yield _event({"type": "message_start", "message": _frame(generation)})
    yield _event({"type": "ping"})
    try:
        async for chunk in generation:
            for each in maker.push(chunk):
                yield _event(each)
            if chunk.finish_reason is not None and chunk.usage is not None:
                stop = _stop_delta(generation, chunk.finish_reason, chunk.stop_string)
                usage = _usage_answer(chunk.usage)
                yield _event({"type": "message_delta", "delta": stop, "usage": usage})
                yield _event({"type": "message_stop"})
    except PalmaError as error:
        yield _event({**error_answer(error), "request_id": generation.request.request_id})


def _text_block() -> ContentBlock:
    return {"type": "text", "text": "", "citations": None}


def _added(delta: Delta) -> str:
    if delta["type"] == "thinking_delta":
        return delta["thinking"]
    if delta["type"] == "text_delta":
        return delta["text"]
    return delta["partial_json"] if delta["type"] == "input_json_delta" else ""


def _filled(block: ContentBlock, text: str) -> ContentBlock:
    if block["type"] == "thinking":
        return {**block, "thinking": text}
    if block["type"] == "text":
        return {**block, "text": text}
    return {**block, "input": _input(text)}


def _input(arguments: str) -> dict[str, Any]:
    """Read a call's arguments; where they were cut off, what is complete, as the client does."""
    try:
        parsed = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        parsed = None
    return cast("dict[str, Any]", parsed if isinstance(parsed, dict) else {BROKEN_INPUT: arguments})


def _frame(generation: Generation) -> MessageAnswer:
    return {
        "id": f"msg_{generation.public_id}",
        "type": "message",
        "role": "assistant",
        "model": generation.served.card.model_id,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": generation.num_prompt_tokens,
            "cache_read_input_tokens": None,
            "output_tokens": 0,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }


def _stop_delta(
    generation: Generation, finish_reason: AnswerEnd, stop_string: str | None
) -> StopDelta:
    reason = _stop_reason(generation, finish_reason, stop_string)
    return {"stop_reason": reason, "stop_sequence": stop_string}


def _stop_reason(
    generation: Generation, finish_reason: AnswerEnd, stop_string: str | None
) -> StopReason:
    if stop_string is not None:
        return "stop_sequence"
    if finish_reason == "tool_calls":
        return "tool_use"
    if finish_reason == "stop":
        return "end_turn"
    asked, usage = generation.request.sampling_params.max_tokens, generation.usage
    is_cut = asked is not None and usage is not None and usage.num_completion_tokens < asked
    return "model_context_window_exceeded" if is_cut else "max_tokens"


def _usage_answer(usage: Usage) -> UsageAnswer:
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.num_reasoning_tokens},
    }


def _event(data: StreamEvent) -> bytes:
    return event(data, data["type"])
