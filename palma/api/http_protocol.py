"""Uvicorn's HTTP/1.1 protocol with what it leaves out: timeouts for slow and vanished clients."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Any

import h11
import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from palma.api.errors import LINGER_S
from palma.api.middleware import identity_headers, new_request_id
from palma.api.wire import ABORT_EXTENSION, CLOSE_EXTENSION

KEEPALIVE_OPTIONS = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPALIVE": 15,  # the same on macOS
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}
"""Seconds and counts, where the platform knows them: a dead peer is noticed after 30 s."""

USER_TIMEOUT_MS = 30_000
"""Bytes that a peer has not acknowledged for so long end the connection (Linux)."""


class GuardedProtocol(H11Protocol):
    """Drops clients that take too long over their headers, and notices those that are gone.

    Args:
        header_timeout_s: Seconds from the first byte (or the connection) to the last header.
        kwargs: Uvicorn's own.
    """

    def __init__(self, *, header_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.header_timeout_s = header_timeout_s
        self._header_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._guarded_app = self.app
        self.app = self._run_app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header clock and switch on TCP's keep-alive."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            detect_dead_peer(connection)
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Parse; the clock runs while nobody but the client can go on."""
        if self._is_refused:
            return
        super().data_received(data)
        if not self._awaits_client():
            self._stop_header_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_header_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Leave the clock to uvicorn's own keep-alive timer until the next byte.

        Unless the answer came before the whole body did (404, 415, ...): the rest is dropped as
        it arrives, and it has to arrive in time.
        """
        self._stop_header_timer()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._start_header_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the envelope that every other error has."""
        limit = self.config.h11_max_incomplete_event_size
        is_header = self.conn.our_state is h11.IDLE
        if is_header and limit is not None and len(self.conn.trailing_data[0]) > limit:
            message = f"the headers have more than the {limit} bytes allowed"
            self._refuse(431, "headers_too_large", message)
        else:
            self._refuse(400, "bad_http_request", msg)

    def _run_app(self, scope: Scope, receive: Receive, send: Send) -> Any:
        extensions = scope.setdefault("extensions", {})
        extensions[ABORT_EXTENSION] = self.transport.abort
        extensions[CLOSE_EXTENSION] = self.transport.close
        return self._guarded_app(scope, receive, send)

    def _awaits_client(self) -> bool:
        """Whether the client is amid its headers, or amid a body that was answered already."""
        if self.conn.their_state is h11.SEND_BODY:
            return self.conn.our_state is h11.DONE
        return self.conn.their_state is h11.IDLE

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.header_timeout_s, self._on_header_timeout)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            message = f"the headers did not arrive within {self.header_timeout_s:g} s"
            self._refuse(408, "request_timeout", message)
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """End the connection, with an answer unless one is on its way already."""
        is_header = self.conn.our_state is h11.IDLE
        if is_header or self.conn.our_state is h11.SEND_RESPONSE:
            self._write_error(status, code, message)
        if is_header:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Drop what still arrives for a moment: a reset would cost the client its answer."""
        self._is_refused = True
        self._stop_header_timer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._header_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _write_error(self, status: int, code: str, message: str) -> None:
        error = {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": code,
        }
        body = orjson.dumps({"error": error})
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *identity_headers(new_request_id()).items(),
        ]
        reason = HTTPStatus(status).phrase.encode()
        response = h11.Response(status_code=status, headers=headers, reason=reason)
        for part in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")


def detect_dead_peer(connection: socket.socket) -> None:
    """Let the kernel end a connection whose peer no longer answers, sent to or not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE_OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
