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


def random_model(
    *, seed: int = 0, max_model_len: int = MAX_MODEL_LEN, tokenizer: Any = None
) -> LoadedModel:
    """Return a Llama with random float32 weights over palmita's vocabulary, and a few ids more.

    Another tokenizer, if given, takes the place of palmita's.
    """
    tokenizer = palmita_tokenizer() if tokenizer is None else tokenizer
    vocab_size = len(tokenizer) + NUM_UNUSED_IDS
    model = tiny_llama(
        seed=seed,
        vocab_size=vocab_size,
        num_layers=1,
        max_model_len=max_model_len,
        initializer_range=0.2,
    )
    return LoadedModel(
        model_id="random",
        model=model,
        tokenizer=HFTokenizer(tokenizer),
        choice=DeviceChoice(device="cpu", dtype="float32", reason="a test"),
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        stop_token_ids=frozenset({tokenizer.eos_token_id}),
    )


def random_engine(
    name: str,
    executor: Executor,
    max_running: int,
    *,
    max_model_len: int = MAX_MODEL_LEN,
    tokenizer: Any = None,
) -> Engine:
    """Return an engine of that name around the random model."""
    from palma.engine.continuous.engine import ContinuousEngine
    from palma.engine.threads import ThreadsEngine

    model = random_model(max_model_len=max_model_len, tokenizer=tokenizer)
    if name == "threads":
        return ThreadsEngine(model, executor, max_running)
    return ContinuousEngine(model, executor, max_running, num_blocks=256)
