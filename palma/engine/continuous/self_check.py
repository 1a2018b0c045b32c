"""Whether a model computes the same through this engine as by itself; asked once, at load.

Models that bypass the attention interface, or need more than positions and keys, would not
fail: they would answer wrongly. So some are known to be outside, and every other one must show
its logits first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest, TokenDelta
from palma.engine.continuous.cpu_kernel import DecodeKernel, PanelLinear
from palma.engine.continuous.cpu_kernel.decoder import StepDecoder
from palma.engine.continuous.hybrid_cache import (
    MIXED_LAYER_TYPES,
    PLAIN_LAYER_TYPES,
    STATE_LAYER_TYPES,
    StatePool,
    attention_layers,
    cache_argument,
    has_states,
    layer_types,
)
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.runner import Runner
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.continuous.score_rules import ScoreRules

BLOCK_SIZE = 4
PROMPT_LENGTHS = (11, 6)
CHUNK_TOKENS = 4
NUM_BLOCKS = 8

UNSUPPORTED_ROPE_TYPES = frozenset({"dynamic", "longrope"})
"""Their rotation depends on the longest position in the batch."""

SUPPORTED_LAYER_TYPES = (
    frozenset({"full_attention", "sliding_attention", "attention"})
    | STATE_LAYER_TYPES
    | MIXED_LAYER_TYPES
    | PLAIN_LAYER_TYPES
)

MAX_RELATIVE_ERROR = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Of the logits, against their spread. Right is about 1e-6 in float32, wrong is about 1."""


MAX_INT8_ERROR = 0.25
"""Of two ways through int8 layers: each quantizes activations that the other rounded otherwise."""


DISTURBANCE = -1e3
"""Whoever reads a state that was multiplied by this computes something else."""


class UnsupportedModel(Exception):
    """This engine would not compute the model rightly; the message says why."""


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """What the check has learned about a model that this engine computes rightly.

    Attributes:
        kv_cache: A small one that has seen all of its layers.
        bytes_per_sequence: Its states in all layers.
        splits_prompts: Whether a prompt may be computed in several passes. Mamba's code begins
            a pass of more than one token without the recurrent state.
    """

    kv_cache: KVCache
    bytes_per_sequence: int = 0
    splits_prompts: bool = True

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        return self.kv_cache.bytes_per_token


def require_supported(model: Any) -> None:
    """Refuse models that are known to be outside, before anything is computed.

    Raises:
        UnsupportedModel: With the reason.
    """
    config = model.config.get_text_config()
    if not has_states(model) and not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModel(f"{config.model_type} does not use the attention interface")
    rope_type = _rope_types(config) & UNSUPPORTED_ROPE_TYPES
    if rope_type:
        raise UnsupportedModel(f"rope type {rope_type.pop()} depends on the whole batch")
    unknown = set(layer_types(model)) - SUPPORTED_LAYER_TYPES
    if unknown:
        raise UnsupportedModel(f"it has layers of type {', '.join(sorted(unknown))}")


def check_model(model: Any) -> CheckedModel:
    """Compare the engine's logits with the model's own: prefill in chunks, decode in a batch.

    Raises:
        UnsupportedModel: They differ, or attention was not called once for each of its layers.
    """
    require_supported(model)
    prompts = [varied_prompt(length, model) for length in PROMPT_LENGTHS]
    try:
        expected = [own_logits(model, prompt) for prompt in prompts]
        if not has_states(model):
            return _check(model, prompts, expected, CHUNK_TOKENS)
        if _reads_recurrent_states(model, prompts[0]):
            with contextlib.suppress(UnsupportedModel):
                return _check(model, prompts, expected, CHUNK_TOKENS)
        return _check(model, prompts, expected, max(PROMPT_LENGTHS))
    except UnsupportedModel:
        raise
    except Exception as error:
        raise UnsupportedModel(f"its forward pass failed: {type(error).__name__}") from error


