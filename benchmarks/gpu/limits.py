"""What the device can do at best: how fast it copies, reads and multiplies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

NUM_REPEATS = 12
NUM_WARMUPS = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates that bound every other figure of the same run.

    Attributes:
        copy_bytes_per_s: Of a copy within the device, bytes read plus bytes written.
        read_bytes_per_s: Of the faster of two kernels that only read.
        reader: Which one that was.
        matmul_flops: Floating-point operations a second of a bfloat16 product of random matrices.
    """

    copy_bytes_per_s: float
    read_bytes_per_s: float
    reader: str
    matmul_flops: float

    def __str__(self) -> str:
        return (
            f"copy {self.copy_bytes_per_s / 1e12:.3f} TB/s, read {self.read_bytes_per_s / 1e12:.3f}"
            f" TB/s ({self.reader}), bfloat16 matrix product {self.matmul_flops / 1e12:.1f} TFLOP/s"
        )


def median_s(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call that keeps the device busy, after a few warm-ups."""
    for _ in range(NUM_WARMUPS):
        work()
    if device.type != "cuda":
        return statistics.median(_clocked_s(work) for _ in range(NUM_REPEATS))
    new_mark: Any = torch.cuda.Event
    marks = [new_mark(enable_timing=True) for _ in range(NUM_REPEATS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize(device)
    gaps_ms: list[float] = [a.elapsed_time(b) for a, b in pairwise(marks)]
    return statistics.median(gaps_ms) / 1000


def _clocked_s(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.inference_mode()
def measure_limits(device: torch.device, num_bytes: int, matmul_size: int) -> Limits:
    """Measure all of them on random data.

    Args:
        device: Where.
        num_bytes: Size of what is copied, and of what is read.
        matmul_size: Rows and columns of the matrices.
    """
    source = torch.randn(num_bytes // 4, device=device)
    copy_s = _copy_s(source)
    readers = {
        "sum of float32": median_s(source.sum, device) / source.nbytes,
        "bfloat16 matrix times vector": _matrix_vector_s(source) / source.nbytes,
    }
    reader = min(readers, key=lambda name: readers[name])
    left = torch.randn(matmul_size, matmul_size, device=device, dtype=torch.bfloat16)
    right = torch.randn(matmul_size, matmul_size, device=device, dtype=torch.bfloat16)
    matmul_s = median_s(lambda: left @ right, device)
    return Limits(
        copy_bytes_per_s=2 * num_bytes / copy_s,
        read_bytes_per_s=1 / readers[reader],
        reader=reader,
        matmul_flops=2 * matmul_size**3 / matmul_s,
    )


def _copy_s(source: torch.Tensor) -> float:
    target = torch.empty_like(source)
    return median_s(lambda: target.copy_(source), source.device)


def _matrix_vector_s(source: torch.Tensor) -> float:
    """Return the time of a product whose bfloat16 matrix has as many bytes as the source."""
    num_columns = 2 ** (source.numel().bit_length() // 2)
    half = source.bfloat16().view(-1, num_columns)
    matrix = torch.cat([half, -half])
    vector = torch.randn(num_columns, device=source.device, dtype=torch.bfloat16)
    return median_s(lambda: matrix @ vector, source.device)
