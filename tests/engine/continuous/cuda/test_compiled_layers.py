"""Compiled layers compute what eager ones do, from few graphs, beside a thread that serves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from palma.engine.continuous.cuda.compiled_layers import TRACED_LENGTH, CompiledLayers
from palma.engine.continuous.cuda.joined_linears import join_linears
from palma.engine.continuous.cuda.layer_calls import CannotCompile

NUM_LAYERS = 12
NUM_SLOTS = 128
SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": NUM_SLOTS,
    "initializer_range": 0.1,
}
CHANGES: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
}
KINDS = {"llama": 1, "qwen3": 1, "gemma2": 2, "gemma3_text": 2}
LENGTHS = (1, 2, 7, TRACED_LENGTH, 100)

written_to: list[int] = []
"""Addresses of the key caches that the operator below was given."""


@torch.library.custom_op("palma_test::attention", mutates_args={"key_cache", "value_cache"})
def attention(  # noqa: PLR0917  # a torch operator's arguments have places
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    scaling: float,
    sliding_window: int,
    softcap: float,
) -> torch.Tensor:
    """Attend within a row, and write its keys and values to the first slots."""
    num_tokens, group = query.shape[2], query.shape[1] // key.shape[1]
    written_to.append(key_cache.data_ptr())
    key_cache[:, :num_tokens] = key[0]
    value_cache[:, :num_tokens] = value[0]
    scores = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    seen = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=query.device).tril()
    if sliding_window:
        seen = seen.triu(1 - sliding_window)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2).contiguous()


@attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _: torch.Tensor | None = None,
    **rules: Any,
) -> tuple[torch.Tensor, None]:
    attended = torch.ops.palma_test.attention(
        query,
        key,
        value,
        module.palma_key_cache,
        module.palma_value_cache,
        rules["scaling"],
        rules.get("sliding_window") or 0,
        rules.get("softcap") or 0.0,
    )
    return attended, None


def attend_by_number(module: Any, *args: Any, **rules: Any) -> tuple[torch.Tensor, None]:
    attended, _ = attend(module, *args, **rules)
    return attended * (1 + module.layer_idx / 100), None


def tiny_model(
    device: torch.device, model_type: str = "llama", function: Callable[..., Any] = attend
) -> Any:
    AttentionInterface.register("palma_test", function)
    config = AutoConfig.for_model(model_type, **SHAPE, **CHANGES.get(model_type, {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="palma_test")
    model = model.eval().to(device)
    give_caches(model, NUM_SLOTS)
    return model


def give_caches(model: Any, num_slots: int) -> None:
    for layer in model.model.layers:
        layer.self_attn.palma_key_cache = torch.zeros(2, num_slots, 8, device=model.device)
        layer.self_attn.palma_value_cache = torch.zeros(2, num_slots, 8, device=model.device)


def caches(model: Any) -> torch.Tensor:
    """Return copies of all keys and values: (2 * NUM_LAYERS, heads, slots, dim)."""
    attentions = [layer.self_attn for layer in model.model.layers]
    return torch.stack(
        [cache for x in attentions for cache in (x.palma_key_cache, x.palma_value_cache)]
    )


@torch.inference_mode()
def logits(model: Any, num_tokens: int, num_rows: int = 1) -> torch.Tensor:
    token_ids = torch.arange(num_rows * num_tokens, device=model.device) * 37 % 160
    token_ids = token_ids.view(num_rows, num_tokens)
    positions = torch.arange(num_tokens, device=model.device)[None]
    output = model(input_ids=token_ids, position_ids=positions, use_cache=False)
    found: torch.Tensor = output.logits
    return found


def require_same_as_eager(model: Any, compiled: CompiledLayers, tolerance: float) -> None:
    """Compare logits, and what was written to the caches, which must be the model's own."""
    for num_tokens in LENGTHS:
        give_caches(model, NUM_SLOTS)
        expected, written = logits(model, num_tokens), caches(model)
        give_caches(model, NUM_SLOTS)
        compiled.install()
        written_to.clear()
        found = logits(model, num_tokens)
        assert written_to == [x.self_attn.palma_key_cache.data_ptr() for x in model.model.layers]
        assert torch.allclose(found, expected, rtol=0, atol=tolerance)
        assert torch.allclose(caches(model), written, rtol=0, atol=tolerance)
        compiled.remove()


