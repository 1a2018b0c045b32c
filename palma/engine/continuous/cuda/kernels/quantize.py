"""Rows to float8: the largest magnitude, the scale and the cast in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
"""Of e4m3fn. Source: arXiv:2209.05433."""

TINIEST = 1e-12
"""Stands for the largest magnitude of a row of zeros."""

_VALUES_PER_WARP = 512  # 16 a thread: two loads of 16 bytes in bfloat16
_MAX_WARPS = 32


@triton.jit
def _quantize_row(
    x_ptr,
    values_ptr,
    scales_ptr,
    num_columns,
    row_stride,
    LARGEST: tl.constexpr,
    TINIEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row, which fits its registers. Rows of `values` lie side by side."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < num_columns
    x = tl.load(x_ptr + row * row_stride + columns, mask=inside, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(x), axis=0), TINIEST)
    values = (x * (LARGEST / largest)).to(values_ptr.dtype.element_ty)
    tl.store(values_ptr + row * num_columns + columns, values, mask=inside)
    tl.store(scales_ptr + row, largest / LARGEST)


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide each row by its own scale and cast it to float8.

    Args:
        x: (num_rows, num_columns), bfloat16, float16 or float32; values of a row side by side.

    Returns:
        The values (num_rows, num_columns), float8_e4m3fn, contiguous; and the scales
        (num_rows, 1), float32: x is about values * scales. NaN and infinities become NaN.
    """
    assert x.stride(-1) == 1
    num_rows, num_columns = x.shape
    values = torch.empty(num_rows, num_columns, dtype=FLOAT8, device=x.device)
    scales = torch.empty(num_rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(num_columns)
    _quantize_row[(num_rows,)](
        x,
        values,
        scales,
        num_columns,
        x.stride(0),
        LARGEST=LARGEST,
        TINIEST=TINIEST,
        BLOCK=block,
        num_warps=min(_MAX_WARPS, max(1, block // _VALUES_PER_WARP)),
    )
    return values, scales
