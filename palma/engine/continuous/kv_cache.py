"""The tensors behind the blocks: keys and values of every attention layer."""

from __future__ import annotations

import torch


class KVCache:
    """Keys and values, by layer and slot.

    A slot holds one token; block `b` covers the slots from `b * block_size` on. A layer's
    tensors are made when its first keys and values come: their widths may differ from each
    other (multi-head latent attention) and from layer to layer. Memory that was never written
    costs nothing on most systems: it is reserved, not filled.

    Args:
        num_blocks: Blocks for each layer.
        block_size: Tokens a block holds.

    Attributes:
        layers: Keys (num_kv_heads, num_slots, head_dim) and values, alike, of layers seen so far.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def like(cls, other: KVCache, num_blocks: int, block_size: int) -> KVCache:
        """Return a cache for the layers of another one, all tensors made."""
        cache = cls(num_blocks, block_size)
        for index, layer in other.layers.items():
            cache.layer(index, *(tensor[None] for tensor in layer))
        return cache

    def layer(
        self, index: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's keys (num_kv_heads, num_slots, head_dim) and values, alike.

        Args:
            index: The layer.
            key: (batch, num_kv_heads, length, head_dim), for the shape of a layer not seen yet.
            value: The same with its own head_dim.
        """
        found = self.layers.get(index)
        if found is None:
            num_slots = self.num_blocks * self.block_size
            found = (
                key.new_empty(key.shape[1], num_slots, key.shape[3]),
                value.new_empty(value.shape[1], num_slots, value.shape[3]),
            )
            self.layers[index] = found
        return found

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all layers seen so far."""
        tensors = (tensor for layer in self.layers.values() for tensor in layer)
        return sum(t.shape[0] * t.shape[2] * t.element_size() for t in tensors)
