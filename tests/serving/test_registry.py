"""Several models in one registry, with engines that a test loads when it likes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from palma.core.config import Settings
from palma.core.errors import (
    InvalidRequest,
    ModelLoadError,
    ModelLoading,
    ModelNotFound,
    PalmaError,
    Unavailable,
)
from palma.engine.base import Engine
from palma.engine.mock import MockEngine
from palma.serving.instance import Instance, LoadPlan, ServedModel
from palma.serving.registry import ModelRegistry

PATIENCE_S = 20.0


@dataclass
class Loader:
    """Makes mock engines, one for each MODEL_ID, and writes down what happens.

    Attributes:
        errors: Models that cannot be loaded.
        gates: Models that wait for an event.
        loading: What is being loaded at this moment.
        log: What was begun, and what was closed.
        together: The most that were loaded at once.
    """

    errors: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    loading: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    together: int = 0

    def load(self, settings: Settings, executor: Executor) -> Engine:
        name = str(settings.model_id)
        self.log.append(f"load {name}")
        self.loading.add(name)
        self.together = max(self.together, len(self.loading))
        if name in self.gates:
            assert self.gates[name].wait(PATIENCE_S)
        self.loading.discard(name)
        if name in self.errors:
            raise self.errors[name]
        return LoggingEngine(name, executor, self.log)


class LoggingEngine(MockEngine):
    """A mock engine that says when it is closed."""

    def __init__(self, name: str, executor: Executor, log: list[str]) -> None:
        super().__init__(executor, max_running=1)
        self.name = name
        self._log = log

    def close(self) -> None:
        super().close()
        self._log.append(f"close {self.name}")


class Job:
    """Work in flight, and how it ended."""

    def __init__(self, served: ServedModel) -> None:
        self.error: PalmaError | None = None
        self._served = served
        served.begin(self)

    def fail(self, error: PalmaError) -> None:
        self.error = error
        self.end()

    def end(self) -> None:
        self._served.end(self)


def plan(name: str, *aliases: str) -> LoadPlan:
    return LoadPlan(name, Settings(model_id=name), frozenset(aliases))


@asynccontextmanager
async def registry_of(loader: Loader, *names: str) -> AsyncIterator[ModelRegistry]:
    """A registry that is told to load some models at its start, and is closed at the end."""
    registry = ModelRegistry([plan(name) for name in names], loader.load)
    task = asyncio.create_task(registry.load())
    await asyncio.sleep(0)  # they are queued before anything that the test adds
    try:
        yield registry
    finally:
        for gate in loader.gates.values():
            gate.set()
        task.cancel()
        await registry.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def settled(*instances: Instance) -> None:
    await until(lambda: all(i.state in ("ready", "failed") for i in instances))


def state_of(registry: ModelRegistry) -> str:
    return registry.state


def test_models_are_loaded_one_at_a_time_in_the_order_in_which_they_were_asked_for() -> None:
    async def test() -> None:
        loader = Loader(gates={"a": threading.Event()})
        async with registry_of(loader, "a", "b") as registry:
            added = registry.add(plan("c"))
            await until(lambda: "a" in loader.loading)
            assert [i.state for i in registry.instances] == ["loading", "queued", "queued"]

            loader.gates["a"].set()
            await settled(added)

            assert loader.log == ["load a", "load b", "load c"]
            assert loader.together == 1
            assert [card.model_id for card in registry.cards()] == ["a", "b", "c"]

    asyncio.run(test())


def test_the_instance_with_the_fewest_requests_serves_the_next() -> None:
    async def test() -> None:
        async with registry_of(Loader(), "a") as registry:
            await settled(*registry.instances, registry.add(plan("a")))
            first, second = (instance.served for instance in registry.instances)
            assert first is not None
            assert second is not None

            assert registry.get("a") is first
            job = Job(first)
            assert registry.get("a") is second
            Job(second)
            Job(second)
            assert registry.get("a") is first
            job.end()
            assert registry.get(None) is first
            assert [card.model_id for card in registry.cards()] == ["a"]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelLoadError("the weights are broken"), "the weights are broken"),
        (RuntimeError("a bug at /secret/path"), "the log says why"),
    ],
)
def test_a_failed_load_is_reported_and_leaves_the_others_serving(
    error: Exception, message: str
) -> None:
    async def test() -> None:
        async with registry_of(Loader(errors={"bad": error}), "good") as registry:
            bad, later = registry.add(plan("bad")), registry.add(plan("later"))
            await settled(bad, later)

            assert bad.failure is not None
            assert message in bad.failure.message
            assert "secret" not in bad.failure.message
            with pytest.raises(Unavailable, match="bad is not available"):
                registry.get("bad")
            assert [card.model_id for card in registry.cards()] == ["good", "later"]
            assert (registry.state, registry.failure) == ("ready", None)

    asyncio.run(test())


def test_a_model_of_the_start_that_fails_is_what_health_is_about_until_it_is_mended() -> None:
    async def test() -> None:
        loader = Loader(errors={"bad": ModelLoadError("no")})
        async with registry_of(loader, "good", "bad") as registry:
            await settled(*registry.instances)
            assert state_of(registry) == "failed"
            assert registry.failure is not None
            assert registry.get("good").card.model_id == "good"

            loader.errors.clear()
            mended = registry.add(plan("bad"))
            assert state_of(registry) == "loading"
            assert registry.loading_ids == ["bad"]
            await settled(mended)

            assert state_of(registry) == "ready"
            assert len(registry.instances) == 2

    asyncio.run(test())


def test_unloading_waits_for_running_requests_and_new_ones_do_not_find_the_model() -> None:
    async def test() -> None:
        loader = Loader()
        async with registry_of(loader, "a", "b") as registry:
            await settled(*registry.instances)
            job = Job(registry.get("a"))

            registry.remove("a")

            with pytest.raises(ModelNotFound, match=r"'a' is not served here. Served: b\."):
                registry.get("a")
            assert registry.get(None).card.model_id == "b"
            await asyncio.sleep(0)
            assert [i.state for i in registry.instances] == ["unloading", "ready"]
            assert "close a" not in loader.log
            job.end()
            await until(lambda: len(registry.instances) == 1)
            assert loader.log[-1] == "close a"
            assert job.error is None

    asyncio.run(test())


@pytest.mark.parametrize("was_asked_before", [False, True])
def test_a_forced_unload_ends_running_requests_with_an_error(was_asked_before: bool) -> None:
    async def test() -> None:
        async with registry_of(Loader(), "a") as registry:
            await settled(*registry.instances)
            job = Job(registry.get("a"))
            if was_asked_before:
                registry.remove("a")

            registry.remove("a", force=True)
            await until(lambda: not registry.instances)

            assert isinstance(job.error, Unavailable)
            assert "unloaded" in job.error.message
            assert state_of(registry) == "closed"
            with pytest.raises(Unavailable, match="no model"):
                registry.get(None)

    asyncio.run(test())


def test_all_instances_are_removed_and_only_those() -> None:
    async def test() -> None:
        async with registry_of(Loader(), "a", "b") as registry:
            await settled(*registry.instances, registry.add(plan("a")))

            assert len(registry.remove("a")) == 2
            await until(lambda: len(registry.instances) == 1)

            assert registry.get("b").card.model_id == "b"
            with pytest.raises(ModelNotFound):
                registry.remove("a")

    asyncio.run(test())


def test_what_is_removed_in_the_queue_is_never_loaded() -> None:
    async def test() -> None:
        loader = Loader(gates={"a": threading.Event()})
        async with registry_of(loader, "a", "b") as registry:
            await until(lambda: "a" in loader.loading)
            registry.remove("b")
            loader.gates["a"].set()
            await settled(registry.instances[0], registry.add(plan("c")))

            assert loader.log == ["load a", "load c"]

    asyncio.run(test())


def test_what_is_removed_while_it_is_loaded_is_closed_when_it_is_there() -> None:
    async def test() -> None:
        loader = Loader(gates={"b": threading.Event()})
        async with registry_of(loader, "a") as registry:
            registry.add(plan("b"))
            await until(lambda: "b" in loader.loading)
            registry.remove("b")
            await until(lambda: len(registry.instances) == 1)
            loader.gates["b"].set()
            await until(lambda: "close b" in loader.log)

            assert [card.model_id for card in registry.cards()] == ["a"]

    asyncio.run(test())


def test_a_load_waits_until_what_was_removed_before_it_has_left_the_memory() -> None:
    async def test() -> None:
        loader = Loader()
        async with registry_of(loader, "a") as registry:
            await settled(*registry.instances)
            job = Job(registry.get("a"))
            registry.remove("a")
            added = registry.add(plan("b"))
            await asyncio.sleep(0.01)
            assert added.state == "queued"

            job.end()
            await settled(added)

            assert loader.log == ["load a", "close a", "load b"]

    asyncio.run(test())


def test_a_model_is_found_by_its_name_before_another_is_by_its_alias() -> None:
    async def test() -> None:
        async with registry_of(Loader(), "a") as registry:
            await settled(
                registry.add(plan("org/b", "b", "a")),
                registry.add(plan("other/b", "b")),
            )

            assert registry.get("a").card.model_id == "a"
            assert registry.get("b").card.model_id == "org/b"
            assert registry.get("other/b").card.model_id == "other/b"
            with pytest.raises(ModelNotFound, match=r"Served: a, org/b, other/b\."):
                registry.get("c")
            for path in ("../b", "/etc", "https://b"):
                with pytest.raises(InvalidRequest, match="must be a name"):
                    registry.get(path)

    asyncio.run(test())


def test_a_model_that_is_queued_tells_requests_to_come_back() -> None:
    async def test() -> None:
        loader = Loader(gates={"a": threading.Event()})
        async with registry_of(loader, "a", "b") as registry:
            await until(lambda: "a" in loader.loading)
            for name in ("a", "b", None):
                with pytest.raises(ModelLoading) as raised:
                    registry.get(name)
                assert raised.value.retry_after_s == 5
            assert registry.loading_ids == ["a", "b"]

    asyncio.run(test())


def test_without_a_model_of_the_start_health_is_about_those_that_were_added() -> None:
    async def test() -> None:
        loader = Loader(errors={"bad": ModelLoadError("no")})
        async with registry_of(loader, "a") as registry:
            await settled(*registry.instances, registry.add(plan("b")), registry.add(plan("bad")))

            registry.remove("a")
            await until(lambda: len(registry.instances) == 2)

            assert state_of(registry) == "ready"
            registry.remove("b")
            assert state_of(registry) == "closed"

    asyncio.run(test())


def test_closing_while_a_model_loads_leaves_no_engine_behind() -> None:
    async def test() -> None:
        loader = Loader(gates={"a": threading.Event()})
        async with registry_of(loader, "a"):
            await until(lambda: "a" in loader.loading)
        await until(lambda: "close a" in loader.log)

    asyncio.run(test())
