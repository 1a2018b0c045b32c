"""Errors on the wire: HTTP's own ones, every status code, and the dialects' envelopes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from palma.core import errors

LINGER_S = 2.0
"""How long a connection that is about to close still takes the rest of a refused body."""


class HttpError(errors.PalmaError):
    """Base of what goes wrong in HTTP itself, before a request means anything."""

    headers: Mapping[str, str] = MappingProxyType({})


class BadHttpRequest(HttpError):
    """The request breaks the rules of HTTP in a way that is dangerous to guess about."""

    code = "bad_http_request"


class Unauthorized(HttpError):
    """The API key or the token is missing or wrong."""

    code = "invalid_api_key"
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class Forbidden(HttpError):
    """The operator lets nobody do this here."""

    code = "forbidden"


class RouteNotFound(HttpError):
    """Nothing lives at this path."""

    code = "not_found"


class MethodNotAllowed(HttpError):
    """The path exists, but not for this method."""

    code = "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"This path does not take {method[:40]}; it takes {allowed}.")
        self.headers = {"Allow": allowed}


class RequestTimeout(HttpError):
    """The body did not arrive in time."""

    code = "request_timeout"


class RequestTooLarge(HttpError):
    """The body is larger than the server takes."""

    code = "request_too_large"


class UnsupportedMedia(HttpError):
    """The body is not JSON, or is compressed."""

    code = "unsupported_media_type"


class HeadersTooLarge(HttpError):
    """The header block has too many bytes or lines."""

    code = "headers_too_large"


STATUS_CODES: Mapping[type[errors.PalmaError], int] = {
    BadHttpRequest: 400,
    errors.InvalidRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    errors.ModelNotFound: 404,
    errors.ResourceNotFound: 404,
    RouteNotFound: 404,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    RequestTooLarge: 413,
    UnsupportedMedia: 415,
    errors.QueueFull: 429,
    HeadersTooLarge: 431,
    errors.RequestCancelled: 499,  # nginx's word for a client that left; nobody reads it
    errors.PalmaError: 500,
    errors.QueueTimeout: 503,
    errors.Unavailable: 503,
}

CLOSING_STATUS_CODES = frozenset({408, 413, 431})
"""The rest of the request is still on its way: the connection cannot be used again."""

Envelope = Callable[[errors.PalmaError], Mapping[str, Any]]
"""Wraps an error in the shape that a dialect's clients expect."""


def status_code(error: errors.PalmaError) -> int:
    """Return the HTTP status of an error: that of its nearest ancestor in the table."""
    return next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)


def headers_of(error: errors.PalmaError) -> dict[str, str]:
    """Return the headers that go with an error: when to retry, what is allowed."""
    status = status_code(error)
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    elif status >= 500:
        headers["x-should-retry"] = "false"  # the official SDKs would try twice more
    if status in CLOSING_STATUS_CODES:
        headers["Connection"] = "close"
    return headers


class ErrorResponses:
    """Answers errors in the envelope of the dialect that owns the path.

    Args:
        envelopes: Path, without a slash at its end, to the envelope of all that lies at or below
            it; the longest one counts.
        default: The envelope of every other path.
    """

    def __init__(self, envelopes: Mapping[str, Envelope], default: Envelope) -> None:
        self._envelopes = envelopes
        self._default = default

    def respond(self, error: errors.PalmaError, path: str) -> Response:
        """Return the whole response to an error."""
        body = orjson.dumps(self._envelope(path)(error))
        status, headers = status_code(error), headers_of(error)
        kind = LingeringResponse if status in CLOSING_STATUS_CODES else Response
        return kind(body, status, headers, media_type="application/json")

    def _envelope(self, path: str) -> Envelope:
        owners = [own for own in self._envelopes if path == own or path.startswith(f"{own}/")]
        return self._envelopes[max(owners, key=len)] if owners else self._default


class LingeringResponse(Response):
    """A response after which the connection closes, but not before the client could read it.

    Closing a socket with unread bytes in it resets the connection, and the client may lose the
    answer. So the rest of the body is read and dropped for a moment first.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, drop what still arrives, then complete it."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
