"""Llama Stack's inference routes, and whether they stream lines or events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from palma.api.dialects.llama_stack.answers import (
    chat_answer,
    chat_chunks,
    completion_answer,
    completion_chunks,
)
from palma.api.dialects.llama_stack.bodies import ChatCompletionBody, CompletionBody, to_request
from palma.api.dialects.llama_stack.shapes import (
    ChatChunk,
    ChatCompletionAnswer,
    CompletionAnswer,
    CompletionChunk,
    error_answer,
)
from palma.api.operation import Operation
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
from palma.core.errors import PalmaError
from palma.serving.generation import Completion, Generation

COMPLETION = "/inference/completion"
CHAT_COMPLETION = "/inference/chat_completion"
V1_PREFIX = "/v1/inference"
V1_COMPLETION = f"{V1_PREFIX}/completion"
V1_CHAT_COMPLETION = f"{V1_PREFIX}/chat-completion"


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


OPERATIONS = (
    *_operations(COMPLETION, CHAT_COMPLETION, LINES_MEDIA_TYPE),
    *_operations(V1_COMPLETION, V1_CHAT_COMPLETION, "text/event-stream"),
)
