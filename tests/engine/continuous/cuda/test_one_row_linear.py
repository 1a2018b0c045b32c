"""The layer for single rows against float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from palma.engine.continuous.cuda.joined_linears import speed_linears_up
from palma.engine.continuous.cuda.one_row_linear import OneRowLinear, multiply_row
from tests.tiny_models import tiny_llama


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(7, 33), (64, 2048), (9, 2500), (24, 9000)])
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


def test_a_model_computes_the_same_with_its_layers_joined() -> None:
    model, plain = tiny_llama(vocab_size=40_000), tiny_llama(vocab_size=40_000)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    token_ids = torch.tensor([[5, 6, 7]])

    speed_linears_up(model)

    with torch.inference_mode():
        difference = model(token_ids).logits - plain(token_ids).logits
    assert difference.abs().max() < 1e-5
    attention = model.model.layers[0].self_attn
    assert attention.q_proj is attention.v_proj.first
    kept = sum(parameter.numel() for parameter in model.parameters())
    assert kept == num_weights, "a weight is kept twice, or lost"
    assert not attention.q_proj._waiting, "outputs of a pass that is over are kept"


def test_large_layers_of_half_precision_take_single_rows() -> None:
    model = tiny_llama(vocab_size=40_000).half()

    speed_linears_up(model)

    assert isinstance(model.lm_head, OneRowLinear)
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
