"""Floor 2: token ids in, token ids out. No roles, templates, JSON or HTTP."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.engine.base import Engine

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

__all__ = ["Engine", "create_engine"]

logger = logging.getLogger(__name__)


def create_engine(settings: Settings, loaded: LoadedModel | None, executor: Executor) -> Engine:
    """Build the engine that the settings name around a loaded model.

    Engines are imported here and not above: a process that serves the mock never imports torch.

    Args:
        settings: `engine` picks the class, `threads_max_workers` bounds the running sequences.
        loaded: The model; None only for the mock engine.
        executor: Where sequences run; needs a thread for each running sequence and one more.

    Raises:
        SettingsError: A setting cannot be used with this model on this device.
    """
    if settings.engine == "mock":
        from palma.engine.mock import MockEngine

        return MockEngine(executor, settings.threads_max_workers, settings.max_model_len)
    assert loaded is not None, "only the mock engine runs without a model"
    if settings.weights == "int8" and loaded.choice.device != "cpu":
        raise SettingsError(f"WEIGHTS=int8 is for the CPU; this model is on {loaded.choice.device}")
    if settings.engine == "threads":
        return _threads_engine(settings, loaded, executor, "it was asked for")
    from palma.engine.continuous import UnsupportedModel, create_continuous_engine

    try:
        return create_continuous_engine(settings, loaded, executor)
    except UnsupportedModel as reason:
        logger.warning("%s runs on the threads engine: %s", loaded.model_id, reason)
        return _threads_engine(settings, loaded, executor, f"not continuous because {reason}")


def _threads_engine(
    settings: Settings, loaded: LoadedModel, executor: Executor, reason: str
) -> Engine:
    from palma.engine.continuous.packed_linear import pack_linears
    from palma.engine.threads import ThreadsEngine

    if settings.weights == "int8":
        logger.info(pack_linears(loaded.model, "int8").summary)
    return ThreadsEngine(loaded, executor, settings.threads_max_workers, engine_reason=reason)
