"""Anthropic's messages: POST /v1/messages, whole or as typed events, and its count of tokens.

The reference is the official `anthropic` package's types; its strict client is the judge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.errors import status_code
from palma.api.fields import Label, Messages, NeutralOnly, StopList, TopK, TopP
from palma.api.operation import Dialect, Operation
from palma.api.structured_fields import SchemaFormat
from palma.api.wire import (
    EventStream,
    event,
    json_response,
    parse_body,
    queue_timeout_s,
    read_json,
    shown,
    wait_for,
)
from palma.core.errors import PalmaError
from palma.core.types import Constraint, GenerationRequest, Message, Role, SamplingParams, Usage
from palma.serving.generation import Generation

PREFIX = "/v1/messages"

StopReason = Literal["end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence"]

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _join_blocks(content: Any) -> Any:
    """Join text blocks; other kinds of blocks are refused by name."""
    if not isinstance(content, list) or not content:
        return content
    return "".join(_block_text(block) for block in content)


def _block_text(block: Any) -> str:
    if not isinstance(block, dict) or block.get("type") != "text":
        kind = block.get("type") if isinstance(block, dict) else block
        raise ValueError(f"this model takes only text blocks, not {shown(kind)}")
    for name, value in block.items():
        if name not in ("type", "text") and value not in (None, []):
            raise ValueError(f"{shown(name)} of a text block is not supported by this server")
    text = block.get("text")
    if not isinstance(text, str):
        raise ValueError('a text block is {"type": "text", "text": "..."}')
    return text


TextBlocks = Annotated[
    str, BeforeValidator(_join_blocks, json_schema_input_type=str | list[dict[str, Any]])
]
"""A string, or a list of text blocks, which are joined as they are."""


class MessageBody(BaseModel):
    """One turn; turns of one role that follow each other become one, a line each."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Role
    content: TextBlocks


class OutputConfig(BaseModel):
    """How the answer shall look."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: SchemaFormat | None = None

    effort: Annotated[Any, NeutralOnly()] = None
    task_budget: Annotated[Any, NeutralOnly()] = None

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What was asked for."""
        return (self.format.constraint("output_config.format"),) if self.format else ()


class PromptBody(BaseModel):
    """What the prompt is made of: the body of a count."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    messages: Messages[MessageBody]
    system: TextBlocks | None = None

    cache_control: Annotated[Any, NeutralOnly()] = None
    output_config: Annotated[OutputConfig | None, Label()] = None
    speed: Annotated[Any, NeutralOnly("standard")] = None
    thinking: Annotated[Any, NeutralOnly({"type": "disabled"})] = None
    tool_choice: Annotated[Any, NeutralOnly({"type": "auto"}, {"type": "none"})] = None
    tools: Annotated[Any, NeutralOnly([])] = None


class MessagesBody(PromptBody):
    """The body of a message; a last turn of the assistant's is continued by the answer."""

    output_config: OutputConfig | None = None
    max_tokens: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop_sequences: StopList | None = None
    stream: bool | None = None

    metadata: Annotated[Any, Label()] = None

    container: Annotated[Any, NeutralOnly()] = None
    diagnostics: Annotated[Any, NeutralOnly()] = None
    inference_geo: Annotated[Any, NeutralOnly()] = None
    service_tier: Annotated[Any, NeutralOnly("auto", "standard_only")] = None


class TextBlock(TypedDict):
    """A piece of a message: always text, always one."""

    type: Literal["text"]
    text: str
    citations: None


class UsageAnswer(TypedDict):
    """Measured token counts; a prompt has those of `input_tokens` and those from the cache.

    While a stream begins nobody knows what is cached: all are input tokens then, and the cache's
    count is null.
    """

    input_tokens: int
    cache_read_input_tokens: int | None
    output_tokens: int


class MessageAnswer(TypedDict):
    """A whole answer, or the frame of one that begins."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: UsageAnswer


class MessageStart(TypedDict):
    """The first event of a stream."""

    type: Literal["message_start"]
    message: MessageAnswer


class ContentBlockStart(TypedDict):
    """The text begins."""

    type: Literal["content_block_start"]
    index: Literal[0]
    content_block: TextBlock


class Ping(TypedDict):
    """Nothing new."""

    type: Literal["ping"]


class TextDelta(TypedDict):
    """What has been added to the text."""

    type: Literal["text_delta"]
    text: str


class ContentBlockDelta(TypedDict):
    """More text."""

    type: Literal["content_block_delta"]
    index: Literal[0]
    delta: TextDelta


class ContentBlockStop(TypedDict):
    """The text ends."""

    type: Literal["content_block_stop"]
    index: Literal[0]


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


class ErrorDetail(TypedDict):
    """What went wrong, for programs and for people."""

    type: str
    message: str


class ErrorAnswer(TypedDict):
    """The envelope of every error; also the event that ends a stream which failed."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str | None


