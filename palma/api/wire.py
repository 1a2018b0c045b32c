"""JSON in; JSON, server-sent events or lines out; a client that leaves cancels its generation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import reprlib
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from palma.api.errors import RequestTimeout, RequestTooLarge, UnsupportedMedia
from palma.core.config import Settings
from palma.core.errors import InvalidRequest, RequestCancelled, UnsupportedParameter

logger = logging.getLogger(__name__)

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)

LINE_BREAKS = "\x85\u2028\u2029"
"""JSON lets them stand as they are, and many clients (`str.splitlines`) end a line there."""

LINES_MEDIA_TYPE = "application/x-ndjson"

NEVER_S = 1e9
"""No comments: a line of JSON has no place for them."""

MAX_PROBLEMS = 100
MAX_NAME_CHARS = 100
MAX_SHOWN_CHARS = 200
"""An error quotes no more of the request than this."""

MAX_MESSAGE_CHARS = 600
"""Of one problem: pydantic's words may quote the request too, in their middle."""

ABORT_EXTENSION = "palma.abort"
"""ASGI extension of our HTTP protocol: drops the connection and what waits in its buffers."""

CLOSE_EXTENSION = "palma.close"
"""The same, but what waits is sent first; a body that is cut off so does not look whole."""


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object from the body; raises what `read_json_value` does, and

    Raises:
        InvalidRequest: It is no object.
    """
    parsed = await read_json_value(request)
    if not isinstance(parsed, dict):
        kind = {list: "an array", str: "a string", type(None): "null"}.get(type(parsed), "a scalar")
        raise InvalidRequest(f"the body must be a JSON object, found {kind}")
    return parsed


async def read_json_value(request: Request) -> Any:
    """Read whatever JSON the body is.

    Raises:
        UnsupportedMedia: The body does not say that it is plain JSON.
        RequestTooLarge: It is longer than MAX_REQUEST_BYTES; it is not read to its end.
        RequestTimeout: It took longer than BODY_TIMEOUT_S.
        InvalidRequest: It is no JSON.
    """
    _require_json(request)
    settings: Settings = request.state.settings
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _read_body(request, settings.max_request_bytes)
    except TimeoutError:
        raise RequestTimeout(
            f"the body did not arrive within {settings.body_timeout_s:g} s"
        ) from None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def parse_body(model: type[Body], body: dict[str, Any]) -> Body:
    """Check a body against a dialect's model.

    Raises:
        UnsupportedParameter: It has a field that the model does not know.
        InvalidRequest: A field is missing or wrong; `param` names the first one.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        if error.error_count() > MAX_PROBLEMS:  # to list them all would take seconds
            raise InvalidRequest(f"the body has {error.error_count()} wrong fields") from None
        problem = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part)[:MAX_NAME_CHARS] for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        raise UnsupportedParameter(f"{param} is not a parameter of this route", param=param)
    if problem["type"] == "missing":
        raise InvalidRequest(f"{param} is missing", param=param)
    if problem["type"] == "unsupported_value":
        raise UnsupportedParameter(f"{param} {problem['msg']}", param=param)
    message = _shortened(problem["msg"].removeprefix("Value error, "))
    raise InvalidRequest(f"{param}: {message}, found {shown(problem['input'])}", param=param)


def _shortened(message: str) -> str:
    half = MAX_MESSAGE_CHARS // 2
    is_short = len(message) <= MAX_MESSAGE_CHARS
    return message if is_short else f"{message[:half]} ... {message[-half:]}"


def shown(value: Any) -> str:
    """Return a short repr of what a client sent, however large or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MAX_NAME_CHARS
    return short.repr(value)[:MAX_SHOWN_CHARS]


class Work(Protocol):
    """What the engine does for one HTTP request: a generation, a group of them, ..."""

    engine_id: str

    def cancel(self) -> None:
        """End it; harmless when it has ended."""


async def wait_for(request: Request, work: Work, answer: Awaitable[T]) -> T:
    """Await a part of an answer; cancel the work if that fails or the client leaves.

    Raises:
        RequestCancelled: The client left; nobody reads what is answered now.
    """
    answered = asyncio.ensure_future(answer)
    left = asyncio.ensure_future(_client_left(request))
    try:
        await asyncio.wait({answered, left}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise RequestCancelled("the client left")
        return answered.result()
    except BaseException:
        work.cancel()
        raise
    finally:
        answered.cancel()
        left.cancel()


def queue_timeout_s(request: Request) -> float | None:
    """Return how long the client waits for an answer, where its SDK says so."""
    try:
        seconds = float(request.headers.get("x-stainless-read-timeout", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def event(data: Any, name: str | None = None) -> bytes:
    """Return one server-sent event whose data is JSON; some dialects give their events names."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + line(data) + b"\n"


