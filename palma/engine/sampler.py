"""Choosing the next token of one sequence from its logits.

The order is Transformers' own: repetition penalty, temperature, top-k, top-p, min-p. No step
sorts the whole vocabulary unless the nucleus is wider than its likeliest tokens.
"""

from __future__ import annotations

import torch

from palma.core.errors import EngineFailure
from palma.core.types import SamplingParams

NUCLEUS_PREFILTER = 256
"""Tokens that a top-p nucleus is looked for in first."""

MIN_TEMPERATURE = 1e-6
"""Below it float32 logits cannot be divided; the difference from greedy has long vanished."""


class Sampler:
    """Draws the tokens of one sequence from a random generator of its own.

    The same seed and logits give the same tokens whatever else the process does. Not
    thread-safe: a sequence has one sampler and one decoding thread.
    """

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._params = params
        self._generator = torch.Generator(device=device)
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def sample(self, logits: torch.Tensor, seen_token_ids: torch.Tensor) -> torch.Tensor:
        """Return the id of the next token.

        Args:
            logits: (vocab_size,), float32; not changed.
            seen_token_ids: (num_seen,), int64: prompt and completion so far.

        Returns:
            (1,), int64.

        Raises:
            EngineFailure: The logits hold NaN, or no token has a finite logit.
        """
        require_finite(logits)
        logits = penalize_repetition(logits, seen_token_ids, self._params.repetition_penalty)
        if self._params.is_greedy:
            return logits.argmax(dim=-1, keepdim=True)
        probs, token_ids = candidates(logits, self._params)
        return token_ids[torch.multinomial(probs, 1, generator=self._generator)]


def require_finite(logits: torch.Tensor) -> None:
    """Raise EngineFailure unless the greatest logit is a finite number."""
    if not torch.isfinite(logits.max()):
        raise EngineFailure("the model's output for this request is not a number")


def penalize_repetition(
    logits: torch.Tensor, seen_token_ids: torch.Tensor, penalty: float
) -> torch.Tensor:
    """Make seen tokens less likely. Source: arXiv:1909.05858.

    Args:
        logits: (vocab_size,), float32.
        seen_token_ids: (num_seen,), int64, repeats allowed.
        penalty: Above 1 makes repeats rarer, below 1 likelier.

    Returns:
        (vocab_size,), float32; `logits` itself when the penalty is 1.
    """
    if penalty == 1:
        return logits
    seen = logits[seen_token_ids]
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return logits.scatter(0, seen_token_ids, seen)


def candidates(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that may be drawn, with weights in proportion to their probability.

    Args:
        logits: (vocab_size,), float32, at least one of them finite.
        params: temperature above 0, top_k, top_p and min_p.

    Returns:
        Weights (num_candidates,), float32, not normalized, and ids (num_candidates,), int64.
    """
    scaled = (logits - logits.max()) / max(params.temperature, MIN_TEMPERATURE)
    if 0 < params.top_k < scaled.numel():
        scaled, token_ids = scaled.topk(params.top_k)
    else:
        token_ids = torch.arange(scaled.numel(), device=scaled.device)
    probs = scaled.softmax(dim=-1)
    if params.top_p < 1:
        probs, order = _nucleus(probs, params.top_p)
        token_ids = token_ids[order]
    if params.min_p > 0:
        likely = probs >= params.min_p * probs.max()
        probs, token_ids = probs[likely], token_ids[likely]
    return probs, token_ids


def _nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the likeliest tokens until their mass reaches `top_p`; likeliest first."""
    values, order = probs.topk(min(NUCLEUS_PREFILTER, probs.numel()))
    if values.sum() < top_p:
        values, order = probs.sort(descending=True)
    mass_before = values.cumsum(dim=-1) - values
    num_kept = max(1, int((mass_before < top_p).sum()))
    return values[:num_kept], order[:num_kept]
