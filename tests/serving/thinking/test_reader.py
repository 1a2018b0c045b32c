"""Thinking is taken from an answer's beginning, however the text is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from palma.serving.reading import Pieces
from palma.serving.thinking.formats import (
    FORMATS,
    ThinkingFormat,
    has_switch,
    thinking_format,
    thinking_state,
)
from palma.serving.thinking.reader import ThinkingReader

TAGS = ThinkingFormat("<think>", "</think>", "\n\n")


def read(pieces: list[str], *, fmt: ThinkingFormat = TAGS, **options: bool) -> Pieces:
    """Read an answer that comes in these pieces."""
    reader = ThinkingReader(fmt, is_open=options.pop("is_open", False), **options)
    return sum((reader.push(piece) for piece in pieces), Pieces()) + reader.flush()


def cuts(answer: str) -> Iterator[list[str]]:
    """Yield the answer in one, two, three and as many pieces as it has characters."""
    yield list(answer)
    for first, second in itertools.combinations_with_replacement(range(len(answer) + 1), 2):
        yield [answer[:first], answer[first:second], answer[second:]]


@pytest.mark.parametrize(
    ("answer", "options", "reasoning", "text"),
    [
        ("<think>\nSo.\n</think>\n\nYes.\n", {}, "So.", "Yes.\n"),
        ("\n <think>a  b</think>Yes", {}, "a  b", "Yes"),
        ("So </think> Yes", {"is_open": True}, "So", "Yes"),
        ("a < b </thin </think>\n\nYes", {"is_open": True}, "a < b </thin", "Yes"),
        ("So far", {"is_open": True}, "So far", ""),
        ("So </thi", {"is_open": True}, "So </thi", ""),
        ("<think>So", {}, "So", ""),
        ("<think></think>Yes", {}, "", "Yes"),
        ("<think>half \ufffd</think>Yes", {}, "half", "Yes"),
        ("<think>\ufffd \n\ufffd\n</think>Yes", {}, "", "Yes"),
        ("Yes <think>no</think>", {}, "", "Yes <think>no</think>"),
        ("  <thin", {}, "", "  <thin"),
        ("  <thing>", {}, "", "  <thing>"),
        ("<think>a</think>b</think> <think>", {}, "a", "b</think> <think>"),
        ("", {}, "", ""),
        ("a</think>\n\n\n Yes", {"is_open": True, "has_form": True}, "a", "\n Yes"),
        ("a</think>\nYes", {"is_open": True, "has_form": True}, "a", "\nYes"),
        ("a</think>\n", {"is_open": True, "has_form": True}, "a", "\n"),
        ("a</think>\n\n\n\n", {"is_open": True, "has_form": True}, "a", "\n\n"),
        (" <think>a", {"has_form": True}, "", " <think>a"),
    ],
)
def test_every_way_to_cut_an_answer_gives_the_same(
    answer: str, options: dict[str, bool], reasoning: str, text: str
) -> None:
    for cut in cuts(answer):
        assert read(cut, fmt=TAGS, **options) == Pieces(reasoning, text)


@pytest.mark.parametrize("has_form", [True, False])
def test_a_closing_tag_that_belongs_to_the_thinking_is_kept(has_form: bool) -> None:
    fmt = ThinkingFormat("", "</plan>", "\n\n")
    filled = "<plan>\n  <a>x</a>\n</plan>"

    for cut in cuts(f"{filled}\n\nYes"):
        pieces = read(cut, fmt=fmt, is_open=True, keeps_closing=True, has_form=has_form)
        assert pieces == Pieces(filled, "Yes")


def test_thoughts_leave_as_soon_as_they_cannot_be_a_mark() -> None:
    reader = ThinkingReader(TAGS, is_open=True)

    assert reader.push("So <") == Pieces("So")
    assert reader.push("b") == Pieces(" <b")
    assert reader.push("</think") == Pieces()
    assert reader.push(">Yes") == Pieces(text="Yes")
    assert reader.push(" <think>") == Pieces(text=" <think>")


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.closing)
def test_each_family_is_found_by_its_template_and_read(fmt: ThinkingFormat) -> None:
    spelled = (fmt.opening + "{{ reasoning }}" + fmt.closing).replace("\n", "\\n")

    assert thinking_format("{% for m in messages %}" + spelled) == fmt
    answer = f"{fmt.opening}hm{fmt.closing}{fmt.separator}Yes"
    assert read(list(answer), fmt=fmt) == Pieces("hm", "Yes")
    assert thinking_state(fmt, f"assistant\n{fmt.opening}\n") == "open"
    assert thinking_state(fmt, f"assistant\n{fmt.opening}\n\n{fmt.closing}\n\n") == "over"
    assert thinking_state(fmt, "assistant\n") == "possible"


@pytest.mark.parametrize(
    ("template", "is_there"),
    [
        ("{% if enable_thinking is defined and enable_thinking is false %}", True),
        ("{% if not enable_thinking | default(false) %}", True),
        ("{% set thinking = enable_thinking %}", True),
        ("{% if enable_thinking == false %}", True),
        ("{% set ns = namespace(enable_thinking=true) %}{% if ns.enable_thinking %}", False),
        ("{% set enable_thinking = true %}", False),
        ("{{ messages }}", False),
    ],
)
def test_a_switch_is_where_a_template_looks_at_it(template: str, is_there: bool) -> None:
    assert has_switch(template) == is_there


def test_a_template_without_tags_has_no_format() -> None:
    assert thinking_format("{{ messages }} I think <b>") is None
    assert thinking_format("") is None
