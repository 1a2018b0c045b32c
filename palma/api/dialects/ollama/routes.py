"""Ollama's chats and completions, answered whole or as lines."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from palma.api.dialects.ollama.answers import (
    ChatAnswer,
    ChatLine,
    GenerateAnswer,
    GenerateLine,
    Said,
    Say,
    answer_lines,
    head,
    say_message,
    say_response,
    whole_answer,
)
from palma.api.dialects.ollama.bodies import (
    ChatBody,
    GenerateBody,
    chat_request,
    generate_request,
    parse_chat,
    parse_generate,
)
from palma.api.ollama_shapes import PREFIX, find_model
from palma.api.operation import Operation
from palma.api.wire import LINES_MEDIA_TYPE, LineStream, json_response, read_json, wait_for
from palma.core.errors import InvalidRequest
from palma.core.types import GenerationRequest
from palma.serving.generation import Generation


async def chat(request: Request) -> Response:
    """POST /api/chat: lines of JSON, or one object when the body says `stream: false`."""
    body = parse_chat(await read_json(request))
    asked = chat_request(body, request.state.request_id)
    return await _respond(request, asked, say_message, is_stream=body.stream is not False)


async def generate(request: Request) -> Response:
    """POST /api/generate: lines of JSON, or one object when the body says `stream: false`."""
    body = parse_generate(await read_json(request))
    asked = generate_request(body, request.state.request_id)
    return await _respond(request, asked, say_response, is_stream=body.stream is not False)


async def _respond(
    request: Request, asked: GenerationRequest, say: Say, *, is_stream: bool
) -> Response:
    served = find_model(request, asked.model or "")
    if asked.prompt is None and not asked.messages:
        return json_response({**head(served), **say(Said()), "done": True, "done_reason": "load"})
    _require_window(asked.max_model_len, served.card.max_model_len)
    generation: Generation = request.state.service.start(asked)
    if not is_stream:
        return json_response(await wait_for(request, generation, whole_answer(generation, say)))
    await wait_for(request, generation, generation.accepted())
    return LineStream(answer_lines(generation, say), generation, request.state.settings)


def _require_window(num_ctx: int | None, max_model_len: int) -> None:
    if num_ctx is not None and num_ctx > max_model_len:
        raise InvalidRequest(
            f"num_ctx is {num_ctx}, and this model's window holds {max_model_len} tokens; ask for "
            "no more, or leave it out",
            param="options.num_ctx",
        )


OPERATIONS = (
    Operation(
        "POST",
        f"{PREFIX}/chat",
        chat,
        "Answer a conversation.",
        body=ChatBody,
        answer=ChatAnswer,
        event=ChatLine,
        media_type=LINES_MEDIA_TYPE,
    ),
    Operation(
        "POST",
        f"{PREFIX}/generate",
        generate,
        "Answer one message, or continue a raw text.",
        body=GenerateBody,
        answer=GenerateAnswer,
        event=GenerateLine,
        media_type=LINES_MEDIA_TYPE,
    ),
)
