"""Continuous batching: all running sequences share each forward pass."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.engine.continuous.cpu_kernel import find_kernel
from palma.engine.continuous.cpu_kernel.decoder import is_known
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.continuous.packed_linear import WeightFormat, pack_linears
from palma.engine.continuous.self_check import CheckedModel, UnsupportedModel, check_model
from palma.models.resources import available_bytes

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

__all__ = ["ContinuousEngine", "UnsupportedModel", "create_continuous_engine"]

logger = logging.getLogger(__name__)

BLOCK_SIZE = 16
MAX_SHARE_OF_FREE_MEMORY = {"cuda": 0.85, "cpu": 0.25, "mps": 0.25}
"""By kind of device: a GPU has nothing better to do, a computer has."""


def create_continuous_engine(
    settings: Settings, loaded: LoadedModel, executor: Executor
) -> ContinuousEngine:
    """Check the model, pack its layers, and size the KV cache by what a token costs.

    The cache holds every running sequence at its full window where memory allows; together with
    the states that some layers keep for each sequence it never takes more than a share of what
    is free now. KV_CACHE_TOKENS asks for a size of its own.

    Raises:
        SettingsError: There is no memory for KV_CACHE_TOKENS.
        UnsupportedModel: This engine would not compute the model rightly, or not even one
            window of it fits.
    """
    checked = check_model(loaded.model)
    if loaded.choice.device.startswith("cuda"):
        engine = _create_with_kernels(settings, loaded, executor, checked)
        if engine is not None:
            return engine
    weights: WeightFormat = "int8" if settings.weights == "int8" else "as_loaded"
    is_on_cpu = loaded.choice.device == "cpu"
    kernel = find_kernel() if is_on_cpu and settings.cpu_kernel else None
    if is_on_cpu:
        report = pack_linears(
            loaded.model,
            weights,
            join_siblings=True,
            kernel=kernel,
            keeps_small=kernel is None or not is_known(loaded.model),
        )
        logger.info(report.summary)
    num_blocks = _num_blocks(settings, loaded, checked)
    return ContinuousEngine(
        loaded,
        executor,
        settings.threads_max_workers,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        kernel=kernel,
        builds_kernel=is_on_cpu and settings.cpu_kernel and kernel is None,
        weights=weights,
        splits_prompts=checked.splits_prompts,
    )


def _create_with_kernels(
    settings: Settings, loaded: LoadedModel, executor: Executor, checked: CheckedModel
) -> ContinuousEngine | None:
    """Return an engine on the GPU's own kernels, or None where they cannot serve this model."""
    if checked.bytes_per_sequence or not checked.splits_prompts:
        reason = "some of its layers keep states"
    else:
        try:
            from palma.engine.continuous.cuda.creation import create_cuda_engine

            return create_cuda_engine(settings, loaded, executor, checked.kv_cache)
        except ModuleNotFoundError as error:  # of Triton, which not every platform has
            reason = str(error)
        except UnsupportedModel as error:
            reason = str(error)
    if settings.weights == "float8":
        raise UnsupportedModel(f"the GPU's own kernels cannot serve it: {reason}")
    logger.warning("%s runs without the GPU's own kernels: %s", loaded.model_id, reason)
    return None


def _num_blocks(settings: Settings, loaded: LoadedModel, checked: CheckedModel) -> int:
    """Return the blocks that every running sequence wants at its full window, or that fit."""
    num_wanted = settings.threads_max_workers * -(-loaded.max_model_len // BLOCK_SIZE)
    kind = loaded.choice.device.partition(":")[0]
    budget = int(available_bytes(loaded.choice.device) * MAX_SHARE_OF_FREE_MEMORY[kind])
    num_possible = _num_possible_blocks(checked, budget, settings.threads_max_workers)
    if settings.kv_cache_tokens is not None:
        num_wanted = -(-settings.kv_cache_tokens // BLOCK_SIZE)
        if num_wanted > num_possible:
            raise SettingsError(
                f"KV_CACHE_TOKENS={settings.kv_cache_tokens}: there is memory for "
                f"{num_possible * BLOCK_SIZE} tokens"
            )
    num_blocks = min(num_wanted, num_possible)
    if num_blocks < 1:
        raise UnsupportedModel("there is no memory for its KV cache")
    return num_blocks


def _num_possible_blocks(checked: CheckedModel, budget: int, max_running: int) -> int:
    """Return how many blocks fit into a budget of bytes beside the states.

    A pass computes on copies of the states, so there is room for each twice. A model without
    attention has blocks that count tokens and hold nothing.
    """
    budget = max(0, budget - 2 * max_running * checked.bytes_per_sequence)
    bytes_per_block = checked.bytes_per_token * BLOCK_SIZE
    return budget // bytes_per_block if bytes_per_block else budget
