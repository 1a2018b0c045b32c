"""Llama Stack's inference API: completion and chat completion, whole, as lines or as events.

The reference is the `llama-stack-client` package's types. Its present versions call the `/v1`
routes and read events; the routes without `/v1` stream one JSON object a line, unless the client
asks for events, as the first versions of that package did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from palma.api.fields import Label, MaxTokens, Messages, NeutralOnly, SamplingBody, TopK, TopP
from palma.api.llama_stack_shapes import (
    ChatChunk,
    ChatCompletionAnswer,
    ChatEvent,
    CompletionAnswer,
    CompletionChunk,
    CompletionMessage,
    ErrorAnswer,
    Metric,
    StopReason,
    TokenLogprobs,
)
from palma.api.openai_shapes import join_text_parts
from palma.api.operation import Dialect, Operation
from palma.api.structured_fields import schema_constraint
from palma.api.wire import (
    LINES_MEDIA_TYPE,
    EventStream,
    LineStream,
    event,
    json_response,
    line,
    parse_body,
    queue_timeout_s,
    read_json,
    wait_for,
)
from palma.core.errors import InvalidRequest, PalmaError
from palma.core.types import (
    GenerationRequest,
    Message,
    Role,
    SamplingParams,
    ScoredToken,
    TextChunk,
    Usage,
)
from palma.serving.generation import Completion, Generation

COMPLETION = "/inference/completion"
CHAT_COMPLETION = "/inference/chat_completion"
V1_PREFIX = "/v1/inference"
V1_COMPLETION = f"{V1_PREFIX}/completion"
V1_CHAT_COMPLETION = f"{V1_PREFIX}/chat-completion"

DEFAULT_MAX_TOKENS = 100
DEFAULT_TOP_P = 0.95
"""Of the strategy `top_p`, as Llama Stack has it."""

END_OF_MESSAGE = "<|eom_id|>"


def _text_of(content: Any) -> Any:
    """Take what Llama Stack calls interleaved content: a string, a text item, or several."""
    return join_text_parts([content] if isinstance(content, dict) else content)


Content = Annotated[str, BeforeValidator(_text_of)]


class _StrictBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class MessageBody(_StrictBody):
    """One turn; an answer may come back as it was given."""

    role: Role
    content: Content
    stop_reason: Annotated[Any, Label()] = None
    tool_calls: Annotated[Any, NeutralOnly([])] = None
    context: Annotated[Any, NeutralOnly()] = None


class GreedyStrategy(_StrictBody):
    """Take the likeliest token."""

    type: Literal["greedy"]


class TopPStrategy(_StrictBody):
    """Draw from the likeliest tokens that have this share of the probability."""

    type: Literal["top_p"]
    temperature: Annotated[float, Field(gt=0, le=2)] | None = None
    top_p: TopP | None = None


class TopKStrategy(_StrictBody):
    """Draw from so many likeliest tokens."""

    type: Literal["top_k"]
    top_k: Annotated[int, Field(ge=1)] | None = None


Strategy = Annotated[GreedyStrategy | TopPStrategy | TopKStrategy, Field(discriminator="type")]


def _as_object(strategy: Any) -> Any:
    """Take a bare name, as in the API's first versions: its numbers stand beside it."""
    return {"type": strategy} if isinstance(strategy, str) else strategy


class SamplingParamsBody(SamplingBody):
    """How the next token is chosen: by a strategy, or by the numbers alone."""

    strategy: Annotated[Strategy, BeforeValidator(_as_object)] | None = None
    max_tokens: MaxTokens | None = None


class LogprobsBody(_StrictBody):
    """How many of the likeliest tokens to report in each place, the chosen one always."""

    top_k: Annotated[TopK, Field(le=20)] = 0


