"""The shapes of Llama Stack's answers: messages, pieces of streams, measurements, errors."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from palma.core.errors import PalmaError

StopReason = Literal["end_of_turn", "end_of_message", "out_of_tokens"]


class TokenLogprobs(TypedDict):
    """The natural log-probabilities of the tokens in one place of the answer."""

    logprobs_by_token: dict[str, float]


class Metric(TypedDict):
    """Something measured about an answer."""

    metric: Literal["prompt_tokens", "completion_tokens", "total_tokens"]
    value: int
    unit: Literal["tokens"]


class CallAnswer(TypedDict):
    """A call of a tool; arguments that the bound on tokens cut off are their text in both."""

    call_id: str
    tool_name: str
    arguments: dict[str, Any] | str
    arguments_json: str


class CompletionMessage(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    stop_reason: StopReason
    tool_calls: list[CallAnswer]


class ChatCompletionAnswer(TypedDict):
    """A whole answer to a conversation."""

    completion_message: CompletionMessage
    logprobs: list[TokenLogprobs] | None
    metrics: list[Metric]


class CompletionAnswer(TypedDict):
    """A whole continuation; the message says the same once more, for the API's first clients."""

    content: str
    stop_reason: StopReason
    logprobs: list[TokenLogprobs] | None
    completion_message: CompletionMessage
    metrics: list[Metric]


class TextDelta(TypedDict):
    """Text that has been added."""

    type: Literal["text"]
    text: str


class ToolCallDelta(TypedDict):
    """News of a call: that it begins, text that has been added to its arguments, all of it."""

    type: Literal["tool_call"]
    tool_call: str | CallAnswer
    parse_status: Literal["started", "in_progress", "failed", "succeeded"]


Delta = TextDelta | ToolCallDelta


class ChatEvent(TypedDict):
    """News of an answer; the last one has the reason of its end."""

    event_type: Literal["start", "progress", "complete"]
    delta: Delta
    logprobs: list[TokenLogprobs] | None
    stop_reason: StopReason | None


class ChatChunk(TypedDict):
    """One object of a chat's stream; the metrics come with the last one."""

    event: ChatEvent
    metrics: list[Metric] | None


class CompletionChunk(TypedDict):
    """One object of a completion's stream; reason and metrics come with the last one."""

    delta: str
    stop_reason: StopReason | None
    logprobs: list[TokenLogprobs] | None
    metrics: list[Metric] | None


class ErrorDetail(TypedDict):
    """What went wrong; Llama Stack says `detail` in answers and `message` in streams."""

    detail: str
    message: str
    code: str
    param: str | None


class ErrorAnswer(TypedDict):
    """The envelope of every error."""

    error: ErrorDetail


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    return {
        "error": {
            "detail": error.message,
            "message": error.message,
            "code": error.code,
            "param": error.param,
        }
    }
