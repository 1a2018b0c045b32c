"""OpenAI's chat completions: POST /v1/chat/completions, whole or as a stream.

The reference is the official `openai` package's types; its strict client is the judge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import ExtendedSamplingBody, Label, MaxTokens, Messages, NeutralOnly
from palma.api.openai_shapes import (
    DONE,
    DONE_DATA,
    ErrorAnswer,
    StreamOptions,
    TextContent,
    TokenLogprob,
    UsageAnswer,
    error_answer,
    join_text_parts,
    token_logprob,
    usage_answer,
)
from palma.api.operation import Dialect, Operation
from palma.api.structured_fields import StructuredBody
from palma.api.wire import (
    EventStream,
    event,
    json_response,
    parse_body,
    queue_timeout_s,
    read_json,
    wait_for,
)
from palma.core.errors import InvalidRequest, PalmaError
from palma.core.types import GenerationRequest, Message, Role, ScoredToken
from palma.serving.generation import Completion
from palma.serving.group import GenerationGroup, copies, total_usage

MAX_CHOICES = 128

FinishReason = Literal["stop", "length"]


def _as_known_role(role: Any) -> Any:
    return "system" if role == "developer" else role


class ChatMessageBody(BaseModel):
    """One turn; `developer` is OpenAI's newer word for `system`.

    The fields that only null may have come with answers that clients send back as they got them.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Annotated[
        Role,
        BeforeValidator(_as_known_role, json_schema_input_type=Role | Literal["developer"]),
    ]
    content: Annotated[str, BeforeValidator(join_text_parts, json_schema_input_type=TextContent)]
    annotations: None = None
    audio: None = None
    function_call: None = None
    name: None = None
    refusal: None = None
    tool_calls: None = None


class ChatBody(ExtendedSamplingBody, StructuredBody):
    """The body of a chat completion."""

    model: str
    messages: Messages[ChatMessageBody]
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    metadata: Annotated[Any, Label()] = None
    prompt_cache_key: Annotated[Any, Label()] = None
    safety_identifier: Annotated[Any, Label()] = None
    store: Annotated[Any, Label()] = None
    user: Annotated[Any, Label()] = None

    audio: Annotated[Any, NeutralOnly()] = None
    function_call: Annotated[Any, NeutralOnly("none")] = None
    functions: Annotated[Any, NeutralOnly([])] = None
    modalities: Annotated[Any, NeutralOnly(["text"])] = None
    parallel_tool_calls: Annotated[Any, NeutralOnly(True, False)] = None
    prediction: Annotated[Any, NeutralOnly()] = None
    reasoning_effort: Annotated[Any, NeutralOnly()] = None
    service_tier: Annotated[Any, NeutralOnly("auto", "default")] = None
    tool_choice: Annotated[Any, NeutralOnly("none", "auto")] = None
    tools: Annotated[Any, NeutralOnly([])] = None
    verbosity: Annotated[Any, NeutralOnly()] = None
    web_search_options: Annotated[Any, NeutralOnly()] = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer goes out as events."""
        return bool(self.stream)


class WholeChatBody(ChatBody):
    """The same on a route that never streams."""

    stream: Annotated[Any, NeutralOnly(False)] = None
    stream_options: Annotated[Any, NeutralOnly()] = None


class StreamedChatBody(ChatBody):
    """The same on a route that always streams."""

    stream: Annotated[Any, NeutralOnly(True)] = None

    @property
    def is_streamed(self) -> bool:
        """Always."""
        return True


class LogprobsAnswer(TypedDict):
    """The tokens of a text, and how likely they were."""

    content: list[TokenLogprob]
    refusal: None


class MessageAnswer(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


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


class DeltaAnswer(TypedDict):
    """What has been added to the assistant's turn."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    refusal: NotRequired[None]


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


def parse_chat(body: dict[str, Any], model: type[ChatBody] = ChatBody) -> ChatBody:
    """Read a body.

    Raises:
        UnsupportedParameter: A field or value that would have no effect.
        InvalidRequest: A field is missing, wrong or contradicts another.
    """
    parsed = parse_body(model, body)
    if parsed.stream_options is not None and not parsed.is_streamed:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if parsed.top_logprobs is not None and not parsed.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    if parsed.max_tokens is not None and parsed.max_completion_tokens not in (
        None,
        parsed.max_tokens,
    ):
        raise InvalidRequest(
            "max_tokens and max_completion_tokens differ; send only the second", param="max_tokens"
        )
    return parsed


