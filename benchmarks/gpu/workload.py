"""How much each part asks: the sizes that count, and small ones that show only that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes in tokens, times in seconds.

    Attributes:
        copied_bytes: What the bandwidth is measured on; several times any cache.
        matmul_size: Rows and columns of the product that the matrix rate is measured on.
        max_running: Requests that the engine computes at once.
        alone: Prompt and output of the one request of `batch1`.
        together: How many requests decode in `batch64`, and how long their prompts are.
        window_s: How long those are watched once all of them decode.
        mix: How many requests in `mix256`.
        mix_lengths: Least and most tokens of their prompts and of their outputs.
        ttft: How many prompts are timed, and how long they are.
        streams: How many streams decode in `itl`, and how long their prompts are.
        intruders: How many prompts arrive in between, and how long they are.
        arrival_s: The time from one of those to the next.
        quality: How many prompts the logits are compared on, and how long they are.
        architectures: How many of the list are compared with `generate`.
    """

    copied_bytes: int
    matmul_size: int
    max_running: int
    alone: tuple[int, int]
    together: tuple[int, int]
    window_s: float
    mix: int
    mix_lengths: tuple[int, int]
    ttft: tuple[int, int]
    streams: tuple[int, int]
    intruders: tuple[int, int]
    arrival_s: float
    quality: tuple[int, int]
    architectures: int


FULL = Workload(
    copied_bytes=4 * 2**30,
    matmul_size=8192,
    max_running=256,
    alone=(128, 640),
    together=(64, 1024),
    window_s=3.0,
    mix=256,
    mix_lengths=(100, 1024),
    ttft=(10, 1000),
    streams=(32, 128),
    intruders=(16, 2000),
    arrival_s=0.5,
    quality=(8, 256),
    architectures=10,
)
SMALL = Workload(
    copied_bytes=2**24,
    matmul_size=256,
    max_running=8,
    alone=(16, 24),
    together=(4, 32),
    window_s=0.2,
    mix=6,
    mix_lengths=(8, 24),
    ttft=(3, 40),
    streams=(3, 8),
    intruders=(2, 60),
    arrival_s=0.1,
    quality=(2, 16),
    architectures=1,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One request of a list: its prompt, and how many tokens it shall make."""

    prompt_token_ids: list[int]
    num_tokens: int


def draw_jobs(workload: Workload, token_ids: list[int], prompt_seed: int) -> list[Job]:
    """Return the requests of `mix256`.

    Args:
        workload: Says how many and how long. Lengths are drawn from one seed, always the same.
        token_ids: What prompts are made of.
        prompt_seed: With another one prompts are as long and share no prefix with these.
    """
    lengths, words = Random(0), Random(prompt_seed)
    low, high = workload.mix_lengths
    return [
        Job(words.choices(token_ids, k=lengths.randint(low, high)), lengths.randint(low, high))
        for _ in range(workload.mix)
    ]