class ResponseFormatBody(_StrictBody):
    """The form of the answer: a JSON schema; grammars in BNF are not taken."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any]


class InferenceBody(_StrictBody):
    """What both kinds of request have; `model` is the older name of `model_id`."""

    model: str | None = None
    model_id: str | None = None
    sampling_params: SamplingParamsBody | None = None
    stream: bool | None = None
    logprobs: LogprobsBody | None = None

    response_format: ResponseFormatBody | None = None


class CompletionBody(InferenceBody):
    """The body of a completion: a text to go on with."""

    content: Content


class ChatCompletionBody(InferenceBody):
    """The body of a chat completion."""

    messages: Messages[MessageBody]

    tools: Annotated[Any, NeutralOnly([])] = None
    tool_choice: Annotated[Any, NeutralOnly("auto", "none")] = None
    tool_config: Annotated[
        Any, NeutralOnly({}, {"tool_choice": "auto"}, {"tool_choice": "none"})
    ] = None
    tool_prompt_format: Annotated[Any, NeutralOnly("json", "function_tag", "python_list")] = None


def to_request(
    body: CompletionBody | ChatCompletionBody,
    request_id: str,
    queue_timeout_s: float | None = None,
) -> GenerationRequest:
    """Translate a parsed body.

    Raises:
        InvalidRequest: A field contradicts another, or no model is named.
    """
    content: dict[str, Any]
    if isinstance(body, CompletionBody):
        content = {"prompt": body.content}
    else:
        content = {"messages": tuple(Message(turn.role, turn.content) for turn in body.messages)}
    params = body.sampling_params or SamplingParamsBody()
    num_logprobs = None if body.logprobs is None else body.logprobs.top_k
    form = body.response_format
    return GenerationRequest(
        request_id=request_id,
        constraints=(schema_constraint(form.json_schema, "response_format"),) if form else (),
        model=_model(body),
        sampling_params=_sampling_params(params, num_logprobs),
        stop=tuple(params.stop or ()),
        max_tokens_is_default=params.max_tokens is None,
        queue_timeout_s=queue_timeout_s,
        **content,
    )


def _model(body: InferenceBody) -> str:
    names = {name for name in (body.model, body.model_id) if name is not None}
    if len(names) > 1:
        raise InvalidRequest("model and model_id differ; send only the second", param="model")
    if not names:
        raise InvalidRequest("model_id is missing", param="model_id")
    return names.pop()


def _sampling_params(body: SamplingParamsBody, num_logprobs: int | None) -> SamplingParams:
    numbers = body.model_copy(update=_strategy_numbers(body))
    reported = {} if num_logprobs is None else {"num_logprobs": num_logprobs}
    return numbers.sampling_params(body.max_tokens or DEFAULT_MAX_TOKENS, **reported)


def _strategy_numbers(body: SamplingParamsBody) -> dict[str, Any]:
    """Say in the sampler's words what the strategy says.

    Without a strategy, and without any of the numbers, the likeliest token is taken: so it is in
    Llama Stack, and in the API that this one follows.
    """
    strategy = body.strategy
    if isinstance(strategy, GreedyStrategy):
        if body.temperature not in (None, 0, 1):
            param = "sampling_params.temperature"
            raise InvalidRequest(f"{param} has no effect with the strategy greedy", param=param)
        return {"temperature": 0.0}
    if isinstance(strategy, TopPStrategy):
        temperature = _agreed("temperature", strategy.temperature, body.temperature)
        top_p = _agreed("top_p", strategy.top_p, body.top_p)
        return {"temperature": temperature, "top_p": DEFAULT_TOP_P if top_p is None else top_p}
    if isinstance(strategy, TopKStrategy):
        top_k = _agreed("top_k", strategy.top_k, body.top_k)
        if not top_k:
            param = "sampling_params.strategy.top_k"
            raise InvalidRequest(f"{param} is missing", param=param)
        return {"top_k": top_k}
    is_silent = (body.temperature, body.top_p, body.top_k, body.min_p) == (None,) * 4
    return {"temperature": 0.0} if is_silent else {}


def _agreed(name: str, of_strategy: float | None, beside_it: float | None) -> float | None:
    """Return the number that stands in the strategy, beside it, or, the same, in both places."""
    if of_strategy is None:
        return beside_it
    if beside_it not in (None, of_strategy):
        param = f"sampling_params.{name}"
        raise InvalidRequest(f"{param} and the strategy's differ; send only one", param=param)
    return of_strategy


async def completion(request: Request) -> Response:
    """POST completion: a text's continuation."""
    body = parse_body(CompletionBody, await read_json(request))
    return await _answer(request, body, completion_answer, completion_chunks)


async def chat_completion(request: Request) -> Response:
    """POST chat completion: the answer to a conversation."""
    body = parse_body(ChatCompletionBody, await read_json(request))
    return await _answer(request, body, chat_answer, chat_chunks)


async def _answer(
    request: Request,
    body: CompletionBody | ChatCompletionBody,
    answer: Callable[[Completion, bool], Any],
    chunks: Callable[[Generation, bool], AsyncIterator[Any]],
) -> Response:
    """Start the work and answer whole, as lines or as events."""
    generation_request = to_request(body, request.state.request_id, queue_timeout_s(request))
    generation: Generation = request.state.service.start(generation_request)
    has_logprobs = body.logprobs is not None
    if not body.stream:
        completion = await wait_for(request, generation, generation.completion())
        return json_response(answer(completion, has_logprobs))
    await wait_for(request, generation, generation.accepted())
    as_events = wants_events(request)
    encoded = _encoded(chunks(generation, has_logprobs), event if as_events else line)
    stream = EventStream if as_events else LineStream
    return stream(encoded, generation, request.state.settings)


def wants_events(request: Request) -> bool:
    """Whether a stream is of events: on the `/v1` routes, and wherever the client says so."""
    is_v1 = request.scope["path"].startswith(V1_PREFIX)
    return is_v1 or "text/event-stream" in request.headers.get("accept", "")


async def _encoded(
    chunks: AsyncIterator[Any], encode: Callable[[Any], bytes]
) -> AsyncIterator[bytes]:
    """Yield the objects of a stream as bytes; a failure is the last of them."""
    try:
        async for chunk in chunks:
            yield encode(chunk)
    except PalmaError as error:
        yield encode(error_answer(error))


