"""Token ids to text, a few at a time, in whole UTF-8 characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF_CHARACTER = "\ufffd"
"""What decoders show for bytes that are not (yet) a character."""

MAX_PENDING_TOKENS = 8
"""A UTF-8 character has at most 4 bytes: more tokens than this are not waiting for one."""

MAX_HALF_TOKENS = 3
"""Half a character has at most 3 bytes, hence tokens."""


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
        text = self._text_of(self._pending)
        if not text.endswith(HALF_CHARACTER):
            is_due = text or len(self._pending) > MAX_PENDING_TOKENS
            return self._release(len(self._pending), text) if is_due else ""
        if len(self._pending) <= MAX_PENDING_TOKENS:
            return ""
        return self._release_broken(text)

    def flush(self) -> str:
        """Return what is left at the end; half a character is dropped."""
        text = self._text_of(self._pending).rstrip(HALF_CHARACTER)
        return self._release(len(self._pending), text)

    def _release_broken(self, text: str) -> str:
        """Let bytes go that are no UTF-8, but keep the half character that may end them."""
        for num_kept in range(MAX_HALF_TOKENS, 0, -1):
            num_released = len(self._pending) - num_kept
            released = self._text_of(self._pending[:num_released])
            if released + self._decode(self._pending[num_released:]) == text:
                return self._release(num_released, released)
        return self._release(len(self._pending), text)

    def _release(self, num_tokens: int, text: str) -> str:
        self._context, self._pending = self._pending[:num_tokens], self._pending[num_tokens:]
        return text

    def _text_of(self, token_ids: list[int]) -> str:
        """Return what `token_ids` add to the text of the context."""
        if not token_ids:
            return ""
        before = self._decode(self._context) if self._context else ""
        return self._decode(self._context + token_ids)[len(before) :]
