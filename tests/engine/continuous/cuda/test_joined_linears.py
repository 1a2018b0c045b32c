"""Joined linear layers compute what the single ones did, in one multiplication for each group."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from palma.engine.continuous.cuda.joined_linears import JoinedLinear, join_linears
from palma.engine.continuous.sibling_linears import SIBLING_NAMES

NUM_LAYERS = 3
SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.1,
}


def tiny_model(model_type: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SHAPE)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.arange(9)[None] * 7, use_cache=False).logits
    return found


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_a_joined_model_computes_the_same(model_type: str) -> None:
    model = tiny_model(model_type)
    expected = logits(model)

    num_saved = join_linears(model)

    assert num_saved == 3 * NUM_LAYERS
    assert torch.allclose(logits(model), expected, rtol=0, atol=1e-5)


def test_no_weight_is_kept_twice() -> None:
    model = tiny_model("qwen2")
    before = sum(parameter.nbytes for parameter in model.parameters())

    join_linears(model)

    assert sum(parameter.nbytes for parameter in model.parameters()) == before


def test_weights_and_biases_can_still_be_read_by_their_names() -> None:
    model, joined = tiny_model("qwen2"), tiny_model("qwen2")

    join_linears(joined)

    layer, joined_layer = model.model.layers[1], joined.model.layers[1]
    for name in SIBLING_NAMES[0]:
        before, after = getattr(layer.self_attn, name), getattr(joined_layer.self_attn, name)
        assert isinstance(after, JoinedLinear)
        assert torch.equal(after.weight, before.weight)
        assert after.bias is not None
        assert torch.equal(after.bias, before.bias)
    assert joined_layer.mlp.up_proj.bias is None


def test_layers_given_different_inputs_are_computed_rightly() -> None:
    mlp = tiny_model("llama").model.layers[0].mlp
    first, second = torch.randn(2, 5, 32)
    expected = [mlp.gate_proj(first), mlp.up_proj(second), mlp.gate_proj(first)]

    join_linears(mlp)

    found = [mlp.gate_proj(first), mlp.up_proj(second), mlp.gate_proj(first)]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_threads_do_not_get_each_others_shares() -> None:
    model = tiny_model("llama")
    join_linears(model)
    mlp = model.model.layers[0].mlp
    inputs = torch.randn(4, 5, 32)
    expected = [mlp.up_proj(x) for x in inputs]

    def share_of(x: torch.Tensor) -> torch.Tensor:
        for _ in range(200):
            mlp.gate_proj(x)
            share: torch.Tensor = mlp.up_proj(x)
        return share

    with ThreadPoolExecutor(len(inputs)) as executor:
        found = list(executor.map(share_of, inputs))

    assert all(map(torch.equal, found, expected))


def test_layers_with_hooks_or_of_different_dtypes_are_left_alone() -> None:
    model = tiny_model("llama")
    hooked, mixed = model.model.layers[0], model.model.layers[1]
    hooked.self_attn.k_proj.register_forward_hook(lambda *_: None)
    mixed.mlp.up_proj.to(torch.bfloat16)

    num_saved = join_linears(model)

    assert num_saved == 3 * NUM_LAYERS - 3
    assert type(hooked.self_attn.q_proj) is torch.nn.Linear
    assert type(mixed.mlp.gate_proj) is torch.nn.Linear


@torch.inference_mode()
def test_dynamo_sees_one_multiplication_for_each_group() -> None:
    model = tiny_model("llama")
    layer = model.model.layers[0]
    hidden, angles = torch.randn(1, 7, 32), torch.randn(2, 1, 7, 8)
    expected = layer(hidden, position_embeddings=tuple(angles))
    counts = []

    def count(module: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        linear = torch._C._nn.linear
        counts.append(sum(node.target is linear for node in module.graph.nodes))
        return module.forward

    join_linears(model)
    compiled: Any = torch.compile(layer, backend=count, fullgraph=True)
    found = compiled(hidden, position_embeddings=tuple(angles))

    assert counts == [4]
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
