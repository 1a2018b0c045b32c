"""Packed linear layers: the numbers of `nn.Linear`, whatever the shape, and no second copy."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from palma.core.errors import SettingsError
from palma.engine.continuous import packed_linear
from palma.engine.continuous.packed_linear import PackReport, pack_linears
from palma.engine.continuous.packed_modules import Int8Linear, OneDnnLinear
from palma.models.cpu_features import CpuFeatures, choose_cpu_dtype, detect_cpu_features
from tests.tiny_models import tiny_llama

needs_int8 = pytest.mark.skipif(
    not detect_cpu_features().has_int8_linears, reason="this processor has no int8 kernel"
)
NUM_ROWS = (1, 2, 7, 32, 33, 500, 4096)
ODD_SHAPES = ((65, 67), (3, 5), (1, 1), (1000, 1), (576, 200))


@pytest.fixture(autouse=True)
def no_layer_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of these tests are tiny, and shall be packed all the same."""
    monkeypatch.setattr(packed_linear, "MIN_FLOAT32_WEIGHTS", 0)


def layer(num_in: int, num_out: int, *, bias: bool = False, dtype: Any = torch.float32) -> Any:
    torch.manual_seed(0)
    return nn.Linear(num_in, num_out, bias=bias).to(dtype).requires_grad_(False)


def rows(num_rows: int, num_in: int, dtype: Any = torch.float32) -> torch.Tensor:
    torch.manual_seed(num_rows)
    return torch.randn(num_rows, num_in).to(dtype)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the worst row's error in proportion to that row's length."""
    wrong = (found.double() - expected.double()).norm(dim=-1)
    return float((wrong / expected.double().norm(dim=-1)).max())


def llama(*, tied: bool) -> Any:
    """Return a random Llama that is just large enough for int8 layers."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=tied,
        initializer_range=0.05,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def greedy(model: Any) -> list[int]:
    prompt = torch.tensor([[5, 17, 200, 3, 42]])
    mask = torch.ones_like(prompt)
    ids = model.generate(prompt, attention_mask=mask, max_new_tokens=16, do_sample=False)
    return list(ids[0].tolist())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_a_packed_float32_layer_computes_what_the_plain_one_does(
    shape: tuple[int, int], bias: bool
) -> None:
    plain = layer(*shape, bias=bias)
    packed = OneDnnLinear(plain)

    for num_rows in NUM_ROWS:
        x = rows(num_rows, shape[0])
        torch.testing.assert_close(packed(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_bfloat16_layer_is_as_near_to_the_truth_as_its_precision(bias: bool) -> None:
    plain = layer(257, 129, bias=bias, dtype=torch.bfloat16)
    packed = OneDnnLinear(plain)

    for num_rows in NUM_ROWS:
        x = rows(num_rows, 257, torch.bfloat16)
        exact = layer(257, 129, bias=bias, dtype=torch.bfloat16).double()(x.double())
        assert packed(x).dtype == torch.bfloat16
        assert relative_error(packed(x), exact) < 4e-3


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_levels", "bound"), [(127, 0.02), (63, 0.03)])
def test_an_int8_layer_errs_little_in_every_row(
    dtype: torch.dtype, num_levels: int, bound: float
) -> None:
    plain = layer(576, 200, bias=True, dtype=dtype)
    quantized = Int8Linear(plain, num_levels)

    for num_rows in NUM_ROWS:
        x = rows(num_rows, 576, dtype)
        assert quantized(x).dtype == dtype
        assert relative_error(quantized(x), plain(x)) < bound


@needs_int8
def test_an_int8_layer_serves_large_and_small_rows_of_a_batch_alike() -> None:
    plain = layer(256, 128)
    quantized = Int8Linear(plain, 127)
    x = rows(6, 256) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6, 1.0])[:, None]

    assert relative_error(quantized(x), plain(x)) < 0.02


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(256, 128), (1500, 333)])
def test_a_row_of_an_int8_layer_has_the_same_bits_alone_and_in_any_batch(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    quantized = Int8Linear(layer(*shape, bias=True, dtype=dtype), 127)
    x = rows(300, shape[0], dtype)
    x[7] *= 100  # a neighbour that would widen a common scale

    together = quantized(x)

    for size in (1, 2, 5, 31, 100):
        assert torch.equal(quantized(x[:size]), together[:size])
    for row in (0, 7, 150, 299):
        assert torch.equal(quantized(x[row]), together[row])


@needs_int8
def test_rows_of_zeros_give_the_bias_and_a_broken_row_harms_no_other() -> None:
    quantized = Int8Linear(layer(64, 64, bias=True), 127)
    x = rows(3, 64)
    alone = quantized(x[2])
    x[0] = 0
    x[1, 5] = torch.nan

    mapped = quantized(x)

    assert torch.equal(mapped[0], quantized.bias)
    assert mapped[1].isnan().all()
    assert torch.equal(mapped[2], alone)


@pytest.mark.parametrize(
    "kind", [OneDnnLinear, pytest.param(lambda linear: Int8Linear(linear, 127), marks=needs_int8)]
)
def test_any_leading_dimensions_and_strides_are_taken(kind: Any) -> None:
    plain = layer(64, 96, bias=True)
    packed = kind(plain)
    shapes = [
        rows(1, 64)[0],
        rows(6, 64).view(1, 2, 3, 64),
        rows(64, 5).t(),
        rows(24, 64).view(4, 6, 64)[:, ::2],
        rows(1, 64).expand(5, 64),
        torch.empty(0, 64),
        torch.empty(2, 0, 64),
    ]

    for x in shapes:
        assert packed(x).shape == plain(x).shape
        torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=0.05)


