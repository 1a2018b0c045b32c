"""Forward passes of an unmodified Transformers model on a GPU, all tokens in one row."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch
from transformers import AttentionInterface

from palma.engine.continuous.cuda.paged_attention import (
    ATTENTION_NAME,
    KEY_CACHE,
    VALUE_CACHE,
    PackedBatch,
    Scratch,
    TileShape,
    num_splits,
    packed_batch,
    paged_attention_cuda,
)
from palma.engine.continuous.cuda.prompt_inputs import (
    PassShape,
    PromptInputs,
    describe,
    exact_shape,
    last_rows,
)
from palma.engine.continuous.cuda.slot_table import SlotTable, to_device
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.mean_states import last_hidden_states


class CudaRunner:
    """Runs one model; belongs to one thread.

    Args:
        model: In eval mode. Its attention is switched to ours until `close`.
        kv_cache: Has the tensors of all layers, and one block that belongs to nobody: the last.
        num_slots: Most running sequences.
        max_blocks: Most blocks of a sequence.
    """

    def __init__(self, model: Any, kv_cache: KVCache, num_slots: int, max_blocks: int) -> None:
        self.max_rows = graph_sizes(num_slots)[-1]
        AttentionInterface.register(ATTENTION_NAME, paged_attention_cuda)
        self._model = model
        self._device: torch.device = model.device
        self.kv_cache = kv_cache
        self.slots = SlotTable(
            num_slots, self.max_rows, max_blocks, kv_cache.num_blocks - 1, self._device
        )
        self._scratch = Scratch(self._device)
        self._num_processors = _num_processors(self._device)
        self._num_kv_heads = max(key.shape[0] for key, _ in kv_cache.layers.values())
        widths = [t.shape[2] for layer in kv_cache.layers.values() for t in layer]
        self._shape = TileShape.of(model.dtype, max(widths))
        self._attention_before = model.config._attn_implementation
        self.attach()

    def attach(self) -> None:
        """Point the model's attention at this runner; another one's was there perhaps."""
        self._model.set_attn_implementation(ATTENTION_NAME)
        for module in self._model.modules():
            layer = self.kv_cache.layers.get(getattr(module, "layer_idx", -1))
            if layer is not None:
                setattr(module, KEY_CACHE, layer[0])
                setattr(module, VALUE_CACHE, layer[1])

    def detach(self) -> None:
        """Give the model its own attention back until the next `attach`."""
        self._model.set_attn_implementation(self._attention_before)
        for module in self._model.modules():
            if hasattr(module, KEY_CACHE):
                delattr(module, KEY_CACHE)
                delattr(module, VALUE_CACHE)

    def close(self) -> None:
        """Let the model go."""
        self.detach()

    @property
    def has_step_decoder(self) -> bool:
        """Whether `step` can be called: always."""
        return True

    @torch.inference_mode()
    def step(self, sequences: Rows[Sequence], chunks: Rows[Chunk]) -> torch.Tensor:
        """Compute the last token of sequences and the next ones of others, all in one pass.

        Returns:
            (num_sequences + num_chunks, vocab_size): the logits after the last of each.
        """
        return self._pass(sequences, chunks, last_rows(chunks))

    @torch.inference_mode()
    def decode(self, sequences: Rows[Sequence]) -> torch.Tensor:
        """Compute the last token of each sequence; see `Runner.decode`."""
        return self.step(sequences, []).float()

    @torch.inference_mode()
    def prefill(self, chunk: Chunk, *, all_logits: bool = False) -> torch.Tensor:
        """Compute the next tokens of one sequence; see `Runner.prefill`."""
        first = 0 if all_logits else chunk.num_tokens - 1
        return self._pass([], [chunk], range(first, chunk.num_tokens)).float()

    @torch.inference_mode()
    def read(self, chunk: Chunk) -> torch.Tensor:
        """Compute the next tokens of one sequence, without logits; see `Runner.read`."""
        prompts = self._send([], [chunk], [])
        with packed_batch(self._batch(0, prompts.positions, prompts)):
            return last_hidden_states(
                self._model, prompts.token_ids[None], position_ids=prompts.positions[None]
            )

    def run(
        self, token_ids: torch.Tensor, positions: torch.Tensor, prompts: PromptInputs | None
    ) -> torch.Tensor:
        """Compute the last tokens of the first rows, which the slot table knows, and prompts.

        It does nothing that waits for the host, so that a CUDA graph can hold it.

        Args:
            token_ids: (num_rows + num_tokens,), int64: room for the tokens.
            positions: The same for their positions.
            prompts: What comes after the rows that decode.

        Returns:
            (num_rows + num_kept, vocab_size).
        """
        num_rows = len(token_ids)
        if prompts is not None:
            num_rows -= len(prompts.token_ids)
            token_ids[num_rows:] = prompts.token_ids
            positions[num_rows:] = prompts.positions
        if num_rows:
            self.slots.gather(token_ids, positions, num_rows)
        with packed_batch(self._batch(num_rows, positions, prompts)):
            output = self._model(
                input_ids=token_ids[None],
                position_ids=positions[None],
                logits_to_keep=0 if prompts is None else prompts.kept,
                use_cache=False,
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def describe(self, chunks: Rows[Chunk], kept: Rows[int], shape: PassShape) -> torch.Tensor:
        """Return what a pass of some shape must be told of its prompts; see `describe`."""
        size = self.kv_cache.block_size
        return describe(
            chunks,
            kept,
            shape,
            tile_size=self.tile_size,
            block_size=size,
            trash_place=(self.kv_cache.num_blocks - 1) * size,
        )

    @property
    def tile_size(self) -> int:
        """Tokens of a prompt that one program attends with."""
        return self._shape.queries

    def _pass(
        self, sequences: Rows[Sequence], chunks: Rows[Chunk], kept: Rows[int]
    ) -> torch.Tensor:
        """Return the logits of the sequences and of some rows of prompts, in a pass that fits."""
        prompts = self._send(sequences, chunks, kept) if chunks else None
        if prompts is None:
            self.send_rows(sequences, len(sequences))
        num_tokens = len(sequences) + sum(chunk.num_tokens for chunk in chunks)
        numbers = torch.empty(2, num_tokens, dtype=torch.int64, device=self._device)
        return self.run(numbers[0], numbers[1], prompts)

    def _send(
        self, sequences: Rows[Sequence], chunks: Rows[Chunk], kept: Rows[int]
    ) -> PromptInputs:
        self.send_rows(sequences, len(sequences), chunks)
        shape = exact_shape(len(sequences), chunks, len(kept), self.tile_size)
        numbers = to_device(self.describe(chunks, kept, shape), self._device)
        return PromptInputs.view(numbers, shape)

    def send_rows(self, sequences: Rows[Sequence], num_rows: int, chunks: Rows[Chunk] = ()) -> None:
        """Tell the device which sequences decode, and what it does not know of any of them."""
        try:
            for sequence in [*sequences, *(chunk.sequence for chunk in chunks)]:
                self.slots.note(sequence)
            self.slots.set_rows(sequences, num_rows)
            self.slots.send()
        except Exception:
            self.slots.forget()
            raise

    def _batch(
        self, num_rows: int, positions: torch.Tensor, prompts: PromptInputs | None
    ) -> PackedBatch:
        return PackedBatch(
            block_tables=self.slots.block_tables,
            row_slots=self.slots.row_slots[:num_rows],
            positions=positions,
            token_slots=None if prompts is None else prompts.places,
            tiles=None if prompts is None else prompts.tiles,
            block_size=self.kv_cache.block_size,
            shape=self._shape,
            num_splits=num_splits(num_rows, self._num_kv_heads, self._num_processors),
            scratch=self._scratch,
        )


def graph_sizes(num_slots: int) -> list[int]:
    """Return the numbers of rows that decode batches are filled up to."""
    sizes = [1, 2, 4, 8, *range(16, num_slots + 16, 16)]
    largest = next(size for size in sizes if size >= num_slots)
    return [size for size in sizes if size <= largest]


def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
