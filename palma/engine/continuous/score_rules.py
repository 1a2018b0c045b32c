"""What a model does to its attention scores before they become weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class ScoreRules:
    """One call's rules; a model may have others in each layer.

    Attributes:
        scaling: Factor of the scores; None means head_dim ** -0.5.
        sliding_window: Most keys a query sees, itself included.
        softcap: Scores go through `softcap * tanh(score / softcap)`. Source: arXiv:2408.00118.
        sinks: (num_heads,): scores of a sink that takes probability and gives nothing.
    """

    scaling: float | None = None
    sliding_window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def scale(self, head_dim: int) -> float:
        """Return the factor of the scores."""
        return head_dim**-0.5 if self.scaling is None else self.scaling
