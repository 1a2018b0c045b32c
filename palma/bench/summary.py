"""What a level's measurements come to: rates, percentiles, errors by kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from palma.bench.client import Measurement
from palma.bench.load import Level

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of a quantity; all NaN without values."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """One level. Only whole answers count in everything but `errors`.

    Attributes:
        duration_s: From the first request's start to the last one's end, failed ones included.
        errors: Failed requests by kind; see `Measurement.error`.
        counted_by: "usage" when the server counted every answer's tokens, else "chunks".
        output_tokens_per_s: Completion tokens of all requests over `duration_s`; with prompt
            tokens as `total_tokens_per_s`.
        decode_tokens_per_s: Of each stream alone, from its first text to its last.
        itl_s: Every gap between two pieces of text, of all requests together.
    """

    level: Level
    num_requests: int
    num_ok: int
    errors: dict[str, int]
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    counted_by: str
    mean_prompt_tokens: float
    mean_completion_tokens: float
    ttft_s: Spread
    itl_s: Spread
    e2e_s: Spread
    decode_tokens_per_s: Spread

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; NaN as None."""
        body = asdict(self)
        level: dict[str, Any] = body.pop("level")
        return level | {name: _without_nan(value) for name, value in body.items()}


def summarize(level: Level, measured: Sequence[Measurement]) -> LevelSummary:
    """Sum up the measurements of one level, at least one."""
    whole = [one for one in measured if one.error is None]
    duration_s = max(one.ended_s for one in measured) - min(one.started_s for one in measured)
    num_prompt = sum(one.num_prompt_tokens for one in whole)
    num_completion = sum(one.num_completion_tokens for one in whole)
    return LevelSummary(
        level=level,
        num_requests=len(measured),
        num_ok=len(whole),
        errors=dict(Counter(one.error for one in measured if one.error is not None)),
        duration_s=duration_s,
        requests_per_s=len(whole) / duration_s,
        output_tokens_per_s=num_completion / duration_s,
        total_tokens_per_s=(num_prompt + num_completion) / duration_s,
        counted_by="usage" if all(one.usage for one in whole) else "chunks",
        mean_prompt_tokens=_mean([one.num_prompt_tokens for one in whole]),
        mean_completion_tokens=_mean([one.num_completion_tokens for one in whole]),
        ttft_s=spread([one.ttft_s for one in whole]),
        itl_s=spread([gap for one in whole for gap in one.itls_s]),
        e2e_s=spread([one.e2e_s for one in whole]),
        decode_tokens_per_s=spread([rate for one in whole if (rate := decode_rate(one))]),
    )


def decode_rate(measured: Measurement) -> float:
    """Return tokens a second after the first text, 0 when there was no second piece of text."""
    times = measured.text_times
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return (measured.num_completion_tokens - 1) / (times[-1] - times[0])


def spread(values: Sequence[float]) -> Spread:
    """Return mean and percentiles."""
    ordered = sorted(values)
    return Spread(_mean(values), *(percentile(ordered, percent) for percent in PERCENTILES))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted values, linear between neighbours; NaN without values."""
    if not ordered:
        return math.nan
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
