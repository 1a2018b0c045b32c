"""Calls that threads hand to the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from palma.serving.handover import Handover


class CountingLoop:
    """The running loop, and how often a thread has woken it."""

    def __init__(self) -> None:
        self.num_wakeups = 0
        self._loop = asyncio.get_running_loop()

    def call_soon_threadsafe(self, *call: Any) -> None:
        self.num_wakeups += 1
        self._loop.call_soon_threadsafe(*call)


def test_calls_of_many_threads_are_made_on_the_loop_each_threads_in_its_order() -> None:
    async def hand_over() -> list[tuple[int, int]]:
        heard: list[tuple[int, int]] = []
        done = asyncio.Event()
        handover = Handover(asyncio.get_running_loop())

        def note(thread: int, number: int) -> None:
            assert asyncio.get_running_loop()
            heard.append((thread, number))
            if len(heard) == 4 * 1000:
                done.set()

        def post(thread: int) -> None:
            for number in range(1000):
                handover.post(note, thread, number)

        threads = [threading.Thread(target=post, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        return heard

    heard = asyncio.run(hand_over())

    for thread in range(4):
        assert [number for by, number in heard if by == thread] == list(range(1000))


def test_one_wakeup_brings_all_that_waits_and_what_comes_later_wakes_again() -> None:
    async def hand_over() -> tuple[list[str], int]:
        heard: list[str] = []
        loop: Any = CountingLoop()
        handover = Handover(loop)
        for word in ("a", "b", "c"):
            handover.post(heard.append, word)
        while len(heard) < 3:
            await asyncio.sleep(0)
        assert loop.num_wakeups == 1
        handover.post(heard.append, "d")
        while len(heard) < 4:
            await asyncio.sleep(0)
        return heard, loop.num_wakeups

    assert asyncio.run(hand_over()) == (["a", "b", "c", "d"], 2)
