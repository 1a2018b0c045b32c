"""Floor 2: token ids in, token ids out. No roles, templates, JSON or HTTP."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import TYPE_CHECKING

from palma.core.config import Settings
from palma.engine.base import Engine

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

__all__ = ["Engine", "create_engine"]


def create_engine(settings: Settings, loaded: LoadedModel | None, executor: Executor) -> Engine:
    """Build the engine that the settings name around a loaded model.

    Engines are imported here and not above: a process that serves the mock never imports torch.

    Args:
        settings: `engine` picks the class, `threads_max_workers` bounds the running sequences.
        loaded: The model; None only for the mock engine.
        executor: Where sequences run; needs a thread for each running sequence.
    """
    if settings.engine == "mock":
        from palma.engine.mock import MockEngine

        return MockEngine(executor, settings.threads_max_workers, settings.max_model_len)
    from palma.engine.threads import ThreadsEngine

    assert loaded is not None, "only the mock engine runs without a model"
    return ThreadsEngine(loaded, executor, settings.threads_max_workers)
