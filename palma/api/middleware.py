"""What holds for every request: its id, its limits, CORS, and an answer to whatever goes wrong."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Sequence
from types import MappingProxyType

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palma.api.errors import (
    BadHttpRequest,
    ErrorResponses,
    HeadersTooLarge,
    HttpError,
    status_code,
)
from palma.core.config import Settings
from palma.core.errors import EngineFailure, PalmaError, RequestCancelled
from palma.version import FOUNDING_API_VERSION

logger = logging.getLogger(__name__)

VERSION_HEADER = "Palmapy-Server-Version"
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestIdMiddleware:
    """Names the request; the outermost layer, so that every response carries what it adds.

    The id is in `scope["state"]["request_id"]` and in the `x-request-id` header of the
    response: the client's own if it is a short plain word.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if SANE_REQUEST_ID.fullmatch(sent) else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(identity_headers(request_id))
            await send(message)

        await self._app(scope, receive, send_with_id)


def new_request_id() -> str:
    """Return an id for a request that brings none."""
    return f"req_{uuid.uuid4().hex}"


def identity_headers(request_id: str) -> dict[str, str]:
    """Return the headers that every response carries; Anthropic's clients know the second one."""
    return {
        "x-request-id": request_id,
        "request-id": request_id,
        VERSION_HEADER: FOUNDING_API_VERSION,
    }


class ErrorMiddleware:
    """Checks the request's headers, and answers every error in the shape its client expects."""

    def __init__(self, app: ASGIApp, settings: Settings, error_responses: ErrorResponses) -> None:
        self._app = app
        self._settings = settings
        self._error_responses = error_responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; whatever is raised becomes a response, or ends the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def note_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            check_headers(scope["headers"], self._settings)
            await self._app(scope, receive, note_start)
        except Exception as error:  # HTTP's border
            if has_started:
                raise
            known = _known(error, scope["state"]["request_id"])
            known.request_id = scope["state"]["request_id"]
            response = self._error_responses.respond(known, scope["path"])
            await response(scope, receive, send)


def check_headers(headers: Sequence[tuple[bytes, bytes]], settings: Settings) -> None:
    """Refuse header blocks that are too large, or that can be read in two ways.

    Raises:
        HeadersTooLarge: More bytes or lines than the settings allow.
        AmbiguousLength: Both Content-Length and Transfer-Encoding.
    """
    num_bytes = sum(len(name) + len(value) for name, value in headers)
    if num_bytes > settings.max_header_bytes:
        allowed = settings.max_header_bytes
        raise HeadersTooLarge(f"the headers have {num_bytes} bytes; {allowed} are allowed")
    if len(headers) > settings.max_header_count:
        allowed = settings.max_header_count
        raise HeadersTooLarge(f"there are {len(headers)} headers; {allowed} are allowed")
    names = {name for name, _ in headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise AmbiguousLength("Content-Length and Transfer-Encoding exclude each other")


class AmbiguousLength(BadHttpRequest):
    """Two headers disagree about where the body ends: request smuggling begins like this."""

    headers = MappingProxyType({"Connection": "close"})


class CorsMiddleware:
    """Tells browsers which origins may read the responses.

    Args:
        app: What lies behind.
        allowed_origins: Exact origins; ("*",) allows all. Never with credentials.
    """

    def __init__(self, app: ASGIApp, allowed_origins: tuple[str, ...]) -> None:
        self._app = app
        self._allowed_origins = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the origin's headers to the response, errors included."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = Headers(scope=scope).get("origin")

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), origin)
            await send(message)

        await self._app(scope, receive, send_with_origin)

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        if "*" in self._allowed_origins:
            origin = "*"
        else:
            headers.add_vary_header("Origin")
        if origin is not None and origin in self._allowed_origins:
            headers["Access-Control-Allow-Origin"] = origin
            exposed = f"x-request-id, Retry-After, {VERSION_HEADER}"
            headers["Access-Control-Expose-Headers"] = exposed


class OptionsMiddleware:
    """Answers OPTIONS on every route, a browser's preflight included; it needs no key.

    Args:
        app: What lies behind.
        max_age_s: How long a browser may remember the answer to a preflight.
        routes: Where the methods of a path are looked up.
    """

    def __init__(self, app: ASGIApp, max_age_s: int, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._max_age_s = max_age_s
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 204 and the methods, or pass the request on."""
        is_options = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if is_options and (methods := allowed_methods(self._routes, scope)):
            response = Response(status_code=204, headers=self._headers(scope, methods))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _headers(self, scope: Scope, methods: str) -> dict[str, str]:
        asked = Headers(scope=scope).get("access-control-request-headers")
        return {
            "Allow": methods,
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": asked or "Authorization, Content-Type",
            "Access-Control-Max-Age": str(self._max_age_s),
        }


def allowed_methods(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """Return the methods that a path takes, comma-separated; empty when it does not exist."""
    methods = {"OPTIONS"}
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods)) if len(methods) > 1 else ""


def _known(error: Exception, request_id: str) -> PalmaError:
    if isinstance(error, RequestCancelled | HttpError):
        return error
    if isinstance(error, PalmaError):
        is_ours = status_code(error) >= 500
        # The message of a client's error quotes the client: it may hold a prompt, or forged lines.
        logger.info("%s: %s%s", request_id, error.code, f": {error.message}" if is_ours else "")
        return error
    logger.error("%s: failed", request_id, exc_info=error)
    return EngineFailure("the server failed on this request; its log says why")
