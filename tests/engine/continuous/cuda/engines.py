"""The engine for GPUs as tests make it: on a GPU where there is one, else in the interpreter."""

from __future__ import annotations

from concurrent.futures import Executor

from palma.core.config import Settings
from palma.engine.continuous.cuda.creation import create_cuda_engine
from palma.engine.continuous.cuda.engine import CudaEngine
from palma.engine.continuous.self_check import check_model
from palma.models.loader import LoadedModel
from tests.engine.continuous.cuda.conftest import HAS_GPU

DEVICE = "cuda:0" if HAS_GPU else "cpu"


def make_cuda_engine(
    loaded: LoadedModel, executor: Executor, max_running: int, *, num_tokens: int = 512
) -> CudaEngine:
    """Return an engine with a cache of so many tokens."""
    settings = Settings(threads_max_workers=max_running, kv_cache_tokens=num_tokens)
    sample = check_model(loaded.model).kv_cache
    return create_cuda_engine(settings, loaded, executor, sample)
