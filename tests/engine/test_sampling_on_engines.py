"""Every sampling parameter on both engines: each request its own, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from palma.core.types import SamplingParams
from palma.engine.base import Engine
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.mock import END_ID
from palma.engine.sampler import Sampler
from palma.engine.threads import ThreadsEngine
from palma.models.loader import LoadedModel
from tests.engine.suite import Collected, submit
from tests.tiny_models import tiny_loaded_model

PROMPT = [1, 2, 3, 2, 40]
MAX_TOKENS = 24

REQUESTS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.4},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_p": 0.4},
    {"min_p": 0.3},
    {"typical_p": 0.4},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 1.8, "repetition_window": 4},
    {"presence_penalty": 2.0},
    {"frequency_penalty": -1.5},
    {"logit_bias": {65: 9.0, 66: 9.0}},
    {"min_tokens": MAX_TOKENS, "logit_bias": {END_ID: 50.0}},
    {"stop_token_ids": frozenset(range(60, 120))},
    {"ignore_eos": True, "logit_bias": {END_ID: 9.0}},
    {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.5},
    {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.5},
    {"temperature": 1.4, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9},
]

IGNORES_THE_END = next(n for n, params in enumerate(REQUESTS) if "ignore_eos" in params)


def loaded_model() -> LoadedModel:
    """Return a model whose checkpoint names the end token too, as real ones do."""
    loaded = tiny_loaded_model()
    loaded.model.generation_config.eos_token_id = [END_ID]
    return loaded


@pytest.fixture(scope="module", params=["threads", "continuous"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    num_running = len(REQUESTS)
    with ThreadPoolExecutor(num_running + 1) as executor:
        engine: Engine = (
            ThreadsEngine(loaded_model(), executor, num_running)
            if request.param == "threads"
            else ContinuousEngine(
                loaded_model(), executor, num_running, num_blocks=200, block_size=8
            )
        )
        yield engine
        engine.close()


def fields_of(number: int) -> dict[str, Any]:
    return {"temperature": 1.0, "seed": number, "max_tokens": MAX_TOKENS, **REQUESTS[number]}


def ask(engine: Engine, number: int, name: str) -> Collected:
    return submit(engine, f"{name}-{number}", PROMPT, **fields_of(number))


@pytest.fixture(scope="module")
def together(engine: Engine) -> list[list[int]]:
    """The tokens of all requests, which ran in one batch."""
    running = [ask(engine, number, "together") for number in range(len(REQUESTS))]
    for collected in running:
        collected.wait()
    return [collected.token_ids for collected in running]


def test_requests_in_one_batch_draw_what_each_draws_alone(
    engine: Engine, together: list[list[int]]
) -> None:
    for number, token_ids in enumerate(together):
        alone = ask(engine, number, "alone")
        alone.wait()
        assert token_ids == alone.token_ids, REQUESTS[number]

    assert len({tuple(token_ids) for token_ids in together}) > len(REQUESTS) // 2


def test_each_request_draws_what_its_own_parameters_draw_from_the_model(
    together: list[list[int]],
) -> None:
    """The model is asked here without an engine, and each request's sampler by itself."""
    model = tiny_loaded_model().model
    for number, token_ids in enumerate(together):
        with torch.inference_mode():
            logits = model(torch.tensor([[*PROMPT, *token_ids]])).logits[0, len(PROMPT) - 1 :]
        params = SamplingParams(**fields_of(number))
        stops = frozenset() if params.ignore_eos else frozenset({END_ID})
        sampler = Sampler(params, PROMPT, stops, torch.device("cpu"))

        drawn = [sampler.sample(row).token_id for row in logits[: len(token_ids)]]

        assert drawn == token_ids, REQUESTS[number]


def test_an_ignored_end_is_a_token_like_any_other(together: list[list[int]]) -> None:
    token_ids = together[IGNORES_THE_END]

    assert len(token_ids) == MAX_TOKENS
    assert END_ID in token_ids[:-1]