def line(data: Any) -> bytes:
    """Return JSON on one line, its end included, however a client counts lines."""
    text = orjson.dumps(data)
    if not text.isascii():
        for character in LINE_BREAKS:
            text = text.replace(character.encode(), b"\\u%04x" % ord(character))
    return text + b"\n"


class EventStream(EventSourceResponse):
    """A stream of events about some work, which does not outlive it.

    Comments keep the connection alive; a client that stops reading is dropped after
    SEND_TIMEOUT_S.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        work: Work,
        settings: Settings,
        *,
        media_type: str = "text/event-stream",
        ping_s: float | None = None,
    ) -> None:
        super().__init__(
            events,
            headers={"Cache-Control": "no-cache"},
            media_type=media_type,
            ping=settings.sse_ping_s if ping_s is None else ping_s,
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
            data_sender_callable=self._watch_sends,
            sep="\n",
        )
        self._work = work
        self._patience_s = settings.send_timeout_s
        self._sends_began: list[float] = []  # of those that are under way: an event, a ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; cancel the work however this ends."""
        try:
            await super().__call__(scope, receive, send)
        except* SendTimeoutError:
            logger.warning("%s: the client stopped reading; dropped", self._work.engine_id)
            abort = scope.get("extensions", {}).get(ABORT_EXTENSION)
            if abort is not None:
                abort()
                await asyncio.sleep(0)  # uvicorn sees the loss first, else it logs an error
        finally:
            self._work.cancel()

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """Send what the base class sends; its own timer cost more than the rest of an event."""
        began = time.monotonic()
        self._sends_began.append(began)
        try:
            await send(message)
        finally:
            self._sends_began.remove(began)

    async def _watch_sends(self) -> None:
        """End the stream when a send has lasted SEND_TIMEOUT_S; runs beside the stream."""
        while True:
            oldest = min(self._sends_began, default=time.monotonic())
            left_s = oldest + self._patience_s - time.monotonic()
            if left_s <= 0:
                raise SendTimeoutError
            await asyncio.sleep(left_s)


class LineStream(EventStream):
    """A stream of JSON, one object a line; like EventStream, but silent between its lines."""

    def __init__(self, lines: AsyncIterator[bytes], work: Work, settings: Settings) -> None:
        super().__init__(lines, work, settings, media_type=LINES_MEDIA_TYPE, ping_s=NEVER_S)


class StreamBroken(Exception):
    """Raised by the pieces of a TextStream after what can still be said: the rest never comes."""


class TextStream(EventStream):
    """A stream of plain text as it is made.

    Plain text has no place for an error, so a body that breaks is cut off: its client sees that
    the chunked coding has no end, and takes nothing half for whole.
    """

    def __init__(self, pieces: AsyncIterator[bytes], work: Work, settings: Settings) -> None:
        media_type = "text/plain; charset=utf-8"
        super().__init__(pieces, work, settings, media_type=media_type, ping_s=NEVER_S)
        self.headers["Content-Encoding"] = "identity"  # other plain text is gzipped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the text; cut it off where it breaks."""
        try:
            await super().__call__(scope, receive, send)
        except* StreamBroken:
            extensions = scope.get("extensions", {})
            if CLOSE_EXTENSION not in extensions:
                raise
            extensions[CLOSE_EXTENSION]()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    await _client_left(Request(scope, receive))


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMedia(
            f"the body must have Content-Type: application/json, found {media_type or 'none'}"
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMedia(f"a body with Content-Encoding: {encoding[:40]} is not taken")


async def _read_body(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise RequestTooLarge(f"the body has {declared} bytes; {max_bytes} are allowed")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise RequestTooLarge(f"the body has more than the {max_bytes} bytes allowed")
    except ClientDisconnect:
        raise RequestCancelled("the client left before its body was complete") from None
    return bytes(body)


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
