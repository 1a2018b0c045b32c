"""Finds marks in text that arrives in pieces."""

from __future__ import annotations

import functools
import re

PARTIAL = -1
"""The text ends before the mark does, and fits so far."""

NO_MATCH = -2

MAX_SPACES = 64
"""White space that is taken for what a mark has at one place."""

JSON_JOINTS = re.compile(r'(?<=")(?=[:,}])|(?<=[{:,])(?=["{])')
"""Where JSON may have white space, in marks that are a piece of JSON."""


def match_mark(mark: str, text: str, at: int, *, exact: bool = False) -> int:
    """Return where a mark ends that begins at this place, or PARTIAL or NO_MATCH.

    Unless it must be exact, white space in the mark stands for any white space, and for none, and
    its JSON may be spaced otherwise.
    """
    for part in (mark,) if exact else _parts(mark):
        if not exact and part.isspace():
            at = skip_spaces(text, at)
        elif text.startswith(part, at):
            at += len(part)
        else:
            return PARTIAL if part.startswith(text[at : at + len(part)]) else NO_MATCH
    return at


def skip_spaces(text: str, at: int) -> int:
    """Return where white space ends, or the most of it that is taken."""
    end = min(len(text), at + MAX_SPACES)
    while at < end and text[at].isspace():
        at += 1
    return at


def find_mark(mark: str, text: str, at: int) -> tuple[int, bool]:
    """Return where a mark begins, and True; or where what could be its beginning does, and False.

    That is the text's end where nothing could be.
    """
    found = text.find(mark, at)
    if found >= 0:
        return found, True
    for length in range(min(len(mark) - 1, len(text) - at), 0, -1):
        if mark.startswith(text[len(text) - length :]):
            return len(text) - length, False
    return len(text), False


@functools.lru_cache(maxsize=256)
def _parts(mark: str) -> tuple[str, ...]:
    spaced = JSON_JOINTS.sub(" ", mark)
    return tuple(part for part in re.split(r"(\s+)", spaced) if part)
