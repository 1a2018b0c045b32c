"""Whole steps in C++: the numbers of the model's own layers, and greedy tokens of `generate`."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest
from palma.engine.continuous import adoption
from palma.engine.continuous.cpu_kernel import DecodeKernel, PanelLinear
from palma.engine.continuous.cpu_kernel.decoder import StepDecoder, UnknownModel, require_known
from palma.engine.continuous.cpu_kernel.panel_linear import from_panels, to_panels
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.packed_linear import WeightFormat, pack_linears
from palma.engine.continuous.runner import Runner
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.continuous.self_check import UnsupportedModel, check_step_decoder
from palma.engine.mock import MockTokenizer
from palma.models.device import DeviceChoice
from palma.models.loader import LoadedModel
from tests.engine.suite import Collected, submit
from tests.tiny_models import tiny_llama

KNOWN = ("llama", "mistral", "qwen2", "qwen3")
BLOCK_SIZE = 8
MAX_ERROR = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""Of logits, against their spread; in bfloat16 the models' own layers are wrong by as much."""


@pytest.fixture(autouse=True)
def linear_kernel(request: pytest.FixtureRequest) -> None:
    """Skip where the processor lacks what the linear layers need."""
    found: DecodeKernel = request.getfixturevalue("kernel")
    if torch.float32 not in found.linear_dtypes:
        pytest.skip("this processor has no AVX-512")


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=160,
        hidden_size=96,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.2,
        sliding_window=11 if kind == "mistral" else None,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def sequence(number: int, prompt: list[int], num_sequences: int) -> Sequence:
    """Return one whose blocks lie apart and in no order."""
    request = EngineRequest(f"request-{number}", prompt, SamplingParams())
    blocks = list(range(47 - number, -1, -num_sequences))
    return Sequence(request, lambda _: None, number, list(prompt), block_table=blocks)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    spread = (expected - expected.mean()).abs().max()
    return float((found.double() - expected.double()).abs().max() / spread)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(65, 67), (3, 5), (1, 1), (1000, 1), (96, 200), (48, 64)])
def test_panels_hold_every_weight(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = (torch.randn(shape) * 50).to(dtype)

    assert torch.equal(from_panels(to_panels(weight), *shape), weight)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 33, 200])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_panel_layer_computes_what_a_plain_one_does(
    kernel: DecodeKernel, dtype: torch.dtype, bias: bool, num_rows: int
) -> None:
    torch.manual_seed(num_rows)
    for num_inputs, num_outputs in ((67, 65), (64, 96), (5, 3), (200, 100)):
        plain = nn.Linear(num_inputs, num_outputs, bias=bias).to(dtype).requires_grad_(False)
        packed = PanelLinear(plain, kernel, quantize=False)
        x = torch.randn(2, num_rows, num_inputs).to(dtype)

        mapped = packed(x)

        assert mapped.dtype == dtype
        assert torch.equal(packed.weight, plain.weight)
        assert relative_error(mapped, plain.double()(x.double())) < MAX_ERROR[dtype] / 2
        assert torch.equal(packed(x[:1]), mapped[:1]), "rows must not see each other"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_layer_is_exact_within_its_steps(kernel: DecodeKernel, dtype: torch.dtype) -> None:
    if torch.int8 not in kernel.linear_dtypes:
        pytest.skip("this processor has no AVX512_VNNI")
    torch.manual_seed(0)
    plain = nn.Linear(130, 70).to(dtype).requires_grad_(False)
    packed = PanelLinear(plain, kernel, quantize=True)
    x = torch.randn(9, 130).to(dtype)

    expected = plain.double()(x.double())

    assert packed.is_int8
    assert packed(x).dtype == dtype
    assert relative_error(packed(x), expected) < 0.02
    assert relative_error(packed(x * 1000), plain(x.double() * 1000)) < 0.02
    assert not packed(torch.zeros(1, 130).to(dtype)).isnan().any()


