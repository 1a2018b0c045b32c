"""What an answer's text consists of: reasoning, content, and calls of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from palma.core.types import ToolCallDelta


@dataclass(frozen=True, slots=True)
class Pieces:
    """What some text of an answer turned out to be; its order is reasoning, text, calls."""

    reasoning: str = ""
    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.reasoning or self.text or self.tool_calls)

    def __add__(self, other: Pieces) -> Pieces:
        """Return both, one after the other."""
        if not self:
            return other
        return Pieces(
            self.reasoning + other.reasoning,
            self.text + other.text,
            self.tool_calls + other.tool_calls,
        )


NOTHING = Pieces()


class AnswerReader(Protocol):
    """Takes an answer apart while it is made; belongs to the engine's thread.

    It takes linear time, and may hold back what could be the beginning of a mark.
    """

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thought, as far as is certain now."""

    def push(self, text: str) -> Pieces:
        """Take the next text and return what is certain now."""

    def flush(self) -> Pieces:
        """Return what was held back: the answer has ended."""


class PlainReader:
    """Reads answers that are text and nothing else."""

    is_thinking = False

    def push(self, text: str) -> Pieces:
        """Return the text."""
        return Pieces(text=text)

    def flush(self) -> Pieces:
        """Return nothing: nothing is ever held back."""
        return NOTHING


class ReaderChain:
    """Two readers: the second takes apart what the first takes for text.

    Args:
        first: Makes no calls.
        second: Finds no reasoning.
    """

    def __init__(self, first: AnswerReader, second: AnswerReader) -> None:
        self._first = first
        self._second = second

    @property
    def is_thinking(self) -> bool:
        """Whether the first reader is in the middle of it."""
        return self._first.is_thinking

    def push(self, text: str) -> Pieces:
        """Take the next text and return what is certain now."""
        pieces = self._first.push(text)
        return Pieces(pieces.reasoning) + self._second.push(pieces.text)

    def flush(self) -> Pieces:
        """Return what both held back."""
        pieces = self._first.flush()
        last = self._second.push(pieces.text) + self._second.flush()
        return Pieces(pieces.reasoning) + last
