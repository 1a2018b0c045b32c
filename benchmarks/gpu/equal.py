"""Greedy tokens against Transformers' eager `generate`: tiny models of many architectures."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.streams import Stream, run_all
from benchmarks.gpu.table import Goal
from benchmarks.gpu.workload import Job
from palma.engine import create_engine
from palma.engine.base import Engine
from palma.engine.mock import MockTokenizer
from palma.models.device import select_device
from palma.models.loader import LoadedModel

ALL_GOAL = Goal(1, None, "%")
MAX_MODEL_LEN = 128
NUM_SLOTS = 4
SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": MAX_MODEL_LEN,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "moe_intermediate_size": 32,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 64},  # soft-capping
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 64},
    "gpt_oss": {"sliding_window": 16, **EXPERTS, "rope_parameters": PLAIN_ROPE},  # sinks
    "mixtral": EXPERTS,
    "mistral": {"sliding_window": 16},
    "phi3": {},
    "cohere2": {"sliding_window": 16},
    "olmo2": {},
}
PROMPTS = [[5, 6, 7], list(range(20, 57)), [9], [*range(20, 50), 3, 2], [100] * 11]
NUM_TOKENS = 24


def equal(bench: Bench) -> None:
    """Compare all of them in float32, without tf32."""
    bench.close_engine()
    torch.set_float32_matmul_precision("highest")
    names = list(ARCHITECTURES)[: bench.workload.architectures]
    verdicts = {}
    for name in names:
        try:
            verdicts[name] = _compare(bench, name)
        except Exception as error:  # noqa: BLE001  # the others go on
            verdicts[name] = repr(error)[:200]
        if verdicts[name]:
            bench.say(f"{name}: {verdicts[name]}")
    unequal = [name for name, verdict in verdicts.items() if verdict]
    bench.note(verdicts=verdicts)
    bench.add(
        "greedy tokens equal to eager generate, float32",
        f"{len(names) - len(unequal)} of {len(names)} architectures",
        f"not equal: {', '.join(unequal)}" if unequal else ", ".join(names),
        ratio=1 - len(unequal) / len(names),
        goal=ALL_GOAL,
    )


def _compare(bench: Bench, name: str) -> str:
    """Return what differs; empty when nothing does.

    Every prompt runs twice, and there are more requests than slots: so batches of several
    sizes are decoded, prompts are read beside them, and the second time prefixes are reused.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Transformers' own, about tiny configs
        model = make_tiny(name, bench.device)
        expected = [generate(model, prompt) for prompt in PROMPTS]
    choice = select_device(bench.device_kind, "float32")
    loaded = LoadedModel(
        model_id=name,
        model=model,
        tokenizer=cast(Any, MockTokenizer()),
        choice=choice,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=SHAPE["vocab_size"],
        stop_token_ids=frozenset(),
    )
    settings = bench.settings(
        torch_dtype="float32", threads_max_workers=NUM_SLOTS, compile_layers=False
    )
    with ThreadPoolExecutor(2 * NUM_SLOTS) as executor:
        engine = create_engine(settings, loaded, executor)
        try:
            streams = _decode(engine, bench.left_s)
        finally:
            engine.close()
    if engine.info.engine != "continuous":
        return f"ran on the engine {engine.info.engine}: {engine.info.engine_reason}"
    found = [stream.token_ids for stream in streams]
    for prompt, ours, theirs in zip(PROMPTS * 2, found, expected * 2, strict=True):
        if ours != theirs:
            place = next(
                i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len(set(pair)) > 1
            )
            return f"differs at token {place}: {_margin(model, prompt + theirs[:place])}"
    return ""


def _decode(engine: Engine, patience_s: float) -> list[Stream]:
    return run_all(engine, [Job(prompt, NUM_TOKENS) for prompt in PROMPTS * 2], patience_s)


def make_tiny(name: str, device: torch.device) -> Any:
    """Return a model with eager attention; its weights are drawn on the CPU, the same anywhere."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SHAPE, **ARCHITECTURES[name]})
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval().to(device)


def generate(model: Any, prompt: list[int]) -> list[int]:
    """Return the greedy tokens that Transformers makes."""
    inputs = torch.tensor([prompt], device=model.device)
    output = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=NUM_TOKENS, do_sample=False
    )
    return [int(token_id) for token_id in output[0, len(prompt) :]]


@torch.inference_mode()
def _margin(model: Any, token_ids: list[int]) -> str:
    """Say how far apart the two likeliest next tokens are: near ones may change places."""
    logits = model(torch.tensor([token_ids], device=model.device)).logits[0, -1].float()
    first, second = logits.topk(2).values.tolist()
    return f"the likeliest two are {first - second:.2e} apart, logits spread {logits.std():.2e}"
