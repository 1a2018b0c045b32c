"""Scores wait for their text, and know where it begins."""

from __future__ import annotations

import pytest

from palma.engine.base import TokenLogprobs
from palma.engine.mock import END_ID, END_TOKEN, FIRST_NUMBER_ID, MockTokenizer
from palma.serving.scored_tokens import ScoredTokens, text_offsets
from tests.tiny_models import tiny_hf_tokenizer


def report(token_id: int, logprob: float = -1.0) -> TokenLogprobs:
    return TokenLogprobs(token_id, logprob, ((token_id, logprob), (66, -3.0)))


def test_a_score_leaves_with_the_text_that_its_token_begins() -> None:
    scored = ScoredTokens(MockTokenizer())
    for offset, token_id in enumerate(b"abc"):
        scored.add(offset, report(token_id))

    assert [token.token.text for token in scored.take_before(2)] == ["a", "b"]
    assert scored.take_before(2) == ()
    assert [token.text_offset for token in scored.take_all()] == [2]
    assert scored.take_all() == ()


def test_a_score_names_the_token_and_its_rivals() -> None:
    scored = ScoredTokens(MockTokenizer())
    scored.add(0, report(0xC3, -0.5))

    (token,) = scored.take_all()

    assert (token.token.token_id, token.token.logprob) == (0xC3, -0.5)
    assert (token.token.text, token.token.utf8) == ("\ufffd", b"\xc3")
    assert [(rival.text, rival.logprob) for rival in token.top] == [("\ufffd", -0.5), ("B", -3.0)]


def test_the_prompt_leaves_with_the_first_text_even_an_empty_one() -> None:
    scored = ScoredTokens(MockTokenizer())
    scored.add_prompt(b"hi", [0, 1], [report(ord("i"))])
    scored.add(2, report(ord("!")))

    taken = scored.take_before(0)

    assert [(token.token.text, token.token.logprob) for token in taken] == [("h", None), ("i", -1)]
    assert [token.token.text for token in scored.take_all()] == ["!"]


def test_a_prompt_of_one_token_has_one_entry_without_a_probability() -> None:
    scored = ScoredTokens(MockTokenizer())
    scored.add_prompt([65], [0], [])

    (token,) = scored.take_all()

    assert (token.token.text, token.token.logprob, token.top) == ("A", None, ())


@pytest.mark.parametrize(
    ("token_ids", "text", "expected"),
    [
        ([*b"ab", FIRST_NUMBER_ID + 10, 99], "ab10 c", [0, 1, 2, 5]),
        ([97, END_ID, 98], f"a{END_TOKEN}b", [0, 1, 1 + len(END_TOKEN)]),
        ([END_ID, END_ID, 98], "b", [0, 0, 0]),  # not in the text: they were added
        ([97, *"é".encode(), 98], "aéb", [0, 1, 1, 2]),
        ([97, 0xFF], "a", [0, 1]),
        ([97, 98, 99], "a", [0, 1, 1]),  # never beyond the text
    ],
)
def test_offsets_are_where_each_tokens_text_begins(
    token_ids: list[int], text: str, expected: list[int]
) -> None:
    assert text_offsets(MockTokenizer(), token_ids, text) == expected


def test_offsets_of_a_real_tokenizers_prompt() -> None:
    tokenizer = tiny_hf_tokenizer("")
    text = "<|bos|>hé<|eot_id|>!"

    offsets = text_offsets(tokenizer, tokenizer.encode_prompt(text), text)

    assert offsets == [0, 7, 8, 8, 9, 19]


def test_a_prompt_of_nothing_but_control_tokens_costs_no_more_than_its_length() -> None:
    num_decoded = 0

    class CountingTokenizer(MockTokenizer):
        def decode(self, token_ids: list[int]) -> str:
            nonlocal num_decoded
            num_decoded += len(token_ids)
            return super().decode(token_ids)

    offsets = text_offsets(CountingTokenizer(), [END_ID] * 1000, END_TOKEN * 1000)

    assert offsets == [number * len(END_TOKEN) for number in range(1000)]
    assert num_decoded < 100_000
