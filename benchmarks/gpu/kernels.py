"""The kernels' own tests, in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.table import Goal

FOLDER = Path("tests/engine/continuous/cuda")
KERNEL_GOAL = Goal(1, None, "%")
TAIL_CHARS = 3000


def kernels(bench: Bench) -> None:
    """Run all tests of the CUDA engine but slow ones: on a GPU none of them is interpreted."""
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "--timeout", "180", "--durations", "5"]
    command += ["-p", "no:cacheprovider", "-m", "gpu or not slow", str(FOLDER)]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=bench.left_s, check=False
    )
    counts = {
        word: int(number)
        for number, word in re.findall(
            r"(\d+) (passed|failed|error|skipped)", finished.stdout.strip().rpartition("\n")[2]
        )
    }
    num_passed = counts.get("passed", 0)
    num_failed = counts.get("failed", 0) + counts.get("error", 0)
    if finished.returncode != 0 or num_failed or not num_passed:
        print((finished.stdout + finished.stderr)[-TAIL_CHARS:], flush=True)
    bench.note(returncode=finished.returncode, **counts)
    bench.add(
        "kernel tests",
        f"{num_passed} passed, {num_failed} failed, {counts.get('skipped', 0)} skipped",
        f"pytest's status is {finished.returncode}",
        ratio=num_passed / (num_passed + num_failed) if num_passed + num_failed else 0.0,
        goal=KERNEL_GOAL,
    )
