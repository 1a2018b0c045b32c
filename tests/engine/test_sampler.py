"""The sampler against Transformers' own logits processors, and its corner cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation import logits_process as reference

from palma.core.errors import EngineFailure
from palma.core.types import SamplingParams
from palma.engine.sampler import (
    LEAST_LOGPROB,
    Sampler,
    candidates,
    penalize_repetition,
    report_logprobs,
    report_prompt_logprobs,
)

VOCAB_SIZE = 1000
SEEN = torch.tensor([[3, 7, 7, 500]])


def random_logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VOCAB_SIZE, generator=generator) * scale


def make_sampler(params: SamplingParams, **kwargs: Any) -> Sampler:
    """A sampler behind the prompt SEEN, with no stop tokens unless a test names some."""
    kwargs = {"stop_token_ids": frozenset(), "device": torch.device("cpu"), **kwargs}
    return Sampler(params, SEEN[0].tolist(), **kwargs)


def sample(logits: torch.Tensor, params: SamplingParams) -> int:
    return make_sampler(params).sample(logits).token_id


def dense_probs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    probs, token_ids = candidates(logits, params)
    return torch.zeros(VOCAB_SIZE).scatter(0, token_ids, probs / probs.sum())


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        (SamplingParams(temperature=0.6), [reference.TemperatureLogitsWarper(0.6)]),
        (SamplingParams(top_k=10), [reference.TopKLogitsWarper(10)]),
        (SamplingParams(top_p=0.7), [reference.TopPLogitsWarper(0.7)]),
        (SamplingParams(top_p=0.999), [reference.TopPLogitsWarper(0.999)]),
        (SamplingParams(min_p=0.2), [reference.MinPLogitsWarper(0.2)]),
        (SamplingParams(typical_p=0.5), [reference.TypicalLogitsWarper(0.5)]),
        (SamplingParams(typical_p=0.95), [reference.TypicalLogitsWarper(0.95)]),
        (
            SamplingParams(temperature=1.7, top_k=50, top_p=0.9, min_p=0.02, typical_p=0.8),
            [
                reference.TemperatureLogitsWarper(1.7),
                reference.TopKLogitsWarper(50),
                reference.TopPLogitsWarper(0.9),
                reference.MinPLogitsWarper(0.02),
                reference.TypicalLogitsWarper(0.8),
            ],
        ),
    ],
)
def test_probabilities_equal_those_of_transformers(
    params: SamplingParams, warpers: list[Any], scale: float
) -> None:
    logits = random_logits(seed=1, scale=scale)
    scores = logits[None]
    for warper in warpers:
        scores = warper(SEEN, scores)

    probs = dense_probs(logits, params)

    torch.testing.assert_close(probs, scores[0].softmax(dim=-1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_repetition_penalty_equals_that_of_transformers(penalty: float) -> None:
    logits = random_logits(seed=2)
    expected = reference.RepetitionPenaltyLogitsProcessor(penalty)(SEEN, logits[None])[0]

    torch.testing.assert_close(penalize_repetition(logits, SEEN[0], penalty), expected)


def test_drawn_tokens_follow_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -50.0])
    sampler = Sampler(SamplingParams(seed=0), [0], frozenset(), logits.device)

    drawn = torch.tensor([sampler.sample(logits).token_id for _ in range(4000)])

    share = drawn.bincount(minlength=4) / 4000
    torch.testing.assert_close(share, logits.softmax(dim=-1), atol=0.03, rtol=0)


def test_a_seed_gives_the_same_tokens_whatever_the_global_generator_does() -> None:
    logits = random_logits(seed=3)

    def draw() -> list[int]:
        sampler = make_sampler(SamplingParams(seed=42))
        return [sampler.sample(logits).token_id for _ in range(20)]

    first = draw()
    torch.manual_seed(999)

    assert draw() == first
    assert len(set(first)) > 1


def test_temperature_zero_and_a_vanishing_one_take_the_likeliest_token() -> None:
    logits = random_logits(seed=4)

    for temperature in (0.0, 1e-30, 1e-300):
        assert sample(logits, SamplingParams(temperature=temperature)) == int(logits.argmax())


def test_top_k_beyond_the_vocabulary_keeps_all_tokens() -> None:
    _, token_ids = candidates(random_logits(seed=5), SamplingParams(top_k=10**9))

    assert token_ids.numel() == VOCAB_SIZE


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_fail_the_request(bad: float) -> None:
    with pytest.raises(EngineFailure, match="not a number"):
        sample(torch.full((VOCAB_SIZE,), bad), SamplingParams(temperature=0))


def test_tokens_of_infinite_unlikelihood_are_never_drawn() -> None:
    logits = torch.full((VOCAB_SIZE,), -torch.inf)
    logits[[5, 9]] = 0.0
    sampler = make_sampler(SamplingParams(seed=1, top_p=0.99, min_p=0.01, typical_p=0.99))

    assert {sampler.sample(logits).token_id for _ in range(50)} == {5, 9}


def test_presence_and_frequency_are_taken_from_tokens_of_the_completion_alone() -> None:
    logits = torch.zeros(VOCAB_SIZE)
    logits[[3, 10, 20]] = torch.tensor([0.5, 3.0, 2.0])  # 3 is in the prompt
    params = SamplingParams(temperature=0, presence_penalty=0.4, frequency_penalty=0.3)
    sampler = make_sampler(params)

    drawn = [sampler.sample(logits).token_id for _ in range(8)]

    # 10 leads by 1: it costs 0.7 at first and 0.3 more for each time, and 20 the same.
    assert drawn == [10, 10, 10, 20, 10, 10, 20, 10]


def test_logit_bias_is_added_to_the_named_tokens() -> None:
    logits = random_logits(seed=6)

    assert sample(logits, SamplingParams(temperature=0, logit_bias={77: 100})) == 77
    banned = {int(logits.argmax()): -100.0}
    assert sample(logits, SamplingParams(temperature=0, logit_bias=banned)) not in banned


def test_min_tokens_keeps_stop_tokens_away_until_then() -> None:
    logits = torch.zeros(VOCAB_SIZE)
    logits[[8, 9, 10]] = torch.tensor([3.0, 2.0, 1.0])
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=frozenset({9}))
    sampler = make_sampler(params, stop_token_ids=frozenset({8}))

    assert [sampler.sample(logits).token_id for _ in range(3)] == [10, 10, 8]


def test_logprobs_are_those_of_the_model_and_never_infinite() -> None:
    logits = torch.full((VOCAB_SIZE,), -torch.inf)
    logits[[4, 6]] = torch.tensor([1.0, 0.0])
    params = SamplingParams(temperature=0, num_logprobs=3, logit_bias={4: -100.0})

    logprobs = make_sampler(params).sample(logits).logprobs

    assert logprobs is not None
    expected = logits.log_softmax(dim=-1)
    assert logprobs.token_id == 6
    assert logprobs.logprob == pytest.approx(float(expected[6]))
    assert [token_id for token_id, _ in logprobs.top[:2]] == [4, 6]
    assert logprobs.top[2][1] == LEAST_LOGPROB


def test_the_scores_of_many_rows_are_those_of_each() -> None:
    logits = torch.stack([random_logits(seed) for seed in range(150)])
    logits[3, 7] = -torch.inf
    token_ids = [7 * row % VOCAB_SIZE for row in range(150)]
    token_ids[3] = 7

    together = report_prompt_logprobs(logits, token_ids, 3)

    alone = [report_logprobs(row, token, 3) for row, token in zip(logits, token_ids, strict=True)]
    assert together == alone
    assert together[3].logprob == LEAST_LOGPROB
    expected = logits.log_softmax(dim=-1)[149, token_ids[149]]
    assert together[149].logprob == pytest.approx(float(expected))
    assert report_prompt_logprobs(logits[:0], [], 3) == []


def test_a_prompt_whose_logits_are_not_numbers_has_no_scores() -> None:
    logits = torch.stack([random_logits(0), random_logits(1) * torch.nan])

    with pytest.raises(EngineFailure, match="not a number"):
        report_prompt_logprobs(logits, [1, 2], 0)
