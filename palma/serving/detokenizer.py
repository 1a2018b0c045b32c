"""Token ids to text, a few at a time, in whole UTF-8 characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF_CHARACTER = "\ufffd"
"""What decoders show for bytes that are not (yet) a character."""

MAX_PENDING_TOKENS = 8
"""A UTF-8 character has at most 4 bytes: more tokens than this are not waiting for one."""


class Detokenizer:
    """Turns the tokens of one sequence into text as they come.

    A token's text may depend on the one before it (spaces, merges), so a window of ids is
    decoded twice: without and with the new ids. What the second text has more is new. While it
    ends in half a character nothing leaves; bytes that can no longer become a character leave
    as U+FFFD, as the whole text's decoding has them.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # ids whose text has left, kept for what follows them
        self._pending: list[int] = []  # ids whose text has not left yet

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that has become complete."""
        self._pending.extend(token_ids)
        text = self._pending_text()
        waits = text.endswith(HALF_CHARACTER) and len(self._pending) <= MAX_PENDING_TOKENS
        if not text or waits:
            return ""
        self._context, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        """Return what is left at the end; half a character is dropped."""
        text = self._pending_text().rstrip(HALF_CHARACTER)
        self._context, self._pending = self._pending, []
        return text

    def _pending_text(self) -> str:
        if not self._pending:
            return ""
        before = self._decode(self._context) if self._context else ""
        return self._decode(self._context + self._pending)[len(before) :]
