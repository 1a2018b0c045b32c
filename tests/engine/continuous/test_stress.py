"""Many mixed requests, some of which leave: all end, all blocks come back, the rest are right."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from palma.engine.continuous.engine import ContinuousEngine
from tests.engine.suite import Collected, submit
from tests.engine.test_engines import generate
from tests.tiny_models import tiny_loaded_model

MAX_COMPLETION = 12
NUM_PROMPTS = 24


def make_prompts() -> list[list[int]]:
    """Prompts of different lengths, many with a beginning in common."""
    chooser = random.Random(0)
    shared = [chooser.randrange(256) for _ in range(40)]
    return [
        shared[: chooser.randrange(0, 40)]
        + [chooser.randrange(256) for _ in range(chooser.randrange(1, 30))]
        for _ in range(NUM_PROMPTS)
    ]


def make_engine(executor: ThreadPoolExecutor) -> ContinuousEngine:
    """Too few blocks for 6 sequences of up to 81 tokens, so that some are preempted."""
    return ContinuousEngine(
        tiny_loaded_model(), executor, 6, num_blocks=40, block_size=8, max_prefill_tokens=13
    )


@pytest.fixture(params=["any device", "a GPU"])
def engine(request: pytest.FixtureRequest) -> Iterator[ContinuousEngine]:
    """Each engine that schedules."""
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(1))
        if request.param == "any device":
            yield make_engine(executor)
            return
        pytest.importorskip("triton")
        from tests.engine.continuous.cuda.engines import (
            DEVICE,
            kernels_for_tests,
            make_cuda_engine,
        )

        stack.enter_context(kernels_for_tests())
        loaded = tiny_loaded_model(device=DEVICE)
        yield make_cuda_engine(loaded, executor, 6, num_tokens=320)


@pytest.mark.parametrize(
    "num_requests", [150, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_requests_that_stay_are_right_whoever_leaves(
    engine: ContinuousEngine, num_requests: int
) -> None:
    chooser = random.Random(1)
    prompts = make_prompts()
    expected = [generate(prompt, MAX_COMPLETION) for prompt in prompts]
    submitted: list[tuple[int, int, bool, Collected]] = []

    for number in range(num_requests):
        which = chooser.randrange(NUM_PROMPTS)
        max_tokens = chooser.randrange(1, MAX_COMPLETION + 1)
        is_leaver = chooser.random() < 0.3
        collected = submit(engine, str(number), prompts[which], max_tokens=max_tokens)
        submitted.append((which, max_tokens, is_leaver, collected))
        if is_leaver:
            delay_s = chooser.random() * 0.2
            threading.Timer(delay_s, engine.cancel, [str(number)]).start()
    for which, max_tokens, is_leaver, collected in submitted:
        finish_reason = collected.wait()
        assert finish_reason in (
            {"stop", "length", "cancelled"} if is_leaver else {"stop", "length"}
        )
        if finish_reason != "cancelled":
            assert collected.token_ids == expected[which][:max_tokens]
    assert engine.stats().num_running == engine.stats().num_waiting == 0
    engine._scheduler.pool.check([])
    engine.close()
