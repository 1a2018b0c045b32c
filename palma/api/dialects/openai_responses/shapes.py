"""The shapes of OpenAI's responses, their events, and conversations."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, final

from typing_extensions import TypedDict

from palma.api.openai_shapes import TokenLogprob

MessageStatus = Literal["in_progress", "completed", "incomplete"]

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class TextPart(TypedDict):
    """A piece of a message's text; what an assistant said has all of these fields."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: NotRequired[list[Any]]
    logprobs: NotRequired[list[TokenLogprob]]


class MessageItem(TypedDict):
    """A message, the only kind of item here."""

    id: str
    type: Literal["message"]
    status: MessageStatus
    role: Literal["user", "assistant", "system", "developer"]
    content: list[TextPart]


class ErrorDetails(TypedDict):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(TypedDict):
    """Why a response ends before its end."""

    reason: Literal["max_output_tokens"]


class ConversationRef(TypedDict):
    """The conversation that a response belongs to."""

    id: str


class InputTokensDetails(TypedDict):
    """Prompt tokens found in the prefix cache, and those whose writing is billed: none."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Tokens of thoughts; there are none."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Measured token counts."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseAnswer(TypedDict):
    """A response in any state.

    `truncated_items` are the ids of the items that did not fit into the window with
    `truncation: "auto"`: the model has not read them. `store` says whether the response can be
    asked for by its id.
    """

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ErrorDetails | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[MessageItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    conversation: ConversationRef | None
    prompt_cache_key: str | None
    reasoning: dict[str, None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, dict[str, Any]]
    tool_choice: Literal["auto", "none"]
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    truncated_items: list[str]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


@final
class LifecycleEvent(TypedDict):
    """A new state of the whole response."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: int
    response: ResponseAnswer


@final
class OutputItemEvent(TypedDict):
    """A message begins or is whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: MessageItem


@final
class ContentPartEvent(TypedDict):
    """A piece of a message begins or is whole."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: TextPart


@final
class TextDeltaEvent(TypedDict):
    """More text."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[TokenLogprob]


@final
class TextDoneEvent(TypedDict):
    """All of the text."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[TokenLogprob]


@final
class ErrorEvent(TypedDict):
    """What went wrong; `response.failed` follows."""

    type: Literal["error"]
    sequence_number: int
    code: str
    message: str
    param: str | None


ResponseEvent = (
    LifecycleEvent
    | OutputItemEvent
    | ContentPartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ErrorEvent
)


class DeletedResponse(TypedDict):
    """A response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(TypedDict):
    """A part of a list of items; the ids are empty where it is."""

    object: Literal["list"]
    data: list[MessageItem]
    first_id: str
    last_id: str
    has_more: bool


class ConversationAnswer(TypedDict):
    """A conversation."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(TypedDict):
    """A conversation that is no more."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]
