"""The events of a streamed chat completion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from palma.api.dialects.openai_chat.answers import (
    AnswerStyle,
    FinishReason,
    LogprobsAnswer,
    completion_id,
    logprobs_answer,
    reason_answer,
)
from palma.api.dialects.openai_chat.parts import CodeMeta, TextMeta, artifact_meta
from palma.api.openai_shapes import DONE, UsageAnswer, error_answer, usage_answer
from palma.api.wire import event
from palma.core.errors import PalmaError
from palma.core.types import TextChunk, ToolCallDelta, Usage
from palma.serving.agents import added_usage
from palma.serving.artifacts import PartsReader, parts_reader
from palma.serving.generation import Completion
from palma.serving.group import GenerationGroup, total_usage


class FunctionDelta(TypedDict):
    """The name in a call's first event, then what has been added to its arguments."""

    name: NotRequired[str]
    arguments: str


class CallDelta(TypedDict):
    """News of one of the answer's calls; id and type are in its first event."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class DeltaAnswer(TypedDict):
    """What has been added to the assistant's turn."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    refusal: NotRequired[None]
    reasoning_content: NotRequired[str]
    artifact_meta: NotRequired[TextMeta | CodeMeta]
    tool_calls: NotRequired[list[CallDelta]]
    function_call: NotRequired[FunctionDelta]


class ChunkChoiceAnswer(TypedDict):
    """News of one of `n` answers."""

    index: int
    delta: DeltaAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    """One event of a stream; the one with the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoiceAnswer]
    usage: NotRequired[UsageAnswer | None]


async def chat_events(
    group: GenerationGroup,
    style: AnswerStyle,
    *,
    include_usage: bool,
    agents: Sequence[Completion] = (),
) -> AsyncIterator[bytes]:
    """Yield an answer as events: the role, the text, the end, the usage if asked, `[DONE]`.

    A failure is one event with the error and no `[DONE]`: official clients take a stream that
    merely ends for a success.
    """
    head = _head(group, include_usage=include_usage)
    choices = [ChoiceEvents(index, style) for index in range(len(group.generations))]
    for choice in choices:
        yield event(_chunk(head, choice.opening()))
    usages: dict[int, Usage] = {}
    try:
        async for batch in group.batches():
            news = [each for index, chunk in batch for each in choices[index].push(chunk)]
            yield b"".join(event(_chunk(head, each)) for each in news)
            usages |= {index: chunk.usage for index, chunk in batch if chunk.usage is not None}
        if include_usage:
            in_order = [usages[index] for index in sorted(usages)]
            usage = usage_answer(added_usage(total_usage(in_order, num_prompts=1), agents))
            yield event({**head, "usage": usage})
        yield DONE
    except PalmaError as error:
        yield event(error_answer(error))


class ChoiceEvents:
    """The events of one of `n` answers; added up they are its whole message."""

    def __init__(self, index: int, style: AnswerStyle) -> None:
        self._index = index
        self._style = style
        self._has_content = not style.may_call
        self._parts = parts_reader(style.artifact) if style.artifact is not None else None

    def opening(self) -> ChunkChoiceAnswer:
        """Return what comes first: the role, and null where there may never be any text."""
        content = "" if self._has_content else None
        return self._news({"role": "assistant", "content": content, "refusal": None})

    def push(self, chunk: TextChunk) -> list[ChunkChoiceAnswer]:
        """Return the news of a chunk, the end among them when it is the last."""
        deltas = _reasoning_deltas(chunk)
        deltas += _text_deltas(chunk) if self._parts is None else _part_deltas(chunk, self._parts)
        for call in chunk.tool_calls:
            deltas += _function_deltas(call) if self._style.in_functions else _call_deltas(call)
        self._has_content = self._has_content or bool(chunk.text or chunk.tool_calls)
        if chunk.scored_tokens and not deltas:
            deltas.append({})
        news = [self._news(delta) for delta in deltas]
        if news and self._style.has_logprobs:
            news[0]["logprobs"] = logprobs_answer(chunk.scored_tokens)
        if chunk.finish_reason is not None:
            end = self._news({} if self._has_content else {"content": ""})
            end["finish_reason"] = reason_answer(chunk.finish_reason, self._style)
            news.append(end)
        return news

    def _news(self, delta: DeltaAnswer) -> ChunkChoiceAnswer:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}


def _reasoning_deltas(chunk: TextChunk) -> list[DeltaAnswer]:
    return [{"reasoning_content": chunk.reasoning}] if chunk.reasoning else []


def _text_deltas(chunk: TextChunk) -> list[DeltaAnswer]:
    return [{"content": chunk.text}] if chunk.text else []


def _part_deltas(chunk: TextChunk, reader: PartsReader) -> list[DeltaAnswer]:
    """Return what has been added to which parts; a piece of code begins with an empty delta."""
    parts = reader.push(chunk.text)
    if chunk.finish_reason is not None:
        parts += reader.flush()
    return [{"content": part.text, "artifact_meta": artifact_meta(part)} for part in parts]


def _call_deltas(call: ToolCallDelta) -> list[DeltaAnswer]:
    """Return the beginning of a call, if this is it, and what has been added to its arguments."""
    parts: list[CallDelta] = []
    if call.call_id is not None:
        function: FunctionDelta = {"name": call.name or "", "arguments": ""}
        parts.append(
            {"index": call.index, "id": call.call_id, "type": "function", "function": function}
        )
    if call.arguments:
        parts.append({"index": call.index, "function": {"arguments": call.arguments}})
    return [{"tool_calls": [part]} for part in parts]


def _function_deltas(call: ToolCallDelta) -> list[DeltaAnswer]:
    """Return the same in the deprecated words."""
    parts: list[FunctionDelta] = []
    if call.name is not None:
        parts.append({"name": call.name, "arguments": ""})
    if call.arguments:
        parts.append({"arguments": call.arguments})
    return [{"function_call": part} for part in parts]


def _head(group: GenerationGroup, *, include_usage: bool) -> ChatChunk:
    head: ChatChunk = {
        "id": completion_id(group),
        "object": "chat.completion.chunk",
        "created": group.created,
        "model": group.served.card.model_id,
        "choices": [],
    }
    if include_usage:
        head["usage"] = None
    return head


def _chunk(head: ChatChunk, choice: ChunkChoiceAnswer) -> ChatChunk:
    return {**head, "choices": [choice]}