def test_a_packed_llama_answers_greedily_with_the_same_tokens() -> None:
    model = tiny_llama()
    expected = greedy(model)

    report = pack_linears(model, "as_loaded")

    assert greedy(model) == expected
    assert (report.num_packed, report.num_int8, report.num_left) == (15, 0, 0)
    assert report.bytes_after == pytest.approx(report.bytes_before, rel=0.5)  # padded if tiny


@needs_int8
def test_an_int8_llama_keeps_its_output_layer_and_nearly_its_logits() -> None:
    model = llama(tied=False)
    ids = torch.arange(1, 120)[None]
    expected = model(ids).logits

    report = pack_linears(model, "int8")

    assert (report.num_packed, report.num_int8) == (15, 14)
    assert isinstance(model.lm_head, OneDnnLinear)
    assert relative_error(model(ids).logits, expected) < 0.08
    assert report.bytes_after < report.bytes_before


def test_a_tied_embedding_keeps_its_table() -> None:
    model = llama(tied=True)
    expected = model(torch.tensor([[1, 2, 3]])).logits
    table = model.model.embed_tokens.weight.clone()

    pack_linears(model, "as_loaded")

    assert torch.equal(model.model.embed_tokens.weight, table)
    assert torch.equal(model.lm_head.weight, table)
    logits = model(torch.tensor([[1, 2, 3]])).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["as_loaded", pytest.param("int8", marks=needs_int8)])
def test_unpacked_weights_are_freed_one_by_one(
    weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(4)))
    weak = [weakref.ref(module.weight) for module in model]
    num_alive = []
    replace = packed_linear._replace

    def count(*args: Any, **kwargs: Any) -> Any:
        num_alive.append(sum(ref() is not None for ref in weak))
        return replace(*args, **kwargs)

    monkeypatch.setattr(packed_linear, "_replace", count)
    pack_linears(model, weights)

    assert num_alive == [4, 3, 2, 1]
    assert all(ref() is None for ref in weak)


def test_a_layer_at_two_places_is_packed_once() -> None:
    shared = layer(64, 64)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})

    report = pack_linears(model, "as_loaded")

    assert report.num_packed == 1
    assert model["a"] is model["b"][0]  # type: ignore[index]
    assert isinstance(model["a"], OneDnnLinear)


class _OwnLinear(nn.Linear):
    """A subclass may compute something else."""


class _ReadsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.odd_proj = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.odd_proj.weight


def test_what_is_not_a_plain_linear_layer_is_left_alone_and_reported() -> None:
    hooked = nn.Linear(64, 64)
    hooked.register_forward_pre_hook(lambda module, args: None)
    wrapped = nn.Linear(64, 64)
    wrapped.forward = torch.abs  # type: ignore[method-assign]
    half = nn.Linear(64, 64).half()
    model = nn.Sequential(_OwnLinear(64, 64), hooked, wrapped, half, _ReadsWeight())

    report = pack_linears(model, "as_loaded")

    assert report.num_packed == 0
    assert dict(report.left) == {
        "class _OwnLinear": 1,
        "has hooks": 2,
        "float16": 1,
        "the model reads its weight": 1,
    }
    assert report.bytes_after == report.bytes_before


@needs_int8
def test_routers_and_tiny_layers_keep_their_precision() -> None:
    model = nn.ModuleDict({"gate": layer(128, 128), "few": layer(128, 8), "up": layer(128, 128)})

    pack_linears(model, "int8")

    kinds = {name: type(module) for name, module in model.items()}
    assert kinds == {"gate": OneDnnLinear, "few": OneDnnLinear, "up": Int8Linear}


def test_fused_experts_stay_as_they_are_and_are_reported() -> None:
    experts = nn.Module()
    experts.register_parameter("up_proj", nn.Parameter(torch.zeros(4, 8, 16)))
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"experts": experts})})

    report = pack_linears(model, "as_loaded")

    assert report.expert_bytes == 4 * 8 * 16 * 4
    assert "fused experts" in report.summary


def test_int8_is_refused_where_no_kernel_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "detect_cpu_features", CpuFeatures)

    with pytest.raises(SettingsError, match="WEIGHTS=int8"):
        pack_linears(nn.Sequential(nn.Linear(64, 64)), "int8")


def test_a_torch_without_onednn_leaves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "detect_cpu_features", CpuFeatures)

    report = pack_linears(nn.Sequential(nn.Linear(64, 64)), "as_loaded")

    assert (report.num_packed, report.left) == (0, (("torch lacks oneDNN", 1),))


