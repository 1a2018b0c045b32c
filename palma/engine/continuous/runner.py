"""Forward passes of an unmodified Transformers model over the paged KV cache."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch
from transformers import AttentionInterface

from palma.engine.continuous.attention import (
    ATTENTION_NAME,
    CONTEXT_ATTRIBUTE,
    ForwardContext,
    paged_attention,
)
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.scheduler import Chunk, Sequence


class Runner:
    """Runs one model; belongs to one thread.

    Args:
        model: In eval mode. Its attention is switched to ours until `close`.
        kv_cache: Where keys and values go.
    """

    def __init__(self, model: Any, kv_cache: KVCache) -> None:
        AttentionInterface.register(ATTENTION_NAME, paged_attention)
        self._model = model
        self._device = model.device
        self._kv_cache = kv_cache
        self.context = ForwardContext(kv_cache)
        self._attention_before = model.config._attn_implementation
        model.set_attn_implementation(ATTENTION_NAME)
        for module in model.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, CONTEXT_ATTRIBUTE, self.context)

    def close(self) -> None:
        """Give the model its own attention back."""
        self._model.set_attn_implementation(self._attention_before)

    @torch.inference_mode()
    def prefill(self, chunk: Chunk) -> torch.Tensor:
        """Compute the next tokens of one sequence.

        Returns:
            (vocab_size,), float32: the logits after the last of them.
        """
        sequence = chunk.sequence
        start, end = sequence.num_computed, sequence.num_computed + chunk.num_tokens
        past_slots = self._kv_cache.slots(sequence.block_table, 0, end)
        self.context.begin(
            new_slots=past_slots[start:].to(self._device),
            past_slots=past_slots[None].to(self._device),
            kv_lengths=torch.tensor([end], device=self._device),
            positions=torch.arange(start, end, device=self._device)[None],
        )
        return self._forward([sequence.token_ids[start:end]])[0]

    @torch.inference_mode()
    def decode(self, sequences: Rows[Sequence]) -> torch.Tensor:
        """Compute the last token of each sequence, all in one pass.

        Returns:
            (num_sequences, vocab_size), float32.
        """
        kv_lengths = [len(sequence.token_ids) for sequence in sequences]
        past_slots = torch.empty(len(sequences), max(kv_lengths), dtype=torch.int64)
        for row, (sequence, length) in enumerate(zip(sequences, kv_lengths, strict=True)):
            slots = self._kv_cache.slots(sequence.block_table, 0, length)
            past_slots[row, :length] = slots
            # Masked, but read: a slot of its own, never one where another's NaN may lie.
            past_slots[row, length:] = slots[0]
        lengths = torch.tensor(kv_lengths)
        new_slots = past_slots.gather(1, lengths[:, None] - 1)[:, 0]
        self.context.begin(
            new_slots=new_slots.to(self._device),
            past_slots=past_slots.to(self._device),
            kv_lengths=lengths.to(self._device),
            positions=(lengths[:, None] - 1).to(self._device),
        )
        return self._forward([sequence.token_ids[-1:] for sequence in sequences])

    def _forward(self, token_ids: list[list[int]]) -> torch.Tensor:
        output = self._model(
            input_ids=torch.tensor(token_ids, device=self._device),
            position_ids=self.context.positions,
            use_cache=False,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits
