"""How long prompts and answers are: a fixed length, a uniform range, or a log-normal spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from palma.core.errors import SettingsError

SYNTAX = "a count (128), a range (32-256) or lognormal:mean,sigma (lognormal:128,0.5)"
MAX_SPREAD = 8
"""A log-normal length is cut at this many times its mean, so that one request cannot take over."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of token counts, each at least 1.

    Attributes:
        low, high: Bounds, both included; equal for a fixed length.
        mean, sigma: Of a log-normal distribution: its mean in tokens and the standard deviation
            of the logarithm; sigma 0 means uniform between the bounds.
    """

    low: int
    high: int
    mean: float = 0.0
    sigma: float = 0.0

    def draw(self, rng: Random) -> int:
        """Return one length."""
        if self.sigma == 0:
            return rng.randint(self.low, self.high)
        mu = math.log(self.mean) - self.sigma**2 / 2  # so that the mean of the draws is `mean`
        return min(self.high, max(self.low, round(rng.lognormvariate(mu, self.sigma))))


def parse_lengths(text: str, flag: str) -> Lengths:
    """Read a distribution from the command line.

    Raises:
        SettingsError: It is none of the three forms; the message names the flag.
    """
    kind, _, arguments = text.rpartition(":")
    try:
        if kind == "lognormal":
            mean, sigma = (float(part) for part in arguments.split(","))
            lengths = Lengths(1, round(MAX_SPREAD * mean), mean, sigma)
        else:
            low, _, high = text.partition("-")
            lengths = Lengths(int(low), int(high or low))
    except (ValueError, OverflowError):
        raise SettingsError(f"{flag}={text!r} is not {SYNTAX}") from None
    if not 1 <= lengths.low <= lengths.high or not 0 <= lengths.sigma < math.inf:
        raise SettingsError(f"{flag}={text!r}: lengths must be at least 1 and must not fall")
    return lengths
