"""A linear layer whose weights lie as the C++ kernel multiplies them fastest."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from palma.engine.continuous.cpu_kernel.kernel import DTYPES, FORMATS, DecodeKernel
from palma.engine.continuous.packed_modules import quantize_rows

PANEL = 48
"""Outputs side by side; `kPanel` in packed_linear.h."""

UNIT_BYTES = 4
ZERO_POINT = 128
"""Of inputs, which int8 layers take as unsigned numbers."""


class LinearCall(ctypes.Structure):
    """`Linear` in packed_linear.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "sums", "bias")),
        *((name, ctypes.c_int64) for name in ("num_outputs", "num_inputs")),
        ("format", ctypes.c_int32),
    ]


class PanelLinear(torch.nn.Module):
    """Computes what `nn.Linear` computes; sums are float32.

    A row's result has the same bits whatever stands beside it. With int8 weights each output has
    a scale, and each row of the input another.

    Args:
        linear: The layer to copy; float32 or bfloat16 on the CPU.
        kernel: Multiplies.
        quantize: Whether the weights become int8.
    """

    def __init__(self, linear: Any, kernel: DecodeKernel, *, quantize: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._dtype = weight.dtype
        self._kernel = kernel
        self._scales = self._sums = None
        if quantize:
            weight, self._scales = quantize_rows(weight)
            self._sums = (weight.sum(dim=1, dtype=torch.int32) * ZERO_POINT).contiguous()
        self._panels = to_panels(weight)
        bias = linear.bias
        self.bias = None if bias is None else bias.detach().to(self._dtype)
        self._float_bias = None if bias is None else bias.detach().float()
        tensors = (self._panels, self._scales, self._sums, self._float_bias)
        self.call = LinearCall(
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
            self.out_features,
            self.in_features,
            FORMATS[weight.dtype],
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed weight, its scales and sums."""
        tensors = (self._panels, self._scales, self._sums)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def is_int8(self) -> bool:
        """Whether the weights are int8."""
        return self._scales is not None

    @property
    def weight(self) -> torch.Tensor:
        """(out_features, in_features): an unpacked copy, made anew each time."""
        dense = from_panels(self._panels, self.out_features, self.in_features)
        if self._scales is None:
            return dense
        return (dense.float() * self._scales[:, None]).to(self._dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features); int8 layers in the dtype of x."""
        dtype = x.dtype if self.is_int8 and x.dtype in DTYPES else self._dtype
        rows = x.reshape(-1, self.in_features).to(dtype).contiguous()
        mapped = rows.new_empty(rows.shape[0], self.out_features)
        if rows.shape[0]:
            self._kernel.library.palma_linear(
                ctypes.byref(self.call),
                ctypes.c_void_p(rows.data_ptr()),
                ctypes.c_int64(rows.shape[0]),
                ctypes.c_void_p(mapped.data_ptr()),
                ctypes.c_int32(dtype == torch.bfloat16),
                ctypes.c_int64(torch.get_num_threads()),
            )
        return mapped.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        kind = ", int8" if self.is_int8 else ""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}{kind}"


def to_panels(weight: torch.Tensor) -> torch.Tensor:
    """Lay (num_outputs, num_inputs) out as (num_panels, num_units, PANEL, inputs a unit)."""
    per_unit = UNIT_BYTES // weight.element_size()
    num_outputs, num_inputs = weight.shape
    num_panels, num_units = -(-num_outputs // PANEL), -(-num_inputs // per_unit)
    padded = weight.new_zeros(num_panels * PANEL, num_units * per_unit)
    padded[:num_outputs, :num_inputs] = weight
    cut = padded.view(num_panels, PANEL, num_units, per_unit)
    return cut.transpose(1, 2).contiguous()


def from_panels(panels: torch.Tensor, num_outputs: int, num_inputs: int) -> torch.Tensor:
    """Return the (num_outputs, num_inputs) that `to_panels` was given."""
    num_panels, num_units, panel, per_unit = panels.shape
    dense = panels.transpose(1, 2).reshape(num_panels * panel, num_units * per_unit)
    return dense[:num_outputs, :num_inputs].contiguous()
