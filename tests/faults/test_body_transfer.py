"""Bodies that are too slow, too large, endless, compressed or no JSON: refused, not waited for."""

from __future__ import annotations

import contextlib
import gzip
import json
import select
import socket
import time

import pytest

from tests.faults.raw_http import drip, parse_responses, post_head, read_response
from tests.faults.refusals import BODIES, CHAT, PALMA, PATHS, refusal
from tests.live_server import LiveServer, read_to_end

FAR_TOO_MUCH = 50 * 1024 * 1024
SOCKET_BUFFERS_BYTES = 12 * 1024 * 1024
"""What the kernel may hold on loopback beside what the server has read."""

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("neighbour")]


def send_until_answered(connection: socket.socket, piece: bytes) -> int:
    """Send a piece again and again until an answer comes; return the number of bytes sent."""
    num_sent = 0
    while not select.select([connection], [], [], 0)[0]:
        assert num_sent < FAR_TOO_MUCH, "the server swallowed everything without a word"
        connection.sendall(piece)
        num_sent += len(piece)
    return num_sent


def test_a_client_that_dawdles_over_its_body_gets_408(server: LiveServer) -> None:
    """Fault 11."""
    connections = [server.connect() for _ in PATHS]
    for path, connection in zip(PATHS, connections, strict=True):
        connection.sendall(post_head(path, "Content-Length: 100000") + b"{")

    answers = drip(connections, b" ", patience_s=10)

    for path, received in zip(PATHS, answers, strict=True):
        assert refusal(parse_responses(received)[0], path).status == 408


def test_a_client_that_dawdles_over_a_body_nobody_wants_is_dropped(server: LiveServer) -> None:
    """Fault 11: the answer comes at once, and the rest of the body has to come in time."""
    unwanted = [
        post_head("/nope", "Content-Length: 100000"),
        post_head("/livez", "Content-Length: 100000"),
        post_head(CHAT, "Content-Length: 100000", "Content-Type: text/plain"),
    ]
    connections = [server.connect() for _ in unwanted]
    for connection, request in zip(connections, unwanted, strict=True):
        connection.sendall(request)

    answers = drip(connections, b" ", patience_s=10)

    statuses = [parse_responses(received)[0].status_code for received in answers]
    assert statuses == [404, 405, 415]


def test_a_client_that_leaves_amid_its_body_is_forgotten(server: LiveServer) -> None:
    """Fault 11: gone before the request was whole."""
    for path in PATHS:
        with server.connect() as connection:
            connection.sendall(post_head(path, "Content-Length: 100") + b"{")
    server.wait_until_idle()


def test_a_body_declared_too_large_gets_413_before_it_is_sent(server: LiveServer) -> None:
    """Fault 12."""
    max_bytes = server.settings.max_request_bytes
    for path in PATHS:
        with server.connect() as connection:
            connection.sendall(post_head(path, f"Content-Length: {FAR_TOO_MUCH}"))
            refused = refusal(read_response(connection), path)
            assert refused.status == 413
            assert str(FAR_TOO_MUCH) in refused.message
            assert str(max_bytes) in refused.message


def test_a_client_that_sends_a_huge_body_anyway_can_read_the_413(server: LiveServer) -> None:
    """Fault 12: the connection is not reset under the answer."""
    with server.connect() as connection:
        connection.sendall(post_head(CHAT, f"Content-Length: {FAR_TOO_MUCH}"))
        num_sent = send_until_answered(connection, b" " * 65536)
        refused = refusal(read_response(connection), CHAT)

    assert (refused.status, refused.code) == (413, "request_too_large")
    assert num_sent < SOCKET_BUFFERS_BYTES


def test_an_endless_chunked_body_gets_413_at_the_limit_and_is_cut_off(server: LiveServer) -> None:
    """Fault 13."""
    max_bytes = server.settings.max_request_bytes
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for path in (PALMA, CHAT):
        with server.connect() as connection:
            connection.sendall(post_head(path, "Transfer-Encoding: chunked"))
            num_sent = send_until_answered(connection, chunk)
            refused = refusal(read_response(connection), path)
            assert refused.status == 413
            assert max_bytes < num_sent < max_bytes + SOCKET_BUFFERS_BYTES

    deadline = time.monotonic() + 10
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(post_head(CHAT, "Transfer-Encoding: chunked"))
        while True:
            assert time.monotonic() < deadline, "the server reads on and on"
            connection.sendall(chunk)


def test_expect_100_continue_is_answered_before_the_body_unless_it_is_refused(
    server: LiveServer,
) -> None:
    """Fault 14."""
    for path in (PALMA, CHAT):
        body = json.dumps(BODIES[path]).encode()
        expect = ("Expect: 100-continue", "Connection: close")
        with server.connect() as connection:
            connection.sendall(post_head(path, *expect, f"Content-Length: {len(body)}"))
            assert read_response(connection).status_code == 100
            connection.sendall(body)
            assert parse_responses(read_to_end(connection))[0].status_code == 200

        refused = {
            413: post_head(path, *expect, f"Content-Length: {FAR_TOO_MUCH}"),
            415: post_head(path, *expect, "Content-Length: 2", "Content-Type: text/plain"),
        }
        for status, request in refused.items():
            with server.connect() as connection:
                connection.sendall(request)
                assert refusal(read_response(connection), path).status == status


def test_bodies_that_do_not_say_they_are_json_get_415(server: LiveServer) -> None:
    """Fault 21: a web page can send those to any server without asking the browser's leave."""
    kinds = (
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json, text/plain",
        "",
        "\xff",
    )
    for path in PATHS:
        content = json.dumps(BODIES[path]).encode()
        for kind in kinds:
            headers = {b"Content-Type": kind.encode("latin-1")}
            answer = server.client.post(path, content=content, headers=headers)
            assert refusal(answer, path).status == 415, kind
        assert refusal(server.client.post(path, content=content), path).status == 415
        assert refusal(server.client.post(path), path).status == 415


def test_json_with_a_charset_in_any_spelling_is_taken(server: LiveServer) -> None:
    """Fault 21's other side."""
    for path in PATHS:
        content = json.dumps(BODIES[path]).encode()
        for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json ;"):
            answer = server.client.post(path, content=content, headers={"Content-Type": kind})
            assert answer.status_code == 200, kind


def test_compressed_bodies_get_415_and_are_not_unpacked(server: LiveServer) -> None:
    """Fault 22: a gzip bomb stays folded."""
    bomb = gzip.compress(b" " * FAR_TOO_MUCH, compresslevel=1)
    for path in PATHS:
        for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "x" * 5000):
            headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
            begun_at = time.monotonic()
            answer = server.client.post(path, content=bomb, headers=headers)
            assert refusal(answer, path).status == 415, encoding
            assert time.monotonic() - begun_at < 5


def test_content_encoding_identity_is_no_encoding(server: LiveServer) -> None:
    """Fault 22's other side."""
    for path in PATHS:
        headers = {"Content-Encoding": "identity"}
        assert server.post(path, BODIES[path], headers=headers).status_code == 200
