"""Transformers' continuous batching with the FlashAttention that PyTorch has inside.

Without the flash-attn package Transformers takes SDPA, which computes every query against the
keys of all requests and masks most of it away. PyTorch's own FlashAttention-2 takes packed
sequences, so through `AttentionInterface`, Transformers' door for own attention functions, the
peer gets what it would have with that package, but for the decode path over block tables: those
need FlashAttention-3 in PyTorch.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

NAME = "torch_flash"
"""Has "flash" in it, by which Transformers knows that no mask is needed and graphs may be used."""


def attach(model: Any) -> None:
    """Give a model this attention, under the name that this Transformers wants it to have."""
    from transformers import AttentionInterface
    from transformers.generation.continuous_batching import PagedAttentionCache

    takes_kwargs = "kwargs" in inspect.signature(PagedAttentionCache.update).parameters
    name = NAME if takes_kwargs else f"paged|{NAME}"  # since 5.18 or so without the prefix
    AttentionInterface.register(name, _attend_newer if takes_kwargs else _attend_older)
    # Not by `set_attn_implementation`: a name with "flash" in it makes it look for that package.
    model.config._attn_implementation_internal = name


def _attend_older(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    cache: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in Transformers 5.17: query (1, num_heads, num_tokens, head_dim)."""
    keys, values = cache.update(
        key_states=key,
        value_states=value,
        layer_idx=module.layer_idx,
        read_index=kwargs["read_index"],
        write_index=kwargs["write_index"],
    )
    packing = Packing(
        kwargs["cu_seq_lens_q"],
        kwargs["cu_seq_lens_k"],
        kwargs["max_seqlen_q"],
        kwargs["max_seqlen_k"],
    )
    return packing.attend(query[0].transpose(0, 1), keys, values, scaling)[None], None


def _attend_newer(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    cache: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in Transformers 5.23, whose cache picks a layer's arguments by itself."""
    keys, values = cache.update(key, value, module.layer_idx, kwargs=kwargs)
    packing = Packing(
        kwargs["cu_seq_lens_q"],
        kwargs["cu_seq_lens_k"],
        kwargs["max_length_q"],
        kwargs["max_length_k"],
    )
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, keys, values))
    return packing.attend(queries, keys, values, scaling)[None], None


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each of the packed sequences begins.

    Attributes:
        first_queries, first_keys: (num_sequences + 1,): in the queries and in the keys; the last
            is the end of the last sequence.
        max_queries, max_keys: Of any sequence.
    """

    first_queries: torch.Tensor
    first_keys: torch.Tensor
    max_queries: int
    max_keys: int

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attend causally within each sequence; its last query sees its last key.

        Args:
            queries: (num_queries, num_heads, head_dim).
            keys, values: (num_keys, num_kv_heads, head_dim).
            scaling: Factor of the scores; None means head_dim ** -0.5.

        Returns:
            (num_queries, num_heads, head_dim).
        """
        if queries.device.type != "cuda":
            return self._attend_one_by_one(queries, keys, values, scaling)
        attended: torch.Tensor = torch.ops.aten._flash_attention_forward(
            queries.contiguous(),
            keys.contiguous(),
            values.contiguous(),
            self.first_queries.int(),
            self.first_keys.int(),
            self.max_queries,
            self.max_keys,
            0.0,  # no dropout
            True,  # causal
            False,  # no debug mask
            scale=scaling,
        )[0]
        return attended

    def _attend_one_by_one(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        attended = torch.zeros_like(queries)
        starts = zip(self.first_queries.tolist(), self.first_keys.tolist(), strict=True)
        for (begin_q, begin_k), (end_q, end_k) in pairwise(starts):
            if end_q > begin_q:
                attended[begin_q:end_q] = scaled_dot_product_attention(
                    queries[begin_q:end_q].transpose(0, 1)[None],
                    keys[begin_k:end_k].transpose(0, 1)[None],
                    values[begin_k:end_k].transpose(0, 1)[None],
                    attn_mask=causal_lower_right(end_q - begin_q, end_k - begin_k),
                    scale=scaling,
                    enable_gqa=True,
                )[0].transpose(0, 1)
        return attended
