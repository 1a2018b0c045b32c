"""How long a first token takes, and how evenly tokens come while others' prompts are read."""

from __future__ import annotations

import statistics
import time

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.decode import draw_prompt
from benchmarks.gpu.streams import Stream, run_all, running, submit, wait_all, wait_begun
from benchmarks.gpu.table import Goal
from benchmarks.gpu.workload import Job
from palma.bench.summary import percentile

TTFT_GOAL = Goal(45, 30, "ms", is_upper=True)
ITL_GOAL = Goal(3, 2, "x", is_upper=True)


def ttft(bench: Bench) -> None:
    """Prompts that share nothing, one at a time, on an engine that is idle; the first warms up."""
    num_prompts, num_tokens = bench.workload.ttft
    times_s = []
    for number in range(num_prompts + 1):
        job = Job(draw_prompt(bench, f"ttft {number}", num_tokens), 4)
        times_s.append(run_all(bench.engine, [job], bench.left_s)[0].ttft_s)
        time.sleep(0.02)
    counted = times_s[1:]
    median_ms = statistics.median(counted) * 1000
    bench.note(times_s=times_s)
    bench.add(
        f"TTFT of a {num_tokens:,}-token prompt",
        f"{median_ms:.1f} ms",
        f"{min(counted) * 1000:.1f} - {max(counted) * 1000:.1f} ms in {num_prompts} prompts",
        value=median_ms,
        goal=TTFT_GOAL,
    )


def itl(bench: Bench) -> None:
    """The gaps of running streams, undisturbed first, then while long prompts arrive."""
    num_streams, num_prompt_tokens = bench.workload.streams
    long_prompt = draw_prompt(bench, "itl warm", bench.workload.intruders[1])
    run_all(bench.engine, [Job(long_prompt, 2)], bench.left_s)
    longest = bench.engine.info.max_model_len - num_prompt_tokens
    jobs = [
        Job(draw_prompt(bench, f"itl {i}", num_prompt_tokens), longest) for i in range(num_streams)
    ]
    with running(bench.engine, jobs) as streams:
        wait_begun(streams, bench.left_s)
        begin_s = time.perf_counter()
        time.sleep(bench.workload.window_s)
        quiet_s = time.perf_counter()
        intruders = _send_intruders(bench)
        wait_all(intruders, bench.left_s)
        end_s = time.perf_counter()
    _add_gaps(bench, _gaps(streams, begin_s, quiet_s), _gaps(streams, quiet_s, end_s))
    first_ms = statistics.median(stream.ttft_s for stream in intruders) * 1000
    bench.note(intruders_ttft_s=[stream.ttft_s for stream in intruders])
    bench.say(f"the prompts in between had a median TTFT of {first_ms:.0f} ms")


def _send_intruders(bench: Bench) -> list[Stream]:
    """Submit long prompts, one each `arrival_s`."""
    num_intruders, num_tokens = bench.workload.intruders
    streams = []
    for number in range(num_intruders):
        prompt = draw_prompt(bench, f"itl intruder {number}", num_tokens)
        streams.append(submit(bench.engine, Job(prompt, 2)))
        time.sleep(bench.workload.arrival_s)
    return streams


def _gaps(streams: list[Stream], begin_s: float, end_s: float) -> list[float]:
    return sorted(gap for stream in streams for gap in stream.gaps_s(begin_s, end_s))


def _add_gaps(bench: Bench, quiet: list[float], disturbed: list[float]) -> None:
    quiet_p50, own_p50 = percentile(quiet, 50), percentile(disturbed, 50)
    quiet_p99, p99 = percentile(quiet, 99), percentile(disturbed, 99)
    bench.note(
        quiet_p50_s=quiet_p50,
        quiet_p99_s=quiet_p99,
        p50_s=own_p50,
        p99_s=p99,
        longest_s=disturbed[-1],
        num_gaps=len(disturbed),
    )
    for name, median in (("undisturbed median", quiet_p50), ("own median", own_p50)):
        bench.add(
            f"ITL p99 while others prefill, to the {name}",
            f"p99 {p99 * 1000:.1f} ms (longest {disturbed[-1] * 1000:.1f} ms)",
            f"{name} {median * 1000:.2f} ms",
            ratio=p99 / median,
            goal=ITL_GOAL,
            note=f"undisturbed p99 {quiet_p99 * 1000:.2f} ms",
        )
