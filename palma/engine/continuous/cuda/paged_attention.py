"""The attention function that unmodified Transformers models call on a GPU.

A pass holds all of its tokens in one row: first one new token of each decoding sequence, then
parts of prompts. The kernels are told whose tokens they are by a PackedBatch, which whoever runs
the model sets before the pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from palma.engine.continuous.cuda.kernels.attention import (
    combine_kernel,
    decode_kernel,
    prefill_kernel,
    store_kernel,
)
from palma.engine.continuous.score_rules import ScoreRules

ATTENTION_NAME = "palma_paged_cuda"
KEY_CACHE, VALUE_CACHE = "palma_key_cache", "palma_value_cache"
"""Attributes of an attention module. As tensors, they let all layers share one compiled graph."""

MAX_SPLITS = 32
MAX_HEAD_DIM = 256
PROGRAMS_PER_PROCESSOR = 4


@dataclass(frozen=True, slots=True)
class TileShape:
    """How much of attention one program holds at once.

    Attributes:
        queries: Tokens of a prompt.
        keys: Keys, in prefill.
        num_warps: In prefill.
        num_stages: Tiles of keys that are on their way at once, in prefill.
        decode_keys: The same three in decode.
        decode_warps: See there.
        decode_stages: See there.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int
    decode_keys: int
    decode_warps: int
    decode_stages: int

    @classmethod
    def of(cls, dtype: torch.dtype, head_dim: int) -> TileShape:
        """Return the shape for heads of some width; larger ones would spill registers."""
        if dtype.itemsize > 2:  # no matrix unit computes these exactly
            return cls(32, 16, 8, 2, decode_keys=16, decode_warps=8, decode_stages=2)
        if head_dim > 128:
            return cls(64, 32, 4, 2, decode_keys=32, decode_warps=4, decode_stages=2)
        return cls(128, 64, 8, 3, decode_keys=32, decode_warps=2, decode_stages=2)


@dataclass(slots=True)
class PackedBatch:
    """Whose tokens a pass computes; all tensors are on the device.

    Attributes:
        block_tables: (num_slots, max_blocks), int32.
        row_slots: (num_decodes,), int32: the slots of the sequences that decode.
        positions: (num_tokens,), int64, of all tokens of the pass.
        token_slots: (num_tokens - num_decodes,), int64: places in the cache of prompts' tokens.
        tiles: (num_tiles, 4), int64: see `prefill_kernel`.
        block_size: Tokens a block holds.
        shape: Of the programs; a tile has no more rows than it has queries.
        num_splits: Programs among which a sequence's keys are divided in decode.
        scratch: Where they leave their parts.
    """

    block_tables: torch.Tensor
    row_slots: torch.Tensor
    positions: torch.Tensor
    token_slots: torch.Tensor | None
    tiles: torch.Tensor | None
    block_size: int
    shape: TileShape
    num_splits: int
    scratch: Scratch

    @property
    def num_decodes(self) -> int:
        """Rows that decode."""
        return len(self.row_slots)


@dataclass(slots=True)
class Scratch:
    """Parts of decode attention, before they are combined; one for all layers and passes.

    A CUDA graph keeps the addresses it was captured with: the largest pass comes first, and a
    buffer that has become too small stays alive with the graphs that use it.
    """

    device: torch.device
    _buffers: list[torch.Tensor] = field(default_factory=list)

    def take(self, num_floats: int) -> torch.Tensor:
        """Return (at least num_floats,), float32."""
        if not self._buffers or self._buffers[-1].numel() < num_floats:
            new = torch.empty(num_floats, dtype=torch.float32, device=self.device)
            self._buffers.append(new)
        return self._buffers[-1]


_current = threading.local()


@contextmanager
def packed_batch(batch: PackedBatch) -> Iterator[None]:
    """Say what the model's attention computes within; for this thread."""
    _current.batch = batch
    try:
        yield
    finally:
        _current.batch = None


def num_splits(num_rows: int, num_kv_heads: int, num_processors: int) -> int:
    """Return among how many programs a sequence's keys are divided, a power of 2.

    With few sequences, one program for each and each head would leave most processors idle.
    """
    wanted = PROGRAMS_PER_PROCESSOR * num_processors // max(1, num_rows * num_kv_heads)
    return min(MAX_SPLITS, 1 << max(0, wanted.bit_length() - 1))


def supports(head_dims: list[tuple[int, int]]) -> bool:
    """Whether the kernels take layers with these widths of keys and values."""
    return all(0 < dim <= MAX_HEAD_DIM for dims in head_dims for dim in dims)


