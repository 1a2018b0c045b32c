"""The shapes of Ollama's answers, whole and as lines, and how they are filled."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from palma.api.ollama_shapes import ErrorAnswer, error_answer, timestamp
from palma.api.openai_shapes import TokenLogprob, token_logprob
from palma.api.tool_calls import CallCollector, arguments_object
from palma.api.wire import line
from palma.core.errors import PalmaError
from palma.core.types import AnswerEnd, ScoredToken, ToolCall, Usage
from palma.serving.generation import Generation
from palma.serving.instance import ServedModel

DoneReason = Literal["stop", "length", "load"]


class AnswerPart(TypedDict):
    """What each line has, and the last one beside it; durations are in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: NotRequired[DoneReason]
    logprobs: NotRequired[list[TokenLogprob]]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]


class CalledFunction(TypedDict):
    """A tool, and what to call it with."""

    index: int
    name: str
    arguments: dict[str, Any]


class CallAnswer(TypedDict):
    """A call, always whole: one that the bound on tokens cut off is left out."""

    id: str
    function: CalledFunction


class MessageAnswer(TypedDict):
    """The assistant's turn, or a piece of it."""

    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[CallAnswer]]


class ChatAnswer(AnswerPart):
    """A whole chat answer, or a line of one."""

    message: MessageAnswer


class GenerateAnswer(AnswerPart):
    """A whole completion, or a line of one."""

    response: str
    thinking: NotRequired[str]


ChatLine = ChatAnswer | ErrorAnswer
GenerateLine = GenerateAnswer | ErrorAnswer


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer, or a piece of it, says."""

    text: str = ""
    thinking: str = ""
    calls: tuple[CallAnswer, ...] = ()


Say = Callable[[Said], dict[str, Any]]
"""Puts it where the route has it."""


def say_message(said: Said) -> dict[str, Any]:
    """Say it as a chat's message."""
    message: MessageAnswer = {"role": "assistant", "content": said.text}
    if said.thinking:
        message["thinking"] = said.thinking
    if said.calls:
        message["tool_calls"] = list(said.calls)
    return {"message": message}


def say_response(said: Said) -> dict[str, Any]:
    """Say it as a completion's text."""
    thinking = {"thinking": said.thinking} if said.thinking else {}
    return {"response": said.text, **thinking}


def call_answers(calls: Iterable[ToolCall], num_before: int = 0) -> list[CallAnswer]:
    """Return the calls that are whole, numbered after those that were there before."""
    answers: list[CallAnswer] = []
    for call in calls:
        arguments = arguments_object(call)
        if arguments is not None:
            index = num_before + len(answers)
            function: CalledFunction = {"index": index, "name": call.name, "arguments": arguments}
            answers.append({"id": call.call_id, "function": function})
    return answers


async def whole_answer(generation: Generation, say: Say) -> dict[str, Any]:
    """Wait for the end and return the body of a whole answer."""
    completion = await generation.completion()
    calls = tuple(call_answers(completion.tool_calls))
    return {
        **head(generation.served),
        **say(Said(completion.text, completion.reasoning, calls)),
        **_logprobs(generation, completion.scored_tokens),
        **_end(generation, completion.finish_reason, completion.usage),
    }


async def answer_lines(generation: Generation, say: Say) -> AsyncIterator[bytes]:
    """Yield an answer as lines; the last one is `done`, or says the error that ended it."""
    collector = CallCollector()
    num_calls = 0
    try:
        async for chunk in generation:
            ended = collector.push(chunk.tool_calls)
            if chunk.finish_reason is not None:
                ended += collector.flush()
            calls = call_answers(ended, num_calls)
            num_calls += len(calls)
            said = Said(chunk.text, chunk.reasoning, tuple(calls))
            if said != Said() or chunk.scored_tokens:
                logprobs = _logprobs(generation, chunk.scored_tokens)
                yield line({**head(generation.served), **say(said), **logprobs, "done": False})
            if chunk.finish_reason is not None and chunk.usage is not None:
                end = _end(generation, chunk.finish_reason, chunk.usage)
                yield line({**head(generation.served), **say(Said()), **end})
    except PalmaError as error:
        yield line(error_answer(error))


def head(served: ServedModel) -> dict[str, Any]:
    """Return what every answer and every line begins with."""
    return {"model": served.card.model_id, "created_at": timestamp(time.time())}


def _logprobs(
    generation: Generation, scored_tokens: tuple[ScoredToken, ...]
) -> dict[str, list[TokenLogprob]]:
    if generation.request.sampling_params.num_logprobs is None:
        return {}
    return {"logprobs": [token_logprob(scored) for scored in scored_tokens]}


def _end(generation: Generation, finish_reason: AnswerEnd, usage: Usage) -> dict[str, Any]:
    """Return what ends an answer; the model was loaded before the request came."""
    arrived_at = generation.arrived_at
    ended_at = generation.ended_at or time.monotonic()
    first_token_at = generation.first_token_at or ended_at
    done_reason: DoneReason = "length" if finish_reason == "length" else "stop"
    return {
        "done": True,
        "done_reason": done_reason,
        "total_duration": _nanoseconds(ended_at - arrived_at),
        "load_duration": 0,
        "prompt_eval_count": usage.num_prompt_tokens,
        "prompt_eval_duration": _nanoseconds(
            first_token_at - (generation.started_at or arrived_at)
        ),
        "eval_count": usage.num_completion_tokens,
        "eval_duration": _nanoseconds(ended_at - first_token_at),
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
