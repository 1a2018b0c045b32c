"""From the engines' threads to the event loop: one wake-up brings all the calls that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class Handover:
    """Has calls made on an event loop, in the order in which threads post them.

    `call_soon_threadsafe` writes to a socket for each call, which costs more than all else that
    is done with a token, and gives the interpreter lock away in the middle of an engine's step.
    So only the first call after a delivery wakes the loop.

    Args:
        loop: Where the calls are made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have a call made, which must not raise; any thread may post."""
        with self._lock:
            is_first = not self._calls
            self._calls.append((call, arguments))
        if is_first:
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call, arguments in calls:
            call(*arguments)
