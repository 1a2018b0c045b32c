"""Every engine with a model against `model.generate`, and its promises when things go wrong."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from palma.core.errors import EngineFailure, InsufficientMemory, InvalidRequest
from palma.core.types import SamplingParams
from palma.engine.base import Engine, EngineRequest, EngineStats, TokenDelta
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.mock import END_ID
from palma.engine.threads import ThreadsEngine
from tests.engine.suite import Collected, submit
from tests.tiny_models import MAX_MODEL_LEN, VOCAB_SIZE, tiny_llama, tiny_loaded_model

MAX_RUNNING = 4
PROMPTS = [[1, 2, 3], list(range(50, 90)), [7], [200] * 12, [5, 4, 3, 2, 1], list(b"hello there")]


@pytest.fixture(scope="module", params=["threads", "continuous", "cuda"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(MAX_RUNNING + 1))
        if request.param == "cuda":
            pytest.importorskip("triton")
            from tests.engine.continuous.cuda.engines import kernels_for_tests

            stack.enter_context(kernels_for_tests())
        engine = make_engine(request.param, executor)
        yield engine
        engine.close()


def make_engine(name: str, executor: ThreadPoolExecutor) -> Engine:
    if name == "threads":
        return ThreadsEngine(tiny_loaded_model(), executor, MAX_RUNNING)
    if name == "cuda":
        from tests.engine.continuous.cuda.engines import DEVICE, make_cuda_engine

        return make_cuda_engine(tiny_loaded_model(device=DEVICE), executor, MAX_RUNNING)
    return ContinuousEngine(tiny_loaded_model(), executor, MAX_RUNNING, num_blocks=64, block_size=8)


def generate(prompt: list[int], max_new_tokens: int) -> list[int]:
    """What Transformers itself says, greedily, in float32."""
    inputs = torch.tensor([prompt])
    output = tiny_llama().generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=max_new_tokens,
        eos_token_id=END_ID,
        do_sample=False,
    )
    return [int(token_id) for token_id in output[0, len(prompt) :]]


def test_greedy_tokens_equal_generate(engine: Engine) -> None:
    for number, prompt in enumerate(PROMPTS):
        collected = submit(engine, f"greedy-{number}", prompt)

        assert collected.wait() in {"stop", "length"}
        assert collected.token_ids == generate(prompt, 20)


def test_concurrent_sequences_equal_each_alone(engine: Engine) -> None:
    prompts = PROMPTS + PROMPTS[:4]
    running = [submit(engine, f"many-{n}", prompt) for n, prompt in enumerate(prompts)]

    for prompt, collected in zip(prompts, running, strict=True):
        collected.wait()
        assert collected.token_ids == generate(prompt, 20)


def test_a_seed_gives_the_same_tokens_alone_and_in_company(engine: Engine) -> None:
    alone = submit(engine, "alone", PROMPTS[0], temperature=1.0, seed=7)
    alone.wait()

    company = [submit(engine, f"noise-{n}", PROMPTS[1], temperature=1.5) for n in range(9)]
    again = submit(engine, "again", PROMPTS[0], temperature=1.0, seed=7)

    again.wait()
    for neighbour in company:
        neighbour.wait()
    assert again.token_ids == alone.token_ids
    other = submit(engine, "other", PROMPTS[0], temperature=1.0, seed=8)
    other.wait()
    assert other.token_ids != alone.token_ids


def test_the_end_token_ends_with_stop(engine: Engine) -> None:
    def only_end(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        wanted = END_ID if len(completion) == 2 else 65
        return torch.full_like(logits, -torch.inf).index_fill(
            0, torch.tensor([wanted], device=logits.device), 0.0
        )

    collected = submit(engine, "ends", PROMPTS[0], logits_hook=only_end)

    assert collected.wait() == "stop"
    assert collected.token_ids == [65, 65, END_ID]


def test_a_failing_hook_fails_its_own_sequence_alone(engine: Engine) -> None:
    def broken(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        raise RuntimeError("a hook with a bug")

    neighbour = submit(engine, "neighbour", PROMPTS[1])
    collected = submit(engine, "broken", PROMPTS[0], logits_hook=broken)

    assert collected.wait() == "error"
    assert isinstance(collected.error, EngineFailure)
    assert neighbour.wait() == "length"
    assert neighbour.token_ids == generate(PROMPTS[1], 20)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_logits_fail_their_own_sequence(engine: Engine, temperature: float) -> None:
    def poison(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        return logits if len(completion) < 3 else logits * torch.nan

    collected = submit(engine, "poisoned", PROMPTS[0], logits_hook=poison, temperature=temperature)

    assert collected.wait() == "error"
    assert len(collected.token_ids) == 3


def test_running_out_of_memory_is_said_so(engine: Engine) -> None:
    def hungry(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        raise torch.OutOfMemoryError("pretended")

    collected = submit(engine, "hungry", PROMPTS[0], logits_hook=hungry)

    assert collected.wait() == "error"
    assert isinstance(collected.error, InsufficientMemory)
    assert collected.error.retry_after_s is not None


def test_a_lost_device_is_told_to_probes() -> None:
    def lose(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    with ThreadPoolExecutor(1) as executor:
        engine = make_engine("continuous", executor)
        collected = submit(engine, "last", PROMPTS[0], logits_hook=lose)

        assert collected.wait() == "error"
        assert isinstance(collected.error, EngineFailure)
        assert engine.stats().stalled_s == math.inf
        engine.close()


def test_cancelling_ends_within_two_steps(engine: Engine) -> None:
    steps: list[int] = []

    def cancel_at_five(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        steps.append(len(completion))
        if len(completion) == 5:
            engine.cancel("leaver")
        return logits

    collected = submit(engine, "leaver", PROMPTS[0], logits_hook=cancel_at_five, max_tokens=200)

    assert collected.wait() == "cancelled"
    assert max(steps) <= 5 + 2


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "no tokens"),
        ([1, VOCAB_SIZE], {}, f"token id {VOCAB_SIZE}, which is outside"),
        ([-1], {}, "token id -1, which is outside"),
        ([1] * MAX_MODEL_LEN, {"max_tokens": 1}, "do not fit"),
        ([1], {"max_tokens": MAX_MODEL_LEN}, "do not fit"),
    ],
)
def test_what_no_device_could_compute_is_refused_before_it_gets_there(
    engine: Engine, prompt: list[int], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        submit(engine, "refused", prompt, **params)

    assert engine.stats() == EngineStats()


@pytest.mark.parametrize("failing_at", ["start", "token", "end"])
def test_a_sink_that_raises_ends_its_own_sequence_and_is_told_so(
    engine: Engine, failing_at: str
) -> None:
    collected = Collected()

    def broken(delta: TokenDelta) -> None:
        kind = "end" if delta.finish_reason else "token" if delta.token_ids else "start"
        if kind == failing_at and delta.finish_reason != "error":
            raise RuntimeError("a sink with a bug")
        collected(delta)

    neighbour = submit(engine, f"beside-{failing_at}", PROMPTS[1])
    params = SamplingParams(temperature=0, max_tokens=5)
    engine.submit(EngineRequest(f"sink-{failing_at}", PROMPTS[0], params), broken)

    assert collected.wait() == "error"
    assert isinstance(collected.error, EngineFailure)
    assert neighbour.wait() == "length"
    assert engine.stats().num_running == 0


def test_an_id_in_use_is_refused(engine: Engine) -> None:
    first = submit(engine, "twin", PROMPTS[0], max_tokens=100)

    with pytest.raises(InvalidRequest, match="in use"):
        submit(engine, "twin", PROMPTS[0])
    engine.cancel("twin")
    assert first.wait() in {"cancelled", "length"}
