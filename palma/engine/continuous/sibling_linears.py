"""Linear layers that read the same input, as queries, keys and values do, computed as one."""

from __future__ import annotations

from typing import Any

import torch

from palma.engine.continuous.packed_modules import plain_linear

SIBLING_NAMES = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)
"""What models call layers of one parent that are given the same tensor, in this order."""


class SharedInput:
    """Computes several layers in one multiplication when the first of them is called.

    The others find their share waiting if they are given the very same tensor; a layer that is
    given another one, or the same once more, has everything computed anew. Belongs to one
    thread, and to models that do not change a tensor between two of these calls.

    Args:
        together: A packed layer; maps (..., in_features) to the outputs of all layers, side by
            side.
        widths: How many of them each layer has.
    """

    def __init__(self, together: Any, widths: list[int]) -> None:
        self.together = together
        self.widths = widths
        self._input: torch.Tensor | None = None
        self._shares: list[torch.Tensor | None] = []

    def take(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Return the outputs of one layer: (..., widths[index]), a view of all of them."""
        if self._input is not x or self._shares[index] is None:
            self._input = x
            self._shares = list(self.together(x).split(self.widths, dim=-1))
        share = self._shares[index]
        assert share is not None
        self._shares[index] = None
        if not any(waiting is not None for waiting in self._shares):
            self._input = None  # nobody waits: let the tensors go
        return share


class SiblingLinear(torch.nn.Module):
    """Stands where one of the layers stood.

    Attributes:
        shared: Computes it and its siblings.
    """

    def __init__(self, shared: SharedInput, index: int, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.shared = shared
        self._index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.shared.take(x, self._index)

    def plain(self) -> torch.nn.Linear:
        """Return this layer as an ordinary one."""
        whole = self.shared.together.plain()
        weight = whole.weight.split(self.shared.widths)[self._index]
        bias = None if whole.bias is None else whole.bias.split(self.shared.widths)[self._index]
        return plain_linear(weight, bias)

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        return f"{self.in_features}, {self.out_features}, computed with its siblings"


def stacked(linears: list[torch.nn.Linear]) -> torch.nn.Linear:
    """Return one layer that computes the outputs of all, side by side."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    if all(linear.bias is None for linear in linears):
        return plain_linear(weight, None)
    biases = [
        weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        for linear in linears
    ]
    return plain_linear(weight, torch.cat(biases))
