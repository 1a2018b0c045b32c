"""Log-probabilities on their way to the client, beside the text that they belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from palma.core.types import ScoredToken, Tokenizer, TokenText
from palma.engine.base import TokenLogprobs


class ScoredTokens:
    """Holds the scores of tokens back until their text leaves."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._waiting: deque[tuple[int, ScoredToken]] = deque()

    def add_prompt(self, first_token_id: int, reports: Iterable[TokenLogprobs]) -> None:
        """Take the prompt's tokens; the first follows nothing and has no probability."""
        self._waiting.append((0, ScoredToken(token_text(self._tokenizer, first_token_id, None))))
        for report in reports:
            self.add(0, report)

    def add(self, start: int, report: TokenLogprobs) -> None:
        """Take the score of a token whose text begins after `start` characters of the answer."""
        self._waiting.append((start, scored_token(self._tokenizer, report)))

    def take_before(self, num_chars: int) -> tuple[ScoredToken, ...]:
        """Return those whose text begins within the first `num_chars` characters."""
        taken = []
        while self._waiting and self._waiting[0][0] < num_chars:
            taken.append(self._waiting.popleft()[1])
        return tuple(taken)

    def take_all(self) -> tuple[ScoredToken, ...]:
        """Return the rest: the answer has ended."""
        taken = tuple(scored for _, scored in self._waiting)
        self._waiting.clear()
        return taken


def scored_token(tokenizer: Tokenizer, report: TokenLogprobs) -> ScoredToken:
    """Return a token and its rivals as text."""
    top = tuple(token_text(tokenizer, token_id, logprob) for token_id, logprob in report.top)
    return ScoredToken(token_text(tokenizer, report.token_id, report.logprob), top)


def token_text(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> TokenText:
    """Return one token as text and bytes."""
    utf8 = tokenizer.token_bytes(token_id)
    return TokenText(token_id, utf8.decode(errors="replace"), utf8, logprob)
