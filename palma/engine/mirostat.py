"""Mirostat: sampling whose tokens surprise as much as asked. Source: arXiv:2007.14966."""

from __future__ import annotations

import math

import torch

NUM_ESTIMATED_FROM = 100
"""The likeliest tokens that the exponent of Zipf's law is estimated from (m in the paper)."""


class Mirostat:
    """Feedback from one token's surprise to the next one's candidates; one for each sequence.

    Args:
        version: 1 keeps as many of the likeliest tokens as Zipf's law asks for; 2 keeps those
            that are no more surprising than the bound.
        tau: Target surprise in bits.
        eta: Learning rate.

    Attributes:
        max_surprise: The bound in bits (mu in the paper); it starts at twice the target.
    """

    def __init__(self, version: int, tau: float, eta: float) -> None:
        self._version = version
        self._tau = tau
        self._eta = eta
        self.max_surprise = 2 * tau

    def candidates(self, probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities and ids of the tokens that may be drawn, likeliest first.

        Args:
            probs: (vocab_size,), float32, the model's at the request's temperature.
        """
        if self._version == 1:
            num_kept = zipf_cutoff(probs, self.max_surprise)
        else:
            num_kept = int((-probs.log2() <= self.max_surprise).sum())
        return probs.topk(min(max(num_kept, 1), probs.numel()))

    def observe(self, prob: float) -> None:
        """Learn how likely the drawn token was before any was left out."""
        surprise = -math.log2(max(prob, torch.finfo(torch.float32).tiny))
        self.max_surprise -= self._eta * (surprise - self._tau)


def zipf_cutoff(probs: torch.Tensor, max_surprise: float) -> int:
    """Return how many of the likeliest tokens to keep, were they distributed by Zipf's law.

    Args:
        probs: (vocab_size,), float32.
        max_surprise: In bits.
    """
    exponent = zipf_exponent(probs)
    vocab_size = probs.numel()
    epsilon = exponent - 1
    if abs(epsilon) < 1e-6:  # the limit of the fraction below
        scale = 1 / math.log(vocab_size)
    else:
        scale = epsilon / -math.expm1(-epsilon * math.log(vocab_size))
    log2_kept = (max_surprise + math.log2(scale)) / exponent
    return vocab_size if log2_kept >= math.log2(vocab_size) else round(2**log2_kept)


def zipf_exponent(probs: torch.Tensor) -> float:
    """Estimate the exponent from the ratios of neighbouring probabilities, by least squares."""
    top = probs.topk(min(NUM_ESTIMATED_FROM, probs.numel())).values.double()
    top = top[top > 0]
    if top.numel() < 2:
        return 1.0
    ranks = torch.arange(1, top.numel() + 1, dtype=torch.float64, device=top.device)
    gaps = (ranks[1:] / ranks[:-1]).log()
    falls = (top[:-1] / top[1:]).log()
    return max(float((gaps * falls).sum() / (gaps * gaps).sum()), 1e-3)
