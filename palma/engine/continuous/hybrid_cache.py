"""The states of layers that are no attention, or not only: Mamba, linear attention, convolutions.

Attention keeps something for each token, in the KV cache. These layers keep a state of one size,
which every pass replaces: the recurrent state, and the conv state, the last inputs of a short
convolution. A sequence's states lie in one slot from its admission to its end. A pass computes
on copies, and they replace what is in the slots only when it has succeeded: so a pass that fails
can be repeated.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

StateKey = tuple[int, int]
"""A layer, and which of its states: most layers have one of a kind, some have more."""

STATE_LAYER_TYPES = frozenset({"conv", "linear_attention"})
MIXED_LAYER_TYPES = frozenset({"hybrid", "hybrid_sliding"})
"""Layers that have states beside attention."""

PLAIN_LAYER_TYPES = frozenset({"mlp", "moe"})
"""Layers that remember nothing."""


def layer_types(model: Any) -> list[str]:
    """Return the type of each layer of a model; nothing if its config does not tell them."""
    return list(getattr(model.config.get_text_config(), "layer_types", None) or ())


def has_states(model: Any) -> bool:
    """Whether some of a model's layers keep states."""
    return bool((STATE_LAYER_TYPES | MIXED_LAYER_TYPES) & set(layer_types(model)))


def attention_layers(model: Any) -> list[int]:
    """Return the layers of a model that attend."""
    without = STATE_LAYER_TYPES | PLAIN_LAYER_TYPES
    kinds = layer_types(model)
    num_layers = model.config.get_text_config().num_hidden_layers
    return [i for i in range(num_layers) if not kinds or kinds[i] not in without]


def cache_argument(model: Any) -> str:
    """Return the name under which a model's forward pass takes its cache."""
    takes = inspect.signature(model.forward).parameters
    return "cache_params" if "cache_params" in takes else "past_key_values"


class PagedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Passes keys and values through: `paged_attention` stores them."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is kept here."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the new keys and values alone."""
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the keys that masks are made for; no mask is made for our attention."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens that are kept here; models are given the positions."""
        return 0

    def get_max_length(self) -> int:
        """Return -1: no bound that this layer knows."""
        return -1


class PagedLayerWithStates(LinearAttentionLayer, PagedLayer):  # type: ignore[misc]
    """Attention and states in one layer, as in Falcon-H1."""

    def __init__(self, number_of_states: int) -> None:
        PagedLayer.__init__(self)
        LinearAttentionLayer.__init__(self, number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Make room for states that come for the first time."""
        LinearAttentionLayer.lazy_initialization(self, *args, **kwargs)


class StatePool:
    """The states of all running sequences, by layer and slot; belongs to one thread.

    A state's tensor is made when the first of its kind comes.

    Args:
        model: Has states.
        num_slots: Most sequences that have states at once.
    """

    def __init__(self, model: Any, num_slots: int) -> None:
        self._num_slots = num_slots
        self._device = model.device
        self._layer_types = layer_types(model)
        self._num_states = getattr(model.config.get_text_config(), "number_of_conv_states", 1)
        self._conv: dict[StateKey, torch.Tensor] = {}
        self._recurrent: dict[StateKey, torch.Tensor] = {}
        self._argument = cache_argument(model)
        self._last: tuple[list[int], Cache | None] = [], None

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of a sequence's states, in all layers seen so far."""
        pools = [*self._conv.values(), *self._recurrent.values()]
        return sum(pool[0].nbytes for pool in pools)

    @property
    def has_all_layers(self) -> bool:
        """Whether every layer that should has handed in a state."""
        kinds = STATE_LAYER_TYPES | MIXED_LAYER_TYPES
        wanted = {i for i, kind in enumerate(self._layer_types) if kind in kinds}
        return wanted == {index for index, _ in [*self._conv, *self._recurrent]}

    def recurrent_states(self, slot: int) -> list[torch.Tensor]:
        """Return views of a sequence's recurrent states; some models have conv states only."""
        return [pool[slot] for pool in self._recurrent.values()]

    @contextlib.contextmanager
    def lend(self, slots: list[int], *, is_first: bool) -> Iterator[dict[str, Any]]:
        """Yield what the model must be given for one pass; keep its new states if it succeeds.

        Args:
            slots: Of the sequences, in the order of the batch.
            is_first: Whether the pass begins a sequence: what is in its slot is another's.
        """
        assert len(slots) == 1 or not is_first
        rows = torch.tensor(slots, device=self._device)
        last_slots, last_cache = self._last
        self._last = [], None  # whatever this pass does to its copies if it fails
        if last_cache is not None and last_slots == slots and not is_first:
            cache = last_cache
        else:
            del last_cache
            cache = Cache(layers=[self._make_layer(kind) for kind in self._layer_types])
            if not is_first:
                self._fill(cache, rows)
        yield {self._argument: cache, "use_cache": True}
        self._keep(cache, rows)
        self._last = slots, cache

    def _make_layer(self, kind: str) -> LinearAttentionLayer | PagedLayer:
        if kind in MIXED_LAYER_TYPES:
            return PagedLayerWithStates(self._num_states)
        return LinearAttentionLayer(self._num_states) if kind in STATE_LAYER_TYPES else PagedLayer()

    def _fill(self, cache: Cache, rows: torch.Tensor) -> None:
        """Copy the states out of the slots."""
        for (index, which), pool in self._conv.items():
            layer = cache.layers[index]
            layer.conv_states[which] = pool.index_select(0, rows)
            layer.conv_kernel_size[which] = pool.shape[-1]
            layer.is_conv_states_initialized[which] = layer.has_previous_state[which] = True
        for (index, which), pool in self._recurrent.items():
            layer = cache.layers[index]
            layer.recurrent_states[which] = pool.index_select(0, rows)
            layer.is_recurrent_states_initialized[which] = layer.has_previous_state[which] = True

    def _keep(self, cache: Cache, rows: torch.Tensor) -> None:
        """Copy the states back into the slots."""
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, LinearAttentionLayer):
                self._store(self._conv, index, layer.conv_states, rows)
                self._store(self._recurrent, index, layer.recurrent_states, rows)

    def _store(
        self,
        pools: dict[StateKey, torch.Tensor],
        index: int,
        states: dict[int, torch.Tensor | None],
        rows: torch.Tensor,
    ) -> None:
        for which, state in states.items():
            if state is None:
                continue
            pool = pools.get((index, which))
            if pool is None:
                pool = state.new_empty(self._num_slots, *state.shape[1:])
                pools[index, which] = pool
            pool.index_copy_(0, rows, state)
