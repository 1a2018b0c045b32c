"""The queue that the threads and mock engines share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from palma.core.errors import EngineFailure, InvalidRequest
from palma.core.types import FinishReason, SamplingParams
from palma.engine.base import EngineRequest, TokenDelta
from palma.engine.thread_scheduler import Sequence, ThreadScheduler
from tests.engine.suite import Collected

MAX_RUNNING = 2


class Gate:
    """A decoder that holds every sequence until it is opened, and notes who came when."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.order: list[str] = []

    def decode(self, sequence: Sequence) -> FinishReason:
        self.order.append(sequence.request.request_id)
        while not self.opened.wait(0.001):
            if sequence.cancelled.is_set():
                return "cancelled"
        sequence.emit(TokenDelta(token_ids=(1,)))
        return "stop"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def scheduler(gate: Gate) -> Iterator[ThreadScheduler]:
    with ThreadPoolExecutor(MAX_RUNNING + 1) as executor:
        scheduler = ThreadScheduler(gate.decode, executor, MAX_RUNNING)
        yield scheduler
        scheduler.close()


def submit(scheduler: ThreadScheduler, request_id: str) -> Collected:
    collected = Collected()
    scheduler.submit(EngineRequest(request_id, [1], SamplingParams()), collected)
    return collected


def test_no_more_than_max_running_start_and_the_rest_wait(scheduler: ThreadScheduler) -> None:
    for n in range(5):
        submit(scheduler, str(n))

    assert scheduler.stats().num_running == MAX_RUNNING
    assert scheduler.stats().num_waiting == 3


def test_waiting_sequences_start_in_the_order_they_came(
    scheduler: ThreadScheduler, gate: Gate
) -> None:
    all_collected = [submit(scheduler, str(n)) for n in range(20)]
    gate.opened.set()

    assert [collected.wait() for collected in all_collected] == ["stop"] * 20
    # Two threads take turns: neighbours may swap, nobody is overtaken by more than one.
    assert all(abs(place - int(name)) < MAX_RUNNING for place, name in enumerate(gate.order))
    assert scheduler.stats().num_running == scheduler.stats().num_waiting == 0


def test_a_waiting_sequence_is_cancelled_without_being_decoded(
    scheduler: ThreadScheduler, gate: Gate
) -> None:
    first = [submit(scheduler, str(n)) for n in range(MAX_RUNNING)]
    waiting = submit(scheduler, "waiting")

    scheduler.cancel("waiting")

    assert waiting.wait() == "cancelled"
    gate.opened.set()
    assert [collected.wait() for collected in first] == ["stop"] * MAX_RUNNING
    assert "waiting" not in gate.order


def test_cancelling_an_unknown_id_is_harmless(scheduler: ThreadScheduler) -> None:
    scheduler.cancel("nobody")


def test_an_id_in_use_is_refused(scheduler: ThreadScheduler) -> None:
    submit(scheduler, "twin")

    with pytest.raises(InvalidRequest, match="in use"):
        submit(scheduler, "twin")


def test_closing_ends_what_runs_and_what_waits(scheduler: ThreadScheduler) -> None:
    all_collected = [submit(scheduler, str(n)) for n in range(5)]

    scheduler.close()

    assert [collected.wait() for collected in all_collected] == ["cancelled"] * 5
    with pytest.raises(EngineFailure, match="closed"):
        submit(scheduler, "late")


def test_a_sink_that_raises_ends_its_sequence_and_frees_its_place(
    scheduler: ThreadScheduler, gate: Gate
) -> None:
    def broken(delta: TokenDelta) -> None:
        raise RuntimeError("a sink with a bug")

    scheduler.submit(EngineRequest("broken", [1], SamplingParams()), broken)
    healthy = submit(scheduler, "healthy")
    gate.opened.set()

    assert healthy.wait() == "stop"
    assert submit(scheduler, "later").wait() == "stop"


def test_stalled_s_counts_from_the_last_sign_of_life(scheduler: ThreadScheduler) -> None:
    assert scheduler.stats().stalled_s == 0

    submit(scheduler, "silent")
    threading.Event().wait(0.05)

    assert scheduler.stats().stalled_s >= 0.05