def test_the_summary_is_one_line_that_says_what_happened() -> None:
    report = PackReport(
        num_packed=155,
        num_joined=66,
        num_int8=88,
        num_left=2,
        left=(("has hooks", 2),),
        bytes_before=2200 * 2**20,
        bytes_after=1200 * 2**20,
        expert_bytes=0,
        duration_s=3.14,
    )

    assert report.summary == (
        "Packed 155 linear layers into 89 multiplications (88 of them int8) in 3.1 s: "
        "2,200 MiB became 1,200; 2 left as they were (has hooks: 2)"
    )


def test_bfloat16_is_chosen_for_large_models_on_processors_that_multiply_it() -> None:
    able = CpuFeatures(has_bfloat16=True, has_onednn=True, has_onednn_bfloat16=True)

    assert choose_cpu_dtype(able, 1_100_000_000)[0] == "bfloat16"
    assert choose_cpu_dtype(able, 135_000_000)[0] == "float32"
    assert choose_cpu_dtype(CpuFeatures(has_bfloat16=True), 1_100_000_000)[0] == "float32"
    assert choose_cpu_dtype(CpuFeatures(), 1_100_000_000)[0] == "float32"


def attention_like(*, bias: bool = False, dtype: Any = torch.float32) -> Any:
    """Return a parent with three layers that are called queries, keys and values."""
    parent = nn.Module()
    for name, width in (("q_proj", 96), ("k_proj", 64), ("v_proj", 64)):
        linear = layer(72, width, bias=bias and name != "k_proj", dtype=dtype)
        linear.weight.data += 0.01 * width
        setattr(parent, name, linear)
    return parent


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_siblings_are_one_multiplication_with_the_same_results(dtype: Any, bias: bool) -> None:
    plain, joined = attention_like(bias=bias, dtype=dtype), attention_like(bias=bias, dtype=dtype)
    report = pack_linears(joined, "as_loaded", join_siblings=True)
    separate = attention_like(bias=bias, dtype=dtype)
    pack_linears(separate, "as_loaded")

    assert (report.num_packed, report.num_joined, report.num_left) == (3, 2, 0)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for num_rows in (1, 7, 33):
        x = rows(num_rows, 72, dtype)
        for name in ("q_proj", "k_proj", "v_proj"):
            found = joined.get_submodule(name)(x)
            expected = plain.get_submodule(name)(x)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_small_float32_layers_stay_plain_unless_they_are_quantized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_linear, "MIN_FLOAT32_WEIGHTS", 72 * 96 + 1)
    parent = attention_like()
    parent.o_proj = layer(72, 96)

    report = pack_linears(parent, "as_loaded", join_siblings=True)
    small = pack_linears(attention_like(dtype=torch.bfloat16), "as_loaded")

    assert (report.num_packed, report.num_joined) == (3, 2)
    assert report.left == (("small, in float32", 1),)
    assert small.num_packed == 3


def test_siblings_in_any_order_with_any_inputs_never_share_a_stale_result() -> None:
    plain, joined = attention_like(), attention_like()
    pack_linears(joined, "as_loaded", join_siblings=True)
    x, y = rows(3, 72), rows(4, 72)

    for name, given in (
        ("k_proj", x), ("q_proj", y), ("v_proj", x), ("q_proj", x), ("q_proj", x), ("k_proj", y),
        ("v_proj", y), ("q_proj", y), ("k_proj", y),
    ):  # fmt: skip
        found = joined.get_submodule(name)(given)
        torch.testing.assert_close(found, plain.get_submodule(name)(given), rtol=1e-4, atol=1e-4)
    x2 = x.clone()
    joined.q_proj(x2)
    x2.mul_(2)
    joined.k_proj(y)
    torch.testing.assert_close(joined.v_proj(x2), plain.v_proj(x2), rtol=1e-4, atol=1e-4)


def test_siblings_let_their_tensors_go_when_all_have_been_called() -> None:
    joined = attention_like()
    pack_linears(joined, "as_loaded", join_siblings=True)
    x = rows(3, 72)
    watch = weakref.ref(x)

    for name in ("q_proj", "k_proj", "v_proj"):
        joined.get_submodule(name)(x)
    del x

    assert watch() is None


def test_layers_that_do_not_fit_together_are_packed_one_by_one() -> None:
    parent = attention_like()
    parent.k_proj = layer(40, 64)
    lonely = nn.Module()
    lonely.q_proj = layer(72, 96)

    assert pack_linears(parent, "as_loaded", join_siblings=True).num_joined == 0
    assert pack_linears(lonely, "as_loaded", join_siblings=True).num_joined == 0


@needs_int8
def test_a_joined_int8_llama_has_the_bits_of_a_separate_one() -> None:
    joined, separate = llama(tied=False), llama(tied=False)
    report = pack_linears(joined, "int8", join_siblings=True)
    pack_linears(separate, "int8")

    assert report.num_joined == 2 * 3
    ids = torch.tensor([[5, 17, 200, 3, 42]])
    with torch.inference_mode():
        torch.testing.assert_close(joined(ids).logits, separate(ids).logits, rtol=1e-5, atol=1e-5)
