"""Names to running models: what is queued, loading, ready, failed, or on its way out."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

from palma.core.config import Settings
from palma.core.errors import InvalidRequest, ModelLoading, ModelNotFound, PalmaError, Unavailable
from palma.core.model_card import ModelCard
from palma.engine import create_engine
from palma.engine.base import Engine, EngineStats
from palma.models.loader import load_model
from palma.models.spec import is_model_name, resolve_spec
from palma.serving.instance import Instance, LoadEngine, LoadPlan, ServedModel

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed", "closed"]


def load_engine(settings: Settings, executor: Executor) -> Engine:
    """Load the model that the settings name and start its engine; takes seconds to minutes.

    Raises:
        ModelLoadError: The model's files are missing, broken, refused or out of reach.
    """
    if settings.engine == "mock":
        return create_engine(settings, None, executor)
    return create_engine(settings, load_model(resolve_spec(settings), settings), executor)


class ModelRegistry:
    """Loads models one at a time, in the background, and hands them out when they are ready.

    A model may have several instances: the one with the fewest requests serves the next. The
    models of the start are what health is about; the first model is the default one.
    Everything but the loading itself happens on the event loop.

    Args:
        plans: The models of the start.
        load: Makes an engine, on a thread of its own.
    """

    def __init__(
        self, plans: Sequence[LoadPlan], load: LoadEngine, executor: Executor | None = None
    ) -> None:
        self._load = load
        self._shared_executor = executor
        self._numbers = itertools.count(1)
        self._instances: list[Instance] = []
        self.turn = asyncio.Lock()  # whose holder loads: two threads cannot import Transformers
        self._loads: set[asyncio.Task[None]] = set()
        self._unloads: set[asyncio.Task[None]] = set()
        for plan in plans:
            self._append(plan, is_startup=True)

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All copies of all models, those that failed included, oldest first."""
        return tuple(self._instances)

    @property
    def state(self) -> State:
        """How far the models of the start are; without any, those that were added."""
        states = {instance.state for instance in self._startup()}
        if "failed" in states:
            return "failed"
        if states & {"queued", "loading"}:
            return "loading"
        return "ready" if states else "closed"

    @property
    def failure(self) -> PalmaError | None:
        """Why the first model of the start that failed did."""
        return next((i.failure for i in self._startup() if i.failure is not None), None)

    @property
    def loading_ids(self) -> list[str]:
        """The models of the start that are not loaded yet."""
        return [i.model_id for i in self._startup() if i.state in ("queued", "loading")]

    async def load(self) -> None:
        """Load the models of the start; returns when all are ready, or one has failed."""
        tasks = [self._start_loading(instance) for instance in self._instances]
        for task in tasks:
            await task
            if self.failure is not None:
                return

    def add(self, plan: LoadPlan) -> Instance:
        """Queue a model, or another instance of one, to be loaded after those before it.

        What has failed under the same name is forgotten; a failure harms nothing that runs.
        """
        failed = [i for i in self._instances if i.model_id == plan.model_id and i.failure]
        self._instances = [i for i in self._instances if i not in failed]
        instance = self._append(plan, is_startup=any(i.is_startup for i in failed))
        self._start_loading(instance)
        return instance

    def remove(self, name: str, *, force: bool = False) -> list[Instance]:
        """Unload all instances of a model; new requests do not find it any more.

        Args:
            name: Its name, or an alias.
            force: Ends running requests with an error, also those of an earlier `remove`;
                otherwise they end in peace.

        Raises:
            ModelNotFound: There is no such model.
        """
        leaving = self._named(name, among=self._instances) if force else []
        found = self._named(name, among=self._remaining())
        if not found and not leaving:
            raise self._not_found(name)
        for instance in leaving:
            instance.fail_requests()
        for instance in found:
            instance.state = "unloading"
            self._spawn(self._unload(instance, force=force), self._unloads)
        return found or leaving

    def get(self, name: str | None) -> ServedModel:
        """Return the least loaded instance of a model; None asks for the default one.

        Raises:
            InvalidRequest: No model can have such a name.
            ModelNotFound: No model of that name is served here.
            ModelLoading: It is, but not yet.
            Unavailable: It could not be loaded, or no model is served at all.
        """
        found = self._find(name)
        ready = [i.served for i in found if i.state == "ready" and i.served is not None]
        if ready:
            return min(ready, key=lambda served: len(served.in_flight))
        if not found:
            raise Unavailable("no model is loaded")
        model_id = found[0].model_id
        if any(instance.state != "failed" for instance in found):
            raise ModelLoading(f"{model_id} is being loaded; try again soon", retry_after_s=5)
        raise Unavailable(f"{model_id} is not available")

    def cards(self) -> list[ModelCard]:
        """Return the models that are ready, each once."""
        cards = [i.served.card for i in self._remaining() if i.served is not None]
        return list({card.model_id: card for card in reversed(cards)}.values())[::-1]

    def stats(self) -> EngineStats:
        """Return the counts of this moment over all engines, and the longest stall."""
        found = [i.served.engine.stats() for i in self._instances if i.served is not None]
        return EngineStats(
            num_running=sum(stats.num_running for stats in found),
            num_waiting=sum(stats.num_waiting for stats in found),
            stalled_s=max((stats.stalled_s for stats in found), default=0.0),
        )

    def stalled_s(self) -> float:
        """Return how long an engine of the start has run sequences without progress."""
        engines = [i.served.engine for i in self._startup() if i.served is not None]
        return max((engine.stats().stalled_s for engine in engines), default=0.0)

    async def close(self) -> None:
        """Stop everything; running steps end first."""
        tasks = [*self._loads, *self._unloads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        instances, self._instances = self._instances, []
        for instance in instances:
            await instance.close()

    def _append(self, plan: LoadPlan, *, is_startup: bool) -> Instance:
        shared, self._shared_executor = self._shared_executor, None
        instance = Instance(
            next(self._numbers), plan, self._load, is_startup=is_startup, executor=shared
        )
        self._instances.append(instance)
        return instance

    def _start_loading(self, instance: Instance) -> asyncio.Task[None]:
        return self._spawn(self._load_in_turn(instance), self._loads)

    async def _load_in_turn(self, instance: Instance) -> None:
        async with self.turn:
            if self._unloads:  # only after them is their memory free
                await asyncio.wait(set(self._unloads))
            if instance.state == "queued":
                await instance.load()
        if instance.failure is not None and not instance.is_startup:
            logger.error("cannot serve %s: %s", instance.model_id, instance.failure.message)

    async def _unload(self, instance: Instance, *, force: bool) -> None:
        try:
            await instance.unload(force=force)
        finally:
            self._instances = [i for i in self._instances if i is not instance]

    def _spawn(
        self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def _remaining(self) -> list[Instance]:
        return [i for i in self._instances if i.state != "unloading"]

    def _startup(self) -> list[Instance]:
        """Return what health is about: the models of the start, else those that have not failed."""
        remaining = self._remaining()
        asked = [instance for instance in remaining if instance.is_startup]
        return (
            asked
            or [i for i in remaining if i.state == "ready"]
            or [i for i in remaining if i.state != "failed"]
        )

    def _find(self, name: str | None) -> list[Instance]:
        remaining = self._remaining()
        if name is None:
            return [i for i in remaining if i.model_id == remaining[0].model_id]
        if found := self._named(name, among=remaining):
            return found
        if not is_model_name(name):
            raise InvalidRequest(
                "model must be a name, such as org/name, and not a path or an address",
                param="model",
            )
        raise self._not_found(name)

    def _named(self, name: str, *, among: list[Instance]) -> list[Instance]:
        """Return the instances of a name; of those that share an alias, the first model's."""
        by_id = [i for i in among if i.model_id == name]
        by_alias = [i for i in among if name in i.plan.aliases]
        found = by_id or by_alias
        return [i for i in among if found and i.model_id == found[0].model_id]

    def _not_found(self, name: str) -> ModelNotFound:
        served = ", ".join(dict.fromkeys(i.model_id for i in self._remaining())) or "none"
        return ModelNotFound(
            f"The model {name!r} is not served here. Served: {served}.", param="model"
        )
