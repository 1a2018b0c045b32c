"""Float8 layers: quantized rows, their products, and what becomes of a model."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from palma.core.errors import SettingsError
from palma.engine.continuous.cuda import float8_linear
from palma.engine.continuous.cuda.float8_linear import (
    Float8Linear,
    require_float8,
    suits_float8,
    to_float8,
)
from palma.engine.continuous.cuda.joined_linears import join_linears
from palma.engine.continuous.cuda.kernels.float8_row import multiply_row
from palma.engine.continuous.cuda.kernels.quantize import FLOAT8, LARGEST, quantize_rows

HAS_GPU = torch.cuda.is_available()
MODEL_ERROR = 0.06 if HAS_GPU else 0.25
"""Of random layers. Triton's interpreter halves what rounds up to a power of 2."""

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def _multiplies_rowwise() -> bool:
    """Whether torch multiplies float8 with a scale for each row here: on CPUs since 2.12 or so."""
    device = torch.device("cuda" if HAS_GPU else "cpu")
    values = torch.zeros(64, 64, device=device).to(FLOAT8)
    scales = torch.ones(64, 1, device=device)
    try:
        torch._scaled_mm(values, values.t(), scales, scales.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


needs_products = pytest.mark.skipif(
    not _multiplies_rowwise(), reason="torch cannot multiply float8 with scales for rows here"
)


@torch.inference_mode()
def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double()
    return float((found.double() - expected).norm() / expected.norm())


def on_grid(num_rows: int, num_columns: int, device: torch.device) -> torch.Tensor:
    """Return rows that float8 holds exactly, each times a power of 2: float32."""
    values = torch.randint(0, 0x7F, (num_rows, num_columns), dtype=torch.uint8, device=device)
    values += 0x80 * torch.randint(0, 2, values.shape, dtype=torch.uint8, device=device)
    x = values.view(FLOAT8).float()
    x[:, 0] = LARGEST
    return x * 2.0 ** torch.randint(-12, -6, (num_rows, 1), device=device)


def linear_of(in_features: int, out_features: int, device: torch.device) -> torch.nn.Linear:
    """Return a layer whose weights float8 holds exactly."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(in_features, out_features).to(device, torch.bfloat16).eval()
    linear.requires_grad_(False).weight.copy_(on_grid(out_features, in_features, device))
    return linear


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_columns", [64, 200])
def test_rows_are_quantized_by_their_own_largest_value(
    device: torch.device, dtype: torch.dtype, num_columns: int
) -> None:
    rows = on_grid(5, num_columns, device)
    x = torch.cat([rows, 3 * rows], dim=1).to(dtype)[:, :num_columns]

    values, scales = quantize_rows(x)

    assert values.dtype == FLOAT8
    assert values.is_contiguous()
    assert torch.equal(scales, rows.abs().amax(dim=1, keepdim=True) / LARGEST)
    assert torch.equal(values.float() * scales, rows)


def test_rows_of_zeros_stay_zero(device: torch.device) -> None:
    values, scales = quantize_rows(torch.zeros(2, 64, device=device))

    assert not values.float().any()
    assert bool(scales.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(70, 208), (3, 4096), (12, 9216)])
def test_a_single_row_is_multiplied_exactly(
    device: torch.device, dtype: torch.dtype, num_outputs: int, num_inputs: int
) -> None:
    row = torch.randn(1, num_inputs, device=device).to(dtype)
    values = torch.randn(num_outputs, num_inputs, device=device).to(FLOAT8)
    scales = torch.rand(1, num_outputs, device=device) + 0.1

    product = multiply_row(row, values, scales)

    expected = row.double() @ (values.double() * scales.double().t()).t()
    assert product.shape == (1, num_outputs)
    assert relative_error(product, expected) < {2: 1e-2, 4: 1e-5}[dtype.itemsize]


@needs_products
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 2, 33])
def test_a_layer_multiplies_what_float8_holds(
    device: torch.device, dtype: torch.dtype, num_rows: int
) -> None:
    linear = linear_of(256, 80, device)
    layer = Float8Linear(linear)
    x = on_grid(num_rows, 256, device).to(dtype)[None]

    found = layer(x)

    assert torch.equal(layer.weight, linear.weight)
    assert found.shape == (1, num_rows, 80)
    assert found.dtype == dtype
    assert relative_error(found, linear.double()(x.double())) < 1e-2


@needs_products
@pytest.mark.parametrize("num_rows", [1, 7])
def test_a_layer_is_traced_whole_and_computes_the_same(device: torch.device, num_rows: int) -> None:
    layer = Float8Linear(linear_of(256, 80, device))
    x = on_grid(num_rows, 256, device).bfloat16()[None]

    with torch.inference_mode():
        found = torch.compile(layer, backend="eager", fullgraph=True)(x)

    assert found.dtype == torch.bfloat16
    assert relative_error(found, layer(x)) < 1e-2


def tiny_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, **changes}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 4}
    config = AutoConfig.for_model("llama", **sizes, **shape)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    token_ids = torch.arange(9, device=model.device)[None] * 7
    found: torch.Tensor = model(input_ids=token_ids, use_cache=False).logits
    return found


@needs_products
@pytest.mark.parametrize("joined", [False, True])
def test_a_model_in_float8_computes_nearly_what_it_did(device: torch.device, joined: bool) -> None:
    model = tiny_model().to(device)
    expected = logits(model)
    if joined:
        join_linears(model)

    to_float8(model, device=device)

    layers = [module for module in model.modules() if isinstance(module, Float8Linear)]
    assert len(layers) == (8 if joined else 14)
    assert relative_error(logits(model), expected) < MODEL_ERROR


def test_the_output_layer_and_the_dtype_of_the_model_stay(device: torch.device) -> None:
    model = tiny_model(tie_word_embeddings=True).to(device)

    to_float8(model, device=device)

    assert type(model.lm_head) is torch.nn.Linear
    assert model.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_each_original_is_freed(device: torch.device) -> None:
    model = tiny_model().to(device)
    weights = [
        weakref.ref(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]

    to_float8(model, device=device)

    assert len(weights) == 14
    assert all(weight() is None for weight in weights)


def test_routers_small_layers_and_odd_sizes_are_left_alone(device: torch.device) -> None:
    parent = torch.nn.Module()
    parent.gate = torch.nn.Linear(64, 64)
    parent.small = torch.nn.Linear(64, 32)
    parent.odd = torch.nn.Linear(72, 64)
    parent.plain = torch.nn.Linear(64, 64)
    parent.same = parent.plain
    parent.to(device)

    to_float8(parent, device=device)

    kinds = [type(child).__name__ for child in parent._modules.values()]
    assert kinds == ["Linear", "Linear", "Linear", "Float8Linear", "Float8Linear"]
    assert parent.same is parent.plain
    assert not suits_float8(torch.nn.Linear(64, 64, dtype=torch.float64))


def test_a_cpu_is_refused_with_what_is_needed() -> None:
    with pytest.raises(SettingsError, match=r"WEIGHTS=float8.*8\.9.*on cpu"):
        require_float8(torch.device("cpu"))


def test_an_old_gpu_is_refused_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")

    with pytest.raises(SettingsError, match=r"8\.9 or more; NVIDIA A100 has 8\.0"):
        require_float8(torch.device("cuda"))


@pytest.mark.gpu
def test_the_kernel_quantizes_as_torch_does(device: torch.device) -> None:
    x = torch.randn(100, 14336, device=device, dtype=torch.bfloat16)

    values, scales = quantize_rows(x)

    largest = x.float().abs().amax(dim=1, keepdim=True)
    expected = (x.float() * (LARGEST / largest)).to(FLOAT8)
    assert torch.equal(scales, largest / LARGEST)
    assert float((values.float() != expected.float()).float().mean()) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("num_rows", [1, 2, 16, 17, 100])
def test_a_cuda_graph_replays_a_layer(device: torch.device, num_rows: int) -> None:
    require_float8(device)
    layer = Float8Linear(linear_of(4096, 6144, device))
    x = torch.randn(num_rows, 4096, device=device, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = [layer(x), layer(-x)]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(x)

        for wanted in expected:
            out.fill_(torch.nan)
            graph.replay()
            assert torch.equal(out, wanted)
            x.neg_()


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, inside Inductor
@pytest.mark.parametrize("num_rows", [1, 2, 100])
def test_inductor_computes_the_same(device: torch.device, num_rows: int) -> None:
    layer = Float8Linear(linear_of(4096, 6144, device))
    x = torch.randn(num_rows, 4096, device=device, dtype=torch.bfloat16)

    with torch.inference_mode():
        found = torch.compile(layer, fullgraph=True)(x)
        expected = layer(x)

    assert relative_error(found, expected) < 1e-2


def test_a_layer_that_float8_is_too_coarse_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(128, 64), torch.nn.Linear(64, 128)).bfloat16()
    errors = iter([0.04, 0.2])
    monkeypatch.setattr(float8_linear, "relative_error", lambda *_: next(errors))

    to_float8(model, device=torch.device("cpu"))

    assert [type(layer) for layer in model] == [Float8Linear, torch.nn.Linear]
