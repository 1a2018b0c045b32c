"""Whatever arrives instead of a decent HTTP request is answered or dropped.

Nobody else notices: every test runs beside a stream that must end unchanged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator

import pytest

from tests.faults.raw_http import drip, parse_responses, post_head, read_response, whole_post
from tests.faults.refusals import BODIES, CHAT, PALMA, PATHS, refusal
from tests.live_server import LiveServer, read_to_end, running_server, unharmed_neighbour, user

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("neighbour")]


def test_megabytes_of_headers_get_431_and_a_closed_connection(server: LiveServer) -> None:
    """Fault 1."""
    for path in (*PATHS, "/livez", "/nope"):
        for method in ("GET", "POST", "OPTIONS"):
            head = f"{method} {path} HTTP/1.1\r\nHost: palma\r\nX-Long: "
            (answer,) = parse_responses(
                server.send_raw(head.encode() + b"a" * 70_000 + b"\r\n\r\n")
            )
            assert refusal(answer, path).status == 431, (method, path)

    endless = b"GET /livez HTTP/1.1\r\nHost: palma\r\nX-Long: " + b"a" * 2_000_000 + b"\r\n\r\n"
    (answer,) = parse_responses(server.send_raw(endless))
    refused = refusal(answer, "/livez")
    assert (refused.status, refused.code) == (431, "headers_too_large")


def test_thousands_of_headers_get_431_and_a_closed_connection(server: LiveServer) -> None:
    """Fault 2."""
    headers = [f"X-{number}: 1" for number in range(5000)]
    for path in PATHS:
        (answer,) = parse_responses(server.send_raw(whole_post(path, *headers)))
        refused = refusal(answer, path)
        assert refused.status == 431
        assert "200 are allowed" in refused.message


def test_two_ways_to_say_where_the_body_ends_are_refused(server: LiveServer) -> None:
    """Fault 6: what hides behind such a body is never answered."""
    smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: palma\r\n\r\n"
    for path in PATHS:
        both = post_head(path, "Content-Length: 5", "Transfer-Encoding: chunked")
        (answer,) = parse_responses(server.send_raw(both + smuggled))
        refused = refusal(answer, path)
        assert refused.status == 400
        assert "Content-Length and Transfer-Encoding" in refused.message


def test_requests_that_break_the_rules_of_http_get_400(server: LiveServer) -> None:
    """Faults 3, 7 and 8: no Host, contradicting lengths, broken chunks, spaces before a colon."""
    requests = [
        b"GET /livez HTTP/1.1\r\n\r\n",
        post_head(CHAT, "Content-Length: 5", "Content-Length: 6") + b"{}   ",
        post_head(CHAT, "Content-Length: -1"),
        post_head(CHAT, "Content-Length: " + "9" * 5000),
        post_head(CHAT, "Transfer-Encoding: xchunked") + b"{}",
        post_head(CHAT, "Transfer-Encoding: chunked") + b"2\r\n{}zz\r\n0\r\n\r\n",
        post_head(CHAT, "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : palma\r\n\r\n",
    ]
    for request in requests:
        (answer,) = parse_responses(server.send_raw(request))
        refused = refusal(answer, CHAT)
        assert (refused.status, refused.code) == (400, "bad_http_request"), request


def test_a_broken_body_behind_an_answer_only_ends_its_connection(server: LiveServer) -> None:
    """Fault 8: the answer was given before the body came, and cannot be given again."""
    with server.connect() as connection:
        connection.sendall(post_head("/nope", "Transfer-Encoding: chunked"))
        assert refusal(read_response(connection), "/nope").status == 404
        connection.sendall(b"this is no chunk\r\n")
        assert read_to_end(connection) == b""


def test_pipelined_requests_are_answered_in_order(server: LiveServer) -> None:
    """Fault 9."""
    first = json.dumps({"messages": user("slowly count to 2")}).encode()
    second = json.dumps({"messages": user("say second"), "model": "mock"}).encode()
    requests = whole_post(PALMA, content=first) + whole_post(
        CHAT, "Connection: close", content=second
    )

    answers = parse_responses(server.send_raw(requests))

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == {"data": "1 2 "}
    assert answers[1].json()["choices"][0]["message"]["content"] == "second"


def test_a_client_that_dawdles_over_its_headers_is_dropped(server: LiveServer) -> None:
    """Fault 10: saying nothing, a byte at a time, and after a first request that was fine."""
    silent, slow, second = (server.connect() for _ in range(3))
    second.sendall(b"GET /livez HTTP/1.1\r\nHost: palma\r\n\r\n")
    assert read_response(second).status_code == 200
    slow.sendall(b"GET /livez HTTP/1.1\r\nHost: palma\r\nX-Slow: ")
    second.sendall(b"GET /livez HTTP/1.1\r\nHost: palma\r\nX-Slow: ")
    begun_at = time.monotonic()

    for received in drip([slow, second], b"a", patience_s=10):
        refused = refusal(parse_responses(received)[0], "/livez")
        assert (refused.status, refused.code) == (408, "request_timeout")

    assert time.monotonic() - begun_at >= server.settings.header_timeout_s * 0.9
    with silent:
        assert read_to_end(silent) == b""


def test_wrong_methods_and_unknown_paths_are_named_in_the_dialects_envelope(
    server: LiveServer,
) -> None:
    """Fault 16."""
    for path in PATHS:
        for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "A" * 1000):
            answer = server.client.request(method, path)
            assert refusal(answer, path).status == 405
            assert answer.headers["allow"] == "POST"
    for path in ("/v0.1.0", "/v0.1.0/nope", "/v0.1.0/stream/", "/v1/nope", "/V1/models"):
        refused = refusal(server.get(path), path)
        assert refused.status == 404
        assert repr(path) in refused.message
    refused = refusal(server.get("/v1/models/other"), "/v1")
    assert (refused.status, refused.code) == (404, "model_not_found")


def test_strange_characters_in_a_path_get_404_and_forge_no_log_line(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 17."""
    tails = (
        "%00",
        "a%0d%0aSet-Cookie:%20x=1",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%ff%fe",
        "%e2%80%a8",
    )
    with caplog.at_level(logging.DEBUG):
        for start in ("/", "/v0.1.0/", "/v1/models/", "/v1/models/../"):
            for tail in tails:
                request = f"GET {start}{tail} HTTP/1.1\r\nHost: palma\r\nConnection: close\r\n\r\n"
                (answer,) = parse_responses(server.send_raw(request.encode()))
                assert refusal(answer, start).status == 404, (start, tail)
                assert "set-cookie" not in answer.headers
    assert not [r for r in caplog.records if "Set-Cookie" in r.getMessage()]


