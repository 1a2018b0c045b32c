"""Falcon's API, as Tenstorrent served it: text in, plain text out as it is made, or events.

Numbers may come as strings here, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.errors import status_code
from palma.api.fields import StopString
from palma.api.operation import Dialect, Operation
from palma.api.wire import (
    EventStream,
    StreamBroken,
    TextStream,
    event,
    parse_body,
    queue_timeout_s,
    read_json,
    wait_for,
)
from palma.core.errors import PalmaError, QueueFull, Unavailable
from palma.core.types import GenerationRequest, Message, SamplingParams
from palma.serving.generation import Generation

INFERENCE = "/inference"
PREDICTIONS = "/predictions"
CHAT = "/chat"

END_MARKER = "<|endoftext|>"
"""Ends the text of every answer that is whole, whatever the model's own end token is."""

SESSION_HEADER = "X-Session-Id"

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Marks a number that may come as a string; what lies outside is refused with the bounds."""

    low: float
    high: float

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Read strings and check the bounds before the type."""
        read = partial(self._read, is_whole=source is int)
        return core_schema.no_info_before_validator_function(read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Show the bounds."""
        number = {**handler(schema), "minimum": self.low, "maximum": self.high}
        return {"anyOf": [number, {"type": "string"}]}

    def _read(self, value: Any, is_whole: bool) -> Any:
        number = _from_string(value, is_whole) if isinstance(value, str) else value
        kinds = int if is_whole else int | float
        is_bool = isinstance(number, bool)
        if isinstance(number, kinds) and not is_bool and self.low <= number <= self.high:
            return number
        kind = "whole number" if is_whole else "number"
        raise ValueError(f"must be a {kind} from {self.low:g} to {self.high:g}")


def _from_string(value: str, is_whole: bool) -> float | None:
    text = value.strip()
    if not (_WHOLE if is_whole else _DECIMAL).fullmatch(text):
        return None
    return int(text) if is_whole else float(text)


class FalconBody(BaseModel):
    """The body of every request; a null leaves its field to the default.

    `session_id` names the session that the answer belongs to and comes back in a header. Nothing
    is kept under it: each request stands for itself, and two of one session do not mix.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    text: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Bounds(0.01, 100)] | None = None
    top_p: Annotated[float, Bounds(0.01, 1)] | None = None
    top_k: Annotated[int, Bounds(1, 1000)] | None = None
    max_tokens: Annotated[int, Bounds(1, 2048)] | None = None
    stop_sequence: StopString | None = None
    return_prompt: bool | None = None
    session_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None

    def sampling_params(self) -> SamplingParams:
        """Return what was given, and this dialect's defaults for the rest."""
        given = self.model_dump(exclude_none=True, include=set(DEFAULTS))
        return SamplingParams(**{**DEFAULTS, **given})


DEFAULTS: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "top_k": 10, "max_tokens": 128}


class ChatMessage(TypedDict):
    """The data of one event: the text so far, or a farewell."""

    message: str


class ErrorAnswer(TypedDict):
    """The envelope of every error."""

    status_code: int
    message: str


def to_request(
    body: FalconBody,
    model: str,
    request_id: str,
    *,
    is_raw: bool,
    queue_timeout_s: float | None = None,
) -> GenerationRequest:
    """Translate a parsed body.

    The marker always ends an answer: a client could not tell one in the middle from the end.

    Args:
        is_raw: Whether the text is continued as it stands, and not answered.
    """
    content: dict[str, Any] = {
        "messages": (Message("user", body.text),),
        "plain_prompt": f"User: {body.text}\nAI: ",
    }
    if is_raw:
        content = {"prompt": body.text}
    return GenerationRequest(
        request_id=request_id,
        model=model,
        sampling_params=body.sampling_params(),
        stop=(END_MARKER, *([body.stop_sequence] if body.stop_sequence else [])),
        max_tokens_is_default=body.max_tokens is None,
        queue_timeout_s=queue_timeout_s,
        param="text",
        **content,
    )


async def inference(request: Request) -> Response:
    """POST /inference/{model}: the text is continued as it stands."""
    return await _text_answer(request, is_raw=True)


async def predictions(request: Request) -> Response:
    """POST /predictions/{model}: the text is a question to the model."""
    return await _text_answer(request, is_raw=False)


async def chat(request: Request) -> Response:
    """POST /chat/{model}: the same as events, each with the text so far."""
    body, generation = await _start(request, is_raw=False)
    await wait_for(request, generation, generation.accepted())
    events = chat_events(generation, body)
    return _with_session(EventStream(events, generation, request.state.settings), body)


async def _text_answer(request: Request, *, is_raw: bool) -> Response:
    body, generation = await _start(request, is_raw=is_raw)
    await wait_for(request, generation, generation.accepted())
    pieces = text_pieces(generation, body)
    return _with_session(TextStream(pieces, generation, request.state.settings), body)


async def _start(request: Request, *, is_raw: bool) -> tuple[FalconBody, Generation]:
    body = parse_body(FalconBody, await read_json(request))
    model, request_id = request.path_params["model"], request.state.request_id
    generation_request = to_request(
        body, model, request_id, is_raw=is_raw, queue_timeout_s=queue_timeout_s(request)
    )
    try:
        return body, request.state.service.start(generation_request)
    except QueueFull as error:  # the one dialect in which this is no 429
        message = f"overloaded: {error.message}"
        raise Unavailable(message, retry_after_s=error.retry_after_s) from None


def _with_session(response: Response, body: FalconBody) -> Response:
    if body.session_id is not None:
        response.headers[SESSION_HEADER] = body.session_id
    return response


async def text_pieces(generation: Generation, body: FalconBody) -> AsyncIterator[bytes]:
    """Yield the text as it is made, then the marker; after an error there is no marker."""
    if body.return_prompt:
        yield body.text.encode()
    try:
        async for chunk in generation:
            if chunk.text:
                yield chunk.text.encode()
        yield END_MARKER.encode()
    except PalmaError as error:
        yield b"\n" + orjson.dumps(error_answer(error))
        raise StreamBroken(error.message) from None


async def chat_events(generation: Generation, body: FalconBody) -> AsyncIterator[bytes]:
    """Yield the text so far, again and again, then the farewell; after an error there is none."""
    text = body.text if body.return_prompt else ""
    try:
        async for chunk in generation:
            text += chunk.text
            if chunk.text:
                yield event({"message": text}, "answer")
        yield event({"message": "Connection closed"}, "close")
    except PalmaError as error:
        yield event(error_answer(error), "error")


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    return {"status_code": status_code(error), "message": error.message}


DIALECT = Dialect(
    name="Falcon",
    operations=(
        Operation(
            "POST",
            f"{INFERENCE}/{{model:path}}",
            inference,
            "Continue a text as it stands; plain text, as it is made.",
            body=FalconBody,
            media_type="text/plain",
        ),
        Operation(
            "POST",
            f"{PREDICTIONS}/{{model:path}}",
            predictions,
            "Answer a text; plain text, as it is made.",
            body=FalconBody,
            media_type="text/plain",
        ),
        Operation(
            "POST",
            f"{CHAT}/{{model:path}}",
            chat,
            "Answer a text as events, each with the text so far.",
            body=FalconBody,
            event=ChatMessage,
        ),
    ),
    error=ErrorAnswer,
)
