"""Bodies that are no JSON, no object, or more of it than anybody needs."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from tests.faults.refusals import (
    BODIES,
    CHAT,
    ONE_OF_EACH,
    PALMA,
    PALMA_STREAM,
    PATHS,
    Refusal,
    refusal,
)
from tests.live_server import LiveServer, user

NUMBERS = {
    PALMA: ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed"),
    CHAT: ("max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed"),
}

SOON_S = 5
"""On a busy machine; the loop must not stand still meanwhile, which the neighbour notices."""

pytestmark = [pytest.mark.timeout(45), pytest.mark.usefixtures("neighbour")]


@pytest.fixture
def server(mock_server: LiveServer) -> LiveServer:
    """The server with default settings: bodies may have megabytes."""
    return mock_server


def post(server: LiveServer, path: str, content: bytes) -> httpx.Response:
    """POST bytes that claim to be JSON."""
    return server.client.post(path, content=content, headers={"Content-Type": "application/json"})


def refused(server: LiveServer, path: str, content: bytes) -> Refusal:
    """POST bytes that must be refused with 400, soon."""
    begun_at = time.monotonic()
    answer = refusal(post(server, path, content), path)
    assert answer.status == 400, content[:100]
    assert time.monotonic() - begun_at < SOON_S, content[:100]
    return answer


def with_field(path: str, name: str, value: bytes) -> bytes:
    """Return a good body with one more field, whose value is spelled out."""
    return json.dumps(BODIES[path]).encode()[:-1] + b', "%s": %s}' % (name.encode(), value)


def test_malformed_and_empty_json_is_refused_with_its_position(server: LiveServer) -> None:
    """Fault 26."""
    bodies = [b"", b" ", b"{", b'{"messages": [}', b"{'messages': []}", b'{"a": 1,}', b"{} {}"]
    for path in PATHS:
        for body in bodies:
            answer = refused(server, path, body)
            assert "not valid JSON" in answer.message, body
            assert "line 1 column" in answer.message, body


def test_json_that_is_no_object_is_refused_by_its_kind(server: LiveServer) -> None:
    """Fault 27."""
    for path in PATHS:
        assert "an array" in refused(server, path, b"[]").message
        assert "an array" in refused(server, path, b'[{"messages": []}]').message
        assert "a string" in refused(server, path, b'"{}"').message
        assert "null" in refused(server, path, b"null").message
        for scalar in (b"1", b"1.5", b"true"):
            assert "a scalar" in refused(server, path, scalar).message


def test_deep_nesting_is_refused_wherever_it_stands(server: LiveServer) -> None:
    """Fault 28: also just below the JSON parser's own limit, where Python's limit waits."""
    for depth in (100_000, 1015, 900):
        for left, right in ((b"[", b"]"), (b'{"a":', b"}")):
            deep = left * depth + b"1" + right * depth
            for path in PATHS:
                for name in ("messages", "stop", "unknown"):
                    refused(server, path, with_field(path, name, deep))
                refused(server, path, deep)
            part = b'[{"role": "user", "content": [{"type": %s}]}]' % deep
            refused(server, CHAT, with_field(CHAT, "messages", part))


def test_numbers_that_are_no_numbers_are_refused_with_their_position(server: LiveServer) -> None:
    """Faults 29 and 30: NaN, infinities, and an integer of 5,000 digits."""
    values = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000]
    for path, names in NUMBERS.items():
        for name in names:
            for value in values:
                answer = refused(server, path, with_field(path, name, value))
                assert "line 1 column" in answer.message


def test_numbers_too_large_for_their_field_are_refused_by_name(server: LiveServer) -> None:
    """Fault 30: read as floats, such integers are no integers."""
    for path, names in NUMBERS.items():
        for name in names:
            answer = refused(server, path, with_field(path, name, b"1" + b"0" * 300))
            assert name in answer.message
            assert answer.param in (name, None)


def test_half_a_surrogate_pair_is_refused(server: LiveServer) -> None:
    """Fault 31: no tokenizer and no response could carry it."""
    for path in PATHS:
        for escape in (b"\\ud800", b"\\udfff", b"a\\ud83d b", b"\\ude00\\ud83d"):
            messages = b'[{"role": "user", "content": "%s"}]' % escape
            answer = refused(server, path, with_field(path, "messages", messages))
            assert "surrogate" in answer.message


def test_other_encodings_than_utf_8_are_refused(server: LiveServer) -> None:
    """Fault 32: invalid bytes, UTF-16 and UTF-32, a byte order mark, overlong and half forms."""
    for path in PATHS:
        text = json.dumps(BODIES[path])
        for encoding in ("utf-16", "utf-16-le", "utf-32-be", "utf-8-sig"):
            refused(server, path, text.encode(encoding))
        for half in (b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"):
            messages = b'[{"role": "user", "content": "%s"}]' % half
            refused(server, path, with_field(path, "messages", messages))


def test_the_last_of_two_fields_of_one_name_holds(server: LiveServer) -> None:
    """Fault 33."""
    for path in (PALMA, CHAT):
        messages = json.dumps(user("say the last")).encode()
        answer = post(server, path, with_field(path, "messages", messages))
        assert answer.status_code == 200
        assert "the last" in answer.text


def test_control_characters_in_a_prompt_pass_unchanged(server: LiveServer) -> None:
    """Fault 34: NUL, escape, line separators, whatever Unicode has."""
    odd = "".join(map(chr, range(32))) + "\x7f\x80\x9f\u2028\u2029\ufeff\ufffe\U0010ffff\r\n\r\n"
    messages = user(f"say {odd}")

    text = server.post(PALMA, {"messages": messages}).json()["data"]
    events = server.events(PALMA_STREAM, {"messages": messages})
    chat = server.post(CHAT, {"messages": messages, "model": "mock"}).json()

    assert text == odd
    assert "".join(events) == odd + "<|eot_id|>"
    assert chat["choices"][0]["message"]["content"] == odd


def test_floods_of_fields_and_messages_are_refused_before_they_cost_anything(
    server: LiveServer,
) -> None:
    """Fault 41: bodies of megabytes in which everything is wrong."""
    many_fields = b"{" + b", ".join(b'"%d": 1' % n for n in range(200_000)) + b"}"
    many_messages = json.dumps(user("x") * 100_000).encode()
    floods: list[tuple[str, bytes]] = [
        ("messages", b"[" + b"1," * 3_000_000 + b"1]"),
        ("messages", b"[" + b"{}," * 500_000 + b"{}]"),
        ("messages", b"[" + many_fields + b"]"),
        ("messages", many_messages),
        ("stop", b"[" + b"1," * 1_000_000 + b"1]"),
        ("x" * 3_000_000, b"1"),
        ("unknown", many_fields),
    ]
    for path in ONE_OF_EACH:
        for name, flood in floods:
            refused(server, path, with_field(path, name, flood))
        refused(server, path, many_fields)


def test_too_many_messages_are_refused_with_the_limit(server: LiveServer) -> None:
    """Fault 41."""
    for path in PATHS:
        body: dict[str, Any] = {**BODIES[path], "messages": user("x") * 10_001}
        answer = refused(server, path, json.dumps(body).encode())
        assert "messages" in answer.message
        assert "10000" in answer.message
