"""Mirostat 1 and 2 against the algorithms of arXiv:2007.14966, written down again here."""

from __future__ import annotations

import math
import random
from typing import Literal

import pytest
import torch

from palma.core.types import SamplingParams
from palma.engine.sampler import Sampler

VOCAB_SIZE = 4000
TEMPERATURE = 1.3

Version = Literal[1, 2]


class Paper:
    """Algorithm 1 of the paper, and its second version, which cuts by surprise itself."""

    def __init__(self, version: Version, tau: float, eta: float) -> None:
        self.version = version
        self.tau = tau
        self.eta = eta
        self.mu = 2 * tau

    def num_kept(self, probs: list[float]) -> int:
        """Return k for probabilities in falling order."""
        if self.version == 2:
            return max(1, sum(-math.log2(p) <= self.mu for p in probs if p > 0))
        t = [math.log((i + 1) / i) for i in range(1, 100)]
        b = [math.log(probs[i - 1] / probs[i]) for i in range(1, 100)]
        s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
        epsilon = s - 1
        k = (epsilon * 2**self.mu / (1 - len(probs) ** -epsilon)) ** (1 / s)
        return int(min(max(1, round(k)), len(probs)))

    def observe(self, prob: float) -> None:
        """Correct mu by the error of the surprise."""
        self.mu -= self.eta * (-math.log2(prob) - self.tau)


def natural_logits(seed: int) -> torch.Tensor:
    """Return logits by Zipf's law, somewhat shaken, in a random order."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.arange(1, VOCAB_SIZE + 1).log()
    shaken = -1.6 * ranks + 0.3 * torch.randn(VOCAB_SIZE, generator=generator)
    return shaken[torch.randperm(VOCAB_SIZE, generator=generator)]


def make_sampler(version: Version, tau: float, eta: float) -> Sampler:
    params = SamplingParams(
        temperature=TEMPERATURE, mirostat=version, mirostat_tau=tau, mirostat_eta=eta, seed=4
    )
    return Sampler(params, [0], frozenset(), torch.device("cpu"))


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return (logits.double() / TEMPERATURE).softmax(dim=-1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("tau", "eta"), [(2.5, 0.1), (3.0, 0.1), (4.0, 0.5), (5.0, 1.0)])
def test_every_step_draws_from_what_the_paper_keeps(
    version: Version, tau: float, eta: float
) -> None:
    paper = Paper(version, tau, eta)
    sampler = make_sampler(version, tau, eta)
    sizes = []

    for step in range(40):
        logits = natural_logits(step)
        probs = probabilities(logits)
        ordered, order = probs.sort(descending=True)
        num_kept = paper.num_kept(ordered.tolist())
        sizes.append(num_kept)

        weights, token_ids = sampler.distribution(logits)

        kept = torch.zeros(VOCAB_SIZE).scatter(0, token_ids, weights / weights.sum())
        expected = torch.zeros_like(probs).index_copy(0, order[:num_kept], ordered[:num_kept])
        torch.testing.assert_close(kept.double(), expected / expected.sum(), atol=1e-7, rtol=1e-4)
        paper.observe(float(probs[sampler.sample(logits).token_id]))

    assert len(set(sizes)) > 3  # the bound moves


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [3.0, 4.0, 5.0])
def test_the_mean_surprise_comes_to_the_target(version: Version, tau: float) -> None:
    sampler = make_sampler(version, tau, eta=0.1)
    surprises = []
    for step in range(1500):
        logits = natural_logits(step % 20)
        token_id = sampler.sample(logits).token_id
        surprises.append(-math.log2(float(probabilities(logits)[token_id])))

    mean = sum(surprises[300:]) / len(surprises[300:])
    unguided = probabilities(natural_logits(0))
    entropy = float(-(unguided * unguided.log2()).sum())
    assert mean == pytest.approx(tau, abs=0.1)
    assert abs(entropy - tau) > 0.5  # it does not come there by itself


def test_mirostat_takes_the_place_of_the_other_cut_offs() -> None:
    logits = natural_logits(1)
    params = SamplingParams(temperature=TEMPERATURE, mirostat=2, mirostat_tau=20.0, top_k=1, seed=1)

    weights, _ = Sampler(params, [0], frozenset(), torch.device("cpu")).distribution(logits)

    assert weights.numel() == VOCAB_SIZE


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [0.0, 100.0])
def test_the_ends_of_the_range_still_give_tokens(version: Version, tau: float) -> None:
    sampler = make_sampler(version, tau, eta=1.0)
    rng = random.Random(0)

    for _ in range(50):
        logits = torch.full((VOCAB_SIZE,), -torch.inf)
        logits[rng.sample(range(VOCAB_SIZE), 3)] = torch.tensor([9.0, 1.0, 0.0])

        token_id = sampler.sample(logits).token_id

        assert math.isfinite(float(logits[token_id]))