def _check(
    model: Any, prompts: list[list[int]], expected: list[torch.Tensor], chunk_tokens: int
) -> CheckedModel:
    runner = _runner(model)
    try:
        actual = _engine_logits(runner, prompts, chunk_tokens, attention_layers(model))
    finally:
        runner.close()
    pool = runner.state_pool
    if pool is not None and not pool.has_all_layers:
        raise UnsupportedModel("some of its layers keep their states to themselves")
    for own, ours in zip(expected, actual, strict=True):
        require_same(own, ours, MAX_RELATIVE_ERROR[model.dtype])
    return CheckedModel(
        kv_cache=runner.kv_cache,
        bytes_per_sequence=0 if pool is None else pool.bytes_per_slot,
        splits_prompts=chunk_tokens == CHUNK_TOKENS,
    )


def _runner(model: Any) -> Runner:
    pool = StatePool(model, len(PROMPT_LENGTHS)) if has_states(model) else None
    return Runner(model, KVCache(NUM_BLOCKS, BLOCK_SIZE), pool)


@torch.inference_mode()
def _reads_recurrent_states(model: Any, prompt: list[int]) -> bool:
    """Whether the second chunk of a prompt goes on from the first one's recurrent states.

    In two slots the same prompt is begun. Then the states of one are spoilt: logits alone might
    not tell, since what a short prompt leaves in a state weighs little in low precision.
    """
    runner = _runner(model)
    assert runner.state_pool is not None
    try:
        sequences = [_sequence(prompt, number) for number in range(2)]
        for sequence in sequences:
            runner.prefill(Chunk(sequence, CHUNK_TOKENS))
            sequence.num_computed = CHUNK_TOKENS
        states = runner.state_pool.recurrent_states(1)
        for state in states:
            state.mul_(DISTURBANCE)
        whole, spoilt = (runner.prefill(Chunk(s, CHUNK_TOKENS)) for s in sequences)
    finally:
        runner.close()
    return not states or _differs(whole, spoilt, MAX_RELATIVE_ERROR[model.dtype])


def check_step_decoder(model: Any, kernel: DecodeKernel) -> Mapping[int, ScoreRules]:
    """Compare the kernel's logits with those of the model's own layers, packed as they are.

    Returns:
        The rules of the scores, by layer, as the model's own code asked for them.

    Raises:
        UnsupportedModel: They differ.
        UnknownModel: It does not know some part of the model.
    """
    prompts = [varied_prompt(length, model) for length in PROMPT_LENGTHS]
    sequences = [_sequence(prompt, number) for number, prompt in enumerate(prompts)]
    runner = Runner(model, KVCache(NUM_BLOCKS, BLOCK_SIZE))
    own = [_prefill(runner, sequence) for sequence in sequences]
    own += runner.decode(sequences)
    rules = runner.context.rules
    is_int8 = any(isinstance(m, PanelLinear) and m.is_int8 for m in model.modules())
    allowed = MAX_INT8_ERROR if is_int8 else MAX_RELATIVE_ERROR[model.dtype]
    require_same(torch.stack(own), _step_logits(model, kernel, prompts, rules), allowed)
    return rules


def _step_logits(
    model: Any, kernel: DecodeKernel, prompts: list[list[int]], rules: Mapping[int, ScoreRules]
) -> torch.Tensor:
    """Return the same as one runs: each prompt but its last token, then all last ones.

    The second prompt is read beside the first one's last token.
    """
    kv_cache = KVCache(NUM_BLOCKS, BLOCK_SIZE)
    runner = Runner(model, kv_cache)
    runner.use_step_decoder(StepDecoder(model, kernel, kv_cache, rules))
    first, second = (_sequence(prompt, number) for number, prompt in enumerate(prompts))
    logits = runner.step([], [Chunk(first, CHUNK_TOKENS)])
    first.num_computed = CHUNK_TOKENS
    logits = runner.step([], [Chunk(first, first.num_uncomputed - 1)])
    first.num_computed = len(first.token_ids) - 1
    both = runner.step([first], [Chunk(second, second.num_uncomputed - 1)])
    second.num_computed = len(second.token_ids) - 1
    last = runner.step([second], [])
    return torch.cat([logits, both[1:], both[:1], last])


