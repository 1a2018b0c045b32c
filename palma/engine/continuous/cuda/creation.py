"""From a loaded model to an engine on the GPU: the check, the warm-up, the size of the cache."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import torch

from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest, TokenDelta
from palma.engine.continuous.cuda.engine import MAX_PREFILL_TOKENS, CudaEngine
from palma.engine.continuous.cuda.float8_linear import require_float8, to_float8
from palma.engine.continuous.cuda.joined_linears import join_linears
from palma.engine.continuous.cuda.one_row_linear import use_one_row_linears, use_plain_linears
from palma.engine.continuous.cuda.packed_check import BLOCK_SIZE, check_packed
from palma.engine.continuous.cuda.paged_attention import MAX_HEAD_DIM
from palma.engine.continuous.cuda.runner import CudaRunner, graph_sizes
from palma.engine.continuous.cuda.step_graphs import (
    MAX_CHUNKS,
    PROMPT_SIZES,
    StepGraphs,
    cuda_graph_class,
)
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.continuous.self_check import UnsupportedModel, varied_prompt
from palma.models.resources import available_bytes

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

logger = logging.getLogger(__name__)

MAX_SHARE_OF_FREE_MEMORY = 0.92
"""After the model, and what the largest step needs beside it."""


def create_cuda_engine(
    settings: Settings, loaded: LoadedModel, executor: Executor, sample: KVCache
) -> CudaEngine:
    """Check the model on the GPU's own path, warm up, and give the rest of the memory to the cache.

    Args:
        settings: `threads_max_workers` bounds the running sequences.
        loaded: On a GPU.
        executor: Where the step loop runs.
        sample: A cache that has seen all layers, for their shapes.

    Raises:
        SettingsError: There is no memory for KV_CACHE_TOKENS, or this GPU has no float8.
        UnsupportedModel: The kernels would not compute the model rightly, or nothing fits.
    """
    started = time.monotonic()
    model, num_slots = loaded.model, settings.threads_max_workers
    require_kernels(sample)
    try:
        _prepare_layers(model, sample, is_float8=settings.weights == "float8")
        peak_bytes = _warm_up(model, sample, loaded.max_model_len, num_slots)
    except SettingsError:
        raise
    except UnsupportedModel:
        use_plain_linears(model)
        raise
    except Exception as error:  # a GPU that Triton's kernels are too large for, for example
        logger.exception("the GPU's own kernels failed")
        use_plain_linears(model)
        raise UnsupportedModel(f"the kernels failed: {type(error).__name__}") from error
    num_blocks = _num_blocks(settings, loaded, sample, peak_bytes)
    cache = KVCache.like(sample, num_blocks + 1, BLOCK_SIZE)
    max_blocks = min(num_blocks, -(-loaded.max_model_len // BLOCK_SIZE))
    runner = CudaRunner(model, cache, num_slots, max_blocks)
    graphs = StepGraphs(
        runner,
        num_slots,
        min(MAX_PREFILL_TOKENS, loaded.max_model_len),
        cuda_graph_class(model.device),
    )
    graphs.capture()
    took_s = time.monotonic() - started
    logger.info(
        "KV cache of %d tokens (%.1f GB); checked and warmed up in %.1f s",
        num_blocks * BLOCK_SIZE,
        num_blocks * BLOCK_SIZE * cache.bytes_per_token / 1e9,
        took_s,
    )
    return CudaEngine(
        loaded,
        executor,
        num_slots,
        runner=runner,
        graphs=graphs,
        sample=sample,
        compiles_layers=settings.compile_layers and model.device.type == "cuda",
    )


def _prepare_layers(model: Any, sample: KVCache, *, is_float8: bool) -> None:
    """Give the model its fast layers, and compare what it then computes with what it did.

    Float8 layers come after the check, each having been compared with the one it replaces: in a
    deep model their rounding adds up to more than a wrong layer would show.
    """

    def join() -> None:
        join_linears(model)
        if not is_float8:
            use_one_row_linears(model)

    if is_float8:
        require_float8(model.device)
    check_packed(model, sample, join)
    if is_float8:
        to_float8(model, device=model.device)
        torch.cuda.empty_cache()
        use_one_row_linears(model)


def require_kernels(sample: KVCache) -> None:
    """Refuse layers that the kernels do not take.

    Raises:
        UnsupportedModel: With the reason.
    """
    widest = max((t.shape[2] for layer in sample.layers.values() for t in layer), default=0)
    if not 0 < widest <= MAX_HEAD_DIM:
        raise UnsupportedModel(f"its heads have {widest} dimensions; the kernels take 1 to 256")


def _warm_up(model: Any, sample: KVCache, max_model_len: int, num_slots: int) -> int:
    """Run the largest passes once; return the most bytes that one took beside its inputs."""
    num_tokens = min(MAX_PREFILL_TOKENS, max_model_len)
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    runner = CudaRunner(
        model, KVCache.like(sample, num_blocks + 1, BLOCK_SIZE), num_slots, num_blocks
    )
    on_gpu = model.device.type == "cuda"
    try:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        prompt = varied_prompt(num_tokens, model)
        request = EngineRequest("warm-up", prompt, SamplingParams())
        table = list(range(num_blocks))
        sequence = Sequence(request, _ignore, 0, prompt, block_table=table, state_slot=0)
        runner.step([], [Chunk(sequence, num_tokens)])
        del sequence
        peak_bytes = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    finally:
        runner.close()
    if on_gpu:
        torch.cuda.empty_cache()
    sizes = graph_sizes(num_slots)  # each graph keeps its logits
    rows = sum(sizes) + len(PROMPT_SIZES) * (3 * sizes[-1] + 3 * MAX_CHUNKS)
    bytes_per_row: int = model.get_input_embeddings().num_embeddings * model.dtype.itemsize
    return int(1.2 * peak_bytes) + rows * bytes_per_row


def _num_blocks(settings: Settings, loaded: LoadedModel, sample: KVCache, peak_bytes: int) -> int:
    """Return the blocks that every running sequence wants at its full window, or that fit."""
    num_wanted = settings.threads_max_workers * -(-loaded.max_model_len // BLOCK_SIZE)
    free = int(available_bytes(loaded.choice.device) * MAX_SHARE_OF_FREE_MEMORY) - peak_bytes
    num_possible = max(0, free // (sample.bytes_per_token * BLOCK_SIZE) - 1)
    if settings.kv_cache_tokens is not None:
        num_wanted = -(-settings.kv_cache_tokens // BLOCK_SIZE)
        if num_wanted > num_possible:
            raise SettingsError(
                f"KV_CACHE_TOKENS={settings.kv_cache_tokens}: there is memory for "
                f"{num_possible * BLOCK_SIZE} tokens"
            )
    if min(num_wanted, num_possible) < 1:
        raise UnsupportedModel("there is no memory for its KV cache")
    return min(num_wanted, num_possible)


def _ignore(_: TokenDelta) -> None:
    pass
