"""One request through the proxy: checked, sent to a server, answered piece by piece."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from palma.core.access import Door, credentials_of
from palma.proxy.answers import ProxyError
from palma.proxy.upstreams import Upstream, Upstreams

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/v0.1.0/healthcheck", "/v1/health", "/v1/healthcheck"})
"""Health checks of the servers, which need no key there either."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that belong to one connection. Source: RFC 9110, 7.6.1."""

HeaderLines = list[tuple[bytes, bytes]]


class Forwarder:
    """The ASGI application behind every path that the proxy does not answer itself.

    Args:
        door: What requests must bring.
        upstreams: Where they may go.
        client: Sends them; it must not time out while a server thinks.
        retry_after_s: What clients are told when no server is well.
    """

    def __init__(
        self, door: Door, upstreams: Upstreams, client: httpx.AsyncClient, retry_after_s: int
    ) -> None:
        self._door = door
        self._upstreams = upstreams
        self._client = client
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; nothing of it is left when the client leaves."""
        body = RequestBody(receive)
        answered = asyncio.ensure_future(self._answer(scope, body, send))
        left = asyncio.ensure_future(body.client_left())
        try:
            await asyncio.wait({answered, left}, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                answered.result()
        finally:
            for task in (answered, left):
                task.cancel()
            await asyncio.gather(answered, left, return_exceptions=True)

    async def _answer(self, scope: Scope, body: RequestBody, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            await self._forward(scope, body, send)
        except ProxyError as error:
            response = error.response(headers.get("x-request-id", ""))
            await response(scope, body.receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise ProxyError for what may not, or cannot, be sent on."""
        is_open = scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS"
        refusal = None if is_open else self._door.refusal(credentials_of(headers))
        if refusal is not None:
            raise ProxyError(401, "invalid_api_key", refusal)
        if {"content-length", "transfer-encoding"} <= set(headers.keys()):
            message = "Content-Length and Transfer-Encoding exclude each other"
            raise ProxyError(400, "bad_http_request", message)
        if not scope["raw_path"].startswith(b"/"):
            raise ProxyError(400, "bad_http_request", "the request target must be a path")

    async def _forward(self, scope: Scope, body: RequestBody, send: Send) -> None:
        """Ask the servers in their order; only one that could not be reached is passed over."""
        for upstream in self._upstreams.healthy:
            with self._upstreams.working(upstream):
                try:
                    response = await self._client.send(outgoing(scope, body, upstream), stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    self._upstreams.set_health(upstream, False, type(error).__name__)
                    continue
                except httpx.HTTPError as error:
                    logger.warning("%s did not answer: %s", upstream.url, type(error).__name__)
                    message = "the server that had the request did not answer it"
                    raise ProxyError(502, "bad_gateway", message) from None
                await _pass_on(response, send)
                return
        message = "no server behind this proxy is ready"
        raise ProxyError(503, "no_server_ready", message, self._retry_after_s)


class RequestBody:
    """The body of a request as it arrives; afterwards, whether the client is still there."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self._is_read = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body; a client that leaves amid it ends this like an answer would."""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                self._is_read.set()
                raise httpx.WriteError("the client left amid its body")
            yield message.get("body", b"")
            if not message.get("more_body", False):
                self._is_read.set()
                return

    def skip(self) -> None:
        """Note that there is no body that anybody would read."""
        self._is_read.set()

    async def client_left(self) -> None:
        """Wait until the client is gone; two may not read at the same time."""
        await self._is_read.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass


def outgoing(scope: Scope, body: RequestBody, upstream: Upstream) -> httpx.Request:
    """Return the request as the server gets it: the same, but for what concerns connections."""
    lines: HeaderLines = [
        (name, value) for name, value in end_to_end(scope["headers"]) if name != b"host"
    ]
    if scope.get("client"):
        lines.append((b"x-forwarded-for", scope["client"][0].encode()))
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    base = upstream.url.raw_path.rstrip(b"/")
    url = upstream.url.copy_with(raw_path=base + scope["raw_path"] + query)
    names = {name for name, _ in scope["headers"]}
    has_body = bool(names & {b"content-length", b"transfer-encoding"})
    if not has_body:
        body.skip()
    return httpx.Request(scope["method"], url, headers=lines, content=body if has_body else None)


def end_to_end(lines: HeaderLines) -> HeaderLines:
    """Return the headers that go on, their names in lower case."""
    named = b",".join(value for name, value in lines if name.lower() == b"connection")
    dropped = HOP_BY_HOP | {name.strip().lower() for name in named.split(b",")}
    return [(name.lower(), value) for name, value in lines if name.lower() not in dropped]


async def _pass_on(response: httpx.Response, send: Send) -> None:
    """Send an answer on as it comes; one that breaks off is broken off here too."""
    try:
        lines = end_to_end(response.headers.raw)
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": lines}
        )
        async for piece in response.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except httpx.HTTPError as error:
        logger.warning("%s broke off its answer: %s", response.url, type(error).__name__)
    finally:
        await response.aclose()
