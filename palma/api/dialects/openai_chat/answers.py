"""The JSON of a whole chat completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from palma.api.dialects.openai_chat.parts import CodeMeta, TextMeta, artifact_meta
from palma.api.openai_shapes import TokenLogprob, UsageAnswer, token_logprob, usage_answer
from palma.core.types import AnswerEnd, ScoredToken, ToolCall
from palma.serving.agents import added_usage
from palma.serving.artifacts import ArtifactMode, Part, whole_parts
from palma.serving.generation import Completion
from palma.serving.group import GenerationGroup, total_usage

FinishReason = AnswerEnd | Literal["function_call"]


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """What a client wants to see, and in which words.

    Attributes:
        has_logprobs: Whether it asked for the tokens' log-probabilities: of all of them, those of
            calls too.
        may_call: Whether calls may come in place of text, which is then null.
        in_functions: Whether it knows calls by their deprecated name.
        artifact: How the answer is taken into parts; None for one piece.
    """

    has_logprobs: bool = False
    may_call: bool = False
    in_functions: bool = False
    artifact: ArtifactMode | None = None


class LogprobsAnswer(TypedDict):
    """The tokens of an answer, and how likely they were."""

    content: list[TokenLogprob]
    refusal: None


class FunctionAnswer(TypedDict):
    """Which function is to be called, and with what: the text of a JSON object."""

    name: str
    arguments: str


class CallAnswer(TypedDict):
    """A call that the model makes; its result refers to the id."""

    id: str
    type: Literal["function"]
    function: FunctionAnswer


class MessageAnswer(TypedDict):
    """The assistant's turn; without calls the content is never null."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    artifact_meta: NotRequired[TextMeta | CodeMeta]
    tool_calls: NotRequired[list[CallAnswer]]
    function_call: NotRequired[FunctionAnswer]


class ChoiceAnswer(TypedDict):
    """One of `n` answers."""

    index: int
    message: MessageAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: FinishReason


class ChatAnswer(TypedDict):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceAnswer]
    usage: UsageAnswer


def chat_answer(
    group: GenerationGroup,
    completions: list[Completion],
    style: AnswerStyle,
    agents: Sequence[Completion] = (),
) -> ChatAnswer:
    """Return the body of a whole answer; the usage is that of the agents before it too."""
    usage = total_usage([completion.usage for completion in completions], num_prompts=1)
    choices = [_choice(index, each, style) for index, each in enumerate(completions)]
    if style.artifact is not None:
        choices = _part_choices(completions[0], style.artifact, style)
    return {
        "id": completion_id(group),
        "object": "chat.completion",
        "created": group.created,
        "model": group.served.card.model_id,
        "choices": choices,
        "usage": usage_answer(added_usage(usage, agents)),
    }


def completion_id(group: GenerationGroup) -> str:
    """Return the id of an answer."""
    return f"chatcmpl-{group.public_id}"


def logprobs_answer(scored_tokens: tuple[ScoredToken, ...]) -> LogprobsAnswer:
    """Return how likely some tokens were."""
    return {"content": [token_logprob(scored) for scored in scored_tokens], "refusal": None}


def reason_answer(reason: AnswerEnd, style: AnswerStyle) -> FinishReason:
    """Return why an answer ended."""
    return "function_call" if reason == "tool_calls" and style.in_functions else reason


def _choice(index: int, completion: Completion, style: AnswerStyle) -> ChoiceAnswer:
    return {
        "index": index,
        "message": _message(completion, style),
        "logprobs": logprobs_answer(completion.scored_tokens) if style.has_logprobs else None,
        "finish_reason": reason_answer(completion.finish_reason, style),
    }


def _part_choices(
    completion: Completion, mode: ArtifactMode, style: AnswerStyle
) -> list[ChoiceAnswer]:
    """Return a choice for each part: the first one has the reasoning, the last one the end."""
    parts = whole_parts(mode, completion.text)
    choices = [_part_choice(part) for part in parts]
    if completion.reasoning:
        choices[0]["message"]["reasoning_content"] = completion.reasoning
    choices[-1]["finish_reason"] = reason_answer(completion.finish_reason, style)
    return choices


def _part_choice(part: Part) -> ChoiceAnswer:
    message: MessageAnswer = {
        "role": "assistant",
        "content": part.text,
        "refusal": None,
        "artifact_meta": artifact_meta(part),
    }
    return {"index": part.number, "message": message, "logprobs": None, "finish_reason": "stop"}


def _message(completion: Completion, style: AnswerStyle) -> MessageAnswer:
    calls = completion.tool_calls
    content = None if calls and not completion.text else completion.text
    message: MessageAnswer = {"role": "assistant", "content": content, "refusal": None}
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if calls and style.in_functions:
        message["function_call"] = _function(calls[0])
    elif calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": _function(call)} for call in calls
        ]
    return message


def _function(call: ToolCall) -> FunctionAnswer:
    return {"name": call.name, "arguments": call.arguments}
