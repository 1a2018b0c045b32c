"""Text leaves in whole characters, and all of it leaves."""

from __future__ import annotations

import random

import pytest

from palma.engine.mock import END_ID, MockTokenizer
from palma.serving.detokenizer import HALF_CHARACTER, Detokenizer

TEXTS = ["plain", "héé", "日本語のテキスト", "🏴‍☠️⚓", "ends in ½", "", "\x00\x01\n\t"]


def pieces(token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(MockTokenizer().decode)
    return [*[detokenizer.push([token_id]) for token_id in token_ids], detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_a_byte_at_a_time_gives_whole_characters_that_join_to_the_text(text: str) -> None:
    out = pieces(list(text.encode()))

    assert "".join(out) == text
    assert all(HALF_CHARACTER not in piece for piece in out)


@pytest.mark.parametrize("num_bytes", [1, 2, 3])
def test_half_a_character_at_the_end_is_dropped(num_bytes: int) -> None:
    token_ids = list(b"ok " + "🏴".encode()[:num_bytes])

    assert "".join(pieces(token_ids)) == "ok "


def test_bytes_that_are_no_utf8_leave_as_the_whole_text_decodes() -> None:
    generator = random.Random(0)
    for _ in range(200):
        token_ids = [generator.randrange(256) for _ in range(60)] + list(b" end")

        assert "".join(pieces(token_ids)) == MockTokenizer().decode(token_ids)


def test_several_tokens_at_once_are_as_good_as_one_by_one() -> None:
    detokenizer = Detokenizer(MockTokenizer().decode)
    data = list("añb🏴c".encode())

    out = [detokenizer.push(data[:2]), detokenizer.push(data[2:6]), detokenizer.push(data[6:])]

    assert "".join(out) == "añb🏴c"


def test_tokens_without_text_are_not_decoded_again_and_again() -> None:
    decoded: list[int] = []

    def decode(token_ids: list[int]) -> str:
        decoded.append(len(token_ids))
        return MockTokenizer().decode(token_ids)

    detokenizer = Detokenizer(decode)

    texts = [detokenizer.push([END_ID]) for _ in range(1000)]

    assert texts == [""] * 1000
    assert max(decoded) < 50
    assert detokenizer.push([97]) == "a"
