"""HTTP by hand, for requests that no decent client sends."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
import time
from typing import Any

import httpx

from tests.calls import Call
from tests.faults.refusals import BODIES
from tests.live_server import LiveServer


def send(server: LiveServer, call: Call, content: str, **params: Any) -> socket.socket:
    """Send a request on a raw connection and return that, unread."""
    connection = server.connect()
    connection.sendall(call.request_bytes(content, **params))
    return connection


def reset(connection: socket.socket) -> None:
    """Leave with a RST instead of a FIN."""
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def read_response(connection: socket.socket) -> httpx.Response:
    """Read one response that has a Content-Length; the connection may stay open."""
    received = b""
    while not (parsed := split_response(received)):
        part = connection.recv(65536)
        assert part, f"the server closed amid its response: {received!r}"
        received += part
    return parsed[0]


def parse_responses(received: bytes) -> list[httpx.Response]:
    """Cut what a connection brought into its responses."""
    responses = []
    while received:
        parsed = split_response(received)
        assert parsed, f"no whole response: {received!r}"
        responses.append(parsed[0])
        received = parsed[1]
    return responses


def split_response(received: bytes) -> tuple[httpx.Response, bytes] | None:
    """Return the first response and the bytes behind it; None while it is incomplete."""
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        return None
    status_line, *lines = head.split(b"\r\n")
    pairs = [line.split(b": ", 1) for line in lines]
    headers = httpx.Headers([(name, value) for name, value in pairs])
    length = int(headers.get("content-length", 0))
    if len(rest) < length:
        return None
    status = int(status_line.split()[1])
    return httpx.Response(status, headers=headers, content=rest[:length]), rest[length:]


def post_head(path: str, *headers: str) -> bytes:
    """Return the head of a raw POST; Content-Type is JSON unless a header says otherwise."""
    lines = [f"POST {path} HTTP/1.1", "Host: palma", *headers]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode()


def whole_post(path: str, *headers: str, content: bytes | None = None) -> bytes:
    """Return a raw POST of a request that would be answered."""
    body = json.dumps(BODIES[path]).encode() if content is None else content
    return post_head(path, f"Content-Length: {len(body)}", *headers) + body


def drip(connections: list[socket.socket], piece: bytes, patience_s: float) -> list[bytes]:
    """Send a byte at a time on all connections until the server has closed them all.

    Returns:
        What came back on each connection.
    """
    received = dict.fromkeys(connections, b"")
    open_connections = set(connections)
    deadline = time.monotonic() + patience_s
    while open_connections:
        assert time.monotonic() < deadline, f"{len(open_connections)} connections are still open"
        readable, _, _ = select.select(open_connections, [], [], 0.05)
        for connection in readable:
            part = b""
            with contextlib.suppress(ConnectionError):
                part = connection.recv(65536)
            received[connection] += part
            if not part:
                open_connections.discard(connection)
        for connection in open_connections:
            with contextlib.suppress(ConnectionError):
                connection.send(piece)
    for connection in connections:
        connection.close()
    return [received[connection] for connection in connections]
