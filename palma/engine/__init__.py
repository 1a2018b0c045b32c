"""Floor 2: token ids in, token ids out. No roles, templates, JSON or HTTP."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.engine.base import Engine
from palma.engine.encoders import Encoder
from palma.models.spec import ModelSpec

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

__all__ = ["Engine", "create_encoder", "create_engine", "foresee_engine"]

logger = logging.getLogger(__name__)


def create_engine(settings: Settings, loaded: LoadedModel | None, executor: Executor) -> Engine:
    """Build the engine that the settings name around a loaded model.

    Engines are imported here and not above: a process that serves the mock never imports torch.

    Args:
        settings: `engine` picks the class, `threads_max_workers` bounds the running sequences.
        loaded: The model; None only for the mock engine.
        executor: Where sequences run; needs a thread for each running sequence.

    Raises:
        SettingsError: A setting cannot be used with this model on this device.
    """
    if settings.kv_cache_tokens is not None and settings.engine != "continuous":
        raise SettingsError(
            f"KV_CACHE_TOKENS={settings.kv_cache_tokens}: only ENGINE=continuous has such a cache"
        )
    if settings.engine == "mock":
        from palma.engine.mock import MockEngine

        return MockEngine(executor, settings.threads_max_workers, settings.max_model_len)
    assert loaded is not None, "only the mock engine runs without a model"
    _require_weights(settings, loaded.choice.device)
    if settings.engine == "threads":
        return _threads_engine(settings, loaded, executor, "it was asked for")
    from palma.engine.continuous import UnsupportedModel, create_continuous_engine

    try:
        return create_continuous_engine(settings, loaded, executor)
    except UnsupportedModel as reason:
        if settings.kv_cache_tokens is not None:
            raise SettingsError(
                f"KV_CACHE_TOKENS={settings.kv_cache_tokens}: {loaded.model_id} runs on the "
                f"threads engine, which has no such cache: {reason}"
            ) from None
        if settings.weights == "float8":
            raise SettingsError(
                f"WEIGHTS=float8: {loaded.model_id} runs on the threads engine, which does not "
                f"compute with it: {reason}"
            ) from None
        logger.warning("%s runs on the threads engine: %s", loaded.model_id, reason)
        return _threads_engine(settings, loaded, executor, f"not continuous because {reason}")


def _require_weights(settings: Settings, device: str) -> None:
    """Refuse a format of weights that nothing would compute with."""
    if settings.weights == "int8" and device != "cpu":
        raise SettingsError(f"WEIGHTS=int8 is for the CPU; this model is on {device}")
    if settings.weights == "float8" and not device.startswith("cuda"):
        raise SettingsError(f"WEIGHTS=float8 is for NVIDIA GPUs; this model is on {device}")
    if settings.weights == "float8" and settings.engine != "continuous":
        raise SettingsError("WEIGHTS=float8: only ENGINE=continuous computes with it")


def create_encoder(
    purpose: Literal["embedding", "reranking"], spec: ModelSpec, settings: Settings
) -> Encoder:
    """Load a model that embeds texts, or ranks them; takes seconds to minutes.

    Raises:
        ModelLoadError: Its files are missing, broken, refused or out of reach.
        SettingsError: The device asked for is not there.
    """
    if settings.engine == "mock":
        from palma.engine.mock_encoders import MockEncoder

        return MockEncoder("embedder" if purpose == "embedding" else "cross-encoder")
    if purpose == "embedding":
        from palma.engine.embedder import Embedder
        from palma.models.encoder_loader import load_embedder

        return Embedder(load_embedder(spec, settings))
    from palma.engine.cross_encoder import CrossEncoder
    from palma.models.encoder_loader import load_cross_encoder

    return CrossEncoder(load_cross_encoder(spec, settings))


def foresee_engine(settings: Settings, folder: Path) -> tuple[str, str]:
    """Say which engine would run a model, and why, without reading its weights; imports torch.

    Args:
        settings: As `create_engine` gets them.
        folder: Has at least the model's config.json.

    Raises:
        ModelLoadError: It is no causal language model, or its config is broken.
    """
    if settings.engine != "continuous":
        return settings.engine, "it was asked for"
    from palma.engine.continuous.self_check import UnsupportedModel, require_supported
    from palma.models.loader import load_blueprint

    try:
        require_supported(load_blueprint(folder, settings))
    except UnsupportedModel as reason:
        return "threads", f"not continuous because {reason}"
    return "continuous", "it computes layers of these kinds; loading compares the results too"


def _threads_engine(
    settings: Settings, loaded: LoadedModel, executor: Executor, reason: str
) -> Engine:
    from palma.engine.continuous.packed_linear import pack_linears
    from palma.engine.threads import ThreadsEngine

    if settings.weights == "int8":
        logger.info(pack_linears(loaded.model, "int8").summary)
    return ThreadsEngine(loaded, executor, settings.threads_max_workers, engine_reason=reason)