def test_nothing_that_a_client_writes_reaches_the_log(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 17: neither forged lines nor prompts."""
    secret = "SECRET\r\n12:00:00 ERROR palma: forged"
    bodies = [
        {"messages": user(secret), secret: 1},
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [secret]},
        {"messages": secret},
        {"messages": user(secret), "model": secret},
        {"messages": user(secret), "stop": [secret, 1]},
        {"messages": user(secret), "model": "mock", "temperature": secret},
    ]
    with caplog.at_level(logging.DEBUG):
        for path in PATHS:
            for body in bodies:
                answer = server.post(path, body, headers={"x-request-id": "SECRET SECRET"})
                assert answer.status_code in (400, 404)
            server.post(path, {**BODIES[path], "messages": user(f"say {secret}")})

    assert not [r for r in caplog.records if "SECRET" in r.getMessage()]


def test_bytes_that_are_no_http_get_400_and_a_closed_connection(server: LiveServer) -> None:
    """Fault 18: TLS on the plain port, SSH, NULs, and HTTP/2."""
    garbage = [
        bytes.fromhex("16030100a5010000a10303") + b"\x5a" * 160,
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"\0" * 1000,
        bytes(range(128, 256)) + b"\r\n\r\n",
        b"\r\n\r\n\r\n GET / HTTP/1.1\r\n\r\n",
    ]
    for request in garbage:
        (answer,) = parse_responses(server.send_raw(request))
        refused = refusal(answer, "/")
        assert (refused.status, refused.code) == (400, "bad_http_request"), request
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    answers = parse_responses(server.send_raw(preface))
    assert all(answer.status_code in (400, 404) for answer in answers)


def test_a_thousand_idle_connections_keep_nobody_waiting(mock_server: LiveServer) -> None:
    """Fault 19."""
    with many_files(), unharmed_neighbour(mock_server), contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(mock_server.connect())
        check_probes(mock_server, within_s=1)
        for path in PATHS:
            assert mock_server.post(path, BODIES[path]).status_code == 200


def test_a_thousand_streams_at_once_are_all_served() -> None:
    """Fault 19: ten generate at a time, the rest wait, and the probes answer meanwhile."""
    body = json.dumps({"messages": user("count to 3")}).encode()
    with (
        many_files(),
        running_server(max_waiting_requests=1000) as server,
        unharmed_neighbour(server),
        contextlib.ExitStack() as stack,
    ):
        streams = [stack.enter_context(server.connect()) for _ in range(1000)]
        for stream in streams:
            stream.sendall(whole_post("/v0.1.0/stream", "Connection: close", content=body))
        check_probes(server, within_s=5)  # the clients are in this process too
        for stream in streams:
            assert b"<|eot_id|>" in read_to_end(stream)


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Allow both ends of a thousand connections in this process."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on open files")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_files = 3000
    if hard != resource.RLIM_INFINITY and hard < num_files:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, num_files), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def check_probes(server: LiveServer, within_s: float) -> None:
    """Every probe succeeds in time: orchestrators wait a second or more for it."""
    for path in ("/livez", "/readyz", "/v0.1.0/healthcheck"):
        begun_at = time.monotonic()
        assert server.get(path).status_code == 200
        assert time.monotonic() - begun_at < within_s
