"""A model's tokens as sets: which of them a place in a text can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from palma.core.errors import UnsupportedParameter
from palma.core.types import Tokenizer

CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes of UTF-8 that continue a character."""

ANCHOR = "\n"
"""Some tokenizers put a space before a text's first word; not after a line break."""


@dataclass(frozen=True, slots=True)
class SlotTokens:
    """The tokens of free text without some characters.

    Attributes:
        whole: Set of those that are whole characters.
        begun: Set of those that end with a part of one.
        rests: Those that begin within one, with their bytes.
    """

    whole: int
    begun: int
    rests: tuple[tuple[int, bytes], ...]

    def after(self, begun: bytes, *, in_time: bool) -> int:
        """Return the set of those that go on with a character.

        Args:
            begun: Its bytes so far.
            in_time: Whether nothing but this character may come.
        """
        return token_set(
            token_id
            for token_id, text in self.rests
            if _is_text(begun + text) and not (in_time and text.lstrip(CONTINUATION))
        )


class Vocabulary:
    """What each token adds to a text, and sets of tokens; safe to use from many threads.

    A set is an int with a bit for each token id, the lowest for id 0.

    Args:
        tokenizer: The model's.
        vocab_size: Ids lie in [0, vocab_size).
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._num_mask_bytes = (vocab_size + 7) // 8
        self._spellings = {
            tokenizer.encode(token, parse_special=True)[0]: token.encode()
            for token in tokenizer.special_tokens
        }
        self._texts = [
            b"" if token_id in self._spellings else tokenizer.token_bytes(token_id)
            for token_id in range(vocab_size)
        ]
        self._slots: dict[bytes, SlotTokens] = {}
        self.everything = (1 << vocab_size) - 1

    def text(self, token_id: int, marks: frozenset[int] = frozenset()) -> bytes:
        """Return what a token adds to the text: nothing if it is a control token and no mark."""
        return self._spellings[token_id] if token_id in marks else self._texts[token_id]

    def marks(self, *texts: str) -> frozenset[int]:
        """Return the control tokens that these texts consist of, in part or whole."""
        return frozenset(
            token_id
            for token_id, spelling in self._spellings.items()
            if any(spelling.decode() in text for text in texts)
        )

    def spell(self, text: str, param: str, *, parse_special: bool = False) -> list[int]:
        """Return the tokens of a text in the middle of another.

        Raises:
            UnsupportedParameter: This tokenizer changes the text; it names `param`.
        """
        encode = self._tokenizer.encode
        marks = self.marks(text) if parse_special else frozenset()
        for before in ("", ANCHOR):
            token_ids = encode(before + text, parse_special=parse_special)
            for start in range(len(token_ids) + 1):
                spelled = b"".join(self.text(token_id, marks) for token_id in token_ids[start:])
                if spelled == text.encode():
                    return token_ids[start:]
                if len(spelled) < len(text.encode()):
                    break
        raise UnsupportedParameter(
            f"{param} cannot be honoured: this model's tokenizer changes texts", param=param
        )

    def mask(self, tokens: int) -> bytes:
        """Return a set as `TokenMask.allowed` does."""
        return tokens.to_bytes(self._num_mask_bytes, "little")

    def those_with(self, is_one: Callable[[bytes], bool]) -> tuple[tuple[int, bytes], ...]:
        """Return the tokens whose text fulfils a condition, control tokens aside."""
        return tuple((n, text) for n, text in enumerate(self._texts) if text and is_one(text))

    def slot_tokens(self, stops: bytes) -> SlotTokens:
        """Return the tokens of free text without any of these ASCII characters."""
        found = self._slots.get(stops)
        if found is None:
            without = self.those_with(lambda text: not any(stop in text for stop in stops))
            found = self._slots[stops] = _slot_tokens(without)
        return found


def _slot_tokens(tokens: tuple[tuple[int, bytes], ...]) -> SlotTokens:
    rests = tuple((n, text) for n, text in tokens if text[0] in CONTINUATION)
    texts = [(n, text) for n, text in tokens if _is_text(text)]
    return SlotTokens(
        whole=token_set(n for n, text in texts if not begun_character(text)),
        begun=token_set(n for n, text in texts if begun_character(text)),
        rests=rests,
    )


def token_set(token_ids: Iterable[int]) -> int:
    """Return the set of some tokens."""
    bits = bytearray()
    for token_id in sorted(token_ids):
        if token_id >> 3 >= len(bits):
            bits.extend(bytes((token_id >> 3) + 1 - len(bits)))
        bits[token_id >> 3] |= 1 << (token_id & 7)
    return int.from_bytes(bits, "little")


def begun_character(text: bytes) -> bytes:
    """Return the bytes of a text's last character if it lacks some, else nothing."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return text[error.start :]
    return b""


def _is_text(text: bytes) -> bool:
    """Return whether some bytes are characters, the last of which may lack some."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.end == len(text) and error.reason == "unexpected end of data"
    return True
