"""Palma's own API, version 0.1.0: health, inference, and inference as a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.errors import status_code
from palma.api.fields import MaxTokens, Messages, SamplingBody
from palma.api.operation import Dialect, Operation
from palma.api.wire import EventStream, event, json_response, parse_body, read_json, wait_for
from palma.core.config import Settings
from palma.core.errors import PalmaError
from palma.core.types import GenerationRequest, Message, SamplingParams
from palma.serving.generation import Generation
from palma.serving.health import Status
from palma.version import FOUNDING_API_VERSION

PREFIX = f"/v{FOUNDING_API_VERSION}"
SECOND_HEALTH_PATH = "/v1/healthcheck"

Role = Literal["system", "user", "assistant"]

END_MARKER = "<|eot_id|>"
"""Ends the last event of a stream, whatever the model's own end token is."""

ERROR_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "resource_missing",
    405: "request_unsupported_method",
    408: "request_timeout",
    413: "request_too_large",
    415: "request_unsupported_media",
    429: "rate_limited",
    431: "request_headers_too_large",
    503: "unavailable",
}


class MessageBody(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Role
    content: str


class InferenceBody(SamplingBody):
    """The body of /inference and /stream; what is left out comes from the environment."""

    messages: Messages[MessageBody]
    max_new_tokens: MaxTokens | None = None
    do_sample: bool | None = None
    model: str | None = None


class HealthAnswer(TypedDict):
    """What the health check says; the reason is there unless all is well."""

    status: Status
    timestamp: str
    version: str
    reason: NotRequired[str]


class InferenceAnswer(TypedDict):
    """A whole answer."""

    data: str


class ErrorDetail(TypedDict):
    """What went wrong, for people and for programs."""

    code: str
    message: str
    type: Literal["invalid_request_error", "api_error"]


class ErrorAnswer(TypedDict):
    """The envelope of every error."""

    error: ErrorDetail


def parse_inference(body: dict[str, Any], settings: Settings, request_id: str) -> GenerationRequest:
    """Read a body; raises InvalidRequest where it is wrong."""
    parsed = parse_body(InferenceBody, body)
    return GenerationRequest(
        request_id=request_id,
        messages=tuple(Message(turn.role, turn.content) for turn in parsed.messages),
        model=parsed.model,
        sampling_params=_sampling_params(parsed, settings),
        stop=tuple(parsed.stop or ()),
        max_tokens_is_default=parsed.max_new_tokens is None,
    )


async def healthcheck(request: Request) -> Response:
    """GET /healthcheck: 200 only when a request sent now would be served."""
    health = request.state.health.ready()
    timestamp = datetime.now(UTC).isoformat()
    body: HealthAnswer = {
        "status": health.status,
        "timestamp": timestamp,
        "version": FOUNDING_API_VERSION,
    }
    if health.is_ok:
        return json_response(body)
    return json_response({**body, "reason": health.reason}, 503)


async def inference(request: Request) -> Response:
    """POST /inference: the whole answer as `{"data": text}`."""
    generation = await _start(request)
    completion = await wait_for(request, generation, generation.completion())
    return json_response({"data": completion.text})


async def stream(request: Request) -> Response:
    """POST /stream: the answer as events, each a JSON string."""
    generation = await _start(request)
    await wait_for(request, generation, generation.accepted())
    return EventStream(stream_events(generation), generation, request.state.settings)


async def stream_events(generation: Generation) -> AsyncIterator[bytes]:
    """Yield the text as events; the last one ends with the marker, unless an error ends all."""
    try:
        async for chunk in generation:
            if chunk.finish_reason is not None:
                yield event(chunk.text + END_MARKER)
            elif chunk.text:  # thoughts have no place here
                yield event(chunk.text)
    except PalmaError as error:
        yield event(error_answer(error))


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    status = status_code(error)
    is_clients = 400 <= status < 500 and status != 429
    code = ERROR_CODES.get(status, "invalid_request" if is_clients else "internal_error")
    return {
        "error": {
            "code": code,
            "message": error.message,
            "type": "invalid_request_error" if is_clients else "api_error",
        }
    }


async def _start(request: Request) -> Generation:
    body = await read_json(request)
    generation_request = parse_inference(body, request.state.settings, request.state.request_id)
    generation: Generation = request.state.service.start(generation_request)
    return generation


def _sampling_params(body: InferenceBody, settings: Settings) -> SamplingParams:
    """Fill what the body left out from the environment."""
    params = body.sampling_params(
        body.max_new_tokens or settings.default_max_new_tokens,
        temperature=settings.default_temperature,
        top_p=settings.default_top_p,
    )
    do_sample = settings.default_do_sample if body.do_sample is None else body.do_sample
    return params if do_sample else dataclasses.replace(params, temperature=0.0)


HEALTH: dict[str, Any] = {
    "answer": HealthAnswer,
    "other_answers": ((503, HealthAnswer),),
    "is_public": True,
}

DIALECT = Dialect(
    name="Palma v0.1.0",
    operations=(
        Operation("GET", f"{PREFIX}/healthcheck", healthcheck, "Whether it serves.", **HEALTH),
        Operation("GET", SECOND_HEALTH_PATH, healthcheck, "The same.", **HEALTH),
        Operation(
            "POST",
            f"{PREFIX}/inference",
            inference,
            "Answer a conversation, whole.",
            body=InferenceBody,
            answer=InferenceAnswer,
        ),
        Operation(
            "POST",
            f"{PREFIX}/stream",
            stream,
            "Answer a conversation as events, each a JSON string.",
            body=InferenceBody,
            event=str,
        ),
    ),
    error=ErrorAnswer,
)
