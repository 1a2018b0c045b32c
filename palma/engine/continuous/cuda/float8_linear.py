"""Linear layers whose weights, and inputs while they are multiplied, are float8.

Not torchao's: outside of a compiled model its layers quantize their input in some six kernels of
torch, which on a GPU take longer than reading float8 weights; here it is one, or, in a compiled
layer, part of the kernel before.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import torch

from palma.core.errors import SettingsError
from palma.engine.continuous.cuda.kernels.float8_row import multiply_row
from palma.engine.continuous.cuda.kernels.quantize import (
    FLOAT8,
    LARGEST,
    TINIEST,
    quantize_rows,
)

LEAST_CAPABILITY = (8, 9)
"""Ada; Hopper is 9.0."""

MULTIPLE = 16
"""What cuBLAS wants the number of inputs, and that of outputs, to be a multiple of."""

LEAST_FEATURES = 64
"""Smaller layers are cheap, and often decide much."""

MAX_ERROR = 0.1
"""Of a layer's outputs; rounding weights and inputs to float8 makes about 0.04."""

NUM_PROBES = 4

ROUTER_NAMES = frozenset({"gate", "router", "router_gate", "shared_expert_gate"})
"""They choose experts: small, and a wrong choice is a large error."""


logger = logging.getLogger(__name__)


