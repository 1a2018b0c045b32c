"""Decoding against what reading the weights and the KV cache must cost at least."""

from __future__ import annotations

import statistics
import time
from random import Random

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.streams import Stream, run_all, running, wait_begun
from benchmarks.gpu.table import Goal
from benchmarks.gpu.workload import Job

WARMUP_TOKENS = 32
START_GOAL = Goal(30, 10, "s", is_upper=True)
ALONE_GOAL = Goal(0.70, 0.85, "%")
TOGETHER_GOAL = Goal(0.60, 0.80, "%")


def draw_prompt(bench: Bench, seed: str, num_tokens: int) -> list[int]:
    """Return a prompt that no other seed gives."""
    return Random(seed).choices(bench.model.word_token_ids, k=num_tokens)


def start(bench: Bench) -> None:
    """Time the way from a loaded model to the first answer, and to full speed.

    What the first request takes longer than the second one counts as warm-up too. What comes
    after, while requests are answered already, has a row of its own.
    """
    begun = bench.start_engine()
    first, second = (
        run_all(bench.engine, [_warm_up(bench, f"start {i}")], bench.left_s)[0] for i in range(2)
    )
    late_s = max(0.0, _seconds(first) - _seconds(second))
    total_s = begun.created_s + late_s
    bench.note(created_s=begun.created_s, ready_s=begun.ready_s, late_s=late_s)
    bench.add(
        "graph capture and warm-up",
        f"{total_s:.1f} s",
        f"first request {late_s:.2f} s slower than the second",
        value=total_s,
        goal=START_GOAL,
    )
    bench.add("compiled layers in use, answering meanwhile", f"after {begun.ready_s:.1f} s")


def _warm_up(bench: Bench, seed: str) -> Job:
    return Job(draw_prompt(bench, seed, WARMUP_TOKENS), WARMUP_TOKENS)


def _seconds(stream: Stream) -> float:
    return stream.ended_s - stream.submitted_s


def batch1(bench: Bench) -> None:
    """One request, its first token left out."""
    tokens_per_s, itl_s, context = measure_alone(bench)
    _add_bounded(
        bench,
        "batch 1 decode",
        f"{tokens_per_s:.1f} tok/s (median ITL {itl_s * 1000:.2f} ms)",
        tokens_per_s,
        num_sequences=1,
        context=context,
        goal=ALONE_GOAL,
    )


def measure_alone(bench: Bench) -> tuple[float, float, float]:
    """Return tokens a second after the first one, the median gap, and the mean context."""
    num_prompt_tokens, num_tokens = bench.workload.alone
    run_all(bench.engine, [_warm_up(bench, f"{bench.part} warm")], bench.left_s)
    job = Job(draw_prompt(bench, bench.part, num_prompt_tokens), num_tokens)
    stream = run_all(bench.engine, [job], bench.left_s)[0]
    num_after = stream.counts[-1] - stream.counts[0]
    tokens_per_s = num_after / (stream.times[-1] - stream.times[0])
    itl_s = statistics.median(stream.gaps_s(0, stream.ended_s))
    context = num_prompt_tokens + num_tokens / 2
    bench.note(tokens_per_s=tokens_per_s, median_itl_s=itl_s, context=context)
    return tokens_per_s, itl_s, context


def batch64(bench: Bench) -> None:
    """Many requests, while all of them decode."""
    tokens_per_s, context = measure_together(bench)
    num_sequences, _ = bench.workload.together
    _add_bounded(
        bench,
        f"batch {num_sequences} decode, context {context:.0f}",
        f"{tokens_per_s:.0f} tok/s",
        tokens_per_s,
        num_sequences=num_sequences,
        context=context,
        goal=TOGETHER_GOAL,
    )


def measure_together(bench: Bench) -> tuple[float, float]:
    """Return tokens a second of all while all decode, and their mean context."""
    num_sequences, num_prompt_tokens = bench.workload.together
    longest = bench.engine.info.max_model_len - num_prompt_tokens
    jobs = [
        Job(draw_prompt(bench, f"{bench.part} {i}", num_prompt_tokens), longest)
        for i in range(num_sequences)
    ]
    with running(bench.engine, jobs) as streams:
        wait_begun(streams, bench.left_s)
        begin_s = time.perf_counter()
        time.sleep(bench.workload.window_s)
        end_s = time.perf_counter()
    early = [stream for stream in streams if stream.finish_reason != "cancelled"]
    if early:
        raise RuntimeError(f"{len(early)} requests ended inside the window")
    before = [stream.num_tokens_at(begin_s) for stream in streams]
    after = [stream.num_tokens_at(end_s) for stream in streams]
    tokens_per_s = (sum(after) - sum(before)) / (end_s - begin_s)
    context = num_prompt_tokens + statistics.mean([*before, *after])
    fill_s = max(stream.ttft_s for stream in streams)
    bench.say(f"all {num_sequences} had their first token after {fill_s:.2f} s")
    bench.note(tokens_per_s=tokens_per_s, context=context, fill_s=fill_s)
    return tokens_per_s, context


def _add_bounded(
    bench: Bench,
    name: str,
    result: str,
    tokens_per_s: float,
    *,
    num_sequences: int,
    context: float,
    goal: Goal,
) -> None:
    """Add a row that compares with reading everything once a step, at both measured rates."""
    step_bytes = bench.model.step_bytes(num_sequences, context)
    by_copy = num_sequences * bench.limits.copy_bytes_per_s / step_bytes
    by_read = num_sequences * bench.limits.read_bytes_per_s / step_bytes
    bench.note(bound_by_copy_rate=by_copy, bound_by_read_rate=by_read, step_bytes=step_bytes)
    bench.add(
        name,
        result,
        f"{by_copy:.1f} tok/s: {step_bytes / 1e9:.2f} GB a step at the copy rate",
        ratio=tokens_per_s / by_copy,
        goal=goal,
        note=f"{tokens_per_s / by_read:.1%} of {by_read:.1f} tok/s at the read rate",
    )