def chat_answer(completion: Completion, has_logprobs: bool) -> ChatCompletionAnswer:
    """Return the body of a whole answer to a conversation."""
    return {
        "completion_message": _message(completion),
        "logprobs": _logprobs(completion.scored_tokens) if has_logprobs else None,
        "metrics": metrics(completion.usage),
    }


def completion_answer(completion: Completion, has_logprobs: bool) -> CompletionAnswer:
    """Return the body of a whole continuation."""
    return {
        "content": completion.text,
        "stop_reason": stop_reason(completion),
        **chat_answer(completion, has_logprobs),
    }


async def chat_chunks(generation: Generation, has_logprobs: bool) -> AsyncIterator[ChatChunk]:
    """Yield a chat's stream: the start, the text as it comes, the end."""
    yield _chat_chunk("start", TextChunk(""))
    async for chunk in generation:
        logprobs = _logprobs(chunk.scored_tokens) if has_logprobs else None
        if chunk.text or chunk.scored_tokens:
            yield _chat_chunk("progress", TextChunk(chunk.text), logprobs)
        if chunk.finish_reason is not None:
            yield _chat_chunk("complete", dataclasses.replace(chunk, text=""))


async def completion_chunks(
    generation: Generation, has_logprobs: bool
) -> AsyncIterator[CompletionChunk]:
    """Yield a continuation's stream: the text as it comes; the last piece says why it ends."""
    async for chunk in generation:
        yield {
            "delta": chunk.text,
            "stop_reason": stop_reason(chunk) if chunk.finish_reason else None,
            "logprobs": _logprobs(chunk.scored_tokens) if has_logprobs else None,
            "metrics": metrics(chunk.usage) if chunk.usage else None,
        }


def stop_reason(ended: Completion | TextChunk) -> StopReason:
    """Return why an answer ended, in Llama Stack's words.

    Its models end a turn by one token, and by another a message after which the same turn goes on.
    """
    if ended.finish_reason == "length":
        return "out_of_tokens"
    return "end_of_message" if ended.stop_token == END_OF_MESSAGE else "end_of_turn"


def metrics(usage: Usage) -> list[Metric]:
    """Return measured token counts."""
    num_total = usage.num_prompt_tokens + usage.num_completion_tokens
    return [
        {"metric": "prompt_tokens", "value": usage.num_prompt_tokens, "unit": "tokens"},
        {"metric": "completion_tokens", "value": usage.num_completion_tokens, "unit": "tokens"},
        {"metric": "total_tokens", "value": num_total, "unit": "tokens"},
    ]


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    return {
        "error": {
            "detail": error.message,
            "message": error.message,
            "code": error.code,
            "param": "content" if error.param == "prompt" else error.param,
        }
    }


def _message(completion: Completion) -> CompletionMessage:
    return {
        "role": "assistant",
        "content": completion.text,
        "stop_reason": stop_reason(completion),
        "tool_calls": [],
    }


def _chat_chunk(
    kind: Literal["start", "progress", "complete"],
    chunk: TextChunk,
    logprobs: list[TokenLogprobs] | None = None,
) -> ChatChunk:
    news: ChatEvent = {
        "event_type": kind,
        "delta": {"type": "text", "text": chunk.text},
        "logprobs": logprobs,
        "stop_reason": stop_reason(chunk) if chunk.finish_reason else None,
    }
    return {"event": news, "metrics": metrics(chunk.usage) if chunk.usage else None}


def _logprobs(scored_tokens: Sequence[ScoredToken]) -> list[TokenLogprobs]:
    return [{"logprobs_by_token": _by_token(scored)} for scored in scored_tokens]


def _by_token(scored: ScoredToken) -> dict[str, float]:
    """Map texts to log-probabilities, the chosen token first.

    Of tokens that look alike (halves of characters do) the first one stands.
    """
    logprobs: dict[str, float] = {}
    for token in (scored.token, *scored.top):
        if token.logprob is not None:
            logprobs.setdefault(token.text, token.logprob)
    return logprobs


def _operations(completion_path: str, chat_path: str, media_type: str) -> tuple[Operation, ...]:
    return (
        Operation(
            "POST",
            completion_path,
            completion,
            "Continue a text.",
            body=CompletionBody,
            answer=CompletionAnswer,
            event=CompletionChunk,
            media_type=media_type,
        ),
        Operation(
            "POST",
            chat_path,
            chat_completion,
            "Answer a conversation.",
            body=ChatCompletionBody,
            answer=ChatCompletionAnswer,
            event=ChatChunk,
            media_type=media_type,
        ),
    )


DIALECT = Dialect(
    name="Llama Stack",
    operations=(
        *_operations(COMPLETION, CHAT_COMPLETION, LINES_MEDIA_TYPE),
        *_operations(V1_COMPLETION, V1_CHAT_COMPLETION, "text/event-stream"),
    ),
    error=ErrorAnswer,
)
