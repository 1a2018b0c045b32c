"""Embeddings by engines with a chat model, against the states that Transformers itself shows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from palma.core.errors import EngineFailure
from palma.core.types import SamplingParams
from palma.engine.base import Engine, EngineRequest, EngineStats, TokenDelta
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.threads import ThreadsEngine
from tests.engine.suite import Collected, submit
from tests.tiny_models import tiny_llama, tiny_loaded_model

MAX_PREFILL_TOKENS = 16
LENGTHS = (1, 2, MAX_PREFILL_TOKENS, MAX_PREFILL_TOKENS + 1, 2 * MAX_PREFILL_TOKENS + 1, 70)
"""One token beyond whole chunks is what looks like a decode step."""


@pytest.fixture(params=["threads", "continuous"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ThreadPoolExecutor(5) as executor:
        engine = make_engine(request.param, executor)
        yield engine
        engine.close()


def make_engine(name: str, executor: ThreadPoolExecutor, model: Any = None) -> Engine:
    loaded = tiny_loaded_model()
    if model is not None:
        object.__setattr__(loaded, "model", model)
    if name == "threads":
        return ThreadsEngine(loaded, executor, 4)
    return ContinuousEngine(
        loaded,
        executor,
        4,
        num_blocks=64,
        block_size=8,
        max_prefill_tokens=MAX_PREFILL_TOKENS,
    )


NOTHING = np.empty(0, np.float32)


class Embedded(Collected):
    """A sink that keeps the embedding too."""

    embedding: NDArray[np.float32] = NOTHING

    def __call__(self, delta: TokenDelta) -> None:
        if delta.embedding is not None:
            assert self.embedding is NOTHING, "it was said twice"
            self.embedding = delta.embedding
        super().__call__(delta)


def embed(engine: Engine, request_id: str, prompt: list[int]) -> Embedded:
    sink = Embedded()
    params = SamplingParams(max_tokens=0)
    engine.submit(EngineRequest(request_id, prompt, params, wants_embedding=True), sink)
    return sink


def prompt_of(length: int) -> list[int]:
    return [(13 * i + length) % 250 for i in range(length)]


def expected(prompt: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        output = tiny_llama()(torch.tensor([prompt]), output_hidden_states=True)
    mean = output.hidden_states[-1][0].mean(dim=0)
    return torch.nn.functional.normalize(mean, dim=0)


def test_it_is_the_normalized_mean_of_the_last_hidden_states(engine: Engine) -> None:
    for length in LENGTHS:
        sink = embed(engine, f"length-{length}", prompt_of(length))

        assert sink.wait() == "length"
        assert sink.token_ids == []
        np.testing.assert_allclose(sink.embedding, expected(prompt_of(length)), atol=1e-5)


def test_a_cached_prefix_changes_nothing(engine: Engine) -> None:
    prompt = prompt_of(70)
    submit(engine, "before", prompt, max_tokens=1).wait()

    first, second = embed(engine, "first", prompt), embed(engine, "second", prompt)

    for sink in (first, second):
        sink.wait()
        np.testing.assert_allclose(sink.embedding, expected(prompt), atol=1e-5)


def test_neighbours_get_the_tokens_that_they_get_alone(engine: Engine) -> None:
    prompts = [prompt_of(length) for length in (3, 20, 50)]
    alone = []
    for number, prompt in enumerate(prompts):
        alone.append(submit(engine, f"alone-{number}", prompt, max_tokens=40))
        alone[-1].wait()

    beside = [submit(engine, f"beside-{n}", p, max_tokens=40) for n, p in enumerate(prompts)]
    sinks = [embed(engine, f"embed-{length}", prompt_of(length)) for length in LENGTHS]

    for one, other in zip(alone, beside, strict=True):
        assert other.wait() == one.ends[0].finish_reason
        assert other.token_ids == one.token_ids
    for length, sink in zip(LENGTHS, sinks, strict=True):
        sink.wait()
        np.testing.assert_allclose(sink.embedding, expected(prompt_of(length)), atol=1e-5)


def test_one_that_waits_can_be_cancelled(engine: Engine) -> None:
    ahead = [submit(engine, f"ahead-{n}", prompt_of(5), max_tokens=100) for n in range(8)]
    sink = embed(engine, "leaver", prompt_of(70))

    engine.cancel("leaver")

    assert sink.wait() == "cancelled"
    for other in ahead:
        other.wait()
    assert engine.stats() == EngineStats()


def test_a_preempted_one_is_read_again_from_its_start() -> None:
    """The blocks hold either the text or the growing neighbour, not both."""
    with ThreadPoolExecutor(2) as executor:
        engine = ContinuousEngine(
            tiny_loaded_model(),
            executor,
            4,
            num_blocks=12,
            block_size=4,
            max_prefill_tokens=1,
        )
        growing = submit(engine, "growing", prompt_of(3), max_tokens=40, ignore_eos=True)
        sink = embed(engine, "embed", prompt_of(30))

        assert sink.wait() == "length"
        assert growing.wait() == "length"
        engine.close()
    np.testing.assert_allclose(sink.embedding, expected(prompt_of(30)), atol=1e-5)


@pytest.mark.parametrize("name", ["threads", "continuous"])
def test_states_that_are_no_numbers_fail_their_own_request(name: str) -> None:
    model = tiny_llama()
    model.get_input_embeddings().weight.data[7] = torch.nan
    with ThreadPoolExecutor(5) as executor:
        engine = make_engine(name, executor, model)
        sink, neighbour = embed(engine, "poisoned", [1, 7, 2]), embed(engine, "fine", [1, 2])

        assert sink.wait() == "error"
        assert isinstance(sink.error, EngineFailure)
        assert neighbour.wait() == "length"
        engine.close()
    np.testing.assert_allclose(neighbour.embedding, expected([1, 2]), atol=1e-5)