class Float8Linear(torch.nn.Module):
    """A linear layer with float8 weights, a scale for each output, and float8 activations.

    Each row of the input is divided by its own largest magnitude. A single row is not quantized:
    there the time goes into reading the weights. Products are summed in the hardware's fast mode,
    and rounded to bfloat16. The weights are buffers, no parameters.

    Args:
        linear: The layer to quantize; `suits_float8`.
        device: Where the weights shall be; None: where they are.
    """

    values: torch.Tensor
    """(out_features, in_features), float8_e4m3fn."""

    scales: torch.Tensor
    """(1, out_features), float32."""

    bias: torch.Tensor | None
    """(out_features,), in the dtype of the layer it was."""

    def __init__(self, linear: torch.nn.Linear, device: torch.device | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        values, scales = quantize_rows(linear.weight.detach().to(device))
        bias = None if linear.bias is None else linear.bias.detach().to(device)
        self._dtype = linear.weight.dtype
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("scales", scales.t(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """(out_features, in_features): a dequantized copy, made anew each time."""
        return (self.values.float() * self.scales.t()).to(self._dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features), in the dtype of x."""
        rows = x.reshape(-1, self.in_features)
        if rows.shape[0] == 1:
            mapped = _multiply_row(rows, self.values, self.scales)
        else:
            mapped = _multiply_rows(rows, self.values, self.scales)
        if self.bias is not None:
            mapped = mapped + self.bias
        return mapped.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Show the sizes as `nn.Linear` does."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, float8"


def to_float8(model: torch.nn.Module, *, device: torch.device) -> None:
    """Replace the `nn.Linear` modules of a model, one by one, for good.

    Each original is freed before the next is quantized, unless somebody else holds it. Left
    alone are the output layer, routers, very small layers, odd sizes, subclasses, and layers that
    float8 is too coarse for.

    Args:
        model: Anywhere; nobody else uses it meanwhile.
        device: Where the quantized layers shall be; the rest of the model stays where it is.
    """
    output_layer_id = id(_output_layer(model))
    places: defaultdict[int, list[tuple[torch.nn.Module, str]]] = defaultdict(list)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if type(child) is torch.nn.Linear:
                places[id(child)].append((parent, name))
    for linear_id, hung in places.items():
        parent, name = hung[0]
        linear = parent._modules[name]
        assert isinstance(linear, torch.nn.Linear)
        names = {name for _, name in hung}
        if linear_id == output_layer_id or names & ROUTER_NAMES or not suits_float8(linear):
            continue
        quantized = Float8Linear(linear, device).train(linear.training)
        if not relative_error(quantized, linear) <= MAX_ERROR:  # true of NaN, too
            logger.warning("a layer of %s stays as it is: float8 is too coarse for it", names)
            continue
        del linear
        for parent, name in hung:
            parent._modules[name] = quantized


def relative_error(quantized: Float8Linear, linear: torch.nn.Linear) -> float:
    """Return how far some rows of random numbers come out from where they did, in all."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(NUM_PROBES, linear.in_features, generator=generator)
    rows = rows.to(device=quantized.values.device, dtype=linear.weight.dtype)
    with torch.inference_mode():
        exact = linear(rows.to(linear.weight.device)).to(rows.device).float()
        return float((quantized(rows).float() - exact).norm() / exact.norm().clamp_min(TINIEST))


def suits_float8(linear: torch.nn.Linear) -> bool:
    """Whether a layer has sizes that can be multiplied in float8, and a weight to quantize."""
    sizes = linear.weight.shape
    fits = all(size % MULTIPLE == 0 and size >= LEAST_FEATURES for size in sizes)
    return fits and linear.weight.dtype in (torch.bfloat16, torch.float16, torch.float32)


def require_float8(device: torch.device) -> None:
    """Refuse a device that cannot multiply float8 matrices.

    Raises:
        SettingsError: With what was found and what is needed.
    """
    needed = "WEIGHTS=float8: it needs an NVIDIA GPU of compute capability 8.9 or more"
    if device.type != "cuda":
        raise SettingsError(f"{needed}; this model is on {device.type}")
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise SettingsError(f"{needed}; {name} has {capability[0]}.{capability[1]}")
    values = torch.zeros(LEAST_FEATURES, LEAST_FEATURES, device=device).to(FLOAT8)
    scales = torch.ones(LEAST_FEATURES, 1, device=device)
    try:
        _scaled_product(values, scales, values, scales.t())
    except RuntimeError as error:  # cuBLAS lacks it for some GPUs newer than itself
        reason = str(error).partition("\n")[0]
        raise SettingsError(
            f"WEIGHTS=float8: torch {torch.__version__} cannot multiply float8 matrices with a "
            f"scale for each row on {torch.cuda.get_device_name(device)}: {reason}"
        ) from None


def _multiply_rows(
    rows: torch.Tensor, weight: torch.Tensor, weight_scales: torch.Tensor
) -> torch.Tensor:
    """Return (num_rows, out_features), bfloat16."""
    if torch.compiler.is_dynamo_compiling():  # Inductor makes this part of the kernel before
        x = rows.float()
        largest = x.abs().amax(dim=1, keepdim=True).clamp_min(TINIEST)
        values, scales = (x * (LARGEST / largest)).to(FLOAT8), largest / LARGEST
        product: torch.Tensor = torch.ops.palma.float8_product(
            values, scales, weight, weight_scales
        )
        return product
    values, scales = quantize_rows(rows)
    return _scaled_product(values, scales, weight, weight_scales)


def _multiply_row(
    row: torch.Tensor, weight: torch.Tensor, weight_scales: torch.Tensor
) -> torch.Tensor:
    """Return (1, out_features), in the dtype of the row."""
    if torch.compiler.is_dynamo_compiling():
        product: torch.Tensor = torch.ops.palma.float8_row(row, weight, weight_scales)
        return product
    return multiply_row(row, weight, weight_scales)


def _scaled_product(
    values: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, weight_scales: torch.Tensor
) -> torch.Tensor:
    """Return (values * scales) @ (weight * weight_scales.T).T in bfloat16.

    Args:
        values: (num_rows, in_features), float8_e4m3fn.
        scales: (num_rows, 1), float32.
        weight: (out_features, in_features), float8_e4m3fn.
        weight_scales: (1, out_features), float32.
    """
    return torch._scaled_mm(
        values,
        weight.t(),
        scale_a=scales,
        scale_b=weight_scales,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _output_layer(model: Any) -> torch.nn.Module | None:
    """Return what makes logits, where the model is one of Transformers'."""
    getter = getattr(model, "get_output_embeddings", None)
    found: torch.nn.Module | None = getter() if getter is not None else None
    return found


# As operators these products stay what they are: Inductor's lowering of _scaled_mm adds Triton
# kernels to the choice, and times them, even where no autotuning was asked for.
@torch.library.custom_op("palma::float8_product", mutates_args=())
def _float8_product(
    values: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, weight_scales: torch.Tensor
) -> torch.Tensor:
    return _scaled_product(values, scales, weight, weight_scales)


@_float8_product.register_fake
def _(
    values: torch.Tensor, _scales: torch.Tensor, weight: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    return values.new_empty(values.shape[0], weight.shape[0], dtype=torch.bfloat16)


@torch.library.custom_op("palma::float8_row", mutates_args=())
def _float8_row(row: torch.Tensor, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return multiply_row(row, values, scales)


@_float8_row.register_fake
def _(row: torch.Tensor, values: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return row.new_empty(1, values.shape[0])
