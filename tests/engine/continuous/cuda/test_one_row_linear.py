"""The layer for single rows against float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from palma.engine.continuous.cuda.joined_linears import join_linears
from palma.engine.continuous.cuda.one_row_linear import (
    OneRowLinear,
    multiply_row,
    use_one_row_linears,
)
from tests.tiny_models import tiny_llama


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs"), [(7, 33), (64, 2048), (9, 2500), (24, 9000)]
)
def test_equals_a_matrix_product(
    num_outputs: int, num_inputs: int, has_bias: bool, device: torch.device
) -> None:
    x = torch.randn(1, 1, num_inputs, device=device, dtype=torch.float16)
    weight = torch.randn(num_outputs, num_inputs, device=device, dtype=torch.float16)
    bias = torch.randn(num_outputs, device=device, dtype=torch.float16) if has_bias else None

    out = multiply_row(x, weight, bias)

    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert out.shape == (1, 1, num_outputs)
    assert (out - expected).norm() / expected.norm() < 1e-3


def test_takes_one_row_and_several(device: torch.device) -> None:
    plain = torch.nn.Linear(1100, 20, device=device, dtype=torch.float16)
    layer = OneRowLinear(plain)
    rows = torch.randn(1, 3, 1100, device=device, dtype=torch.float16)

    torch.testing.assert_close(layer(rows), plain(rows))
    torch.testing.assert_close(layer(rows[:, :1]), plain(rows[:, :1]), atol=2e-3, rtol=2e-3)


def test_large_layers_of_half_precision_take_single_rows_joined_ones_too() -> None:
    model = tiny_llama(vocab_size=40_000).half()
    weights = sum(parameter.numel() for parameter in model.parameters())

    join_linears(model)
    use_one_row_linears(model)

    assert isinstance(model.lm_head, OneRowLinear)
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
