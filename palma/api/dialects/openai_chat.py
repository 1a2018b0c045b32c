"""OpenAI's chat completions: POST /v1/chat/completions, whole or as a stream.

The reference is the official `openai` package's types; its strict client is the judge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from palma.api.errors import status_code
from palma.api.fields import MaxTokens, Messages, SamplingBody
from palma.api.wire import (
    MAX_NAME_CHARS,
    EventStream,
    event,
    json_response,
    parse_body,
    queue_timeout_s,
    read_json,
    shown,
    wait_for,
)
from palma.core.errors import InvalidRequest, PalmaError, UnsupportedParameter
from palma.core.types import GenerationRequest, Message, Role, TextChunk, Usage
from palma.serving.generation import Completion, Generation

DONE = b"data: [DONE]\n\n"

ERROR_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}

ANY_VALUE = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "store", "user"})
"""Fields that label a request and ask nothing of the answer."""

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Fields that are not honoured, with the values that ask for nothing: null is always one."""


def _join_text_parts(content: Any) -> Any:
    """Join a list of text parts; other kinds of parts are refused by name."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"this model takes only text parts, not {shown(kind)}")
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError('a text part is {"type": "text", "text": "..."}')
        texts.append(part["text"])
    return "".join(texts)


def _as_known_role(role: Any) -> Any:
    return "system" if role == "developer" else role


class ChatMessageBody(BaseModel):
    """One turn; `developer` is OpenAI's newer word for `system`.

    The fields that only null may have come with answers that clients send back as they got them.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Annotated[Role, BeforeValidator(_as_known_role)]
    content: Annotated[str, BeforeValidator(_join_text_parts)]
    annotations: None = None
    audio: None = None
    function_call: None = None
    name: None = None
    refusal: None = None
    tool_calls: None = None


class StreamOptions(BaseModel):
    """What a stream should contain beside the text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatBody(SamplingBody):
    """The honoured fields; the rest is checked by `refuse_unhonoured`."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    messages: Messages[ChatMessageBody]
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def parse_chat(body: dict[str, Any]) -> ChatBody:
    """Read a body.

    Raises:
        UnsupportedParameter: A field or value that would have no effect.
        InvalidRequest: A field is missing, wrong or contradicts another.
    """
    parsed = parse_body(ChatBody, body)
    refuse_unhonoured(parsed.model_extra or {})
    if parsed.stream_options is not None and not parsed.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if parsed.max_tokens is not None and parsed.max_completion_tokens not in (
        None,
        parsed.max_tokens,
    ):
        raise InvalidRequest(
            "max_tokens and max_completion_tokens differ; send only the second", param="max_tokens"
        )
    return parsed


def refuse_unhonoured(fields: dict[str, Any]) -> None:
    """Refuse, by name, a field or value that would silently have no effect."""
    for name, value in fields.items():
        if value is None or name in ANY_VALUE:
            continue
        if name not in NEUTRAL_VALUES:
            short = name[:MAX_NAME_CHARS]
            raise UnsupportedParameter(f"{short} is not a parameter of this route", param=short)
        allowed = NEUTRAL_VALUES[name]
        if not any(_is_same(value, neutral) for neutral in allowed):
            only = " or ".join(repr(neutral) for neutral in allowed)
            raise UnsupportedParameter(
                f"{name} is not supported by this server; only {only} is taken", param=name
            )


def _is_same(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: 0 is 0.0, but true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def to_request(
    body: ChatBody, request_id: str, queue_timeout_s: float | None = None
) -> GenerationRequest:
    """Translate a parsed body; OpenAI's own default is to sample from the whole distribution."""
    return GenerationRequest(
        request_id=request_id,
        messages=tuple(Message(turn.role, turn.content) for turn in body.messages),
        model=body.model,
        sampling_params=body.sampling_params(body.max_completion_tokens or body.max_tokens),
        stop=tuple(body.stop or ()),
        queue_timeout_s=queue_timeout_s,
    )


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions: JSON, or events when the body says `stream`."""
    body = parse_chat(await read_json(request))
    generation: Generation = request.state.service.start(
        to_request(body, request.state.request_id, queue_timeout_s(request))
    )
    if not body.stream:
        completion = await wait_for(request, generation, generation.completion())
        return json_response(chat_completion(generation, completion))
    await wait_for(request, generation, generation.accepted())
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    events = chat_events(generation, include_usage=include_usage)
    return EventStream(events, generation, request.state.settings)


def chat_completion(generation: Generation, completion: Completion) -> dict[str, Any]:
    """Return the body of a whole answer."""
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    return {
        **_head(generation, "chat.completion"),
        "choices": [choice],
        "usage": usage_body(completion.usage),
    }


async def chat_events(generation: Generation, *, include_usage: bool) -> AsyncIterator[bytes]:
    """Yield an answer as events: the role, the text, the end, the usage if asked, `[DONE]`.

    A failure is one event with the error and no `[DONE]`: official clients take a stream that
    merely ends for a success.
    """
    head = _head(generation, "chat.completion.chunk")
    if include_usage:
        head["usage"] = None
    yield event(_chunk(head, {"role": "assistant", "content": "", "refusal": None}))
    try:
        async for chunk in generation:
            if chunk.text:
                yield event(_chunk(head, {"content": chunk.text}))
            if chunk.finish_reason is not None:
                yield event(_chunk(head, {}, chunk.finish_reason))
                if include_usage:
                    yield event({**head, "choices": [], "usage": _usage_of(chunk)})
                yield DONE
    except PalmaError as error:
        yield event(error_body(error))


def usage_body(usage: Usage) -> dict[str, Any]:
    """Return measured token counts in OpenAI's words."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
    }


def error_body(error: PalmaError) -> dict[str, Any]:
    """Return the envelope of an error."""
    status = status_code(error)
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return {"error": body}


def _head(generation: Generation, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{generation.public_id}",
        "object": kind,
        "created": generation.created,
        "model": generation.served.card.model_id,
    }


def _chunk(
    head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "choices": [choice]}


def _usage_of(chunk: TextChunk) -> dict[str, Any] | None:
    return usage_body(chunk.usage) if chunk.usage is not None else None


routes = [Route("/v1/chat/completions", chat_completions, methods=["POST"])]
