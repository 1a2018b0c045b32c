"""Masks of what comes before an answer: thinking in the model's own tags, within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from palma.engine.base import TokenMask
from palma.serving.thinking.formats import ThinkingFormat
from palma.serving.thinking.reader import overlap
from palma.serving.thinking.vocabulary import Vocabulary, token_set


class Prelude(Protocol):
    """What comes before an answer, token by token.

    Attributes:
        is_over: The next token is the answer's.
    """

    is_over: bool

    def allowed(self) -> bytes:
        """Return the mask of the next token; see `TokenMask.allowed`."""

    def commit(self, token_id: int) -> bool:
        """Take the next token; False says that it is the answer's first one instead."""


class PreludeMask:
    """The `TokenMask` of a prelude, and then of the answer.

    Args:
        prelude: What comes first.
        answer: The answer's own mask, at its beginning; None lets anything come.
    """

    def __init__(self, prelude: Prelude, answer: TokenMask | None) -> None:
        self.is_complete = False
        self.is_free = False
        self._prelude = prelude
        self._answer = answer

    def allowed(self) -> bytes:
        """Return the mask of the next token; see `TokenMask.allowed`."""
        if not self._prelude.is_over:
            return self._prelude.allowed()
        assert self._answer is not None  # else the mask is free
        return self._answer.allowed()

    def commit(self, token_id: int) -> None:
        """Take the next token; see `TokenMask.commit`."""
        is_taken = not self._prelude.is_over and self._prelude.commit(token_id)
        if self._answer is None:
            self.is_free = self._prelude.is_over
            return
        if not is_taken:
            self._answer.commit(token_id)
        if self._prelude.is_over:
            self.is_free = self._answer.is_free
            self.is_complete = self._answer.is_complete

    def prepare(self) -> None:
        """Begin with the next mask; see `TokenMask.prepare`."""
        if self._answer is not None:
            self._answer.prepare()


@dataclass(frozen=True, slots=True)
class SpelledFormat:
    """A family's marks in the tokens of a model.

    Attributes:
        fmt: The marks.
        marks: The control tokens among them.
        opening: Tokens of the opening mark.
        closing: Tokens of the closing mark.
        separator: Tokens of what stands before the answer.
        beyond: Tokens that could reach beyond the end of the closing mark, with their texts.
    """

    fmt: ThinkingFormat
    marks: frozenset[int]
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    separator: tuple[int, ...]
    beyond: tuple[tuple[int, bytes], ...]
    _masks: dict[bytes, int] = field(default_factory=dict)

    def reaching_beyond(self, begun: bytes) -> int:
        """Return the set of tokens that bring the closing mark and more, after a part of it."""
        found = self._masks.get(begun)
        if found is None:
            closing = self.fmt.closing.encode()
            found = token_set(
                token_id
                for token_id, text in self.beyond
                if closing in begun + text and not (begun + text).endswith(closing)
            )
            self._masks[begun] = found
        return found


def spell_format(fmt: ThinkingFormat, vocabulary: Vocabulary, param: str) -> SpelledFormat:
    """Spell a family's marks in a model's tokens.

    Raises:
        UnsupportedParameter: Its tokenizer cannot; the error names `param`.
    """

    def spell(text: str) -> tuple[int, ...]:
        return tuple(vocabulary.spell(text, param, parse_special=True))

    last = fmt.closing[-1].encode()
    return SpelledFormat(
        fmt,
        vocabulary.marks(fmt.opening, fmt.closing),
        spell(fmt.opening),
        spell(fmt.closing),
        spell(fmt.separator),
        vocabulary.those_with(lambda text: last in text[:-1]),
    )


class ThinkingPrelude:
    """Thinking in a model's own tags.

    No end token comes before the answer begins. Where the answer has a form, the closing mark
    ends with a token's end and the family's separator follows, so that the form begins where the
    reader takes it to begin.

    Args:
        vocabulary: The model's.
        spelled: Its tags.
        answer: The mask of the answer, at its beginning; None lets anything come.
        is_open: Whether the prompt ended behind the opening mark.
        budget: Most tokens between the marks; None for any number.
        end_tokens: Set of those that end an answer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        spelled: SpelledFormat,
        answer: TokenMask | None,
        *,
        is_open: bool,
        budget: int | None,
        end_tokens: int,
    ) -> None:
        self.is_over = False
        self._vocabulary = vocabulary
        self._spelled = spelled
        self._answer = answer
        self._any = vocabulary.everything & ~end_tokens
        self._budget = budget
        self._is_thinking = is_open
        self._may_open = True
        self._forced: list[int] = []
        self._num_thoughts = 0
        self._text = b""  # before it thinks all of the answer, then the end that may be a mark's

    def allowed(self) -> bytes:
        """Return the mask of the next token; see `TokenMask.allowed`."""
        if self._is_thinking and self._num_thoughts == self._budget and not self._forced:
            self._forced = [*self._spelled.closing, *self._separator()]
        if self._forced:
            return self._vocabulary.mask(1 << self._forced[0])
        return self._allowed_thoughts() if self._is_thinking else self._allowed_first()

    def commit(self, token_id: int) -> bool:
        """Take the next token; False says that it is the answer's first one instead."""
        if self._forced:
            del self._forced[0]
            if not self._forced:
                self.is_over, self._is_thinking = self._is_thinking, True
            return True
        if not self._is_thinking:
            return self._begin(token_id)
        self._num_thoughts += 1
        self._look_for_closing(self._vocabulary.text(token_id, self._spelled.marks))
        return True

    def _allowed_first(self) -> bytes:
        """Let the model think or answer at once."""
        if self._answer is None:
            return self._vocabulary.mask(self._vocabulary.everything)
        allowed = int.from_bytes(self._answer.allowed(), "little")
        opening = self._spelled.opening
        # An opening of several tokens is not offered where the answer could begin with the first.
        self._may_open = len(opening) == 1 or not allowed >> opening[0] & 1
        if self._may_open:
            allowed |= 1 << opening[0]
        return self._vocabulary.mask(allowed & self._vocabulary.everything)

    def _allowed_thoughts(self) -> bytes:
        if self._answer is None:
            return self._vocabulary.mask(self._any)
        closing = self._spelled.fmt.closing.encode()
        begun = closing[: overlap(self._text, closing)]
        return self._vocabulary.mask(self._any & ~self._spelled.reaching_beyond(begun))

    def _begin(self, token_id: int) -> bool:
        if self._answer is None:
            self._look_for_opening(self._vocabulary.text(token_id, self._spelled.marks))
            return True
        opening = self._spelled.opening
        if token_id == opening[0] and self._may_open:
            self._forced = list(opening[1:])
            self._is_thinking = not self._forced
            return True
        self.is_over = True
        return False

    def _look_for_opening(self, text: bytes) -> None:
        self._text += text
        start = self._text.decode(errors="replace").lstrip()
        opening = self._spelled.fmt.opening
        if start.startswith(opening):
            self._is_thinking, self._text = True, b""
            self._look_for_closing(start.removeprefix(opening).encode())
        elif not opening.startswith(start):
            self.is_over = True

    def _look_for_closing(self, text: bytes) -> None:
        closing = self._spelled.fmt.closing.encode()
        text = self._text + text
        if closing in text:
            self._forced = self._separator()
            self.is_over = not self._forced
        self._text = text[-len(closing) :]

    def _separator(self) -> list[int]:
        return [] if self._answer is None else list(self._spelled.separator)
