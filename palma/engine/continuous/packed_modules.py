"""The two kinds of fast linear layer: oneDNN's own layout, and int8 with a scale for each row.

Both take what `nn.Linear` takes (any leading dimensions, any strides) and return what it
returns. Their packed weights are no parameters: `state_dict` and `.to` pass them by, and no
gradient flows through them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

MAX_INT8_IN_FEATURES = 65_536
"""Beyond this the sum of u8 * s8 could leave int32."""

_ROWS_AT_ONCE = 4096  # of a weight in float32 while it is quantized
_TINIEST_SCALE = 1e-30  # for rows of zeros


class OneDnnLinear(torch.nn.Module):
    """A linear layer whose weight lies in the layout that oneDNN multiplies fastest.

    Results differ from `nn.Linear`'s by rounding, and a row's may differ in its last bits with
    the number of rows beside it: oneDNN sums in another order for another shape.

    Args:
        linear: The layer to copy; float32 or bfloat16 on the CPU.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._dtype = linear.weight.dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed weight."""
        return int(torch.ops.mkldnn._nbytes(self._packed))

    @property
    def weight(self) -> torch.Tensor:
        """(out_features, in_features): an unpacked copy, made anew each time."""
        dense: torch.Tensor = self._packed.to_dense(self._dtype)
        return dense

    def plain(self) -> torch.nn.Linear:
        """Return the layer unpacked."""
        return plain_linear(self.weight, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features), in the layer's own dtype."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        rows = x.reshape(-1, self.in_features)
        mapped: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self.bias, "none", [], ""
        )
        return mapped.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Int8Linear(torch.nn.Module):
    """A linear layer with int8 weights, a scale for each output, and int8 activations.

    Each row of the input is divided by its own largest magnitude, so it is quantized on its own
    and its result has the same bits whatever stands beside it: products of integers are exact,
    and what follows is done row by row. Scales are float32; the result has the input's dtype.

    Args:
        linear: The layer to copy; float32 or bfloat16 on the CPU.
        num_levels: Steps on each side of zero for activations: 127, or 63 for processors whose
            8-bit products saturate at 16 bits.
    """

    def __init__(self, linear: torch.nn.Linear, num_levels: int) -> None:
        super().__init__()
        assert linear.in_features <= MAX_INT8_IN_FEATURES
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self._dtype = linear.weight.dtype
        self._step, self._zero_point = 1 / num_levels, num_levels + 1
        self._packed = _pack_int8(*quantize_rows(linear.weight.detach()))

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed weight, its scales and sums."""
        return self.out_features * (self.in_features + 8)

    @property
    def weight(self) -> torch.Tensor:
        """(out_features, in_features): a dequantized copy, made anew each time."""
        return self._dense().to(self._dtype)

    def plain(self) -> torch.nn.Linear:
        """Return the layer unpacked, in float32: to be quantized again without a loss."""
        return plain_linear(self._dense(), self.bias)

    def _dense(self) -> torch.Tensor:
        quantized, _ = torch.ops.quantized.linear_unpack(self._packed)
        dense: torch.Tensor = quantized.dequantize()
        return dense

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features), in the dtype of x."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        rows = x.reshape(-1, self.in_features).float()
        magnitudes = rows.abs()
        largest = magnitudes.amax(dim=1, keepdim=True).clamp_min_(_TINIEST_SCALE)
        # The kernel quantizes with a fixed step, so rows in [-1, 1] do not see each other.
        mapped = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            torch.div(rows, largest, out=magnitudes), self._step, self._zero_point, self._packed
        )
        mapped.mul_(largest)
        if self.bias is not None:
            mapped.add_(self.bias)
        result: torch.Tensor = mapped.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return result

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, int8"


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    """Return an ordinary layer that holds (a view of) these."""
    num_outputs, num_inputs = weight.shape
    linear = torch.nn.Linear(num_inputs, num_outputs, bias=bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias, requires_grad=False)
    return linear.eval()


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row of (out_features, in_features) symmetrically.

    Returns:
        The int8 values in [-127, 127], same shape, and the float32 scales (out_features,).
    """
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0])
    for start in range(0, weight.shape[0], _ROWS_AT_ONCE):
        rows = weight[start : start + _ROWS_AT_ONCE].float()
        scale = rows.abs().amax(dim=1).clamp_min_(_TINIEST_SCALE).div_(127)
        scales[start : start + _ROWS_AT_ONCE] = scale
        values[start : start + _ROWS_AT_ONCE] = rows.div(scale[:, None]).round_()
    return values, scales


def _pack_int8(values: torch.Tensor, scales: torch.Tensor) -> Any:
    """Give int8 weights to FBGEMM, which keeps them in its own layout."""
    zero_points = torch.zeros(len(scales), dtype=torch.int64)
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        # Quantized tensors are deprecated, the kernel that wants one is not replaced yet.
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(values, scales, zero_points, 0)
        torch.backends.quantized.engine = "fbgemm"
        try:
            return torch.ops.quantized.linear_prepack(quantized, None)
        finally:
            torch.backends.quantized.engine = engine
