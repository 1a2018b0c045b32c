"""The bytes that each token of a vocabulary stands for, whatever its neighbours are."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

WORD_START = "\u2581"
"""How SentencePiece writes the space before a word."""

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece writes a byte that is in no piece."""


class TokenBytes:
    """Looks tokens up in one tokenizer; safe to use from many threads.

    Args:
        tokenizer: A Transformers tokenizer.
        definition: The text of its `tokenizer.json`; None where it is a slow one.
    """

    def __init__(self, tokenizer: Any, definition: str | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}  # a look-up costs more than a token's log-probability
        decoder = json.loads(definition).get("decoder") if definition is not None else None
        self._is_byte_level = '"ByteLevel"' in json.dumps(decoder)
        self._added = {
            token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()
        }

    def of(self, token_id: int) -> bytes:
        """Return the bytes of a token; none for an id that the tokenizer does not know."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:
            content: str = self._added[token_id]
            return content.encode()
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return b""
        if self._is_byte_level:
            table = _byte_of_character()
            return bytes(table[c] for c in piece) if table.keys() >= set(piece) else piece.encode()
        if byte := BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace(WORD_START, " ").encode()


@cache
def _byte_of_character() -> dict[str, int]:
    """Undo how byte-level vocabularies spell bytes: printable ones as they are, others shifted.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", its encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    shifted = {chr(0x100 + number): byte for number, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in printable}, **shifted}
