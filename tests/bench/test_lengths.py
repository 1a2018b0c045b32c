"""How long prompts and answers come out."""

from __future__ import annotations

import statistics
from random import Random

import pytest

from palma.bench.lengths import parse_lengths
from palma.bench.prompts import COMMON_WORDS, WordRate, random_words, word_rate
from palma.core.errors import SettingsError


def draws(text: str, number: int = 4000) -> list[int]:
    rng = Random(7)
    return [parse_lengths(text, "--prompt-tokens").draw(rng) for _ in range(number)]


def test_a_count_is_always_that_count() -> None:
    assert set(draws("128")) == {128}


def test_a_range_reaches_both_ends_evenly() -> None:
    lengths = draws("32-256")

    assert (min(lengths), max(lengths)) == (32, 256)
    assert statistics.mean(lengths) == pytest.approx(144, rel=0.03)


def test_a_log_normal_spread_has_its_mean_and_its_sigma() -> None:
    lengths = draws("lognormal:128,0.5")

    assert statistics.mean(lengths) == pytest.approx(128, rel=0.05)
    assert statistics.quantiles(lengths, n=100)[83] == pytest.approx(128 * 1.45, rel=0.1)
    assert min(lengths) >= 1


def test_the_same_seed_draws_the_same_lengths() -> None:
    assert draws("lognormal:128,0.5", 50) == draws("lognormal:128,0.5", 50)


@pytest.mark.parametrize(
    "text", ["", "x", "0", "9-3", "-5", "1.5", "lognormal:5", "lognormal:0,1", "normal:3,1"]
)
def test_a_wrong_distribution_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(SettingsError, match="--output-tokens"):
        parse_lengths(text, "--output-tokens")


@pytest.mark.parametrize("text", ["lognormal:nan,1", "lognormal:inf,1", "lognormal:9,nan"])
def test_a_spread_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_lengths(text, "--output-tokens")


def test_two_measured_prompts_tell_what_a_word_costs() -> None:
    rate = word_rate((16, 34), (96, 154))

    assert (rate.overhead, rate.tokens_per_word) == (10, 1.5)
    assert rate.words_for(160) == 100
    assert rate.words_for(1) == 1


def test_a_server_with_wrong_counts_leaves_the_usual_rate() -> None:
    assert word_rate((16, 5), (96, 5)) == WordRate()


def test_words_are_common_ones_and_as_many_as_asked() -> None:
    words = random_words(Random(0), 50).split()

    assert len(words) == 50
    assert set(words) <= set(COMMON_WORDS.split())
