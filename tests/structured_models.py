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
from tests.tiny_models import tiny_llama

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
    tokenizer = palmita_tokenizer()
    vocab_size = len(tokenizer) + NUM_UNUSED_IDS
    model = tiny_llama(
        seed=seed,
        vocab_size=vocab_size,
        num_layers=1,
        max_model_len=MAX_MODEL_LEN,
        initializer_range=0.2,
    )
    return LoadedModel(
        model_id="random",
        model=model,
        tokenizer=HFTokenizer(tokenizer),
        choice=DeviceChoice(device="cpu", dtype="float32", reason="a test"),
        max_model_len=MAX_MODEL_LEN,
        vocab_size=vocab_size,
        stop_token_ids=frozenset({tokenizer.eos_token_id}),
    )


def random_engine(name: str, executor: Executor, max_running: int) -> Engine:
    """Return an engine of that name around the random model."""
    from palma.engine.continuous.engine import ContinuousEngine
    from palma.engine.threads import ThreadsEngine

    if name == "threads":
        return ThreadsEngine(random_model(), executor, max_running)
    return ContinuousEngine(random_model(), executor, max_running, num_blocks=256)
