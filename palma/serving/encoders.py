"""The embedding model and the reranking model: loaded in the background, handed out when ready."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from palma.core.config import Settings
from palma.core.errors import ModelLoading, PalmaError, SettingsError, Unavailable
from palma.core.model_card import ModelCard
from palma.engine import create_encoder
from palma.engine.encoders import Encoder
from palma.models.spec import ModelSpec, resolve_spec
from palma.serving.instance import Work

logger = logging.getLogger(__name__)

Purpose = Literal["embedding", "reranking"]
LoadEncoder = Callable[["EncoderPlan", Settings], Encoder]
State = Literal["loading", "ready", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """An encoder that shall be served.

    Attributes:
        purpose: What it is for.
        spec: Where it is.
        names: Names that requests may use.
    """

    purpose: Purpose
    spec: ModelSpec
    names: frozenset[str]


def plan_encoders(settings: Settings) -> list[EncoderPlan]:
    """Return what EMBEDDING_MODEL_ID and RERANK_MODEL_ID ask for; reads no model's files.

    Raises:
        SettingsError: One of them names nothing that could be a model.
    """
    asked: list[tuple[Purpose, str, str | None]] = [
        ("embedding", "EMBEDDING_MODEL_ID", settings.embedding_model_id),
        ("reranking", "RERANK_MODEL_ID", settings.rerank_model_id),
    ]
    return [
        EncoderPlan(purpose, spec, frozenset({spec.model_id, model_id}))
        for purpose, setting, model_id in asked
        if model_id is not None
        for spec in [_spec(settings, setting, model_id)]
    ]


def load_encoder(plan: EncoderPlan, settings: Settings) -> Encoder:
    """Load an encoder; takes seconds to minutes.

    Raises:
        ModelLoadError: The model's files are missing, broken, refused or out of reach.
    """
    return create_encoder(plan.purpose, plan.spec, settings)


class EncoderSlot:
    """An encoder from the server's start to its end. Lives on the event loop.

    Attributes:
        in_flight: Work that has been taken and has not ended.
    """

    def __init__(self, plan: EncoderPlan, settings: Settings, load: LoadEncoder) -> None:
        self.plan = plan
        self.state: State = "loading"
        self.card: ModelCard | None = None
        self.in_flight: set[Work] = set()
        self._settings = settings
        self._load = load
        self._encoder: Encoder | None = None

    @property
    def model_id(self) -> str:
        """The name that answers carry."""
        return self.plan.spec.model_id

    def begin(self, work: Work) -> None:
        """Note work."""
        self.in_flight.add(work)

    def end(self, work: Work) -> None:
        """Note that work has ended."""
        self.in_flight.discard(work)

    def get(self) -> Encoder:
        """Return the encoder.

        Raises:
            ModelLoading: It is not ready yet.
            Unavailable: It could not be loaded, or the server has closed it.
        """
        if self._encoder is not None:
            return self._encoder
        if self.state == "loading":
            raise ModelLoading(f"{self.model_id} is being loaded; try again soon", retry_after_s=5)
        raise Unavailable(f"{self.model_id} is not available")

    async def load(self) -> None:
        """Load it on a daemon thread; the outcome is in `state`, and a failure in the log."""
        try:
            encoder = await self._load_on_thread()
        except PalmaError as error:
            self.state = "failed"
            logger.error("cannot serve %s: %s", self.model_id, error.message)
        except Exception:
            self.state = "failed"
            logger.exception("loading %s failed", self.model_id)
        else:
            self._serve(encoder)

    def close(self) -> None:
        """Free the model; nothing computes with it any more."""
        encoder, self._encoder = self._encoder, None
        self.state = "closed"
        if encoder is not None:
            encoder.close()

    async def _load_on_thread(self) -> Encoder:
        """Load on a daemon thread: a shutdown does not wait for a download to end."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Encoder] = loop.create_future()

        def run() -> None:
            try:
                outcome: Encoder | Exception = self._load(self.plan, self._settings)
            except Exception as error:  # noqa: BLE001  # handed to the event loop, which logs it
                outcome = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, loaded, outcome)

        threading.Thread(target=run, name=f"palma-load-{self.model_id}", daemon=True).start()
        return await loaded

    def _serve(self, encoder: Encoder) -> None:
        info = encoder.info
        self._encoder = encoder
        self.state = "ready"
        self.card = ModelCard(
            model_id=self.model_id,
            created=int(time.time()),
            max_model_len=info.max_input_tokens,
            engine=info.kind,
            device=info.device,
            dtype=info.dtype,
            device_reason=info.device_reason,
            engine_reason=f"it was asked for {self.plan.purpose}",
            embeddings=info.description if self.plan.purpose == "embedding" else "",
        )
        logger.info(
            "%s is ready for %s: %s; at most %d tokens an input. Device %s, %s: %s",
            *(self.model_id, self.plan.purpose, info.description, info.max_input_tokens),
            *(info.device, info.dtype, info.device_reason),
        )


def _spec(settings: Settings, setting: str, model_id: str) -> ModelSpec:
    chosen = settings.model_copy(update={"model_id": model_id, "model_revision": None})
    try:
        return resolve_spec(chosen)
    except SettingsError as error:
        raise SettingsError(error.message.replace("MODEL_ID", setting, 1)) from None


def _settle(loaded: asyncio.Future[Encoder], outcome: Encoder | Exception) -> None:
    if loaded.cancelled():
        return
    if isinstance(outcome, Exception):
        loaded.set_exception(outcome)
    else:
        loaded.set_result(outcome)
