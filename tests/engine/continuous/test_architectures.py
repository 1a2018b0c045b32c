"""Greedy tokens equal `generate` on many architectures: tiny random configs in float32."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch

from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.continuous.self_check import UnsupportedModel, check_model
from palma.engine.mock import MockTokenizer
from palma.models.device import DeviceChoice
from palma.models.loader import LoadedModel
from tests.engine.suite import submit

SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GPT2_SHAPE = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128, **SHAPE}
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "moe_intermediate_size": 16,
}

LINEAR_THEN_FULL = {"layer_types": [*["linear_attention"] * 3, "full_attention"]}
TURN_BY_TURN = {"layer_types": ["linear_attention", "full_attention"] * 2}
DELTA_NET = {
    **LINEAR_THEN_FULL,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LFM2 = {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}
MAMBA2 = {
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}

CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2_SHAPE,
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "gpt_oss": {
        "sliding_window": 8,
        **MOE,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "mistral": {"sliding_window": 8},
    "cohere2": {"sliding_window": 8},
    "mixtral": MOE,
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 16},
    "qwen3_moe": MOE,
    "phimoe": MOE,
    "granitemoe": MOE,
    "bamba": {**MAMBA2, "attn_layer_indices": [1, 3]},
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4},
    "granitemoehybrid": {**MAMBA2, **TURN_BY_TURN, **MOE, "shared_intermediate_size": 16},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        **MOE,
    },
    "lfm2": LFM2,
    "lfm2_moe": {**LFM2, **MOE, "num_dense_layers": 1},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "mlp", "moe"],
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "olmo_hybrid": {**DELTA_NET, "linear_num_key_heads": 4},
    "qwen3_5_moe_text": {**DELTA_NET, **MOE, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA_NET,
    "qwen3_next": {**DELTA_NET, **MOE, "shared_expert_intermediate_size": 16},
}
OFTEN = [
    *("llama", "qwen3", "gemma2", "gpt_oss", "mixtral"),
    *("falcon_h1", "jamba", "lfm2", "qwen3_5_text"),
]
SELDOM = [
    *("apertus", "arcee", "biogpt", "codegen", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma"),
    *("gemma3_text", "glm", "glm4", "gpt2", "gpt_neox", "granite", "granitemoe", "helium"),
    *("hunyuan_v1_dense", "mistral", "nemotron", "olmo", "olmo2", "opt", "phi", "phi3", "phimoe"),
    *("qwen2", "qwen2_moe", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2", "xglm"),
    # with states beside keys and values, or in their place
    *("bamba", "falcon_mamba", "granitemoehybrid", "lfm2_moe", "mamba", "mamba2", "nemotron_h"),
    *("olmo_hybrid", "qwen3_5_moe_text", "qwen3_next", "zaya"),
]
OUTSIDE = {"biogpt", "codegen", "stablelm", "xglm"}
"""They compute attention by themselves, so they go to the threads engine."""

PROMPTS = [[5, 6, 7], list(range(20, 57)), [9], [*range(20, 50), 3, 2], [100] * 11]
MAX_TOKENS = 12


def make_model(model_type: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SHAPE, **CHANGES.get(model_type, {})})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def make_loaded(model: Any, device: str = "cpu") -> LoadedModel:
    return LoadedModel(
        model_id="tiny",
        model=model,
        tokenizer=cast(Any, MockTokenizer()),
        choice=DeviceChoice(device, "float32", "a test"),
        max_model_len=64,
        vocab_size=SHAPE["vocab_size"],
        stop_token_ids=frozenset(),
    )


def generate(model: Any, prompt: list[int]) -> list[int]:
    inputs = torch.tensor([prompt], device=model.device)
    output = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=MAX_TOKENS, do_sample=False
    )
    return [int(token_id) for token_id in output[0, len(prompt) :]]


@pytest.mark.parametrize(
    "model_type",
    [*OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in SELDOM)],
)
@pytest.mark.filterwarnings("ignore")  # Transformers' own, about tiny configs
def test_greedy_tokens_equal_generate(model_type: str) -> None:
    """4 slots, chunked prefill, prefix reuse and forced preemption, all at once."""
    model = make_model(model_type)
    try:
        checked = check_model(model)
    except UnsupportedModel as reason:
        if model_type not in OUTSIDE:
            raise
        pytest.skip(f"goes to the threads engine: {reason}")
    expected = [generate(model, prompt) for prompt in PROMPTS]
    loaded = make_loaded(model)
    with ThreadPoolExecutor(1) as executor:
        engine = ContinuousEngine(
            loaded,
            executor,
            4,
            num_blocks=16,
            block_size=4,
            max_prefill_tokens=5,
            splits_prompts=checked.splits_prompts,
        )
        running = [
            submit(engine, str(number), prompt, max_tokens=MAX_TOKENS)
            for number, prompt in enumerate(PROMPTS * 2)
        ]
        for prompt_tokens, collected in zip(expected * 2, running, strict=True):
            assert collected.wait() == "length"
            assert collected.token_ids == prompt_tokens
        engine.close()


ON_GPU_OFTEN = ["llama", "qwen3", "gemma2", "gpt_oss", "mixtral"]
ON_GPU_SELDOM = [
    *("cohere2", "exaone4", "gemma3_text", "glm4", "gpt_neox", "granite", "mistral", "olmo2"),
    *("phi3", "phimoe", "qwen2", "qwen3_moe", "smollm3", "starcoder2"),
]


@pytest.mark.parametrize(
    "model_type",
    [*ON_GPU_OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in ON_GPU_SELDOM)],
)
@pytest.mark.filterwarnings("ignore")  # Transformers' own, about tiny configs
def test_greedy_tokens_of_packed_passes_equal_generate(model_type: str) -> None:
    """The same for the engine that packs all tokens of a step into one row."""
    pytest.importorskip("triton")
    from tests.engine.continuous.cuda.engines import DEVICE, kernels_for_tests, make_cuda_engine

    model = make_model(model_type).to(DEVICE)
    expected = [generate(model, prompt) for prompt in PROMPTS]
    with kernels_for_tests(), ThreadPoolExecutor(1) as executor:
        engine = make_cuda_engine(make_loaded(model, DEVICE), executor, 4, num_tokens=128)
        running = [
            submit(engine, str(number), prompt, max_tokens=MAX_TOKENS)
            for number, prompt in enumerate(PROMPTS * 2)
        ]
        for prompt_tokens, collected in zip(expected * 2, running, strict=True):
            assert collected.wait() == "length"
            assert collected.token_ids == prompt_tokens
        engine.close()
