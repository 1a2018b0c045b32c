"""Anthropic's messages: answered whole or as a stream, and their tokens counted."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from palma.api.dialects.anthropic.bodies import (
    MessagesBody,
    PromptBody,
    to_counting_request,
    to_request,
)
from palma.api.dialects.anthropic.events import message_answer, message_events
from palma.api.dialects.anthropic.shapes import CountAnswer, MessageAnswer, StreamEvent
from palma.api.operation import Operation
from palma.api.wire import (
    EventStream,
    json_response,
    parse_body,
    queue_timeout_s,
    read_json,
    wait_for,
)
from palma.serving.generation import Generation

PREFIX = "/v1/messages"


async def messages(request: Request) -> Response:
    """POST /v1/messages: JSON, or events when the body says `stream`."""
    body = parse_body(MessagesBody, await read_json(request))
    generation: Generation = request.state.service.start(
        to_request(body, request.state.request_id, queue_timeout_s(request))
    )
    shows_thinking = body.shows_thinking
    if not body.stream:
        answer = message_answer(generation, shows_thinking=shows_thinking)
        return json_response(await wait_for(request, generation, answer))
    await wait_for(request, generation, generation.accepted())
    events = message_events(generation, shows_thinking=shows_thinking)
    return EventStream(events, generation, request.state.settings)


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens: how many tokens the prompt of a message would have."""
    body = parse_body(PromptBody, await read_json(request))
    counting_request = to_counting_request(body, request.state.request_id)
    count = await request.state.service.count_prompt_tokens(counting_request)
    answer: CountAnswer = {"input_tokens": count}
    return json_response(answer)


OPERATIONS = (
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
)
