"""The proxy on a port: its own probes, the servers' health, everything else forwarded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from palma.core.access import Door
from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.proxy.forward import Forwarder
from palma.proxy.upstreams import Upstreams

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
IDLE_CONNECTION_S = 20.0
"""Less than servers keep idle connections: no request meets one that is just being closed."""

KEEP_ALIVE_S = 75
BACKLOG = 2048


def create_proxy(
    settings: Settings,
    urls: Sequence[str],
    *,
    health_path: str = "/readyz",
    check_interval_s: float = 2.0,
) -> ASGIApp:
    """Build the proxy; no connection is opened before its lifespan begins.

    Args:
        settings: For the key and the secret that requests are checked with.
        urls: Base URLs of the servers.
        health_path: Answers 200 where a server is well.
        check_interval_s: Seconds between two checks of a server.

    Raises:
        SettingsError: An URL is none.
    """
    _check_urls(urls)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE_CONNECTION_S)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            upstreams = Upstreams(urls, health_path, client)
            await upstreams.check_all()
            checking = asyncio.create_task(upstreams.keep_checking(check_interval_s))
            retry_after_s = max(1, math.ceil(check_interval_s))
            forwarder = Forwarder(Door.of(settings), upstreams, client, retry_after_s)
            try:
                yield {"upstreams": upstreams, "forwarder": forwarder}
            finally:
                checking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await checking

    return Router(
        [
            Route("/livez", live),
            Route("/readyz", ready),
            Route("/startupz", live),
        ],
        redirect_slashes=False,
        default=_forward,
        lifespan=lifespan,
    )


async def live(_: Request) -> Response:
    """GET /livez: this process answers."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /readyz: whether a request sent now would reach a server."""
    upstreams: Upstreams = request.state.upstreams
    num_healthy = len(upstreams.healthy)
    body = {
        "status": "ok" if num_healthy else "unhealthy",
        "servers": len(upstreams.all),
        "healthy_servers": num_healthy,
    }
    return JSONResponse(body, 200 if num_healthy else 503)


def serve(settings: Settings, urls: Sequence[str], health_path: str) -> None:
    """Forward until a signal.

    Raises:
        SettingsError: An URL is none, or the address cannot be listened on.
    """
    app = create_proxy(settings, urls, health_path=health_path)
    listener = _listen(settings.host, settings.port)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them once more at its end
        signal.signal(number, _end_in_good_order)
    if Door.of(settings).is_open:
        logger.warning("neither API_KEY nor JWT_SECRET is set: anybody may use this proxy")
    logger.info("listening on %s:%d", *listener.getsockname()[:2])
    build_server(app, settings).run(sockets=[listener])


def build_server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """Return uvicorn for the proxy; the servers' own `Date` is passed on."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        log_level="info" if settings.debug else "warning",
        access_log=settings.debug,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s),
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"HOST={host!r} PORT={port}: {error.strerror}") from None


def _end_in_good_order(number: int, frame: object) -> None:
    """Leave the process its status 0: all answers are complete by now."""


async def _forward(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["state"]["forwarder"](scope, receive, send)


def _check_urls(urls: Sequence[str]) -> None:
    for url in urls:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise SettingsError(f"{url!r} is no URL of a server, as http://127.0.0.1:8001")
