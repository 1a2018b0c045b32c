"""Several answers to one HTTP request: `n` choices, or a list of prompts."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator, Sequence

from palma.core.errors import PalmaError
from palma.core.types import MAX_SEED, GenerationRequest, ScoredToken, TextChunk, Usage
from palma.serving.generation import Completion, Generation


class GenerationGroup:
    """Generations that are read, and end, together. Lives on the event loop.

    The names that a single `Generation` has mean the same here; what identifies an answer is
    that of the first one.
    """

    def __init__(self, generations: list[Generation]) -> None:
        self.generations = generations
        first = generations[0]
        self.served = first.served
        self.engine_id = first.engine_id
        self.public_id = first.public_id
        self.created = first.created

    async def accepted(self) -> None:
        """Wait until the engine has every prompt; raises what went wrong with the first bad one."""
        for generation in self.generations:
            await generation.accepted()

    async def completions(self) -> list[Completion]:
        """Wait for all ends; one that fails ends the others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(g.completion()) for g in self.generations]
        except* PalmaError as group:
            raise _first(group) from None
        return [task.result() for task in running]

    async def batches(self) -> AsyncIterator[list[tuple[int, TextChunk]]]:
        """Yield the chunks of all answers as they come, each with its answer's number."""
        if len(self.generations) == 1:
            async for batch in self.generations[0].batches():
                yield [(0, chunk) for chunk in batch]
            return
        merged: asyncio.Queue[tuple[int, list[TextChunk] | PalmaError]] = asyncio.Queue()
        readers = [
            asyncio.create_task(_read(number, generation, merged))
            for number, generation in enumerate(self.generations)
        ]
        try:
            num_open = len(readers)
            while num_open:
                number, news = await merged.get()
                if isinstance(news, PalmaError):
                    raise news
                yield [(number, chunk) for chunk in news]
                num_open -= news[-1].finish_reason is not None
        finally:
            self.cancel()
            for reader in readers:
                reader.cancel()

    def cancel(self) -> None:
        """End every answer that has not ended."""
        for generation in self.generations:
            generation.cancel()


def copies(request: GenerationRequest, num_copies: int) -> list[GenerationRequest]:
    """Return the request several times; copy i of a seeded one has the seed i further."""
    params = request.sampling_params
    if params.seed is None:
        return [request] * num_copies
    seeds = [_wrapped(params.seed + number) for number in range(num_copies)]
    return [
        dataclasses.replace(request, sampling_params=dataclasses.replace(params, seed=seed))
        for seed in seeds
    ]


def total_usage(usages: list[Usage], num_prompts: int) -> Usage:
    """Add usages up; the copies of one prompt stand together, and it counts once.

    Args:
        usages: As many for each prompt, all of a prompt in a row.
        num_prompts: How many prompts there were.
    """
    per_prompt = usages[:: len(usages) // num_prompts]
    return Usage(
        num_prompt_tokens=sum(usage.num_prompt_tokens for usage in per_prompt),
        num_completion_tokens=sum(usage.num_completion_tokens for usage in usages),
        num_cached_tokens=sum(usage.num_cached_tokens for usage in per_prompt),
        num_reasoning_tokens=sum(usage.num_reasoning_tokens for usage in usages),
    )


def likeliest(
    completions: list[Completion], num_kept: int, *, has_echo: bool = False
) -> list[Completion]:
    """Return the answers whose tokens have the greatest mean log-probability, likeliest first.

    Args:
        completions: Answers to one prompt, their tokens scored.
        num_kept: How many of them.
        has_echo: Whether they repeat the prompt, which says nothing about them.
    """

    def mean(completion: Completion) -> float:
        num_echoed = completion.usage.num_prompt_tokens if has_echo else 0
        return mean_logprob(completion.scored_tokens[num_echoed:])

    return sorted(completions, key=mean, reverse=True)[:num_kept]


def mean_logprob(scored_tokens: Sequence[ScoredToken]) -> float:
    """Return how likely some tokens were on average; none at all are the least likely."""
    logprobs = [s.token.logprob for s in scored_tokens if s.token.logprob is not None]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def _wrapped(seed: int) -> int:
    return seed if seed <= MAX_SEED else seed - 2 * (MAX_SEED + 1)


def _first(group: BaseExceptionGroup[PalmaError]) -> PalmaError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, PalmaError)
    return found


async def _read(
    number: int,
    generation: Generation,
    merged: asyncio.Queue[tuple[int, list[TextChunk] | PalmaError]],
) -> None:
    try:
        async for batch in generation.batches():
            merged.put_nowait((number, batch))
    except PalmaError as error:
        merged.put_nowait((number, error))