def require_same(own: torch.Tensor, ours: torch.Tensor, allowed: float) -> None:
    """Refuse a model whose logits differ.

    Args:
        own: The model's own logits, of any shape.
        ours: The same through an engine.
        allowed: Largest difference, against the spread of its own.

    Raises:
        UnsupportedModel: They differ by more.
    """
    if _differs(own, ours, allowed):
        difference, spread = _difference(own, ours)
        raise UnsupportedModel(
            f"its logits differ by {difference:.2g} (of {spread:.2g}) from its own"
        )


def _differs(own: torch.Tensor, ours: torch.Tensor, allowed: float) -> bool:
    difference, spread = _difference(own, ours)
    return not difference <= allowed * max(spread, 1e-6)  # true of NaN, too


def _difference(own: torch.Tensor, ours: torch.Tensor) -> tuple[float, float]:
    """Return the largest difference of logits, and the own ones' spread."""
    return float((own - ours).abs().max()), float((own - own.mean()).abs().max())


def _rope_types(config: Any) -> set[str]:
    """Return the rope types of a config; Gemma 3 and others have one for each layer type."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(entry.get("rope_type")) for entry in [parameters, *nested]}


def varied_prompt(length: int, model: Any) -> list[int]:
    """Return token ids of the model's vocabulary, neighbours being different."""
    vocab_size = model.get_input_embeddings().num_embeddings
    return [(7 * length + 13 * i + 3) % vocab_size for i in range(length)]


@torch.inference_mode()
def own_logits(model: Any, prompt: list[int]) -> torch.Tensor:
    """Return the logits (2, vocab_size) after all but the last token, and after the last."""
    token_ids = torch.tensor([prompt], device=model.device)
    if not has_states(model):
        logits: torch.Tensor = model(input_ids=token_ids, use_cache=False).logits[0, -2:]
        return logits.float()
    arguments = {cache_argument(model): DynamicCache(config=model.config), "use_cache": True}
    positions = torch.arange(len(prompt), device=model.device)[None]
    found = []
    for part in (slice(-1), slice(-1, None)):  # states round otherwise in a step of one token
        output = model(input_ids=token_ids[:, part], position_ids=positions[:, part], **arguments)
        found.append(output.logits[0, -1:].float())
    return torch.cat(found)


def _engine_logits(
    runner: Runner, prompts: list[list[int]], chunk_tokens: int, layers: list[int]
) -> list[torch.Tensor]:
    """Return the same through the engine: all but the last in chunks, the last in a batch."""
    sequences = [_sequence(prompt, number) for number, prompt in enumerate(prompts)]
    logits = []
    for sequence in sequences:
        logits.append([_prefill(runner, sequence, chunk_tokens)])
        _require_one_call_a_layer(runner, layers)
    decoded = runner.decode(sequences)
    _require_one_call_a_layer(runner, layers)
    for row, found in enumerate(logits):
        found.append(decoded[row])
    return [torch.stack(found) for found in logits]


def _sequence(prompt: list[int], number: int) -> Sequence:
    """Return a sequence whose blocks lie apart, so that a wrong order cannot go unseen."""
    request = EngineRequest(f"self-check-{number}", prompt, SamplingParams())
    num_blocks = -(-len(prompt) // BLOCK_SIZE)
    block_table = list(range(NUM_BLOCKS - 1 - number, -1, -2))[:num_blocks]
    return Sequence(
        request, _ignore, number, list(prompt), block_table=block_table, state_slot=number
    )


def _prefill(runner: Runner, sequence: Sequence, chunk_tokens: int = CHUNK_TOKENS) -> torch.Tensor:
    logits = torch.empty(1, 0)
    while sequence.num_uncomputed > 1:
        chunk = Chunk(sequence, min(chunk_tokens, sequence.num_uncomputed - 1))
        logits = runner.prefill(chunk)
        sequence.num_computed += chunk.num_tokens
    return logits[-1]


def _require_one_call_a_layer(runner: Runner, layers: list[int]) -> None:
    if runner.context.num_calls != dict.fromkeys(layers, 1):
        called = sum(runner.context.num_calls.values())
        raise UnsupportedModel(f"attention was called {called} times in {len(layers)} layers")


def _ignore(_: TokenDelta) -> None:
    pass
