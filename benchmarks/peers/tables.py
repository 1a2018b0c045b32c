"""Markdown tables of turns: the figures of each server, and the ratios between them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.peers.contenders import BANDWIDTH_GOALS, COMPARISONS, Comparison
from benchmarks.peers.measure import Turn

Turns = Mapping[str, Sequence[Turn]]
"""The turns of each contender that ran, one a round."""


def figures_table(turns: Turns, weights: Mapping[str, int]) -> list[str]:
    """Return the lines of a table with medians over the rounds; `weights` in bytes."""
    lines = [
        "| server | 1 stream, tok/s | 8 streams | 32 streams | TTFT at 1,024, s | ITL p50 at 8, ms "
        "| peak memory, MB | 1 stream, share of read bandwidth | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rounds in turns.items():
        cells = [name]
        cells += [f"{_median(rounds, _tokens(workload)):.1f}" for workload in ("1", "8", "32")]
        cells += [
            f"{_median(rounds, lambda turn: turn.ttft_s):.2f}",
            f"{_median(rounds, lambda turn: turn.itl_s) * 1000:.0f}",
            f"{max(turn.peak_bytes for turn in rounds) / 1e6:,.0f}",
            f"{statistics.median(turn.bandwidth_share(weights[name]) for turn in rounds):.0%}",
            f"{sum(turn.num_failed for turn in rounds)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratios_table(turns: Turns, weights: Mapping[str, int], *, is_small: bool) -> list[str]:
    """Return the lines of a table with the median over rounds of each round's ratio."""
    lines = [
        "| Palma against | ratio | lowest - highest | must | stretch |",
        "|---|---|---|---|---|",
    ]
    lines += [
        _ratio_row(comparison, turns, is_small)
        for comparison in COMPARISONS
        if comparison.ours in turns and comparison.theirs in turns
    ]
    must, stretch = BANDWIDTH_GOALS
    for name in ("palma bf16", "palma int8"):
        shares = [turn.bandwidth_share(weights[name]) for turn in turns.get(name, ())]
        if shares:
            cells = f"{statistics.median(shares):.0%} | {min(shares):.0%} - {max(shares):.0%}"
            goals = "- | -" if is_small else f"{must:.0%} | {stretch:.0%}"
            lines.append(f"| read bandwidth: {name}, 1 stream | {cells} | {goals} |")
    return lines


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn], workload: str) -> list[float]:
    """Return ours over theirs, round by round."""
    pick = _seconds if workload == "prefill" else _tokens(workload)
    return [pick(mine) / pick(other) for mine, other in zip(ours, theirs, strict=False)]


def _ratio_row(comparison: Comparison, turns: Turns, is_small: bool) -> str:
    per_round = ratios(turns[comparison.ours], turns[comparison.theirs], comparison.workload)
    goals = comparison.small if is_small else (comparison.must, comparison.stretch)
    must, stretch = goals or (None, None)
    what = {
        "1": "1 stream",
        "prefill": "TTFT at 1,024 tokens (less is better)",
    }.get(comparison.workload, f"{comparison.workload} streams")
    precision = comparison.ours.removeprefix("palma ")
    return (
        f"| {comparison.theirs} (ours {precision}), {what} | {statistics.median(per_round):.2f}x | "
        f"{min(per_round):.2f} - {max(per_round):.2f} | {_goal(must)} | {_goal(stretch)} |"
    )


def _goal(value: float | None) -> str:
    return "-" if value is None else f"{value:g}x"


def _tokens(workload: str) -> Callable[[Turn], float]:
    return lambda turn: turn.tokens_per_s[workload]


def _seconds(turn: Turn) -> float:
    return turn.ttft_s


def _median(turns: Sequence[Turn], pick: Callable[[Turn], float]) -> float:
    return statistics.median(pick(turn) for turn in turns)
