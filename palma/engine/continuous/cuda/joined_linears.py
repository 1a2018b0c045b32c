"""Linear layers that read the same input, as queries, keys and values do, in one multiplication.

The weights of such siblings become one weight. The first sibling that is called computes for
all, and the others find their share waiting, in a pass as in a trace of Dynamo.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import torch

from palma.engine.continuous.sibling_linears import SIBLING_NAMES, SharedInput, stacked

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _ThreadsShares(threading.local):
    """What waits for the siblings in each thread; made anew for each that asks."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor], widths: list[int]) -> None:
        self.shared = SharedInput(compute, widths)


class JoinedLinears(torch.nn.Module):
    """Several linear layers as one.

    Attributes:
        linear: Maps (..., in_features) to the outputs of all layers, side by side.
        widths: How many of them each layer has.
    """

    def __init__(self, linear: torch.nn.Module, widths: list[int]) -> None:
        super().__init__()
        self.linear: Any = linear
        self.widths = widths
        self._shares = _ThreadsShares(self._all_outputs, widths)
        self._traced = SharedInput(self._all_outputs, widths)

    def take(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Return the outputs of one layer: (..., widths[index]), a view of all of them."""
        if torch.compiler.is_dynamo_compiling():  # it cannot look into what threads own
            return self._traced.take(x, index)
        return self._shares.shared.take(x, index)

    def _all_outputs(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.linear(x)
        return outputs


class JoinedLinear(torch.nn.Module):
    """Stands where one of the layers stood.

    Attributes:
        joined: Computes it and its siblings; they have the same.
    """

    def __init__(self, joined: JoinedLinears, index: int, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.joined = joined
        self._index = index

    @property
    def weight(self) -> torch.Tensor:
        """(out_features, in_features): its part of the joined weight."""
        return self._part_of(self.joined.linear.weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """(out_features,): its part of the joined bias, if there is one."""
        bias = self.joined.linear.bias
        return None if bias is None else self._part_of(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.joined.take(x, self._index)

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        return f"{self.in_features}, {self.out_features}"

    def _part_of(self, rows: torch.Tensor) -> torch.Tensor:
        first = sum(self.joined.widths[: self._index])
        return rows[first : first + self.out_features]


def join_linears(model: torch.nn.Module) -> int:
    """Join the siblings among a model's `nn.Linear` modules, in place.

    The weights of one group are copied at a time, and the single ones freed at once unless
    somebody else holds them. Left alone are subclasses of `nn.Linear`, layers with hooks, layers
    that hang in several places, and siblings of different dtypes.

    Args:
        model: Used by nobody meanwhile.

    Returns:
        How many fewer multiplications a forward pass has.
    """
    num_places = Counter(
        id(child) for parent in model.modules() for child in parent._modules.values()
    )
    num_saved = 0
    for parent, names in list(_siblings(model, num_places)):
        linears = [parent.get_submodule(name) for name in names]
        _join(parent, names, [linear for linear in linears if isinstance(linear, torch.nn.Linear)])
        num_saved += len(names) - 1
    return num_saved


def _siblings(
    model: torch.nn.Module, num_places: Counter[int]
) -> Iterator[tuple[torch.nn.Module, tuple[str, ...]]]:
    for parent in model.modules():
        for names in SIBLING_NAMES:
            children = [parent._modules.get(name) for name in names]
            linears = [
                child for child in children if _is_plain(child) and num_places[id(child)] == 1
            ]
            kinds = {(x.in_features, x.weight.dtype, x.weight.device) for x in linears}
            if len(linears) == len(names) and len(kinds) == 1:
                yield parent, names


def _is_plain(module: torch.nn.Module | None) -> TypeGuard[torch.nn.Linear]:
    if type(module) is not torch.nn.Linear or "forward" in vars(module):
        return False
    return not any(getattr(module, hooks) for hooks in _HOOKS)


def _join(parent: torch.nn.Module, names: tuple[str, ...], linears: list[torch.nn.Linear]) -> None:
    joined = JoinedLinears(stacked(linears), [linear.out_features for linear in linears])
    for index, (name, linear) in enumerate(zip(names, linears, strict=True)):
        parent._modules[name] = JoinedLinear(joined, index, linear).train(linear.training)
