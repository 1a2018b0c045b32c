"""Log-probabilities on their way to the client, beside the text that they belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from palma.core.types import ScoredToken, Tokenizer, TokenText
from palma.engine.base import TokenLogprobs
from palma.serving.detokenizer import Detokenizer


class ScoredTokens:
    """Holds the scores of tokens back until their text leaves."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._prompt: list[ScoredToken] = []  # leaves with the first text, however short
        self._waiting: deque[ScoredToken] = deque()

    def add_prompt(
        self, token_ids: Sequence[int], offsets: Sequence[int], reports: Sequence[TokenLogprobs]
    ) -> None:
        """Take the prompt's tokens; the first follows nothing and has no probability.

        Args:
            token_ids: All of the prompt's.
            offsets: Their `text_offsets`.
            reports: Of all tokens but the first.
        """
        first = token_text(self._tokenizer, token_ids[0], None)
        self._prompt = [ScoredToken(first, text_offset=offsets[0])]
        for report, offset in zip(reports, offsets[1:], strict=True):
            self._prompt.append(scored_token(self._tokenizer, report, offset))

    def add(self, text_offset: int, report: TokenLogprobs) -> None:
        """Take a token whose text begins after `text_offset` characters of the answer."""
        self._waiting.append(scored_token(self._tokenizer, report, text_offset))

    def take_before(self, num_chars: int) -> tuple[ScoredToken, ...]:
        """Return the prompt's, and those whose text begins within the first characters."""
        taken, self._prompt = self._prompt, []
        while self._waiting and self._waiting[0].text_offset < num_chars:
            taken.append(self._waiting.popleft())
        return tuple(taken)

    def take_all(self) -> tuple[ScoredToken, ...]:
        """Return the rest: the answer has ended."""
        taken = (*self._prompt, *self._waiting)
        self._prompt = []
        self._waiting.clear()
        return taken


def scored_token(tokenizer: Tokenizer, report: TokenLogprobs, text_offset: int) -> ScoredToken:
    """Return a token and its rivals as text."""
    top = tuple(token_text(tokenizer, token_id, logprob) for token_id, logprob in report.top)
    token = token_text(tokenizer, report.token_id, report.logprob)
    return ScoredToken(token, top, text_offset)


def token_text(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> TokenText:
    """Return one token as text and bytes."""
    utf8 = tokenizer.token_bytes(token_id)
    return TokenText(token_id, utf8.decode(errors="replace"), utf8, logprob)


def text_offsets(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """Return where the text of each token begins in the text that they are the tokens of.

    A control token is found where the text spells it; one that the text does not show (a BOS
    that was added) takes no place.
    """
    detokenizer = Detokenizer(tokenizer.decode)
    offsets = []
    offset = 0
    for token_id in token_ids:
        offsets.append(min(offset, len(text)))
        piece = detokenizer.push([token_id])
        if not piece:
            spelling = tokenizer.token_bytes(token_id).decode(errors="replace")
            is_spelled = spelling in tokenizer.special_tokens and text.startswith(spelling, offset)
            piece = spelling if is_spelled else ""
        offset += len(piece)
    return offsets
