"""The shapes of OpenAI's responses and conversations."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from palma.api.dialects.openai_responses.item_shapes import Item, OutputItem

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


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
    """Tokens of thoughts, which are among the output tokens."""

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
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    conversation: ConversationRef | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, dict[str, Any]]
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    truncated_items: list[str]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


class DeletedResponse(TypedDict):
    """A response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(TypedDict):
    """A part of a list of items; the ids are empty where it is."""

    object: Literal["list"]
    data: list[Item]
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
