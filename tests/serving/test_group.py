"""Several answers to one request: read together, ended together, counted and ranked."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from palma.core.errors import EngineFailure, RequestCancelled
from palma.core.types import (
    MAX_SEED,
    GenerationRequest,
    SamplingParams,
    ScoredToken,
    TextChunk,
    TokenText,
    Usage,
)
from palma.serving.generation import MAX_BATCH, Completion, Generation
from palma.serving.group import GenerationGroup, copies, likeliest, mean_logprob, total_usage


def in_event_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make an async test one that pytest can call."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def make_group(num_generations: int) -> tuple[GenerationGroup, list[str]]:
    """Return a group that no engine works on, and the list of what is cancelled."""
    cancelled: list[str] = []
    served: Any = SimpleNamespace(engine=SimpleNamespace(cancel=cancelled.append))
    request = GenerationRequest("r")
    generations = [Generation(request, served, str(n)) for n in range(num_generations)]
    return GenerationGroup(generations), cancelled


def last(text: str = "") -> TextChunk:
    return TextChunk(text, "stop", Usage(3, 1))


def scored(*logprobs: float | None) -> tuple[ScoredToken, ...]:
    return tuple(ScoredToken(TokenText(0, "x", b"x", logprob)) for logprob in logprobs)


def completion(text: str, *logprobs: float | None) -> Completion:
    return Completion(text, "stop", Usage(2, 1), scored(*logprobs))


@in_event_loop
async def test_chunks_come_as_they_are_made_each_with_its_answers_number() -> None:
    group, _ = make_group(2)
    first, second = group.generations
    batches = group.batches()

    second.push(TextChunk("b"))
    assert await anext(batches) == [(1, TextChunk("b"))]
    first.push(last("a"))
    assert await anext(batches) == [(0, last("a"))]
    second.push(TextChunk("c"))
    second.push(last())

    assert [batch async for batch in batches] == [[(1, TextChunk("c")), (1, last())]]


@in_event_loop
async def test_a_backlog_comes_in_bounded_batches_and_others_get_a_turn_between_two() -> None:
    group, _ = make_group(1)
    for number in range(3 * MAX_BATCH):
        group.generations[0].push(TextChunk(str(number)))
    group.generations[0].push(last())

    reading = asyncio.create_task(_read_batches(group))
    num_turns = 0
    while not reading.done():
        num_turns += 1
        await asyncio.sleep(0)

    sizes = [len(batch) for batch in reading.result()]
    assert sizes == [MAX_BATCH, MAX_BATCH, MAX_BATCH, 1]
    assert num_turns >= len(sizes)


async def _read_batches(group: GenerationGroup) -> list[list[tuple[int, TextChunk]]]:
    return [batch async for batch in group.batches()]


@in_event_loop
async def test_what_came_before_a_failure_is_read_before_it() -> None:
    group, _ = make_group(1)
    group.generations[0].push(TextChunk("half"))
    group.generations[0].fail(EngineFailure("broken"))
    batches = group.batches()

    assert await anext(batches) == [(0, TextChunk("half"))]
    with pytest.raises(EngineFailure, match="broken"):
        await anext(batches)


@in_event_loop
async def test_one_answer_that_fails_ends_the_stream_of_all() -> None:
    group, cancelled = make_group(3)
    group.generations[0].push(last())
    group.generations[1].fail(EngineFailure("broken"))

    with pytest.raises(EngineFailure, match="broken"):
        [batch async for batch in group.batches()]

    assert cancelled == ["2"]
    with pytest.raises(RequestCancelled):
        await group.generations[2].accepted()


@in_event_loop
async def test_a_reader_that_stops_cancels_all() -> None:
    group, cancelled = make_group(2)
    group.generations[1].push(TextChunk("b"))
    batches = group.batches()

    await anext(batches)
    await batches.aclose()  # type: ignore[attr-defined]

    assert sorted(cancelled) == ["0", "1"]


@in_event_loop
async def test_completions_keep_their_order_whoever_ends_first() -> None:
    group, _ = make_group(2)
    group.generations[1].push(last("late"))
    group.generations[0].push(last("early"))

    completions = await group.completions()

    assert [completion.text for completion in completions] == ["early", "late"]


@in_event_loop
async def test_one_completion_that_fails_ends_the_others_with_its_own_error() -> None:
    group, cancelled = make_group(3)
    waiting = asyncio.ensure_future(group.completions())
    await asyncio.sleep(0)
    group.generations[1].fail(EngineFailure("broken"))

    with pytest.raises(EngineFailure, match="broken"):
        await waiting

    assert sorted(cancelled) == ["0", "2"]


@in_event_loop
async def test_accepted_waits_for_all_and_raises_what_went_wrong() -> None:
    group, _ = make_group(2)
    accepted = asyncio.ensure_future(group.accepted())
    group.generations[0].accept(3)
    await asyncio.sleep(0)
    assert not accepted.done()

    group.generations[1].fail(EngineFailure("broken"))

    with pytest.raises(EngineFailure, match="broken"):
        await accepted


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (None, [None, None, None]),
        (7, [7, 8, 9]),
        (MAX_SEED - 1, [MAX_SEED - 1, MAX_SEED, -MAX_SEED - 1]),
    ],
)
def test_copies_of_a_seeded_request_differ_in_their_seeds(
    seed: int | None, expected: list[int | None]
) -> None:
    request = GenerationRequest("r", sampling_params=SamplingParams(seed=seed))

    assert [copy.sampling_params.seed for copy in copies(request, 3)] == expected


def test_each_prompt_counts_once_and_each_completion_for_itself() -> None:
    usages = [Usage(5, 1, 4), Usage(5, 2, 5), Usage(7, 3, 0), Usage(7, 4, 7)]

    assert total_usage(usages, num_prompts=2) == Usage(12, 10, 4)
    assert total_usage(usages, num_prompts=4) == Usage(24, 10, 16)
    assert total_usage(usages[:2], num_prompts=1) == Usage(5, 3, 4)
    thoughtful = [Usage(5, 4, num_reasoning_tokens=3), Usage(5, 2, num_reasoning_tokens=1)]
    assert total_usage(thoughtful, num_prompts=1) == Usage(5, 6, num_reasoning_tokens=4)


def test_the_mean_log_probability_leaves_out_what_has_none() -> None:
    assert mean_logprob(scored(-1.0, -2.0)) == -1.5
    assert mean_logprob(scored(None, -2.0)) == -2.0
    assert mean_logprob(()) == -math.inf


def test_the_likeliest_answers_come_first_and_equals_keep_their_order() -> None:
    answers = [
        completion("c", -3.0, -3.0),
        completion("none"),
        completion("a", -1.0),
        completion("b", -2.0, -1.0),
        completion("also a", -1.0, -1.0, -1.0),
    ]

    assert [best.text for best in likeliest(answers, 3)] == ["a", "also a", "b"]
    assert likeliest(answers, 9)[-1].text == "none"


def test_a_repeated_prompt_says_nothing_about_its_answers() -> None:
    long = completion("long", None, -9.0, -1.0, -1.0, -1.0)
    short = completion("short", None, -9.0, -0.5)

    assert likeliest([long, short], 1, has_echo=True) == [short]
    assert likeliest([long, short], 1) == [long]
