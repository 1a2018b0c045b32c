"""A linear layer with float8 weights for a single row, which is not quantized itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_WIDE = 8192  # inputs from which on a program takes more outputs and fewer inputs at once


@triton.jit
def _float8_row(
    row,
    values,
    scales,
    out,
    num_outputs,
    num_inputs,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute some outputs, summing in float32. Grid: (cdiv(num_outputs, OUTPUTS),)."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = outputs < num_outputs
    weights = values + outputs[:, None].to(tl.int64) * num_inputs
    acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    for first in tl.range(0, num_inputs, INPUTS, num_stages=STAGES):
        inputs = first + tl.arange(0, INPUTS)
        is_input = inputs < num_inputs
        x = tl.load(row + inputs, mask=is_input, other=0.0).to(tl.float32)
        w = tl.load(
            weights + inputs[None, :],
            mask=is_output[:, None] & is_input[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        acc += w.to(tl.float32) * x[None, :]
    scale = tl.load(scales + outputs, mask=is_output, other=0.0)
    total = tl.sum(acc, axis=1) * scale
    tl.store(out + outputs, total.to(out.dtype.element_ty), mask=is_output)


def multiply_row(row: torch.Tensor, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return row @ (values * scales).T, as fast as the values can be read.

    Args:
        row: (1, num_inputs), bfloat16, float16 or float32, contiguous.
        values: (num_outputs, num_inputs), float8_e4m3fn, contiguous.
        scales: num_outputs of them, float32, contiguous.

    Returns:
        (1, num_outputs), in the dtype of the row.
    """
    num_outputs, num_inputs = values.shape
    out = torch.empty(1, num_outputs, dtype=row.dtype, device=row.device)
    outputs, inputs = (8, 1024) if num_inputs > _WIDE else (4, 2048)
    _float8_row[(triton.cdiv(num_outputs, outputs),)](
        row,
        values,
        scales,
        out,
        num_outputs,
        num_inputs,
        OUTPUTS=outputs,
        INPUTS=inputs,
        STAGES=3,
        num_warps=4,
    )
    return out
