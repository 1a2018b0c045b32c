"""Two ways to load a server: so many requests at a time, or so many a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from random import Random

from palma.bench.client import Measurement, ServerClient, Target, Task
from palma.core.errors import SettingsError

OnEnd = Callable[[Measurement], None]
RunOne = Callable[[Task, float | None], Coroutine[None, None, None]]

MAX_LOAD = 10_000


@dataclass(frozen=True, slots=True)
class Level:
    """One point of a benchmark.

    Attributes:
        concurrency: Requests kept running at once (closed loop); None in the open loop.
        rate: Requests started each second, whatever the server does (open loop).
    """

    concurrency: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        """For progress bars and tables."""
        return f"{self.concurrency}" if self.concurrency is not None else f"{self.rate:g}/s"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to ask: a number of requests, or seconds in which requests start."""

    num_requests: int | None = None
    seconds: float | None = None

    def spend(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Yield tasks until the budget is spent; the clock runs from the first one."""
        deadline = None if self.seconds is None else time.perf_counter() + self.seconds
        for num_done, task in enumerate(tasks):
            if num_done == self.num_requests or (deadline and time.perf_counter() >= deadline):
                return
            yield task


def parse_levels(concurrency: str | None, rate: str | None) -> tuple[Level, ...]:
    """Read `1,8,32` as closed loops, or a list of rates as open ones.

    Raises:
        SettingsError: A number is wrong, or both are given.
    """
    if concurrency is not None and rate is not None:
        raise SettingsError(
            "--concurrency keeps so many requests running, --rate starts so many a second: "
            "choose one"
        )
    try:
        if rate is not None:
            levels = tuple(Level(rate=float(part)) for part in rate.split(","))
        else:
            levels = tuple(Level(concurrency=int(part)) for part in (concurrency or "1").split(","))
    except ValueError:
        raise SettingsError(f"{rate or concurrency!r} is no list of numbers, like 1,8,32") from None
    if any(not 0 < (level.concurrency or level.rate or 0) <= MAX_LOAD for level in levels):
        raise SettingsError(
            f"{rate or concurrency!r}: each number must be above 0, and at most {MAX_LOAD:,}"
        )
    return levels


async def run_level(
    client: ServerClient,
    target: Target,
    level: Level,
    tasks: Iterator[Task],
    *,
    budget: Budget,
    rng: Random,
    on_end: OnEnd,
) -> list[Measurement]:
    """Make the requests of one level and wait for the last; in the order in which they ended."""
    measured: list[Measurement] = []

    async def one(task: Task, started_s: float | None) -> None:
        measured.append(await client.measure(target, task, started_s))
        on_end(measured[-1])

    if level.concurrency is not None:
        await _closed_loop(one, budget.spend(tasks), level.concurrency)
    else:
        assert level.rate is not None
        await _open_loop(one, budget, tasks, arrivals(rng, level.rate))
    return measured


async def _closed_loop(one: RunOne, tasks: Iterator[Task], width: int) -> None:
    async def worker() -> None:
        for task in tasks:  # shared: each worker takes the next one when it is free
            await one(task, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(worker())


async def _open_loop(
    one: RunOne,
    budget: Budget,
    tasks: Iterator[Task],
    offsets: Iterator[float],
) -> None:
    """Start requests at their times and time them from there, however late this process is."""
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for num_done, (task, offset) in enumerate(zip(tasks, offsets, strict=False)):
            if num_done == budget.num_requests or (budget.seconds and offset >= budget.seconds):
                return
            await asyncio.sleep(start + offset - time.perf_counter())
            group.create_task(one(task, start + offset))


def arrivals(rng: Random, rate: float) -> Iterator[float]:
    """Yield the seconds at which requests arrive as a Poisson process of that rate."""
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now
