"""Forward passes of an unmodified Transformers model over the paged KV cache."""

from __future__ import annotations

import contextlib
import itertools
import time
from array import array
from collections.abc import Sequence as Rows
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from palma.engine.continuous.attention import (
    ATTENTION_NAME,
    CONTEXT_ATTRIBUTE,
    ForwardContext,
    paged_attention,
)
from palma.engine.continuous.cpu_kernel import DecodeKernel
from palma.engine.continuous.cpu_kernel.decoder import StepDecoder
from palma.engine.continuous.hybrid_cache import StatePool
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.continuous.thread_chooser import ThreadChooser
from palma.engine.mean_states import last_hidden_states


class ForwardPasses(Protocol):
    """What an engine asks of whoever runs its model."""

    @property
    def has_step_decoder(self) -> bool:
        """Whether `step` can be called."""

    def prefill(self, chunk: Chunk, *, all_logits: bool = False) -> torch.Tensor:
        """See `Runner.prefill`."""

    def read(self, chunk: Chunk) -> torch.Tensor:
        """See `Runner.read`."""

    def decode(self, sequences: Rows[Sequence]) -> torch.Tensor:
        """See `Runner.decode`."""

    def step(self, sequences: Rows[Sequence], chunks: Rows[Chunk]) -> torch.Tensor:
        """See `Runner.step`."""

    def close(self) -> None:
        """See `Runner.close`."""


