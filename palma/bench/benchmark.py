"""A whole benchmark: probe the server, warm it up, run each level, show and save the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from palma.bench.client import Endpoint, Measurement, ServerClient, Target, Task, probe
from palma.bench.lengths import Lengths, parse_lengths
from palma.bench.load import Budget, Level, run_level
from palma.bench.prompts import WordRate, random_words, word_rate
from palma.bench.report import SCHEMA, level_json
from palma.bench.summary import LevelSummary, summarize
from palma.core.errors import SettingsError
from palma.version import __version__

PROBE_WORDS = (16, 96)
DEFAULT_REQUESTS = 16
DEFAULT_REQUESTS_PER_STREAM = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, as the command line says it.

    Attributes:
        levels: What to load the server with, one after the other.
        num_warmup: Requests before each level that are not counted.
        num_requests: Of each level; with `seconds` unset too, a default by the level.
    """

    levels: tuple[Level, ...]
    prompt_tokens: str = "128"
    output_tokens: str = "128"
    model: str | None = None
    endpoint: Endpoint = "chat"
    temperature: float = 0.0
    num_requests: int | None = None
    seconds: float | None = None
    num_warmup: int = 2
    seed: int = 0

    def budget(self, level: Level) -> Budget:
        """Return how much to ask at a level."""
        if self.num_requests is None and self.seconds is None:
            per_stream = DEFAULT_REQUESTS_PER_STREAM * (level.concurrency or 0)
            return Budget(max(DEFAULT_REQUESTS, per_stream))
        return Budget(self.num_requests, self.seconds)


class Benchmark:
    """Runs a plan against a server; `run` may be called once."""

    def __init__(self, plan: Plan, client: ServerClient, console: Console) -> None:
        self.plan = plan
        self.client = client
        self.console = console
        self._prompt_lengths = parse_lengths(plan.prompt_tokens, "--prompt-tokens")
        self._output_lengths = parse_lengths(plan.output_tokens, "--output-tokens")
        self.target = Target(plan.model or "", plan.endpoint, plan.temperature)
        self.started = datetime.now(UTC)
        self.results: list[tuple[LevelSummary, list[Measurement]]] = []

    async def run(self) -> None:
        """Measure every level in turn.

        Raises:
            PalmaError: The server cannot be used at all. Single failed requests are results.
        """
        model = self.plan.model or await self.client.first_model()
        self.target = Target(model, self.plan.endpoint, self.plan.temperature)
        words = await self._probe()
        for index, level in enumerate(self.plan.levels):
            measured = await self._run_level(index, level, words)
            if not measured:
                raise SettingsError(f"no request fitted into level {level.name}")
            self.results.append((summarize(level, measured), measured))

    @property
    def summaries(self) -> list[LevelSummary]:
        """The levels measured so far."""
        return [summary for summary, _ in self.results]

    async def _probe(self) -> WordRate:
        """Find out what the server takes, and how many tokens a word is."""
        rng = Random(f"{self.plan.seed} probe")
        short, long = (Task(random_words(rng, number), 2) for number in PROBE_WORDS)
        self.target, first = await probe(self.client, self.target, lambda: short)
        second = await self.client.measure(self.target, long)
        if not (first.num_prompt_tokens and second.num_prompt_tokens):
            return WordRate()
        return word_rate(
            (PROBE_WORDS[0], first.num_prompt_tokens), (PROBE_WORDS[1], second.num_prompt_tokens)
        )

    async def _run_level(self, index: int, level: Level, words: WordRate) -> list[Measurement]:
        # Every level has its own prompts: the server may still have the last one's in its cache.
        rng = Random(f"{self.plan.seed} arrivals {index}")
        tasks = make_tasks(
            Random(f"{self.plan.seed} tasks {index}"),
            words,
            self._prompt_lengths,
            self._output_lengths,
        )
        budget = self.plan.budget(level)
        with self._progress() as progress:
            bar = progress.add_task(level.name, total=budget.num_requests)
            run = partial(run_level, self.client, self.target, level, tasks, rng=rng)
            await run(budget=Budget(self.plan.num_warmup), on_end=lambda _: None)
            return await run(budget=budget, on_end=lambda _: progress.advance(bar))

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the results as `palma.bench.report` describes them."""
        return {
            "schema": SCHEMA,
            "palma": __version__,
            "started": self.started.isoformat(timespec="seconds"),
            "url": self.client.url,
            "model": self.target.model,
            "endpoint": self.target.endpoint,
            "temperature": self.target.temperature,
            "seed": self.plan.seed,
            "prompt_tokens": self.plan.prompt_tokens,
            "output_tokens": self.plan.output_tokens,
            "fields": [
                *self.target.length_fields,
                *(["stream_options"] if self.target.asks_usage else []),
            ],
            "levels": [level_json(summary, measured) for summary, measured in self.results],
        }


def make_tasks(
    rng: Random, words: WordRate, prompt_lengths: Lengths, output_lengths: Lengths
) -> Iterator[Task]:
    """Yield requests without end, no two with the same prompt."""
    while True:
        num_words = words.words_for(prompt_lengths.draw(rng))
        yield Task(random_words(rng, num_words), output_lengths.draw(rng))
