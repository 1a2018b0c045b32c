"""Answers of no text, characters of many tokens, stop strings: text arrives whole or not at all."""

from __future__ import annotations

import pytest

from tests.calls import CALLS
from tests.live_server import LiveServer, running_server, unharmed_neighbour
from tests.spy_engine import MAX_STEPS_AFTER_CANCEL, Spy

HALF_CHARACTER = "\ufffd"

PIRATES = "🏴\u200d☠\ufe0f"

pytestmark = pytest.mark.usefixtures("neighbour")


@pytest.fixture
def server(mock_server: LiveServer) -> LiveServer:
    """The server with default settings."""
    return mock_server


def test_an_answer_of_no_text_is_a_whole_answer(server: LiveServer) -> None:
    """Fault 61: the end token comes first, and counts as one completion token."""
    for call in CALLS:
        answer = call.ask(server, "say ")

        assert (answer.status, answer.text, answer.is_whole) == (200, "", True), call
        if call.is_chat:
            assert answer.finish_reason == "stop", call
        if answer.usage is not None:
            assert answer.usage["completion_tokens"] == 1


def test_characters_of_many_tokens_arrive_whole(server: LiveServer) -> None:
    """Fault 62."""
    for call in CALLS:
        answer = call.ask(server, f"say a{PIRATES}é{PIRATES}")

        assert answer.text == f"a{PIRATES}é{PIRATES}", call
        assert not any(HALF_CHARACTER in str(event) for event in answer.events), call


def test_a_character_that_max_tokens_cuts_is_left_out_and_nothing_before_it(
    server: LiveServer,
) -> None:
    """Fault 62."""
    said = f"a{PIRATES}é".encode()
    for call in CALLS:
        for num_bytes in range(1, len(said) + 1):
            answer = call.ask(server, f"say {said.decode()}", max_tokens=num_bytes)

            assert answer.text == said[:num_bytes].decode(errors="ignore"), (call, num_bytes)
            assert answer.is_whole, (call, num_bytes)
            if call.is_chat:
                assert answer.finish_reason == "length", (call, num_bytes)


STOPS = {
    "over a token border": ("one two three", ["two"], "one "),
    "the second of two that overlap": ("xabcy", ["abcd", "bc"], "xa"),
    "the longer of two with one beginning": ("see abacus", ["abacus", "abax"], "see "),
    "a beginning that begins again": ("aaab!", ["aab"], "a"),
    "the first of two": ("one two", ["two", "one"], ""),
    "in the middle of a character": ("no ☠ here", ["☠"], "no "),
    "none: a beginning that fails": ("one tower", ["two", "owl"], "one tower"),
    "none: a beginning at the very end": ("one tw", ["two", "tw!"], "one tw"),
}


def test_a_stop_string_ends_the_answer_and_what_only_began_like_one_is_kept(
    server: LiveServer,
) -> None:
    """Fault 63."""
    for call in CALLS:
        for name, (said, stop, expected) in STOPS.items():
            answer = call.ask(server, f"say {said}", stop=stop)

            assert (answer.text, answer.is_whole) == (expected, True), (call, name)
            if call.is_chat:
                assert answer.finish_reason == "stop", (call, name)


def test_what_a_stop_string_held_back_is_flushed_when_max_tokens_runs_out(
    server: LiveServer,
) -> None:
    """Fault 63."""
    for call in CALLS:
        answer = call.ask(server, "say one two", stop=["one two"], max_tokens=6)

        assert answer.text == "one tw", call
        if call.is_chat:
            assert answer.finish_reason == "length", call


def test_a_stop_string_cancels_the_engine() -> None:
    """Fault 63."""
    spy = Spy()
    with running_server(load=spy.load) as spied, unharmed_neighbour(spied):
        for call in CALLS:
            assert call.ask(spied, "count to 10000", stop=["5 "]).text == "1 2 3 4 "

    assert all(request.num_tokens <= 5 + MAX_STEPS_AFTER_CANCEL for request in spy.find("10000"))
