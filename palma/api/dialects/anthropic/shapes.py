"""The shapes of Anthropic's messages, their events, and errors."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from palma.api.errors import status_code
from palma.core.errors import PalmaError

StopReason = Literal[
    "end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"
]

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ThinkingBlock(TypedDict):
    """What the model thought; nobody signs it, so the signature is empty."""

    type: Literal["thinking"]
    thinking: str
    signature: Literal[""]


class TextBlock(TypedDict):
    """Text."""

    type: Literal["text"]
    text: str
    citations: None


class ToolUseBlock(TypedDict):
    """A call of a tool; the message waits for its result.

    Where the bound on tokens cut it off, the input has what was complete.
    """

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = ThinkingBlock | TextBlock | ToolUseBlock


class OutputTokensDetails(TypedDict):
    """How many of the output tokens were thoughts."""

    thinking_tokens: int


class UsageAnswer(TypedDict):
    """Measured token counts; a prompt has those of `input_tokens` and those from the cache.

    While a stream begins nobody knows what is cached: all are input tokens then, and the cache's
    count is null.
    """

    input_tokens: int
    cache_read_input_tokens: int | None
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class MessageAnswer(TypedDict):
    """A whole answer, or the frame of one that begins."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: UsageAnswer


class MessageStart(TypedDict):
    """The first event of a stream."""

    type: Literal["message_start"]
    message: MessageAnswer


class Ping(TypedDict):
    """Nothing new."""

    type: Literal["ping"]


class ContentBlockStart(TypedDict):
    """A block begins, empty."""

    type: Literal["content_block_start"]
    index: int
    content_block: ContentBlock


class ThinkingDelta(TypedDict):
    """What has been added to a thought."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(TypedDict):
    """The signature of a thought, at its end."""

    type: Literal["signature_delta"]
    signature: Literal[""]


class TextDelta(TypedDict):
    """What has been added to the text."""

    type: Literal["text_delta"]
    text: str


class InputJsonDelta(TypedDict):
    """What has been added to the JSON text of a call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


Delta = ThinkingDelta | SignatureDelta | TextDelta | InputJsonDelta


class ContentBlockDelta(TypedDict):
    """More of a block."""

    type: Literal["content_block_delta"]
    index: int
    delta: Delta


class ContentBlockStop(TypedDict):
    """A block ends."""

    type: Literal["content_block_stop"]
    index: int


BlockEvent = ContentBlockStart | ContentBlockDelta | ContentBlockStop


class StopDelta(TypedDict):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(TypedDict):
    """The end of the message and its usage."""

    type: Literal["message_delta"]
    delta: StopDelta
    usage: UsageAnswer


class MessageStop(TypedDict):
    """The last event of a stream that ended well."""

    type: Literal["message_stop"]


class CountAnswer(TypedDict):
    """How many tokens a prompt has."""

    input_tokens: int


class UnsupportedThread(TypedDict):
    """Tells the client's tool runner to send whole conversations: none is kept here."""

    error_code: Literal["thread_unsupported_request"]
    unsupported: list[str]


class ErrorDetail(TypedDict):
    """What went wrong, for programs and for people."""

    type: str
    message: str
    details: NotRequired[UnsupportedThread]


class ErrorAnswer(TypedDict):
    """The envelope of every error; also the event that ends a stream which failed."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str | None


StreamEvent = MessageStart | Ping | BlockEvent | MessageDelta | MessageStop | ErrorAnswer


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    status = status_code(error)
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    detail: ErrorDetail = {"type": kind, "message": error.message}
    if error.param == "thread":
        detail["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return {"type": "error", "error": detail, "request_id": error.request_id}
