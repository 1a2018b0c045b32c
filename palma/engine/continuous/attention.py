"""Attention over the paged KV cache, called by unmodified Transformers models.

It is registered with `AttentionInterface` under a name of our own. Transformers makes no mask
for a name that it does not know, so causality, sliding windows, soft-capping and sinks are all
done here. Source of the interface: `transformers.integrations.sdpa_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from palma.engine.continuous.cpu_kernel import DecodeKernel
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.score_rules import ScoreRules

ATTENTION_NAME = "palma_paged"
CONTEXT_ATTRIBUTE = "palma_forward_context"
"""Where an attention module finds its engine's ForwardContext."""


@dataclass(slots=True)
class ForwardContext:
    """What attention must know about the forward pass that runs now; set before each pass.

    Attributes:
        kv_cache: Where keys and values are.
        block_tables: (batch, max_blocks), int32; padded with blocks of the same sequence.
        kv_lengths: (batch,), int32: how many keys a sequence has, new ones included.
        positions: (batch, length), int64: the positions of the queries.
        kernel: What decodes on a CPU in place of the portable path, if there is one.
        num_calls: Attention calls by layer in this pass; the self-check reads it.
        rules: Of the scores, by layer, as the model's code asked for them last.
    """

    kv_cache: KVCache
    block_tables: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    kv_lengths: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    positions: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    kernel: DecodeKernel | None = None
    num_calls: dict[int, int] = field(default_factory=dict)
    rules: dict[int, ScoreRules] = field(default_factory=dict)
    _slots: tuple[torch.Tensor, torch.Tensor] | None = None
    _masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def begin(
        self, block_tables: torch.Tensor, kv_lengths: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Describe the next pass."""
        self.block_tables, self.kv_lengths = block_tables, kv_lengths
        self.positions = positions
        self.num_calls.clear()
        self._slots = None
        self._masks.clear()

    @property
    def new_slots(self) -> torch.Tensor:
        """(batch * length,), int64: where the keys and values of this pass go."""
        return self._find_slots()[0]

    @property
    def past_slots(self) -> torch.Tensor:
        """(batch, max_kv_length), int64: where all of a sequence's are, new ones included.

        Rows are padded with a slot of the same sequence: what lies there is masked, but read,
        and in another's slot might be a NaN.
        """
        return self._find_slots()[1]

    def _find_slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `new_slots` and `past_slots` once in a pass, if anybody asks."""
        if self._slots is None:
            size = self.kv_cache.block_size
            offsets = torch.arange(size, device=self.block_tables.device)
            past = (self.block_tables[:, :, None].long() * size + offsets).flatten(1)
            past = past[:, : int(self.kv_lengths.max())]
            keys = torch.arange(past.shape[1], device=past.device)
            new = past.gather(1, self.positions).flatten()
            past = torch.where(keys < self.kv_lengths[:, None], past, past[:, :1])
            self._slots = new, past
        return self._slots

    def mask(self, sliding_window: int | None) -> torch.Tensor | None:
        """Return which keys each query sees: (batch, 1, length, max_kv_length), bool.

        None when every query sees every key. Computed once for each window and pass.
        """
        if sliding_window not in self._masks:
            self._masks[sliding_window] = self._make_mask(sliding_window)
        return self._masks[sliding_window]

    def _make_mask(self, sliding_window: int | None) -> torch.Tensor | None:
        keys = torch.arange(self.past_slots.shape[1], device=self.positions.device)
        queries = self.positions[:, :, None]  # (batch, length, 1)
        seen = keys <= queries
        if sliding_window is not None:
            seen &= keys > queries - sliding_window
        seen &= keys < self.kv_lengths[:, None, None]
        return None if bool(seen.all()) else seen[:, None]


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the new keys and values, then attend to all of each sequence's.

    Args:
        module: The attention layer; has `layer_idx` and our context.
        query: (batch, num_heads, length, head_dim).
        key: (batch, num_kv_heads, length, head_dim).
        value: (batch, num_kv_heads, length, value_dim).
        _attention_mask: None: Transformers makes no mask for us.
        scaling: Factor of the scores; None means head_dim ** -0.5.
        sliding_window: Most keys a query sees, itself included.
        softcap: Scores go through `softcap * tanh(score / softcap)`. Source: arXiv:2408.00118.
        s_aux: (num_heads,): scores of a sink that takes probability and gives nothing.

    Returns:
        (batch, length, num_heads, value_dim), and None for the weights.
    """
    context: ForwardContext = getattr(module, CONTEXT_ATTRIBUTE)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    context.num_calls[layer] = context.num_calls.get(layer, 0) + 1
    rules = context.rules[layer] = ScoreRules(scaling, sliding_window, softcap, s_aux)
    kernel = context.kernel
    if kernel is not None and kernel.takes(query, key, value):
        attended = kernel.attend(
            query,
            key,
            value,
            *context.kv_cache.layer(layer, key, value),
            block_tables=context.block_tables,
            kv_lengths=context.kv_lengths,
            block_size=context.kv_cache.block_size,
            rules=rules,
        )
        return attended, None
    keys, values = _store_and_gather(context, layer, key, value)
    attended = _attend(query, keys, values, context.mask(sliding_window), rules)
    return attended.transpose(1, 2).contiguous(), None


def _store_and_gather(
    context: ForwardContext, layer: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the new keys and values to their slots; return (batch, num_kv_heads, kv, dim)."""
    stored = context.kv_cache.layer(layer, key, value)
    gathered = []
    for cache, new in zip(stored, (key, value), strict=True):
        num_heads, _, dim = cache.shape
        cache.index_copy_(1, context.new_slots, new.transpose(0, 1).reshape(num_heads, -1, dim))
        past = cache.index_select(1, context.past_slots.flatten())
        gathered.append(past.view(num_heads, *context.past_slots.shape, dim).transpose(0, 1))
    return gathered[0], gathered[1]


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    rules: ScoreRules,
) -> torch.Tensor:
    """Return (batch, num_heads, length, value_dim); the other shapes are `paged_attention`'s."""
    if rules.softcap is not None or rules.sinks is not None:
        return _attend_by_hand(query, keys, values, mask, rules)
    return scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=mask,
        scale=rules.scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )


def _attend_by_hand(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    rules: ScoreRules,
) -> torch.Tensor:
    """Attention with what the fused kernel lacks."""
    num_groups = query.shape[1] // keys.shape[1]
    keys = keys.repeat_interleave(num_groups, dim=1)
    values = values.repeat_interleave(num_groups, dim=1)
    scores = (query @ keys.transpose(2, 3)) * rules.scale(query.shape[-1])
    if rules.softcap is not None:
        scores = rules.softcap * torch.tanh(scores / rules.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    scores = scores.float()
    if rules.sinks is not None:
        column = rules.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(dim=-1)[..., : keys.shape[2]]
    return weights.to(values.dtype) @ values