def to_requests(
    body: ChatBody, request_id: str, queue_timeout_s: float | None = None
) -> list[GenerationRequest]:
    """Translate a parsed body; OpenAI's own default is to sample from the whole distribution."""
    max_tokens = body.max_completion_tokens or body.max_tokens
    num_logprobs = {"num_logprobs": body.top_logprobs or 0} if body.logprobs else {}
    request = GenerationRequest(
        request_id=request_id,
        messages=tuple(Message(turn.role, turn.content) for turn in body.messages),
        model=body.model,
        sampling_params=body.sampling_params(max_tokens, **num_logprobs),
        stop=tuple(body.stop or ()),
        constraints=body.constraints,
        queue_timeout_s=queue_timeout_s,
    )
    return copies(request, body.n or 1)


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions: JSON, or events when the body says `stream`."""
    return await _answer(request, parse_chat(await read_json(request)))


async def chat_completions_full(request: Request) -> Response:
    """POST /v1/chat/completions_full: cria's name for JSON."""
    return await _answer(request, parse_chat(await read_json(request), WholeChatBody))


async def chat_completions_stream(request: Request) -> Response:
    """POST /v1/chat/completions_stream: cria's name for events."""
    return await _answer(request, parse_chat(await read_json(request), StreamedChatBody))


async def _answer(request: Request, body: ChatBody) -> Response:
    requests = to_requests(body, request.state.request_id, queue_timeout_s(request))
    group = GenerationGroup(request.state.service.start_all(requests))
    if not body.is_streamed:
        completions = await wait_for(request, group, group.completions())
        return json_response(chat_answer(group, completions, has_logprobs=bool(body.logprobs)))
    await wait_for(request, group, group.accepted())
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    events = chat_events(group, include_usage=include_usage, has_logprobs=bool(body.logprobs))
    return EventStream(events, group, request.state.settings)


def chat_answer(
    group: GenerationGroup, completions: list[Completion], *, has_logprobs: bool
) -> ChatAnswer:
    """Return the body of a whole answer."""
    choices: list[ChoiceAnswer] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": _logprobs(completion.scored_tokens) if has_logprobs else None,
            "finish_reason": completion.finish_reason,
        }
        for index, completion in enumerate(completions)
    ]
    usage = total_usage([completion.usage for completion in completions], num_prompts=1)
    return {
        "id": _id(group),
        "object": "chat.completion",
        "created": group.created,
        "model": group.served.card.model_id,
        "choices": choices,
        "usage": usage_answer(usage),
    }


async def chat_events(
    group: GenerationGroup, *, include_usage: bool, has_logprobs: bool
) -> AsyncIterator[bytes]:
    """Yield an answer as events: the role, the text, the end, the usage if asked, `[DONE]`.

    A failure is one event with the error and no `[DONE]`: official clients take a stream that
    merely ends for a success.
    """
    head: ChatChunk = {
        "id": _id(group),
        "object": "chat.completion.chunk",
        "created": group.created,
        "model": group.served.card.model_id,
        "choices": [],
    }
    if include_usage:
        head["usage"] = None
    for index in range(len(group.generations)):
        delta: DeltaAnswer = {"role": "assistant", "content": "", "refusal": None}
        yield event(_chunk(head, index, delta))
    usages = []
    try:
        async for index, chunk in group.chunks():
            if chunk.text or chunk.scored_tokens:
                logprobs = _logprobs(chunk.scored_tokens) if has_logprobs else None
                yield event(_chunk(head, index, {"content": chunk.text}, logprobs))
            if chunk.usage is not None:
                usages.append(chunk.usage)
                yield event(_chunk(head, index, {}, finish_reason=chunk.finish_reason))
        if include_usage:
            usage = usage_answer(total_usage(usages, num_prompts=1))
            yield event({**head, "usage": usage})
        yield DONE
    except PalmaError as error:
        yield event(error_answer(error))


def _id(group: GenerationGroup) -> str:
    return f"chatcmpl-{group.public_id}"


def _logprobs(scored_tokens: tuple[ScoredToken, ...]) -> LogprobsAnswer:
    return {"content": [token_logprob(scored) for scored in scored_tokens], "refusal": None}


def _chunk(
    head: ChatChunk,
    index: int,
    delta: DeltaAnswer,
    logprobs: LogprobsAnswer | None = None,
    finish_reason: FinishReason | None = None,
) -> ChatChunk:
    choice: ChunkChoiceAnswer = {
        "index": index,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }
    return {**head, "choices": [choice]}


DIALECT = Dialect(
    name="OpenAI chat completions",
    operations=(
        Operation(
            "POST",
            "/v1/chat/completions",
            chat_completions,
            "Answer a conversation.",
            body=ChatBody,
            answer=ChatAnswer,
            event=ChatChunk,
            last_event=DONE_DATA,
        ),
        Operation(
            "POST",
            "/v1/chat/completions_full",
            chat_completions_full,
            "Answer a conversation, never as a stream.",
            body=WholeChatBody,
            answer=ChatAnswer,
        ),
        Operation(
            "POST",
            "/v1/chat/completions_stream",
            chat_completions_stream,
            "Answer a conversation, always as a stream.",
            body=StreamedChatBody,
            event=ChatChunk,
            last_event=DONE_DATA,
        ),
    ),
    error=ErrorAnswer,
)