StreamEvent = (
    MessageStart
    | ContentBlockStart
    | Ping
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | ErrorAnswer
)


def to_request(
    body: MessagesBody, request_id: str, queue_timeout_s: float | None = None
) -> GenerationRequest:
    """Translate a parsed body; Anthropic's own default is to sample from the whole distribution."""
    sampling_params = SamplingParams(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
    )
    return GenerationRequest(
        request_id=request_id,
        messages=_conversation(body),
        continue_final_message=_is_prefilled(body),
        model=body.model,
        sampling_params=sampling_params,
        stop=tuple(body.stop_sequences or ()),
        constraints=body.output_config.constraints if body.output_config else (),
        queue_timeout_s=queue_timeout_s,
    )


def to_counting_request(body: PromptBody, request_id: str) -> GenerationRequest:
    """Translate the body of a count."""
    return GenerationRequest(
        request_id=request_id,
        messages=_conversation(body),
        continue_final_message=_is_prefilled(body),
        model=body.model,
    )


async def messages(request: Request) -> Response:
    """POST /v1/messages: JSON, or events when the body says `stream`."""
    body = parse_body(MessagesBody, await read_json(request))
    generation: Generation = request.state.service.start(
        to_request(body, request.state.request_id, queue_timeout_s(request))
    )
    if not body.stream:
        return json_response(await wait_for(request, generation, message_answer(generation)))
    await wait_for(request, generation, generation.accepted())
    return EventStream(message_events(generation), generation, request.state.settings)


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens: how many tokens the prompt of a message would have."""
    body = parse_body(PromptBody, await read_json(request))
    counting_request = to_counting_request(body, request.state.request_id)
    count = await request.state.service.count_prompt_tokens(counting_request)
    answer: CountAnswer = {"input_tokens": count}
    return json_response(answer)


async def message_answer(generation: Generation) -> MessageAnswer:
    """Wait for the end and return the body of a whole answer."""
    completion = await generation.completion()
    return {
        **_frame(generation),
        "content": [_text_block(completion.text)],
        "stop_reason": _stop_reason(generation, completion.finish_reason, completion.stop_string),
        "stop_sequence": completion.stop_string,
        "usage": _usage_answer(completion.usage),
    }


async def message_events(generation: Generation) -> AsyncIterator[bytes]:
    """Yield an answer as typed events; a failure is one `error` event and no `message_stop`."""
    yield _event({"type": "message_start", "message": _frame(generation)})
    yield _event({"type": "content_block_start", "index": 0, "content_block": _text_block("")})
    yield _event({"type": "ping"})
    try:
        async for chunk in generation:
            if chunk.text:
                delta: TextDelta = {"type": "text_delta", "text": chunk.text}
                yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
            if chunk.finish_reason is not None and chunk.usage is not None:
                yield _event({"type": "content_block_stop", "index": 0})
                reason = _stop_reason(generation, chunk.finish_reason, chunk.stop_string)
                stop: StopDelta = {"stop_reason": reason, "stop_sequence": chunk.stop_string}
                usage = _usage_answer(chunk.usage)
                yield _event({"type": "message_delta", "delta": stop, "usage": usage})
                yield _event({"type": "message_stop"})
    except PalmaError as error:
        yield _event({**error_answer(error), "request_id": generation.request.request_id})


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    status = status_code(error)
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": error.request_id,
    }


def _conversation(body: PromptBody) -> tuple[Message, ...]:
    system = () if not body.system else (Message("system", body.system),)
    turns = groupby(body.messages, key=lambda turn: turn.role)
    merged = [Message(role, "\n".join(turn.content for turn in same)) for role, same in turns]
    return (*system, *merged)


def _is_prefilled(body: PromptBody) -> bool:
    return body.messages[-1].role == "assistant"


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
        },
    }


def _text_block(text: str) -> TextBlock:
    return {"type": "text", "text": text, "citations": None}


def _stop_reason(
    generation: Generation, finish_reason: Literal["stop", "length"], stop_string: str | None
) -> StopReason:
    if stop_string is not None:
        return "stop_sequence"
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
    }


def _event(data: StreamEvent) -> bytes:
    return event(data, data["type"])


DIALECT = Dialect(
    name="Anthropic messages",
    operations=(
        Operation(
            "POST",
            PREFIX,
            messages,
            "Answer a conversation.",
            body=MessagesBody,
            answer=MessageAnswer,
            event=StreamEvent,
        ),
        Operation(
            "POST",
            f"{PREFIX}/count_tokens",
            count_tokens,
            "Count the tokens of a prompt.",
            body=PromptBody,
            answer=CountAnswer,
        ),
    ),
    error=ErrorAnswer,
)