def paged_attention_cuda(
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
        module: The attention layer; has its caches, each (num_kv_heads, num_slots, dim).
        query: (1, num_heads, num_tokens, head_dim).
        key: (1, num_kv_heads, num_tokens, head_dim).
        value: (1, num_kv_heads, num_tokens, value_dim).
        _attention_mask: None: Transformers makes no mask for us.
        scaling, sliding_window, softcap, s_aux: See ScoreRules.

    Returns:
        (1, num_tokens, num_heads, value_dim), and None for the weights.
    """
    rules = ScoreRules(scaling, sliding_window, softcap, s_aux)
    is_traced = torch.compiler.is_dynamo_compiling()  # here, and not in another thread
    attend = torch.ops.palma.paged_attention if is_traced else _attend
    attended: torch.Tensor = attend(
        query,
        key,
        value,
        getattr(module, KEY_CACHE),
        getattr(module, VALUE_CACHE),
        rules.sinks,
        rules.scale(query.shape[-1]),
        rules.sliding_window or 0,
        rules.softcap or 0.0,
    )
    return attended, None


def _attend(  # noqa: PLR0917  # a torch operator's arguments have places
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    sinks: torch.Tensor | None,
    scaling: float,
    sliding_window: int,
    softcap: float,
) -> torch.Tensor:
    """Do what `paged_attention_cuda` does; a pass without a batch only compiles, and gives 0."""
    batch: PackedBatch | None = getattr(_current, "batch", None)
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    if batch is None or batch.tiles is not None:
        out.zero_()  # rows that are nobody's: what lies there might be NaN
    if batch is None:
        return out
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    call = _Call(
        query, key, value, key_cache, value_cache, out, sinks, scaling, sliding_window, softcap
    )
    if batch.num_decodes:
        call.decode(batch)
    if batch.tiles is not None:
        call.store(batch)
        call.prefill(batch)
    return out


def _empty_result(
    query: torch.Tensor, _key: torch.Tensor, value: torch.Tensor, *_: Any
) -> torch.Tensor:
    """Return a tensor of the shape that `_attend` returns, for the compiler."""
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


torch.library.custom_op(
    "palma::paged_attention", _attend, mutates_args={"key_cache", "value_cache"}
).register_fake(_empty_result)


def _width(dim: int) -> int:
    """Return the power of 2 that holds a head; matrix units take no fewer than 16."""
    return max(16, 1 << (dim - 1).bit_length())


@dataclass(slots=True)
class _Call:
    """One layer's launch parameters."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    out: torch.Tensor
    sinks: torch.Tensor | None
    scaling: float
    sliding_window: int
    softcap: float

    def decode(self, batch: PackedBatch) -> None:
        """Attend with the rows that decode, and store their keys and values."""
        num_heads, num_kv_heads = self.query.shape[1], self.key.shape[1]
        rows, splits, dim = batch.num_decodes, batch.num_splits, self.value.shape[3]
        is_split = splits > 1
        parts = sums = self.out
        if is_split:
            num_parts = rows * num_heads * splits
            scratch = batch.scratch.take(num_parts * (dim + 1))
            parts, sums = scratch[: num_parts * dim], scratch[num_parts * dim :]
        group = num_heads // num_kv_heads
        decode_kernel[(rows, num_kv_heads, splits)](
            self.query,
            self.key,
            self.value,
            self.key_cache,
            self.value_cache,
            self._sinks,
            parts,
            sums,
            self.out,
            batch.row_slots,
            batch.positions,
            batch.block_tables,
            batch.block_tables.stride(0),
            self.scaling,
            self.softcap,
            self.sliding_window,
            splits,
            *self._strides,
            NUM_KV_HEADS=num_kv_heads,
            GROUP=group,
            QUERIES=_width(group),
            **self._dims,
            BLOCK_SIZE=batch.block_size,
            TILE=batch.shape.decode_keys,
            IS_SPLIT=is_split,
            HAS_SINKS=self.sinks is not None,
            HAS_SOFTCAP=self.softcap > 0,
            STAGES=batch.shape.decode_stages,
            num_warps=batch.shape.decode_warps,
        )
        if is_split:
            combine_kernel[(rows, num_heads)](
                parts,
                sums,
                self._sinks,
                self.out,
                splits,
                NUM_HEADS=num_heads,
                VALUE_DIM=dim,
                VALUE_WIDTH=_width(dim),
                MAX_SPLITS=MAX_SPLITS,
                HAS_SINKS=self.sinks is not None,
                num_warps=4,
            )

    def store(self, batch: PackedBatch) -> None:
        """Store the keys and values of prompts."""
        assert batch.token_slots is not None
        first, num_kv_heads = batch.num_decodes, self.key.shape[1]
        _, _, *strides = self._strides
        store_kernel[(len(batch.token_slots),)](
            self.key[:, :, first:],
            self.value[:, :, first:],
            self.key_cache,
            self.value_cache,
            batch.token_slots,
            *strides,
            NUM_HEADS=num_kv_heads,
            HEADS=1 << (num_kv_heads - 1).bit_length(),
            **self._dims,
            num_warps=4,
        )

    def prefill(self, batch: PackedBatch) -> None:
        """Attend with the tokens of prompts."""
        assert batch.tiles is not None
        num_heads = self.query.shape[1]
        query_token_stride, query_head_stride, *_ = self._strides
        prefill_kernel[(num_heads, len(batch.tiles))](
            self.query,
            self.key_cache,
            self.value_cache,
            self._sinks,
            self.out,
            batch.tiles,
            batch.block_tables,
            batch.block_tables.stride(0),
            self.scaling,
            self.softcap,
            self.sliding_window,
            query_token_stride,
            query_head_stride,
            self.key_cache.stride(0),
            self.value_cache.stride(0),
            NUM_HEADS=num_heads,
            GROUP=num_heads // self.key.shape[1],
            QUERIES=batch.shape.queries,
            **self._dims,
            BLOCK_SIZE=batch.block_size,
            TILE=batch.shape.keys,
            HAS_SINKS=self.sinks is not None,
            HAS_SOFTCAP=self.softcap > 0,
            STAGES=batch.shape.num_stages,
            num_warps=batch.shape.num_warps,
        )

    @property
    def _sinks(self) -> torch.Tensor:
        return self.out if self.sinks is None else self.sinks

    @property
    def _dims(self) -> dict[str, int]:
        key_dim, value_dim = self.query.shape[3], self.value.shape[3]
        return {
            "KEY_DIM": key_dim,
            "KEY_WIDTH": _width(key_dim),
            "VALUE_DIM": value_dim,
            "VALUE_WIDTH": _width(value_dim),
        }

    @property
    def _strides(self) -> tuple[int, ...]:
        return (
            self.query.stride(2),
            self.query.stride(1),
            self.key.stride(2),
            self.key.stride(1),
            self.value.stride(2),
            self.value.stride(1),
            self.key_cache.stride(0),
            self.value_cache.stride(0),
        )
