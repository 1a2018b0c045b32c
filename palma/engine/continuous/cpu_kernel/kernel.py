"""The compiled kernels as functions over tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from palma.engine.continuous.score_rules import ScoreRules

MAX_HEAD_DIM = 1024
"""`kMaxDim` in attention.h."""

DTYPES = frozenset({torch.float32, torch.bfloat16})

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""`Format` in packed_linear.h."""

PLAIN_SCORES = ScoreRules()

_Strides = ctypes.c_int64 * 2


class _Call(ctypes.Structure):
    """`Call` in attention.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "new_keys", "new_values")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "output")),
        *((name, ctypes.c_void_p) for name in ("block_tables", "lengths", "first_rows", "sinks")),
        *((name, _Strides) for name in ("query_strides", "new_key_strides", "new_value_strides")),
        *((name, ctypes.c_int64) for name in ("batch", "num_heads", "num_kv_heads")),
        *((name, ctypes.c_int64) for name in ("head_dim", "value_dim")),
        *((name, ctypes.c_int64) for name in ("num_slots", "block_size", "max_blocks")),
        *((name, ctypes.c_int64) for name in ("window", "num_threads")),
        *((name, ctypes.c_double) for name in ("scale", "softcap")),
    ]


class DecodeKernel:
    """A compiled `kernels.cpp`: attention; `library` has the rest for its other users.

    Args:
        library: Where it is.

    Attributes:
        library: Its functions.
        linear_dtypes: Weights that its linear layers take on this processor; int8 among them.

    Raises:
        OSError: It cannot be loaded.
    """

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self._function = self.library.palma_decode_attention
        self._function.argtypes = [ctypes.POINTER(_Call), ctypes.c_int32]
        self._function.restype = None
        formats = self.library.palma_linear_formats()
        self.linear_dtypes = frozenset(
            dtype for dtype, number in FORMATS.items() if formats >> number & 1
        )

    def takes(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether `attend` can compute this: one query a sequence, on CPU, of a known type."""
        return (
            query.shape[2] == 1
            and query.device.type == "cpu"
            and query.dtype in DTYPES
            and all(
                tensor.dtype == query.dtype
                and tensor.stride(3) == 1
                and tensor.shape[3] % 2 == 0
                and tensor.shape[3] <= MAX_HEAD_DIM
                for tensor in (query, key, value)
            )
        )

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        block_tables: torch.Tensor,
        kv_lengths: torch.Tensor,
        block_size: int,
        rules: ScoreRules = PLAIN_SCORES,
    ) -> torch.Tensor:
        """Store each sequence's new key and value, then attend to all of its own.

        Args:
            query: (batch, num_heads, 1, head_dim); any strides but the last.
            key: (batch, num_kv_heads, 1, head_dim), likewise.
            value: (batch, num_kv_heads, 1, value_dim), likewise.
            keys: (num_kv_heads, num_slots, head_dim), contiguous: a layer of the cache.
            values: (num_kv_heads, num_slots, value_dim), contiguous.
            block_tables: (batch, max_blocks), int32, contiguous; not checked.
            kv_lengths: (batch,), int32: tokens of each sequence, the new one included; at least 1.
            block_size: Tokens a block holds.
            rules: Of the scores.

        Returns:
            (batch, 1, num_heads, value_dim).
        """
        batch, num_heads, _, head_dim = query.shape
        num_kv_heads, num_slots, value_dim = values.shape
        output = query.new_empty(batch, 1, num_heads, value_dim)
        sinks = None if rules.sinks is None else rules.sinks.float().contiguous()
        call = _Call(
            *(tensor.data_ptr() for tensor in (query, key, value, keys, values, output)),
            *(tensor.data_ptr() for tensor in (block_tables, kv_lengths)),
            None,
            None if sinks is None else sinks.data_ptr(),
            *(_Strides(*tensor.stride()[:2]) for tensor in (query, key, value)),
            batch,
            num_heads,
            num_kv_heads,
            head_dim,
            value_dim,
            num_slots,
            block_size,
            block_tables.shape[1],
            rules.sliding_window or 0,
            torch.get_num_threads(),
            rules.scale(head_dim),
            rules.softcap or 0.0,
        )
        self._function(ctypes.byref(call), query.dtype == torch.bfloat16)
        return output
