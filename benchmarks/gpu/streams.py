"""Requests to an engine in this process: submitted, timed token by token, and always ended."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

from benchmarks.gpu.workload import Job
from palma.core.types import FinishReason, SamplingParams
from palma.engine.base import Engine, EngineRequest, TokenDelta

_numbers = itertools.count()


class Stream:
    """The sink of one request; times are of `time.perf_counter`.

    Attributes:
        submitted_s: When the request was handed to the engine.
        times: When each delta with tokens came.
        counts: How many tokens had come by then.
        token_ids: All of them.
        finish_reason: Set at the end, with `ended_s` and, where something went wrong, `error`.
    """

    def __init__(self, job: Job) -> None:
        self.request_id = f"gpu-{next(_numbers)}"
        self.num_prompt_tokens = len(job.prompt_token_ids)
        self.submitted_s = 0.0
        self.times: list[float] = []
        self.counts: list[int] = []
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error = ""
        self.ended_s = 0.0
        self.began = threading.Event()
        self.ended = threading.Event()

    def __call__(self, delta: TokenDelta) -> None:
        """Take news of the sequence; called by the engine's thread."""
        now = time.perf_counter()
        if delta.token_ids:
            self.token_ids += delta.token_ids
            self.times.append(now)
            self.counts.append(len(self.token_ids))
            if len(self.times) == 1:
                self.began.set()
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.error = str(delta.error or "")
            self.ended_s = now
            self.began.set()
            self.ended.set()

    @property
    def ttft_s(self) -> float:
        """From the submission to the first token."""
        return self.times[0] - self.submitted_s

    def gaps_s(self, begin_s: float, end_s: float) -> list[float]:
        """Return the gaps between tokens that ended in a time span."""
        return [
            later - earlier for earlier, later in pairwise(self.times) if begin_s < later <= end_s
        ]

    def num_tokens_at(self, at_s: float) -> int:
        """Return how many tokens had come at a time."""
        return next(
            (
                count
                for at, count in zip(self.times[::-1], self.counts[::-1], strict=True)
                if at <= at_s
            ),
            0,
        )


def submit(engine: Engine, job: Job) -> Stream:
    """Ask for exactly so many tokens, greedily; returns at once."""
    stream = Stream(job)
    params = SamplingParams(max_tokens=job.num_tokens, temperature=0.0, ignore_eos=True)
    request = EngineRequest(stream.request_id, job.prompt_token_ids, params)
    stream.submitted_s = time.perf_counter()
    engine.submit(request, stream)
    return stream


def wait_all(streams: Sequence[Stream], patience_s: float) -> None:
    """Wait until all have made all their tokens.

    Raises:
        TimeoutError: They did not in time.
        RuntimeError: One ended otherwise.
    """
    _wait([stream.ended for stream in streams], patience_s, "have ended")
    for stream in streams:
        if stream.finish_reason != "length":
            raise RuntimeError(f"a request ended with {stream.finish_reason}: {stream.error}")


def wait_begun(streams: Sequence[Stream], patience_s: float) -> None:
    """Wait until all have made a token.

    Raises:
        TimeoutError: They did not in time.
        RuntimeError: One has ended before.
    """
    _wait([stream.began for stream in streams], patience_s, "have begun")
    for stream in streams:
        if stream.finish_reason is not None:
            raise RuntimeError(f"a request ended with {stream.finish_reason}: {stream.error}")


def _wait(events: list[threading.Event], patience_s: float, what: str) -> None:
    deadline = time.monotonic() + patience_s
    for event in events:
        if not event.wait(max(0.0, deadline - time.monotonic())):
            num_set = sum(event.is_set() for event in events)
            raise TimeoutError(f"{num_set} of {len(events)} requests {what} in {patience_s:.0f} s")


@contextlib.contextmanager
def running(engine: Engine, jobs: Sequence[Job]) -> Iterator[list[Stream]]:
    """Submit requests; those that run at the end of the body are cancelled and waited for."""
    streams = [submit(engine, job) for job in jobs]
    try:
        yield streams
    finally:
        for stream in streams:
            engine.cancel(stream.request_id)
        for stream in streams:
            stream.ended.wait(10)


def run_all(engine: Engine, jobs: Sequence[Job], patience_s: float) -> list[Stream]:
    """Submit requests at once and return their streams when all have ended; see `wait_all`."""
    with running(engine, jobs) as streams:
        wait_all(streams, patience_s)
    return streams


def tokens_per_s(streams: Sequence[Stream]) -> float:
    """Return the output tokens of all over the time from the first submission to the last end."""
    num_tokens = sum(len(stream.token_ids) for stream in streams)
    return num_tokens / duration_s(streams)


def duration_s(streams: Sequence[Stream]) -> float:
    """Return the time from the first submission to the last end."""
    return max(s.ended_s for s in streams) - min(s.submitted_s for s in streams)
