"""Model id to running engine: what is loading, what is ready, what failed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from palma.core.config import Settings
from palma.core.errors import InvalidRequest, ModelLoading, ModelNotFound, PalmaError, Unavailable
from palma.core.types import ModelCard
from palma.engine import create_engine
from palma.engine.base import Engine, EngineStats
from palma.models.loader import load_model
from palma.models.spec import is_model_name, resolve_spec

logger = logging.getLogger(__name__)

LoadEngine = Callable[[Settings, Executor], Engine]
State = Literal["loading", "ready", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers requests now."""

    card: ModelCard
    engine: Engine


def load_engine(settings: Settings, executor: Executor) -> Engine:
    """Load the model that the settings name and start its engine; takes seconds to minutes.

    Raises:
        ModelLoadError: The model's files are missing, broken, refused or out of reach.
    """
    if settings.engine == "mock":
        return create_engine(settings, None, executor)
    return create_engine(settings, load_model(resolve_spec(settings), settings), executor)


def served_model_id(settings: Settings) -> str:
    """Return the name that requests use; reads no file of the model and imports no torch.

    Raises:
        SettingsError: MODEL_ID names nothing that could be a model.
    """
    return "mock" if settings.engine == "mock" else resolve_spec(settings).model_id


class ModelRegistry:
    """Loads the configured model in the background and hands it out when it is ready.

    Everything but the loading itself happens on the event loop.
    """

    def __init__(
        self, settings: Settings, model_id: str, executor: Executor, load: LoadEngine
    ) -> None:
        self.state: State = "loading"
        self.failure: PalmaError | None = None
        self.model_id = model_id
        self._names = {model_id, settings.model_id or model_id}
        self._settings = settings
        self._executor = executor
        self._load = load
        self._served: ServedModel | None = None

    async def load(self) -> None:
        """Load the model on a thread of its own; the outcome is in `state` and `failure`.

        The thread is a daemon: a shutdown does not wait for a download to end.
        """
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Engine] = loop.create_future()

        def run() -> None:
            try:
                outcome: Engine | Exception = self._load(self._settings, self._executor)
            except Exception as error:  # noqa: BLE001  # handed to the event loop, which logs it
                outcome = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, loaded, outcome)

        threading.Thread(target=run, name="palma-load", daemon=True).start()
        try:
            self._serve(await loaded)
        except PalmaError as error:
            self._fail(error)
        except Exception:
            logger.exception("loading %s failed", self.model_id)
            self._fail(Unavailable("the model could not be loaded; the log says why"))

    def get(self, name: str | None) -> ServedModel:
        """Return the model of that name; None asks for the default one.

        Raises:
            InvalidRequest: No model can have such a name.
            ModelNotFound: No model of that name is served here.
            ModelLoading: It is, but not yet.
            Unavailable: It could not be loaded, or the server has closed it.
        """
        if name is not None and name not in self._names:
            if not is_model_name(name):
                raise InvalidRequest(
                    "model must be a name, such as org/name, and not a path or an address",
                    param="model",
                )
            raise ModelNotFound(
                f"The model {name!r} is not served here. Served: {self.model_id}.",
                param="model",
            )
        if self._served is not None:
            return self._served
        if self.state == "loading":
            raise ModelLoading(f"{self.model_id} is being loaded; try again soon", retry_after_s=5)
        raise Unavailable(f"{self.model_id} is not available")

    def cards(self) -> list[ModelCard]:
        """Return the models that are ready."""
        return [self._served.card] if self._served else []

    def stats(self) -> EngineStats:
        """Return the engine's counts of this moment; zeros while there is none."""
        return self._served.engine.stats() if self._served else EngineStats()

    async def close(self) -> None:
        """Stop the engine; its running steps end first."""
        served, self._served = self._served, None
        self.state = "closed"
        if served is not None:
            await asyncio.to_thread(served.engine.close)

    def _serve(self, engine: Engine) -> None:
        info = engine.info
        card = ModelCard(
            model_id=self.model_id,
            created=int(time.time()),
            max_model_len=info.max_model_len,
            engine=info.engine,
            device=info.device,
            dtype=info.dtype,
            device_reason=info.device_reason,
            engine_reason=info.engine_reason,
        )
        self._served = ServedModel(card, engine)
        self.state = "ready"
        logger.info(
            "%s is ready, with a window of %d tokens. Engine %s: %s. Device %s, %s: %s",
            *(card.model_id, card.max_model_len, card.engine, card.engine_reason),
            *(card.device, card.dtype, card.device_reason),
        )

    def _fail(self, error: PalmaError) -> None:
        self.failure = error
        self.state = "failed"


def _settle(loaded: asyncio.Future[Engine], outcome: Engine | Exception) -> None:
    if loaded.cancelled():
        return
    if isinstance(outcome, Exception):
        loaded.set_exception(outcome)
    else:
        loaded.set_result(outcome)
