"""Same logits in, same probabilities out: the sampler against Transformers' own processors.

What Transformers lacks is held against its definition: presence and frequency penalties against
the formula of OpenAI's API reference, mu[j] - c[j] * frequency - (c[j] > 0) * presence.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as reference

from palma.core.types import SamplingParams
from palma.engine.sampler import Sampler

VOCAB_SIZE = 600
STOP_TOKEN_IDS = frozenset({2, 5})
PROMPT = [3, 7, 7, 500, 11, 2]
NUM_STEPS = 5

Logits = Callable[[int], torch.Tensor]


def normal(seed: int) -> torch.Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def with_ties(seed: int) -> torch.Tensor:
    """Most tokens share their logit with others, as they do in bfloat16."""
    return (normal(seed) * 2).round() / 2


def with_impossible(seed: int) -> torch.Tensor:
    """Half of the tokens cannot come."""
    generator = torch.Generator().manual_seed(seed + 1000)
    impossible = torch.rand(VOCAB_SIZE, generator=generator) < 0.5
    return normal(seed).masked_fill(impossible, -torch.inf)


def extreme(seed: int) -> torch.Tensor:
    """Some tokens are beyond all others, as after a bias."""
    return normal(seed) * torch.tensor([1.0, 1e2, 1e4]).repeat(VOCAB_SIZE // 3)


LOGITS: list[Logits] = [normal, with_ties, with_impossible, extreme]

ALONE = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": VOCAB_SIZE},
    {"top_p": 1e-6},
    {"top_p": 0.35},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.5},
    {"repetition_penalty": 100.0},
    {"repetition_penalty": 1.3, "repetition_window": 0},
    {"repetition_penalty": 1.3, "repetition_window": 3},
    {"repetition_penalty": 1.3, "repetition_window": 10_000},
    {"presence_penalty": 2.0},
    {"presence_penalty": -2.0},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -0.7, "presence_penalty": 1.1},
    {"logit_bias": {0: 5.0, 7: -100.0, 599: 0.25}},
    {"min_tokens": 3},
    {"min_tokens": 3, "stop_token_ids": frozenset({9})},
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 2.0, "min_tokens": 4, "logit_bias": {8: 4.0}},
]


def together(seed: int) -> dict[str, Any]:
    """Return some values of many parameters at once."""
    rng = random.Random(seed)
    all_of_them = {
        "temperature": rng.uniform(0.2, 2),
        "top_k": rng.choice([3, 20, 200]),
        "top_p": rng.uniform(0.3, 0.99),
        "min_p": rng.uniform(0.001, 0.3),
        "typical_p": rng.uniform(0.3, 0.99),
        "repetition_penalty": rng.uniform(0.6, 1.8),
        "repetition_window": rng.choice([None, 2, 7]),
        "presence_penalty": rng.uniform(-2, 2),
        "frequency_penalty": rng.uniform(-2, 2),
        "logit_bias": {rng.randrange(VOCAB_SIZE): rng.uniform(-9, 9) for _ in range(5)},
        "min_tokens": rng.choice([0, 2, 100]),
    }
    return {name: all_of_them[name] for name in rng.sample(sorted(all_of_them), rng.randint(3, 11))}


def expected_probs(
    logits: torch.Tensor, params: SamplingParams, completion: list[int]
) -> torch.Tensor:
    """Return the probability of every token, by way of Transformers and in its order."""
    scores = penalized(logits, params, completion)
    if params.is_greedy:
        return torch.nn.functional.one_hot(scores.argmax(), VOCAB_SIZE).float()
    warpers: list[Any] = [reference.TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        warpers.append(reference.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(reference.TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(reference.MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        warpers.append(reference.TypicalLogitsWarper(params.typical_p))
    unused = torch.tensor([[0]])
    scores = scores[None]
    for warper in warpers:
        scores = warper(unused, scores)
    return scores[0].softmax(dim=-1)


def penalized(logits: torch.Tensor, params: SamplingParams, completion: list[int]) -> torch.Tensor:
    """Return the logits after what depends on the tokens so far."""
    history = torch.tensor([[*PROMPT, *completion]])
    scores = logits[None]
    if params.logit_bias:
        bias = {(token_id,): float(value) for token_id, value in params.logit_bias.items()}
        scores = reference.SequenceBiasLogitsProcessor(bias)(history, scores)
    window = history.shape[1] if params.repetition_window is None else params.repetition_window
    if params.repetition_penalty != 1 and window > 0:
        penalize = reference.RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        scores = penalize(history[:, -window:], scores)
    counts = torch.bincount(torch.tensor(completion, dtype=torch.long), minlength=VOCAB_SIZE)
    scores = scores - counts * params.frequency_penalty - (counts > 0) * params.presence_penalty
    if params.min_tokens:
        stops = sorted(STOP_TOKEN_IDS | params.stop_token_ids)
        hold = reference.MinNewTokensLengthLogitsProcessor(len(PROMPT), params.min_tokens, stops)
        scores = hold(history, scores)
    return scores[0]


def check(params: SamplingParams, make_logits: Logits, *, has_ties: bool) -> None:
    """Compare the probabilities at each step of an answer with the expected ones."""
    sampler = Sampler(params, PROMPT, STOP_TOKEN_IDS, torch.device("cpu"))
    completion: list[int] = []
    for step in range(NUM_STEPS):
        logits = make_logits(step)

        weights, token_ids = sampler.distribution(logits)

        assert len(set(token_ids.tolist())) == token_ids.numel()
        probs = torch.zeros(VOCAB_SIZE).scatter(0, token_ids, weights / weights.sum())
        expected = expected_probs(logits, params, completion)
        if has_ties:  # which of the tied ones are inside a nucleus is nobody's promise
            probs, expected = probs.sort().values, expected.sort().values
        torch.testing.assert_close(probs, expected, atol=1e-6, rtol=1e-4)
        completion.append(sampler.sample(logits).token_id)


@pytest.mark.parametrize("make_logits", LOGITS)
@pytest.mark.parametrize("params", ALONE, ids=str)
def test_each_parameter_gives_the_probabilities_of_transformers(
    params: dict[str, Any], make_logits: Logits
) -> None:
    check(SamplingParams(seed=1, **params), make_logits, has_ties="top_p" in params)


@pytest.mark.parametrize("make_logits", LOGITS)
@pytest.mark.parametrize("seed", range(25))
def test_many_parameters_together_give_the_probabilities_of_transformers(
    seed: int, make_logits: Logits
) -> None:
    check(SamplingParams(seed=1, **together(seed)), make_logits, has_ties=make_logits is with_ties)


def test_temperature_comes_before_the_cut_offs_as_in_transformers() -> None:
    """The other order gives another nucleus here: (0.6, 0.3, 0.1) has two tokens in 0.7."""
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    params = SamplingParams(temperature=0.25, top_p=0.7)

    _, token_ids = Sampler(params, [0], frozenset(), logits.device).distribution(logits)

    assert token_ids.tolist() == [0]


def test_top_k_keeps_every_token_that_is_tied_with_the_last() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0])

    sampler = Sampler(SamplingParams(top_k=2), [0], frozenset(), logits.device)

    assert sampler.distribution(logits)[1].sort().values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("mirostat", [0, 1, 2])
@pytest.mark.parametrize("temperature", [1e-30, 0.01, 1.0])
def test_the_greatest_floats_are_no_infinities(temperature: float, mirostat: Any) -> None:
    most = torch.finfo(torch.float32).max
    logits = torch.tensor([most, most, -most, 0.0])
    params = SamplingParams(temperature=temperature, mirostat=mirostat, seed=0)

    sampler = Sampler(params, [0], frozenset(), logits.device)

    assert {sampler.sample(logits).token_id for _ in range(40)} == {0, 1}
