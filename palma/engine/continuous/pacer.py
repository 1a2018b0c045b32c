"""How many prompt tokens a step may compute without making those who decode wait too long."""

from __future__ import annotations

MAX_STALL = 1.0
"""A step's prompts may take as long as its decoding, and what TOKENS_A_WAITING adds."""

TOKENS_A_WAITING = 8
"""More prompt tokens of a step for each sequence whose prompt is not computed yet. The fewer
decode, the shorter their steps: prompts bounded by these alone would come in pieces that are too
small to compute well, and many would wait long so that few go fast."""

SMOOTHING = 0.3
"""Share of the newest measurement in the running means."""

MIN_TOKENS = 16
"""Fewer would not pay for the pass over the weights."""

LEAST_SHARE = 0.1
"""Of a pass, that its prompts are held to have taken: decoding may have been slower before."""


class PrefillPacer:
    """Learns from every step what prefill and decode cost here, and sets the next budget.

    Args:
        max_tokens: Most prompt tokens of a step in any case: it bounds how late a
            cancellation or a new request is seen.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_s: float | None = None
        self._prefill_s_per_token: float | None = None

    def budget(self, *, anybody_decodes: bool, num_waiting: int = 0) -> int:
        """Return the prompt tokens that the next step may compute, at least 1.

        Args:
            anybody_decodes: Whether the step makes somebody wait.
            num_waiting: Sequences whose prompts are not computed yet, those that wait for that too.
        """
        if not anybody_decodes or self._decode_s is None or self._prefill_s_per_token is None:
            return self._max_tokens
        affordable = int(MAX_STALL * self._decode_s / self._prefill_s_per_token)
        affordable += TOKENS_A_WAITING * num_waiting
        return min(self._max_tokens, max(MIN_TOKENS, affordable))

    def note_decode(self, seconds: float) -> None:
        """Take what a pass over all decoding sequences took."""
        self._decode_s = _mean(self._decode_s, seconds)

    def note_prefill(self, num_tokens: int, seconds: float) -> None:
        """Take what a pass over a part of a prompt took."""
        self._prefill_s_per_token = _mean(self._prefill_s_per_token, seconds / num_tokens)

    def note_together(self, num_tokens: int, seconds: float) -> None:
        """Take what a pass over parts of prompts and all decoding sequences took."""
        prefill_s = max(seconds - (self._decode_s or 0.0), LEAST_SHARE * seconds)
        self.note_prefill(num_tokens, prefill_s)


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + SMOOTHING * (newest - before)
