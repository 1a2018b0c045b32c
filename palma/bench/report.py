"""A benchmark's results for programs (JSON) and for people (a table).

The JSON file, schema 1, times in seconds, tokens as the server counted them where it did:

    {
      "schema": 1,
      "palma": "<version of this client>",
      "started": "<UTC, ISO 8601>",
      "url", "model", "endpoint", "temperature", "seed",
      "prompt_tokens", "output_tokens": the distributions as they were given,
      "fields": ["ignore_eos", ...]: optional fields that the server took,
      "levels": [{
        "concurrency": int, or null in the open loop; "rate": requests a second, or null,
        "num_requests", "num_ok", "errors": {"http_429": 3, ...},
        "duration_s", "requests_per_s", "output_tokens_per_s", "total_tokens_per_s",
        "counted_by": "usage" or "chunks",
        "mean_prompt_tokens", "mean_completion_tokens",
        "ttft_s", "itl_s", "e2e_s", "decode_tokens_per_s": {"mean", "p50", "p90", "p99"},
        "requests": [{"start_s": after the level's first, "error": null or a kind, "detail",
          "num_prompt_tokens", "num_completion_tokens", "num_cached_tokens",
          "ttft_s", "e2e_s": null when the request failed}, ...]
      }, ...]
    }

A figure without a measurement behind it is null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from palma.bench.client import Measurement
from palma.bench.summary import LevelSummary, Spread

SCHEMA = 1

Row = tuple[str, Callable[[LevelSummary], str]]


def level_json(summary: LevelSummary, measured: Sequence[Measurement]) -> dict[str, Any]:
    """Return one level of the JSON file."""
    first_s = min(one.started_s for one in measured)
    ordered = sorted(measured, key=lambda one: one.started_s)
    return summary.to_json() | {"requests": [_request_json(one, first_s) for one in ordered]}


def _request_json(measured: Measurement, first_s: float) -> dict[str, Any]:
    is_whole = measured.error is None
    details = measured.usage.get("prompt_tokens_details") or {}
    return {
        "start_s": measured.started_s - first_s,
        "error": measured.error,
        "detail": measured.detail,
        "num_prompt_tokens": measured.num_prompt_tokens,
        "num_completion_tokens": measured.num_completion_tokens,
        "num_cached_tokens": details.get("cached_tokens") or 0,
        "ttft_s": measured.ttft_s if is_whole else None,
        "e2e_s": measured.e2e_s if is_whole else None,
    }


def results_table(summaries: Sequence[LevelSummary]) -> Table:
    """Return the table that ends a run: a column a level, a row a figure."""
    is_open = summaries[0].level.concurrency is None
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column("requests a second" if is_open else "requests at once")
    for summary in summaries:
        table.add_column(summary.level.name.removesuffix("/s"), justify="right")
    for label, show in ROWS:
        table.add_row(label, *(show(summary) for summary in summaries))
    return table


def _rows_of(label: str, pick: Callable[[LevelSummary], Spread], digits: int) -> list[Row]:
    """Return a row for each percentile of a time, in milliseconds."""

    def row(name: str) -> Row:
        return (
            f"{label} {name}, ms",
            lambda summary: _number(getattr(pick(summary), name) * 1000, digits),
        )

    return [row(name) for name in ("p50", "p90", "p99")]


ROWS: tuple[Row, ...] = (
    ("whole answers", lambda summary: f"{summary.num_ok}"),
    ("failed", lambda summary: f"{summary.num_requests - summary.num_ok}"),
    ("completion tokens a second", lambda summary: f"{summary.output_tokens_per_s:.1f}"),
    ("with prompt tokens", lambda summary: f"{summary.total_tokens_per_s:.1f}"),
    ("requests a second", lambda summary: f"{summary.requests_per_s:.2f}"),
    ("one stream's tokens a second", lambda one: _number(one.decode_tokens_per_s.p50, 1)),
    *_rows_of("TTFT", lambda summary: summary.ttft_s, 0),
    *_rows_of("ITL", lambda summary: summary.itl_s, 1),
    *_rows_of("end to end", lambda summary: summary.e2e_s, 0),
)


def remarks(summaries: Sequence[LevelSummary]) -> list[str]:
    """Return what the table does not say: real lengths, how tokens were counted, errors."""
    lines = []
    for summary in summaries:
        told = (
            f"{summary.level.name}: {summary.mean_prompt_tokens:.0f} prompt and "
            f"{summary.mean_completion_tokens:.0f} completion tokens a request on average, "
        )
        if summary.counted_by == "usage":
            told += "counted by the server"
        else:
            told += "one for each chunk of text: the server sends no usage"
        if summary.errors:
            kinds = ", ".join(f"{number} {kind}" for kind, number in summary.errors.items())
            told += f"; failed: {kinds}"
        lines.append(told)
    return lines


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
