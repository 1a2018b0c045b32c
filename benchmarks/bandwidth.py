"""How fast this machine reads memory: sums a buffer that no cache holds, on all threads.

    python -m benchmarks.bandwidth

Each decode step of one stream reads every weight once, so bandwidth over bytes of weights bounds
the steps a second. Machines that are shared differ by a factor of two from one minute to the next:
compare only with what ran in the same minute.
"""

from __future__ import annotations

import argparse
import statistics
import time

BUFFER_BYTES = 1 << 30
NUM_PASSES = 7


def read_bandwidth(buffer_bytes: int = BUFFER_BYTES, num_passes: int = NUM_PASSES) -> float:
    """Return bytes a second, the median over passes of a buffer that is far larger than caches."""
    import torch

    buffer = torch.ones(buffer_bytes // 8, dtype=torch.int64)
    rates = []
    for _ in range(num_passes):
        started = time.perf_counter()
        total = int(buffer.sum())
        rates.append(buffer_bytes / (time.perf_counter() - started))
        assert total == buffer.numel()
    return statistics.median(rates)


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rate = read_bandwidth()
    print(f"{rate / 1e9:.1f} GB/s read, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
