"""Linear layers that read their weights at full speed when they are given a single row.

Libraries for matrix products leave a quarter of the bandwidth of an H200 unused there, where a
decode step of one sequence spends nearly all of its time.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from palma.engine.continuous.cuda.kernels.linear import one_row_kernel
from palma.engine.continuous.packed_modules import plain_linear

LEAST_WEIGHTS = 1 << 20
"""Smaller layers take the time of a launch in any case."""

WIDE = 8192
"""Inputs from which on a program takes more outputs and fewer inputs at once."""


class OneRowLinear(torch.nn.Module):
    """Stands where an `nn.Linear` stood, with its weight.

    Args:
        plain: On a GPU; float16 or bfloat16.
    """

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return multiply(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def use_one_row_linears(model: torch.nn.Module) -> None:
    """Replace the large `nn.Linear` modules of a model; no weight is copied."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if type(child) is torch.nn.Linear and is_suitable(child.weight):
                parent._modules[name] = OneRowLinear(child)


def use_plain_linears(model: torch.nn.Module) -> None:
    """Undo `use_one_row_linears`."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, OneRowLinear):
                parent._modules[name] = plain_linear(child.weight, child.bias)


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return x @ weight.T + bias, in the way that suits the number of rows."""
    if x.numel() == weight.shape[1] and is_suitable(weight):
        mapped: torch.Tensor = torch.ops.palma.one_row_linear(x, weight, bias)
        return mapped
    return linear(x, weight, bias)


def is_suitable(weight: torch.Tensor) -> bool:
    """Whether a layer gains by it."""
    return (
        weight.dtype in (torch.float16, torch.bfloat16)
        and weight.numel() >= LEAST_WEIGHTS
        and weight.is_contiguous()
    )


def multiply_row(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return x @ weight.T + bias.

    Args:
        x: (..., num_inputs), a single row.
        weight: (num_outputs, num_inputs), contiguous.
        bias: (num_outputs,).

    Returns:
        (..., num_outputs).
    """
    num_outputs, num_inputs = weight.shape
    out = x.new_empty(*x.shape[:-1], num_outputs)
    outputs, inputs = (8, 512) if num_inputs > WIDE else (4, 2048)
    one_row_kernel[(-(-num_outputs // outputs),)](
        x.contiguous(),
        weight,
        weight if bias is None else bias,
        out,
        num_outputs,
        num_inputs,
        OUTPUTS=outputs,
        INPUTS=inputs,
        HAS_BIAS=bias is not None,
        STAGES=3,
        num_warps=4,
    )
    return out


def _empty_result(x: torch.Tensor, weight: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor of the shape that `multiply_row` returns, for the compiler."""
    return x.new_empty(*x.shape[:-1], weight.shape[0])


torch.library.custom_op("palma::one_row_linear", multiply_row, mutates_args=()).register_fake(
    _empty_result
)
