"""`palma serve`: the application on a port, until a signal ends it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from ipaddress import ip_address

import uvicorn
from starlette.applications import Starlette

from palma.api.app import create_app
from palma.api.http_protocol import GuardedProtocol
from palma.core.access import Door
from palma.core.config import Settings
from palma.core.errors import PalmaError, SettingsError
from palma.serving.instance import LoadEngine
from palma.serving.registry import load_engine

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Longer than load balancers keep idle connections: they, not we, should close first."""

OPEN_FILES_WANTED = (65_536, 10_240)
"""macOS says that there is no limit, and then refuses more than the second."""


def serve(settings: Settings, *, load: LoadEngine = load_engine) -> None:
    """Serve until a signal.

    Raises:
        SettingsError: The address cannot be listened on, or another setting cannot be used.
        PalmaError: The model could not be loaded.
    """
    failures: list[PalmaError] = []

    def on_load_failure(error: PalmaError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, load=load, on_load_failure=on_load_failure)
    listener = bind(settings.host, settings.port)
    server = build_server(app, settings)
    raise_file_limit()
    warn_if_open(settings)
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run(sockets=[listener])
    if failures:
        raise failures[0]


def build_server(app: Starlette, settings: Settings) -> uvicorn.Server:
    """Return uvicorn with our limits; it listens where its caller says."""
    protocol = functools.partial(GuardedProtocol, header_timeout_s=settings.header_timeout_s)
    config = uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]  # called like the class it stands for
        log_config=None,
        log_level="info" if settings.debug else "warning",
        access_log=settings.debug,
        ws="none",
        h11_max_incomplete_event_size=settings.max_header_bytes,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
    )
    return uvicorn.Server(config)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, not yet listening.

    Raises:
        SettingsError: The host is unknown, or the port is in use or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the second: no name of a host can be so
        reason = error.strerror if isinstance(error, OSError) else "not the name of a host"
        raise SettingsError(f"HOST={host!r}: {reason}") from None
    try:
        if os.name != "nt":  # on Windows it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"HOST={host!r} PORT={port}: {error.strerror}; choose another with --port"
        ) from None
    return listener


def raise_file_limit() -> None:
    """Allow many open connections, as far as the system lets this process have them."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in OPEN_FILES_WANTED:
        reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= reachable:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            return


def warn_if_open(settings: Settings) -> None:
    """Say loudly when anybody on the network may use this server."""
    if Door.of(settings).is_open and not _is_loopback(settings.host):
        logger.warning(
            "%s is reachable from other machines, and neither API_KEY nor JWT_SECRET is set: "
            "anybody who reaches it can use it",
            settings.host,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
