"""Percentiles and rates."""

from __future__ import annotations

import itertools
import math
from random import Random

import pytest

from palma.bench.client import Measurement
from palma.bench.load import Level, arrivals
from palma.bench.report import results_table
from palma.bench.summary import decode_rate, percentile, spread, summarize

LEVEL = Level(concurrency=2)


def whole(start: float, texts: list[float], end: float, tokens: int | None = None) -> Measurement:
    usage = {} if tokens is None else {"prompt_tokens": 10, "completion_tokens": tokens}
    return Measurement(start, end, text_times=texts, usage=usage)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 2.5), (90, 3.7), (100, 4)])
def test_a_percentile_lies_between_its_neighbours(percent: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == pytest.approx(value)


def test_a_spread_of_nothing_is_no_number() -> None:
    empty = spread([])

    assert all(math.isnan(value) for value in (empty.mean, empty.p50, empty.p99))


def test_the_order_of_values_does_not_matter() -> None:
    assert spread([3, 1, 2]) == spread([1, 2, 3])


def test_a_level_sums_up_whole_answers() -> None:
    measured = [whole(10, [11, 11.5, 12], 12, 5), whole(10, [10.5, 14], 14, 3)]

    summary = summarize(LEVEL, measured)

    assert summary.duration_s == 4
    assert summary.output_tokens_per_s == 2
    assert summary.total_tokens_per_s == 7
    assert summary.ttft_s.p50 == 0.75
    assert summary.itl_s.p50 == 0.5
    assert summary.e2e_s.p50 == 3
    assert summary.counted_by == "usage"


def test_failed_requests_count_only_as_failed_and_take_their_time() -> None:
    broken = Measurement(10, 20, "no_done", text_times=[11, 12], usage={"completion_tokens": 99})

    summary = summarize(LEVEL, [whole(10, [11, 12], 12, 20), broken, broken])

    assert (summary.num_ok, summary.num_requests) == (1, 3)
    assert summary.errors == {"no_done": 2}
    assert summary.output_tokens_per_s == 2
    assert summary.ttft_s.p99 == 1


def test_a_level_without_one_whole_answer_has_no_latencies() -> None:
    summary = summarize(LEVEL, [Measurement(0, 1, "connect")])

    assert summary.output_tokens_per_s == 0
    assert summary.to_json()["ttft_s"]["p50"] is None
    assert results_table([summary]).row_count > 10


def test_without_usage_chunks_are_counted_and_that_is_said() -> None:
    summary = summarize(LEVEL, [whole(0, [1, 2], 2)])

    assert summary.counted_by == "chunks"
    assert summary.output_tokens_per_s == 1


def test_the_decode_rate_leaves_the_first_token_out() -> None:
    assert decode_rate(whole(0, [5, 6, 7], 7, 11)) == 5
    assert decode_rate(whole(0, [5], 5, 1)) == 0


def test_arrivals_come_at_their_rate_and_the_same_for_a_seed() -> None:
    first, second = arrivals(Random(1), 20), arrivals(Random(1), 20)
    times = [next(first) for _ in range(2000)]

    assert times == [next(second) for _ in range(2000)]
    assert times[-1] == pytest.approx(100, rel=0.1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert spread(gaps).p50 == pytest.approx(math.log(2) / 20, rel=0.1)  # exponential
