"""OpenAI's routes for chat completions, and cria's names for the two ways of answering."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from palma.api.dialects.openai_chat.answers import AnswerStyle, ChatAnswer, chat_answer
from palma.api.dialects.openai_chat.bodies import (
    ChatBody,
    StreamedChatBody,
    WholeChatBody,
    parse_chat,
    to_requests,
)
from palma.api.dialects.openai_chat.events import ChatChunk, chat_events
from palma.api.openai_shapes import DONE_DATA, ErrorAnswer
from palma.api.operation import Dialect, Operation
from palma.api.thinking_fields import in_parts
from palma.api.wire import EventStream, json_response, queue_timeout_s, read_json, wait_for
from palma.serving.agents import Agents, conclusion
from palma.serving.generation import Completion
from palma.serving.group import GenerationGroup


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
    use = requests[0].tool_use
    style = AnswerStyle(
        has_logprobs=bool(body.logprobs),
        may_call=use is not None and use.choice != "none",
        in_functions=bool(body.functions),
        artifact=body.artifact_mode,
    )
    service = request.state.service
    answers: list[Completion] = []
    if body.mixture_of_agents is not None:
        agents = Agents(service, requests[0], body.mixture_of_agents.agents)
        answers = await wait_for(request, agents, agents.completions())
        requests = [conclusion(each, answers) for each in requests]
    requests = [in_parts(each, body.artifact_mode) for each in requests]
    group = GenerationGroup(service.start_all(requests))
    if not body.is_streamed:
        completions = await wait_for(request, group, group.completions())
        return json_response(chat_answer(group, completions, style, answers))
    await wait_for(request, group, group.accepted())
    events = chat_events(group, style, include_usage=body.includes_usage, agents=answers)
    return EventStream(events, group, request.state.settings)


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
