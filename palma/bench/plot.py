"""A picture of a benchmark: throughput and latency against load. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palma.bench.summary import LevelSummary, Spread
from palma.core.errors import SettingsError


def require_matplotlib() -> None:
    """Check, before anything is measured, that a picture can be drawn.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SettingsError(
            '--plot needs matplotlib, which is not installed: pip install "palma[bench]"'
        ) from None


def draw(summaries: Sequence[LevelSummary], title: str, path: Path) -> None:
    """Write a PNG with two panels: tokens a second, and TTFT and ITL."""
    from matplotlib.figure import Figure

    is_open = summaries[0].level.concurrency is None
    load = [float(one.level.concurrency or one.level.rate or 0) for one in summaries]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    throughput, latency = figure.subplots(1, 2)
    throughput.set_title("Throughput")
    throughput.set_ylabel("tokens a second")
    _line(throughput, load, [one.output_tokens_per_s for one in summaries], "completion tokens")
    _line(throughput, load, [one.total_tokens_per_s for one in summaries], "with prompt tokens")
    latency.set_title("Latency (line: median, band: up to p99)")
    latency.set_ylabel("milliseconds")
    _band(latency, load, [one.ttft_s for one in summaries], "time to first token")
    _band(latency, load, [one.itl_s for one in summaries], "inter-token latency")
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter("{x:,g}")
    throughput.yaxis.set_major_formatter("{x:,g}")
    for axes in (throughput, latency):
        _finish(axes, load, "requests a second" if is_open else "requests at once")
    throughput.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)


def _line(axes: Any, load: list[float], values: list[float], label: str) -> None:
    axes.plot(load, values, marker="o", label=label)


def _band(axes: Any, load: list[float], values: list[Spread], label: str) -> None:
    medians = [one.p50 * 1000 for one in values]
    if all(math.isnan(value) for value in medians):
        return
    (line,) = axes.plot(load, medians, marker="o", label=label)
    tops = [one.p99 * 1000 for one in values]
    axes.fill_between(load, medians, tops, color=line.get_color(), alpha=0.2, linewidth=0)


def _finish(axes: Any, load: list[float], x_label: str) -> None:
    axes.set_xlabel(x_label)
    if len(load) > 1 and max(load) >= 8 * min(load):
        axes.set_xscale("log", base=2)
    axes.set_xticks(load, [f"{value:g}" for value in load])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
