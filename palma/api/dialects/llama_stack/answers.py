"""Llama Stack's answers, whole and in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Literal

from palma.api.dialects.llama_stack.shapes import (
    CallAnswer,
    ChatChunk,
    ChatCompletionAnswer,
    ChatEvent,
    CompletionAnswer,
    CompletionChunk,
    CompletionMessage,
    Delta,
    Metric,
    StopReason,
    TextDelta,
    TokenLogprobs,
)
from palma.api.tool_calls import CallCollector, arguments_object
from palma.core.types import ScoredToken, TextChunk, ToolCall, Usage
from palma.serving.generation import Completion, Generation

END_OF_MESSAGE = "<|eom_id|>"

NO_TEXT: TextDelta = {"type": "text", "text": ""}


def chat_answer(completion: Completion, has_logprobs: bool) -> ChatCompletionAnswer:
    """Return the body of a whole answer to a conversation."""
    return {
        "completion_message": _message(completion),
        "logprobs": _logprobs(completion.scored_tokens) if has_logprobs else None,
        "metrics": metrics(completion.usage),
    }


def completion_answer(completion: Completion, has_logprobs: bool) -> CompletionAnswer:
    """Return the body of a whole continuation."""
    return {
        "content": completion.text,
        "stop_reason": stop_reason(completion),
        **chat_answer(completion, has_logprobs),
    }


async def chat_chunks(generation: Generation, has_logprobs: bool) -> AsyncIterator[ChatChunk]:
    """Yield a chat's stream: the start, the text and the calls as they come, the end."""
    calls = CallNews()
    yield _chat_chunk("start", NO_TEXT)
    async for chunk in generation:
        logprobs = _logprobs(chunk.scored_tokens) if has_logprobs else None
        if chunk.text or chunk.scored_tokens:
            yield _chat_chunk("progress", {"type": "text", "text": chunk.text}, logprobs)
        for delta in calls.push(chunk):
            yield _chat_chunk("progress", delta)
        if chunk.finish_reason is not None:
            yield _chat_chunk("complete", NO_TEXT, ended=chunk)


class CallNews:
    """Says the calls of an answer in Llama Stack's pieces; the last one of each has all of it."""

    def __init__(self) -> None:
        self._collector = CallCollector()

    def push(self, chunk: TextChunk) -> Iterator[Delta]:
        """Yield the news in a chunk."""
        for piece in chunk.tool_calls:
            yield from map(_call_end, self._collector.push([piece]))
            if piece.call_id is not None:
                yield {"type": "tool_call", "tool_call": "", "parse_status": "started"}
            if piece.arguments:
                added = piece.arguments
                yield {"type": "tool_call", "tool_call": added, "parse_status": "in_progress"}
        if chunk.finish_reason is not None:
            yield from map(_call_end, self._collector.flush())


async def completion_chunks(
    generation: Generation, has_logprobs: bool
) -> AsyncIterator[CompletionChunk]:
    """Yield a continuation's stream: the text as it comes; the last piece says why it ends."""
    async for chunk in generation:
        yield {
            "delta": chunk.text,
            "stop_reason": stop_reason(chunk) if chunk.finish_reason else None,
            "logprobs": _logprobs(chunk.scored_tokens) if has_logprobs else None,
            "metrics": metrics(chunk.usage) if chunk.usage else None,
        }


def stop_reason(ended: Completion | TextChunk) -> StopReason:
    """Return why an answer ended, in Llama Stack's words.

    Its models end a turn by one token, and by another a message after which the same turn goes on:
    one with calls does, once their results are there.
    """
    if ended.finish_reason == "length":
        return "out_of_tokens"
    is_message = ended.finish_reason == "tool_calls" or ended.stop_token == END_OF_MESSAGE
    return "end_of_message" if is_message else "end_of_turn"


def metrics(usage: Usage) -> list[Metric]:
    """Return measured token counts."""
    num_total = usage.num_prompt_tokens + usage.num_completion_tokens
    return [
        {"metric": "prompt_tokens", "value": usage.num_prompt_tokens, "unit": "tokens"},
        {"metric": "completion_tokens", "value": usage.num_completion_tokens, "unit": "tokens"},
        {"metric": "total_tokens", "value": num_total, "unit": "tokens"},
    ]


def _message(completion: Completion) -> CompletionMessage:
    return {
        "role": "assistant",
        "content": completion.text,
        "stop_reason": stop_reason(completion),
        "tool_calls": [_call_answer(call) for call in completion.tool_calls],
    }


def _call_answer(call: ToolCall) -> CallAnswer:
    arguments = arguments_object(call)
    return {
        "call_id": call.call_id,
        "tool_name": call.name,
        "arguments": call.arguments if arguments is None else arguments,
        "arguments_json": call.arguments,
    }


def _call_end(call: ToolCall) -> Delta:
    is_whole = arguments_object(call) is not None
    return {
        "type": "tool_call",
        "tool_call": _call_answer(call),
        "parse_status": "succeeded" if is_whole else "failed",
    }


def _chat_chunk(
    kind: Literal["start", "progress", "complete"],
    delta: Delta,
    logprobs: list[TokenLogprobs] | None = None,
    ended: TextChunk | None = None,
) -> ChatChunk:
    news: ChatEvent = {
        "event_type": kind,
        "delta": delta,
        "logprobs": logprobs,
        "stop_reason": None if ended is None else stop_reason(ended),
    }
    usage = None if ended is None else ended.usage
    return {"event": news, "metrics": None if usage is None else metrics(usage)}


def _logprobs(scored_tokens: Sequence[ScoredToken]) -> list[TokenLogprobs]:
    return [{"logprobs_by_token": _by_token(scored)} for scored in scored_tokens]


def _by_token(scored: ScoredToken) -> dict[str, float]:
    """Map texts to log-probabilities, the chosen token first.

    Of tokens that look alike (halves of characters do) the first one stands.
    """
    logprobs: dict[str, float] = {}
    for token in (scored.token, *scored.top):
        if token.logprob is not None:
            logprobs.setdefault(token.text, token.logprob)
    return logprobs
