"""Small models with palmita's tokenizer, for answers whose form is given."""

from __future__ import annotations

import functools
from concurrent.futures import Executor
from typing import Any

from palma.engine.base import Engine
from palma.models.bundled import bundled_model_path
from palma.models.device import DeviceChoice
from palma.models.loader import LoadedModel
from palma.models.tokenizer import HFTokenizer

MAX_MODEL_LEN = 512
NUM_UNUSED_IDS = 13
"""Rows of the embedding beyond the tokenizer's vocabulary, as many real models have them."""


@functools.cache
def palmita_tokenizer() -> Any:
    """Return palmita's own tokenizer, a byte-level one of some thousand tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model_path())


def random_model(*, seed: int = 0) -> LoadedModel:
    """Return a Llama with random float32 weights over palmita's vocabulary, and a few ids more."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = palmita_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + NUM_UNUSED_IDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_MODEL_LEN,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    return LoadedModel(
        model_id="random",
        model=model,
        tokenizer=HFTokenizer(tokenizer),
        choice=DeviceChoice(device="cpu", dtype="float32", reason="a test"),
        max_model_len=MAX_MODEL_LEN,
        vocab_size=config.vocab_size,
        stop_token_ids=frozenset({tokenizer.eos_token_id}),
    )


def random_engine(name: str, executor: Executor, max_running: int) -> Engine:
    """Return an engine of that name around the random model."""
    from palma.engine.continuous.engine import ContinuousEngine
    from palma.engine.threads import ThreadsEngine

    if name == "threads":
        return ThreadsEngine(random_model(), executor, max_running)
    return ContinuousEngine(random_model(), executor, max_running, num_blocks=256)
