"""Prompts of random common words, about as many tokens long as asked."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

COMMON_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work night point "
    "home water room mother area money story fact month lot right study book eye job word business "
    "issue side kind head house service friend father power hour game line end member law car city "
    "name team minute idea body back parent face level office door health person art war history "
    "party result change morning reason research girl guy moment air teacher force education good "
    "new first last long great little own other old big high small large next early young few bad "
    "same able be have do get make go know take see come think look want give use find tell ask "
    "seem feel try leave call keep let begin help show hear play run move live believe bring write "
    "sit stand lose pay meet include continue learn lead understand watch follow stop speak read "
    "spend grow open walk win teach offer remember consider appear buy serve die send build stay "
    "fall cut reach kill raise"
)

TYPICAL_TOKENS_PER_WORD = 1.3


@dataclass(frozen=True, slots=True)
class WordRate:
    """What words cost under the server's tokenizer and chat template.

    Attributes:
        overhead: Tokens that every prompt has, whatever its words.
        tokens_per_word: Tokens that each further word adds, on average.
    """

    overhead: float = 0.0
    tokens_per_word: float = TYPICAL_TOKENS_PER_WORD

    def words_for(self, num_tokens: int) -> int:
        """Return how many words make about that many prompt tokens, at least 1."""
        return max(1, round((num_tokens - self.overhead) / self.tokens_per_word))


def word_rate(short: tuple[int, int], long: tuple[int, int]) -> WordRate:
    """Fit a line through two measurements, each the words sent and the prompt tokens counted."""
    tokens_per_word = (long[1] - short[1]) / (long[0] - short[0])
    if tokens_per_word <= 0:
        return WordRate()
    return WordRate(max(0.0, short[1] - short[0] * tokens_per_word), tokens_per_word)


def random_words(rng: Random, num_words: int) -> str:
    """Return that many random words with spaces between."""
    return " ".join(rng.choices(COMMON_WORDS.split(), k=num_words))
