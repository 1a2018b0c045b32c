"""What clients of OpenAI's responses and conversations send, and how it becomes a request."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import QueryParams

from palma.api.dialects.openai_responses.item_bodies import ItemBody
from palma.api.dialects.openai_responses.tool_bodies import FlatChoice, FlatOffer
from palma.api.fields import ExtendedSamplingBody, Label, MaxTokens, Messages, NeutralOnly
from palma.api.structured_fields import FlatFormat
from palma.api.tool_fields import tool_use
from palma.api.wire import parse_body
from palma.core.errors import InvalidRequest
from palma.core.types import Constraint, Thinking, ToolUse

Query = TypeVar("Query", bound=BaseModel)

LOGPROBS = "message.output_text.logprobs"
MAX_INCLUDED = 16

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class TextBody(BaseModel):
    """How the text shall look."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: FlatFormat | None = None
    verbosity: Annotated[Any, NeutralOnly("medium")] = None

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What was asked for."""
        form = self.format.constraint("text.format") if self.format else None
        return () if form is None else (form,)

    @property
    def format_answer(self) -> dict[str, Any]:
        """The format as answers show it."""
        if self.format is None:
            return {"type": "text"}
        return self.format.model_dump(by_alias=True, exclude_none=True)


class ReasoningBody(BaseModel):
    """Whether to think before answering; a level of effort is a yes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    context: Annotated[Any, NeutralOnly("auto")] = None
    generate_summary: Annotated[Any, NeutralOnly()] = None
    mode: Annotated[Any, NeutralOnly("standard")] = None
    summary: Annotated[Any, NeutralOnly()] = None


class StreamOptions(BaseModel):
    """What a stream should contain beside the text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_obfuscation: Annotated[Any, NeutralOnly(False)] = None


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _as_id(conversation: Any) -> Any:
    is_object = isinstance(conversation, dict) and conversation.keys() == {"id"}
    return conversation["id"] if is_object else conversation


class ResponseBody(ExtendedSamplingBody):
    """The body of a response; `max_tool_calls` bounds built-in tools, and there are none here."""

    model: str
    input: Annotated[
        Messages[ItemBody],
        BeforeValidator(_as_items, json_schema_input_type=str | list[ItemBody]),
    ]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[
        str | None, BeforeValidator(_as_id, json_schema_input_type=str | dict[str, str] | None)
    ] = None
    max_output_tokens: MaxTokens | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: (
        Annotated[
            list[Literal["message.output_text.logprobs"]],
            Field(max_length=MAX_INCLUDED, fail_fast=True),
        ]
        | None
    ) = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextBody | None = None
    tools: FlatOffer | None = None
    tool_choice: FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningBody | None = None
    metadata: Metadata | None = None

    prompt_cache_key: Annotated[str | None, Label()] = None
    safety_identifier: Annotated[str | None, Label()] = None
    user: Annotated[str | None, Label()] = None

    access_programs: Annotated[Any, NeutralOnly()] = None
    context_management: Annotated[Any, NeutralOnly([])] = None
    image: Annotated[Any, NeutralOnly()] = None
    max_tool_calls: Annotated[Any, NeutralOnly()] = None
    moderation: Annotated[Any, NeutralOnly()] = None
    prompt: Annotated[Any, NeutralOnly()] = None
    prompt_cache_options: Annotated[Any, NeutralOnly()] = None
    prompt_cache_retention: Annotated[Any, NeutralOnly("in_memory")] = None
    service_tier: Annotated[Any, NeutralOnly("auto", "default")] = None

    @property
    def num_logprobs(self) -> int | None:
        """How many likeliest tokens to report; None reports nothing."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None

    @property
    def tool_use(self) -> ToolUse | None:
        """What may be called.

        Raises:
            InvalidRequest: Two tools have one name, or the choice is of one that is not there.
        """
        return tool_use(
            [tool.tool for tool in self.tools or ()],
            self.tool_choice.choice if self.tool_choice else None,
            parallel=self.parallel_tool_calls is not False,
        )

    @property
    def thinking(self) -> Thinking:
        """How to think before answering."""
        effort = self.reasoning.effort if self.reasoning else None
        enabled = None if effort is None else effort != "none"
        return Thinking(enabled, switch_param="reasoning.effort")


class ConversationBody(BaseModel):
    """The body of a new conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    items: Annotated[list[ItemBody], Field(max_length=20)] | None = None
    metadata: Metadata | None = None


class ConversationUpdate(BaseModel):
    """The body of a change: the metadata, all of it anew."""

    model_config = ConfigDict(strict=True, extra="forbid")

    metadata: Metadata | None


class NewItemsBody(BaseModel):
    """The body of an addition to a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    items: Annotated[list[ItemBody], Field(min_length=1, max_length=20)]


class IncludeQuery(BaseModel):
    """Query parameters of routes that show what is stored as it is."""

    model_config = ConfigDict(extra="forbid")

    include: Annotated[Any, NeutralOnly()] = None


class RetrieveQuery(IncludeQuery):
    """Query parameters of a stored response."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0)] | None = None
    include_obfuscation: Annotated[bool, NeutralOnly(False)] = False


class PageQuery(IncludeQuery):
    """Query parameters of a list of items."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def parse_response(body: dict[str, Any]) -> ResponseBody:
    """Read a body.

    Raises:
        UnsupportedParameter: A field or value that would have no effect.
        InvalidRequest: A field is missing, wrong or contradicts another.
    """
    parsed = parse_body(ResponseBody, body)
    if parsed.stream_options is not None and not parsed.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if parsed.top_logprobs and parsed.num_logprobs is None:
        raise InvalidRequest(f'top_logprobs needs include: ["{LOGPROBS}"]', param="top_logprobs")
    if parsed.previous_response_id is not None and parsed.conversation is not None:
        raise InvalidRequest(
            "previous_response_id and conversation exclude each other",
            param="previous_response_id",
        )
    if parsed.background and parsed.store is False:
        raise InvalidRequest(
            "background needs store: true, or nobody could read the response", param="background"
        )
    return parsed


def parse_query(model: type[Query], sent: QueryParams) -> Query:
    """Read query parameters; one that comes more than once, or ends in `[]`, is a list."""
    values: dict[str, Any] = {}
    for name in sent:
        given = sent.getlist(name)
        values[name.removesuffix("[]")] = given if name.endswith("[]") else given[-1]
    return parse_body(model, values)