def logits_of_steps(runner: Runner, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Read prompts in uneven chunks beside each other's decode steps; return all logits."""
    first, second, third = (sequence(n, prompt, 3) for n, prompt in enumerate(prompts))
    found = [runner.step([], [Chunk(first, 5), Chunk(second, 1)])]
    first.num_computed, second.num_computed = 5, 1
    found.append(runner.step([], [Chunk(first, first.num_uncomputed)]))
    first.num_computed = len(first.token_ids)
    first.token_ids.append(7)
    found.append(runner.step([first], [Chunk(second, 20), Chunk(third, 3)]))
    first.num_computed += 1
    second.num_computed, third.num_computed = 21, len(third.token_ids)
    first.token_ids.append(9)
    third.token_ids.append(8)
    found.append(runner.step([third, first], [Chunk(second, second.num_uncomputed)]))
    return found


def expected_logits(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    def after(token_ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = model(torch.tensor([token_ids]), use_cache=False).logits[0, -1]
        return logits.float()

    first, second, third = prompts
    return [
        torch.stack([after(first[:5]), after(second[:1])]),
        after(first)[None],
        torch.stack([after([*first, 7]), after(second[:21]), after(third)]),
        torch.stack([after([*third, 8]), after([*first, 7, 9]), after(second)]),
    ]


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KNOWN)
def test_steps_give_the_models_own_logits(
    kernel: DecodeKernel, kind: str, dtype: torch.dtype, num_threads: int
) -> None:
    model = model_of(kind, dtype)
    prompts = [list(range(3, 34)), [(7 * i) % 160 for i in range(70)], [5, 6, 7]]
    expected = expected_logits(copy.deepcopy(model).float(), prompts)
    pack_linears(model, "as_loaded", join_siblings=True, kernel=kernel, keeps_small=False)
    kv_cache = KVCache(48, BLOCK_SIZE)
    rules = check_step_decoder(model, kernel)
    runner = Runner(model, kv_cache)
    runner.use_step_decoder(StepDecoder(model, kernel, kv_cache, rules))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = logits_of_steps(runner, prompts)
    finally:
        torch.set_num_threads(before)

    for ours, own in zip(found, expected, strict=True):
        assert relative_error(ours, own) < MAX_ERROR[dtype]


def test_the_check_finds_a_wrong_kernel(
    kernel: DecodeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama")
    pack_linears(model, "as_loaded", join_siblings=True, kernel=kernel, keeps_small=False)
    check_step_decoder(model, kernel)
    model.model.layers[1].mlp.act_fn = nn.GELU()

    with pytest.raises(UnsupportedModel, match="differ"):
        check_step_decoder(model, kernel)


@pytest.mark.parametrize("kind", ["gemma2", "olmo2", "phi3", "mixtral"])
def test_other_architectures_are_refused_by_name(kind: str) -> None:
    config = AutoConfig.for_model(kind, num_hidden_layers=1, vocab_size=64, pad_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)

    with pytest.raises(UnknownModel):
        require_known(model)


def generated(model: Any, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    return [
        model.generate(
            torch.tensor([prompt]), max_new_tokens=num_tokens, do_sample=False, use_cache=False
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


def loaded(model: Any) -> LoadedModel:
    return LoadedModel(
        model_id="tiny",
        model=model,
        tokenizer=cast(Any, MockTokenizer()),
        choice=DeviceChoice(device="cpu", dtype="float32", reason="a test"),
        max_model_len=256,
        vocab_size=160,
        stop_token_ids=frozenset(),
    )


@pytest.fixture
def start() -> Iterator[Callable[..., ContinuousEngine]]:
    """Start engines; they end with the test."""
    engines = []
    with ThreadPoolExecutor(4) as executor:

        def start_one(model: Any, **options: Any) -> ContinuousEngine:
            engine = ContinuousEngine(loaded(model), executor, 16, num_blocks=512, **options)
            engines.append(engine)
            return engine

        yield start_one
        for engine in engines:
            engine.close()


def answers(engine: ContinuousEngine, prompts: list[list[int]], max_tokens: int) -> list[Collected]:
    """Start greedy sequences, all at once."""
    return [submit(engine, f"{uuid.uuid4()}", prompt, max_tokens=max_tokens) for prompt in prompts]


def tokens(collected: list[Collected]) -> list[list[int]]:
    """Wait for all ends and return what came."""
    assert {answer.wait() for answer in collected} == {"length"}
    return [answer.token_ids for answer in collected]


PROMPTS = [[(11 * n + 7 * i) % 150 + 1 for i in range(3 + 9 * n)] for n in range(10)]


@pytest.mark.parametrize("kind", KNOWN)
def test_greedy_tokens_equal_generate(
    kernel: DecodeKernel, kind: str, start: Callable[..., ContinuousEngine]
) -> None:
    model = model_of(kind)
    expected = generated(model, PROMPTS, 24)
    pack_linears(model, "as_loaded", join_siblings=True, kernel=kernel, keeps_small=False)
    engine = start(model, kernel=kernel)
    assert engine._runner.has_step_decoder

    assert tokens(answers(engine, PROMPTS, 24)) == expected


def test_a_kernel_comes_into_use_while_requests_run(
    kernel: DecodeKernel, start: Callable[..., ContinuousEngine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = model_of("qwen2")
    expected = generated(model, PROMPTS, 60)
    pack_linears(model, "as_loaded", join_siblings=True)
    engine = start(model)
    running = answers(engine, PROMPTS, 60)
    engine._note_kernel(kernel)
    late = answers(engine, PROMPTS[3:4], 60)

    assert tokens(running) == expected
    assert tokens(late) == expected[3:4]
    assert tokens(answers(engine, PROMPTS[4:5], 60)) == expected[4:5]
    assert engine._runner.has_step_decoder
    assert "a step a call" in caplog.text


@pytest.mark.parametrize("weights", ["as_loaded", "int8"])
def test_repacking_loses_nothing(kernel: DecodeKernel, weights: WeightFormat) -> None:
    if torch.int8 not in kernel.linear_dtypes:
        pytest.skip("this processor has no AVX512_VNNI")
    at_once, later = model_of("llama", torch.bfloat16), model_of("llama", torch.bfloat16)
    pack_linears(at_once, weights, join_siblings=True, kernel=kernel, keeps_small=False)
    pack_linears(later, weights, join_siblings=True)

    runner = Runner(later, KVCache(48, BLOCK_SIZE))
    adoption.KernelAdoption(later, runner, kernel, weights).finish()

    assert runner.has_step_decoder
    for name, module in at_once.named_modules():
        if isinstance(module, PanelLinear):
            other = later.get_submodule(name)
            assert isinstance(other, PanelLinear)
            assert other.is_int8 == module.is_int8
            assert torch.equal(other._panels, module._panels)
            assert other.num_bytes == module.num_bytes
            assert torch.allclose(other.weight.float(), module.weight.float(), rtol=2**-8)


def test_a_model_that_fails_the_check_keeps_its_own_layers(
    kernel: DecodeKernel,
    start: Callable[..., ContinuousEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any) -> None:
        raise UnsupportedModel("its logits differ")

    monkeypatch.setattr(adoption, "check_step_decoder", refuse)
    model = tiny_llama(vocab_size=160)
    expected = generated(model, PROMPTS[:3], 10)
    pack_linears(model, "as_loaded", join_siblings=True, kernel=kernel, keeps_small=False)
    engine = start(model, kernel=kernel)
    assert tokens(answers(engine, PROMPTS[:3], 10)) == expected
    assert not engine._runner.has_step_decoder
    assert "its logits differ" in caplog.text


def test_a_step_that_fails_as_a_whole_is_computed_one_by_one(
    kernel: DecodeKernel, start: Callable[..., ContinuousEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama")
    expected = generated(model, PROMPTS[:4], 12)
    pack_linears(model, "as_loaded", join_siblings=True, kernel=kernel, keeps_small=False)
    engine = start(model, kernel=kernel)
    step, calls = engine._runner.step, []

    def fail_often(*parts: Any) -> torch.Tensor:
        calls.append(parts)
        if len(calls) % 3 == 2:
            raise RuntimeError("out of luck")
        return step(*parts)

    monkeypatch.setattr(engine._runner, "step", fail_often)
    assert tokens(answers(engine, PROMPTS[:4], 12)) == expected
    assert len(calls) > 6


def test_a_kernel_that_cannot_be_used_harms_nobody(
    kernel: DecodeKernel,
    start: Callable[..., ContinuousEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory to pack")

    model = model_of("llama")
    expected = generated(model, PROMPTS[:4], 30)
    engine = start(model)
    monkeypatch.setattr(adoption, "pack_linears", fail)

    running = answers(engine, PROMPTS[:4], 30)
    engine._note_kernel(kernel)

    assert tokens(running) == expected
    assert tokens(answers(engine, PROMPTS[:4], 30)) == expected
    assert "could not be taken into use" in caplog.text


def test_the_loop_survives_what_no_sequence_is_to_blame_for(
    start: Callable[..., ContinuousEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama")
    expected = generated(model, PROMPTS[:1], 10)
    engine = start(model)
    schedule = engine._scheduler.schedule

    def fail_once(*parts: Any) -> Any:
        monkeypatch.setattr(engine._scheduler, "schedule", schedule)
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine._scheduler, "schedule", fail_once)

    assert answers(engine, PROMPTS[:1], 10)[0].wait() == "error"
    assert tokens(answers(engine, PROMPTS[:1], 10)) == expected
