"""How a vocabulary spells the marks around calls: as text, or as tokens that are no text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a vocabulary spells marks.

    Attributes:
        control: Ids of the tokens that are no text to a grammar, by their spelling; the tokens
            that end an answer are not among them.
    """

    control: Mapping[str, int] = field(default_factory=dict)

    def within(self, marks: str) -> Spelling:
        """Return the same with no control tokens but those in these marks."""
        return Spelling({token: i for token, i in self.control.items() if token in marks})

    def parts(self, mark: str) -> list[str | int]:
        """Cut a mark into text and control tokens."""
        if not self.control:
            return [mark] if mark else []
        longest_first = sorted(self.control, key=len, reverse=True)
        cuts = re.split(f"({'|'.join(map(re.escape, longest_first))})", mark)
        return [self.control.get(cut, cut) for cut in cuts if cut]

    def lark(self, mark: str) -> str:
        """Return a mark as Lark; a space right after a control token need not be there.

        SentencePiece's decoders swallow it, others have it in the next token.
        """
        words: list[str] = []
        after_token = False
        for part in self.parts(mark):
            if isinstance(part, int):
                words.append(f"<[{part}]>")
            else:
                is_loose = after_token and part.startswith(" ")
                words += ['" "?', quoted(part[1:])] if is_loose else [quoted(part)]
            after_token = isinstance(part, int)
        return " ".join(filter(None, words)) or '""'


PLAIN = Spelling()
"""All marks are text: for a vocabulary of bytes."""


def quoted(text: str) -> str:
    """Return a text as Lark has it; nothing for no text."""
    return json.dumps(text) if text else ""