class Runner:
    """Runs one model; belongs to one thread.

    Args:
        model: In eval mode. Its attention is switched to ours until `close`.
        kv_cache: Where keys and values go.
        state_pool: Where states go, if the model has any.
    """

    def __init__(self, model: Any, kv_cache: KVCache, state_pool: StatePool | None = None) -> None:
        AttentionInterface.register(ATTENTION_NAME, paged_attention)
        self._model = model
        self._device = model.device
        self.kv_cache = kv_cache
        self.state_pool = state_pool
        self._step_decoder: StepDecoder | None = None
        self._thread_chooser: ThreadChooser | None = None
        self.context = ForwardContext(kv_cache)
        self._attention_before = model.config._attn_implementation
        model.set_attn_implementation(ATTENTION_NAME)
        self.attach()

    def attach(self) -> None:
        """Point the model's attention at this runner; another one's was there perhaps."""
        for module in self._model.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, CONTEXT_ATTRIBUTE, self.context)

    def close(self) -> None:
        """Give the model its own attention back."""
        self._model.set_attn_implementation(self._attention_before)

    @torch.inference_mode()
    def prefill(self, chunk: Chunk, *, all_logits: bool = False) -> torch.Tensor:
        """Compute the next tokens of one sequence.

        Returns:
            (1, vocab_size), float32: the logits after the last of them, or with `all_logits`
            (num_tokens, vocab_size): those after each.
        """
        sequence = chunk.sequence
        start, end = sequence.num_computed, sequence.num_computed + chunk.num_tokens
        positions = torch.arange(start, end)[None]
        self._begin([sequence], [end], positions)
        num_kept = chunk.num_tokens if all_logits else 1
        return self._forward([sequence], [sequence.token_ids[start:end]], num_kept)[0]

    @torch.inference_mode()
    def read(self, chunk: Chunk) -> torch.Tensor:
        """Compute the next tokens of one sequence, without logits.

        Returns:
            (num_tokens, hidden_size), float32: the last hidden state of each.
        """
        sequence = chunk.sequence
        start, end = sequence.num_computed, sequence.num_computed + chunk.num_tokens
        self._begin([sequence], [end], torch.arange(start, end)[None])
        with self._lend_states([sequence]) as cache_arguments:
            return last_hidden_states(
                self._model,
                torch.tensor([sequence.token_ids[start:end]], device=self._device),
                position_ids=self.context.positions,
                **cache_arguments,
            )

    @torch.inference_mode()
    def decode(self, sequences: Rows[Sequence]) -> torch.Tensor:
        """Compute the last token of each sequence, all in one pass.

        Returns:
            (num_sequences, vocab_size), float32.
        """
        kv_lengths = [len(sequence.token_ids) for sequence in sequences]
        self._begin(sequences, kv_lengths, torch.tensor(kv_lengths)[:, None] - 1)
        return self._forward(sequences, [s.token_ids[-1:] for s in sequences])[:, 0]

    @property
    def has_step_decoder(self) -> bool:
        """Whether `step` can be called."""
        return self._step_decoder is not None

    @torch.inference_mode()
    def step(self, sequences: Rows[Sequence], chunks: Rows[Chunk]) -> torch.Tensor:
        """Compute the last token of sequences and the next ones of others, all in one pass.

        Returns:
            (num_sequences + num_chunks, vocab_size), float32: the logits after the last of each.
        """
        assert self._step_decoder is not None
        parts = [(s, len(s.token_ids) - 1, len(s.token_ids)) for s in sequences]
        for chunk in chunks:
            start = chunk.sequence.num_computed
            parts.append((chunk.sequence, start, start + chunk.num_tokens))
        first_rows = [0, *itertools.accumulate(end - start for _, start, end in parts)]
        positions = torch.cat([torch.arange(start, end) for _, start, end in parts])
        self._begin([part[0] for part in parts], [part[2] for part in parts], positions[None])
        token_ids = [token_id for s, start, end in parts for token_id in s.token_ids[start:end]]
        if self._thread_chooser is None:  # the count belongs to the thread that computes
            self._thread_chooser = ThreadChooser(torch.get_num_threads())
        threads = self._thread_chooser
        started = time.perf_counter()
        logits = self._step_decoder.step(
            torch.tensor([token_ids]),
            self.context.positions,
            torch.tensor(first_rows, dtype=torch.int32),
            block_tables=self.context.block_tables,
            kv_lengths=self.context.kv_lengths,
            num_threads=threads.preferred if chunks else threads.choose(),
        )
        if not chunks:
            threads.note(time.perf_counter() - started)
        return logits

    def use_kernel(self, kernel: DecodeKernel) -> None:
        """Attend with a kernel from the next decode step on."""
        self.context.kernel = kernel

    def use_step_decoder(self, decoder: StepDecoder) -> None:
        """Have `step` compute with this."""
        self._step_decoder = decoder

    def _begin(
        self, sequences: Rows[Sequence], kv_lengths: list[int], positions: torch.Tensor
    ) -> None:
        num_blocks = -(-max(kv_lengths) // self.kv_cache.block_size)
        block_tables = array("i")
        for sequence in sequences:
            own = sequence.block_table[:num_blocks]
            block_tables.extend(own)
            block_tables.extend(own[:1] * (num_blocks - len(own)))
        self.context.begin(
            torch.frombuffer(block_tables, dtype=torch.int32)
            .view(len(sequences), num_blocks)
            .to(self._device),
            torch.tensor(kv_lengths, dtype=torch.int32, device=self._device),
            positions.to(self._device),
        )

    def _lend_states(self, sequences: Rows[Sequence]) -> AbstractContextManager[dict[str, Any]]:
        """Yield what the model is told about caches in one pass; see `StatePool.lend`."""
        if self.state_pool is None:
            return contextlib.nullcontext({"use_cache": False})
        slots = [s.state_slot for s in sequences if s.state_slot is not None]
        assert len(slots) == len(sequences), "only running sequences are computed"
        is_first = any(sequence.num_computed == 0 for sequence in sequences)
        return self.state_pool.lend(slots, is_first=is_first)

    def _forward(
        self, sequences: Rows[Sequence], token_ids: list[list[int]], num_kept: int = 1
    ) -> torch.Tensor:
        """Return the logits after the last tokens: (num_rows, num_kept, vocab_size), float32."""
        with self._lend_states(sequences) as cache_arguments:
            output = self._model(
                input_ids=torch.tensor(token_ids, device=self._device),
                position_ids=self.context.positions,
                logits_to_keep=num_kept,
                **cache_arguments,
            )
        logits: torch.Tensor = output.logits[:, -num_kept:].float()
        return logits
