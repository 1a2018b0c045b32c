"""A linear layer for a single row: as fast as its weights can be read."""

import triton
import triton.language as tl


@triton.jit
def one_row_kernel(
    row,
    weight,
    bias,
    out,
    num_outputs,
    num_inputs,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute some outputs of one row, summing in float32. Grid: (cdiv(num_outputs, OUTPUTS),)."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = outputs < num_outputs
    acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    weights_of_outputs = weight + outputs[:, None].to(tl.int64) * num_inputs
    for first in tl.range(0, num_inputs, INPUTS, num_stages=STAGES):
        inputs = first + tl.arange(0, INPUTS)
        is_input = inputs < num_inputs
        x = tl.load(row + inputs, mask=is_input, other=0.0).to(tl.float32)
        w = tl.load(
            weights_of_outputs + inputs[None, :],
            mask=is_output[:, None] & is_input[None, :],
            other=0.0,
            eviction_policy="evict_first",
        ).to(tl.float32)
        acc += w * x[None, :]
    total = tl.sum(acc, axis=1)
    if HAS_BIAS:
        total += tl.load(bias + outputs, mask=is_output, other=0.0).to(tl.float32)
    tl.store(out + outputs, total.to(out.dtype.element_ty), mask=is_output)
