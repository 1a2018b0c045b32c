"""One copy of a model: it is loaded on a thread, serves, and ends after its last request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from palma.core.config import Settings
from palma.core.errors import PalmaError, Unavailable
from palma.core.model_card import ModelCard
from palma.engine.base import Engine
from palma.models.resources import release_memory

logger = logging.getLogger(__name__)

LoadEngine = Callable[[Settings, Executor], Engine]
InstanceState = Literal["queued", "loading", "ready", "failed", "unloading"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model that shall be served.

    Attributes:
        model_id: The name that requests use.
        settings: The server's, with what was chosen for this model.
        aliases: More names that requests may use.
    """

    model_id: str
    settings: Settings
    aliases: frozenset[str] = frozenset()


class Work(Protocol):
    """What a model is computing for a request."""

    def fail(self, error: PalmaError) -> None:
        """End it with an error; harmless when it has ended."""


@dataclass(eq=False, slots=True)
class ServedModel:
    """A model that answers requests now. Lives on the event loop.

    Attributes:
        card: What is told about it.
        engine: Computes it.
        in_flight: Work that has been taken and has not ended.
        idle: Set while there is none.
    """

    card: ModelCard
    engine: Engine
    in_flight: set[Work] = field(default_factory=set)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def begin(self, work: Work) -> None:
        """Note work; the model stays loaded until it ends."""
        self.in_flight.add(work)
        self.idle.clear()

    def end(self, work: Work) -> None:
        """Note that work has ended."""
        self.in_flight.discard(work)
        if not self.in_flight:
            self.idle.set()

    @contextlib.contextmanager
    def during(self, work: Work) -> Iterator[None]:
        """Note work while the body runs."""
        self.begin(work)
        try:
            yield
        finally:
            self.end(work)


class Instance:
    """A copy of a model from its place in the queue to its end. Lives on the event loop.

    A server's first model generates on the shared executor. Every further one has threads of its
    own: as many as may generate at once, so that no model waits for another's, and none is left
    when it is unloaded. They are started when they are needed.

    Args:
        number: Tells it from the others of this server.
        plan: What it is.
        load: Makes the engine.
        is_startup: Whether it belongs to what the server was started for.
        executor: The shared one, for the first model.
    """

    def __init__(
        self,
        number: int,
        plan: LoadPlan,
        load: LoadEngine,
        *,
        is_startup: bool,
        executor: Executor | None = None,
    ) -> None:
        self.number = number
        self.plan = plan
        self.is_startup = is_startup
        self.state: InstanceState = "queued"
        self.failure: PalmaError | None = None
        self.served: ServedModel | None = None
        self._load = load
        self._owns_executor = executor is None
        self._executor = executor or ThreadPoolExecutor(
            plan.settings.threads_max_workers, f"palma-{number}-{plan.model_id}"
        )

    @property
    def model_id(self) -> str:
        """The name that requests use."""
        return self.plan.model_id

    async def load(self) -> None:
        """Load the model; the outcome is in `state` and `failure`."""
        self.state = "loading"
        try:
            engine = await self._load_on_thread()
        except PalmaError as error:
            self._fail(error)
        except Exception:
            logger.exception("loading %s failed", self.model_id)
            self._fail(Unavailable("the model could not be loaded; the log says why"))
        else:
            await self._serve(engine)

    async def unload(self, *, force: bool) -> None:
        """Let the model go, after its running requests or, when forced, by failing them."""
        self.state = "unloading"
        if self.served is not None:
            if force:
                self.fail_requests()
            await self.served.idle.wait()
        await self.close()
        logger.info("%s is unloaded", self.model_id)

    def fail_requests(self) -> None:
        """End all running requests with an error."""
        for work in list(self.served.in_flight if self.served else ()):
            work.fail(Unavailable(f"{self.model_id} was unloaded before the answer was complete"))

    async def close(self) -> None:
        """Stop the engine and its threads; its running steps end first."""
        served, self.served = self.served, None
        if served is not None:
            await asyncio.to_thread(served.engine.close)
            del served
            await asyncio.to_thread(release_memory)
        self._let_threads_go()

    async def _load_on_thread(self) -> Engine:
        """Load on a daemon thread: a shutdown does not wait for a download to end."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Engine] = loop.create_future()

        def run() -> None:
            try:
                outcome: Engine | Exception = self._load(self.plan.settings, self._executor)
            except Exception as error:  # noqa: BLE001  # handed to the event loop, which logs it
                outcome = error
            if loop.is_closed():
                _discard(outcome)
            else:
                loop.call_soon_threadsafe(_settle, loaded, outcome)

        threading.Thread(target=run, name=f"palma-load-{self.number}", daemon=True).start()
        return await loaded

    async def _serve(self, engine: Engine) -> None:
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
            weights=info.weights,
            embeddings=info.embeddings,
        )
        self.served = ServedModel(card, engine)
        if self.state == "unloading":  # it was removed while it was being loaded
            await self.close()
            return
        self.state = "ready"
        logger.info(
            "%s is ready, with a window of %d tokens. Engine %s: %s. Device %s, %s: %s",
            *(card.model_id, card.max_model_len, card.engine, card.engine_reason),
            *(card.device, card.dtype, card.device_reason),
        )

    def _fail(self, error: PalmaError) -> None:
        if self.state == "loading":
            self.failure = error
            self.state = "failed"
            self._let_threads_go()

    def _let_threads_go(self) -> None:
        """An engine that is still being made finds its executor closed; the shared one stays."""
        if self._owns_executor:
            self._executor.shutdown(wait=False)


def _settle(loaded: asyncio.Future[Engine], outcome: Engine | Exception) -> None:
    if loaded.cancelled():
        _discard(outcome)
    elif isinstance(outcome, Exception):
        loaded.set_exception(outcome)
    else:
        loaded.set_result(outcome)


def _discard(outcome: Engine | Exception) -> None:
    """End an engine that nobody waits for: its threads would keep the process from ending."""
    if not isinstance(outcome, Exception):
        outcome.close()
