"""Takes what a model thinks from the beginning of its answer, however the text is cut."""

from __future__ import annotations

from typing import AnyStr, Literal

from palma.serving.detokenizer import HALF_CHARACTER
from palma.serving.reading import Pieces
from palma.serving.thinking.formats import ThinkingFormat

Place = Literal["beginning", "thinking", "behind", "content"]


class ThinkingReader:
    """The `AnswerReader` of models that think before they answer.

    White space around the thinking is no part of it, nor is a character that was cut in half
    by the end of a budget.

    Args:
        fmt: The marks.
        is_open: Whether the prompt ended behind the opening one.
        keeps_closing: Whether the closing mark is part of what was thought.
        has_form: Whether the answer is held to a form. Then what follows the closing mark is the
            format's separator and nothing else; otherwise all white space there is dropped.
    """

    def __init__(
        self,
        fmt: ThinkingFormat,
        *,
        is_open: bool,
        keeps_closing: bool = False,
        has_form: bool = False,
    ) -> None:
        self._fmt = fmt
        self._keeps_closing = keeps_closing
        self._has_form = has_form
        self._place: Place = "thinking" if is_open else "beginning"
        self._held = ""  # could begin a mark, or the separator
        self._blanks: list[str] = []  # white space that may be the last
        self._has_begun = False

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thought, or its closing mark."""
        return self._place == "thinking"

    def push(self, text: str) -> Pieces:
        """Take the next text and return what is certain now."""
        if self._place == "content":
            return Pieces(text=text)
        text, self._held = self._held + text, ""
        if self._place == "beginning":
            return self._begin(text)
        return self._think(text) if self._place == "thinking" else self._separate(text)

    def flush(self) -> Pieces:
        """Return what was held back: the answer has ended."""
        held, self._held = self._held, ""
        if self._place == "beginning":
            return Pieces(text="".join(self._blanks) + held)
        if self._place == "thinking" and held:
            return Pieces(self._thought(held))
        return Pieces(text=held)

    def _begin(self, text: str) -> Pieces:
        """Look for the opening mark, behind white space unless that could be the form's."""
        start = text if self._has_form else text.lstrip()
        self._blanks.append(text[: len(text) - len(start)])
        opening = self._fmt.opening
        if start.startswith(opening):
            self._place, self._blanks = "thinking", []
            return self._think(start[len(opening) :])
        if opening.startswith(start):
            self._held = start
            return Pieces()
        self._place = "content"
        return Pieces(text="".join(self._blanks) + start)

    def _think(self, text: str) -> Pieces:
        """Look for the closing mark."""
        closing = self._fmt.closing
        body, found, rest = text.partition(closing)
        if found:
            self._place = "behind"
            reasoning = self._thought(body + closing if self._keeps_closing else body)
            return Pieces(reasoning) + self._separate(rest)
        self._held = body[len(body) - overlap(body, closing) :]
        return Pieces(self._thought(body.removesuffix(self._held)))

    def _thought(self, text: str) -> str:
        """Return what was thought up to the last that is no white space; keep the rest back."""
        text = text if self._has_begun else text.lstrip()
        self._has_begun = self._has_begun or bool(text)
        end = len(text)
        while end and (text[end - 1].isspace() or text[end - 1] == HALF_CHARACTER):
            end -= 1
        if not end:
            self._blanks.append(text)
            return ""
        thought = "".join((*self._blanks, text[:end]))
        self._blanks = [text[end:]]
        return thought

    def _separate(self, text: str) -> Pieces:
        """Drop what stands between the closing mark and the answer."""
        if not self._has_form:
            start = text.lstrip()
            self._place = "content" if start else "behind"
            return Pieces(text=start)
        separator = self._fmt.separator
        if len(text) < len(separator) and separator.startswith(text):
            self._held = text
            return Pieces()
        self._place = "content"
        return Pieces(text=text.removeprefix(separator))


def overlap(text: AnyStr, mark: AnyStr) -> int:
    """Return how many characters at the end of `text` begin `mark`."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
