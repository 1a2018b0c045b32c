"""Whether packed passes through the GPU's kernels compute what the model computes by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest, TokenDelta
from palma.engine.continuous.cuda.float8_linear import Float8Linear
from palma.engine.continuous.cuda.runner import CudaRunner
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.continuous.self_check import (
    MAX_RELATIVE_ERROR,
    own_logits,
    require_same,
    varied_prompt,
)

BLOCK_SIZE = 16
PROMPT_LENGTHS = (37, 21)
CHUNK_TOKENS = 20

MAX_FLOAT8_ERROR = 0.5
"""Of two ways through float8 layers: several rows are quantized, and a single one is not."""


def check_packed(
    model: Any,
    sample: KVCache,
    prepare: Callable[[], None] | None = None,
    *,
    leniency: float = 1.0,
) -> None:
    """Compare the logits of packed passes with the model's own: chunks, a mixed pass, decode.

    Args:
        model: With its own attention.
        sample: A cache that has seen all of its layers, for their shapes.
        prepare: Called when its own logits are known and the passes can begin.
        leniency: Factor of the error that is allowed.

    Raises:
        UnsupportedModel: They differ.
    """
    prompts = [varied_prompt(length, model) for length in PROMPT_LENGTHS]
    expected = torch.cat([own_logits(model, prompt) for prompt in prompts])
    cache = KVCache.like(sample, 8, BLOCK_SIZE)
    runner = CudaRunner(model, cache, 2, 3)
    try:
        if prepare is not None:
            prepare()
        first, second = (_sequence(prompt, slot) for slot, prompt in enumerate(prompts))
        _advance(runner, first, CHUNK_TOKENS)
        before_last = _advance(runner, first, first.num_uncomputed - 1)
        both = runner.step([first], [Chunk(second, second.num_uncomputed - 1)])
        second.num_computed = len(second.token_ids) - 1
        last = runner.step([second], [])
    finally:
        runner.close()
    found = torch.cat([before_last, both[:1], both[1:], last]).float()
    is_float8 = any(isinstance(module, Float8Linear) for module in model.modules())
    allowed = MAX_FLOAT8_ERROR if is_float8 else leniency * MAX_RELATIVE_ERROR[model.dtype]
    require_same(expected, found, allowed)


def _advance(runner: CudaRunner, sequence: Sequence, num_tokens: int) -> torch.Tensor:
    logits = runner.step([], [Chunk(sequence, num_tokens)])
    sequence.num_computed += num_tokens
    return logits


def _sequence(prompt: list[int], slot: int) -> Sequence:
    """Return a running sequence whose blocks lie apart and in no order."""
    request = EngineRequest(f"self-check-{slot}", prompt, SamplingParams())
    num_blocks = -(-len(prompt) // BLOCK_SIZE)
    block_table = list(range(6 - slot, -1, -2))[:num_blocks]
    return Sequence(request, _ignore, slot, list(prompt), block_table=block_table, state_slot=slot)


def _ignore(_: TokenDelta) -> None:
    pass