@pytest.mark.parametrize("model_type", KINDS)
def test_layers_of_a_kind_share_two_graphs(device: torch.device, model_type: str) -> None:
    model = tiny_model(device, model_type)
    compiled = CompiledLayers(model, _backend="eager")

    compiled.compile([3])

    assert compiled.num_graphs == 2 * KINDS[model_type]
    require_same_as_eager(model, compiled, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, inside Inductor
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("model_type", KINDS)
def test_inductor_computes_the_same_within_rounding(
    device: torch.device, model_type: str, joined: bool
) -> None:
    model = tiny_model(device, model_type)
    if joined:
        join_linears(model)
    compiled = CompiledLayers(model)
    expected = logits(model, 5)
    thread = threading.Thread(target=compiled.compile, args=([3],))

    thread.start()
    while thread.is_alive():
        assert torch.equal(logits(model, 5), expected)

    assert compiled.num_graphs == 2 * KINDS[model_type]
    require_same_as_eager(model, compiled, 1e-5)


def test_compiling_leaves_modules_and_caches_as_they_are(device: torch.device) -> None:
    model = tiny_model(device, "gemma2")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    compiled = CompiledLayers(model, _backend="eager")

    compiled.compile([1, 3])

    after = {name: vars(module) for name, module in model.named_modules()}
    assert before.keys() == after.keys()
    for name, attributes in after.items():
        assert attributes.keys() == before[name].keys()
        assert all(value is before[name][key] for key, value in attributes.items())
    assert not caches(model).any()


def test_install_takes_the_caches_and_weights_of_then(device: torch.device) -> None:
    model = tiny_model(device)
    compiled = CompiledLayers(model, _backend="eager")
    compiled.compile([])
    model.model.layers[3].mlp.up_proj.weight = torch.nn.Parameter(torch.ones(48, 32, device=device))
    give_caches(model, 3 * NUM_SLOTS)
    expected, written = logits(model, 9), caches(model)

    give_caches(model, 3 * NUM_SLOTS)
    compiled.install()

    assert torch.equal(logits(model, 9), expected)
    assert torch.equal(caches(model), written)


def test_other_calls_than_the_models_own_go_to_the_eager_layers(device: torch.device) -> None:
    model = tiny_model(device)
    compiled = CompiledLayers(model, _backend="eager")
    compiled.compile([])
    expected = logits(model, 9, num_rows=2)

    compiled.install()

    assert torch.equal(logits(model, 9, num_rows=2), expected)


def test_installing_twice_and_removing_leaves_the_eager_layers(device: torch.device) -> None:
    model = tiny_model(device)
    compiled = CompiledLayers(model, _backend="eager")
    compiled.compile([])

    compiled.install()
    compiled.install()
    compiled.remove()

    assert all("forward" not in vars(layer) for layer in model.model.layers)


class Impatient(torch.nn.Module):
    """Decides by what it computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Counting(torch.nn.Module):
    """Remembers how often it was called."""

    num_calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        return x * 2


@pytest.mark.parametrize(
    ("mlp", "reason"), [(Impatient(), "data-dependent"), (Counting(), "one call to the next")]
)
def test_layers_that_cannot_be_compiled_are_refused_with_the_reason(
    device: torch.device, mlp: torch.nn.Module, reason: str
) -> None:
    model = tiny_model(device)
    model.model.layers[5].mlp = mlp
    expected = logits(model, 9)

    with pytest.raises(CannotCompile, match=f"(?i){reason}"):
        CompiledLayers(model, _backend="eager").compile([])

    assert torch.equal(logits(model, 9), expected)


def test_modules_that_others_have_changed_are_refused(device: torch.device) -> None:
    model = tiny_model(device)
    mlp = model.model.layers[5].mlp
    mlp.forward = mlp.forward

    with pytest.raises(CannotCompile, match="somebody else"):
        CompiledLayers(model, _backend="eager").compile([])


def test_layers_that_read_their_number_share_nothing_and_are_refused(device: torch.device) -> None:
    model = tiny_model(device, function=attend_by_number)

    with pytest.raises(CannotCompile, match="more than 8 kinds"):
        CompiledLayers(model, _backend="eager").compile([])
