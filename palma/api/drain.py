"""SIGTERM: refuse new work, finish what runs, then leave. A second signal leaves at once.

Works by standing between the signal and uvicorn's own handler, so that it is the same under
`palma serve` and `uvicorn server:app`. Uvicorn would close the listening socket first and leave
load balancers with refused connections; here the health probes say `draining` until the end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from uvicorn import Server

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_FORCED = 1


class DrainOnSignal:
    """Catches the first signal, drains, then stops the server that had the handler before.

    Args:
        mark_draining: Called at once, in the main thread, between two bytecodes.
        drain: Awaited on the event loop; returns when the server may stop.
        last_bytes_s: Seconds that open connections then get to send and take what is left;
            without a bound the server waits for ever for a client that does not read.
    """

    def __init__(
        self,
        mark_draining: Callable[[], None],
        drain: Callable[[], Coroutine[Any, Any, None]],
        last_bytes_s: float,
    ) -> None:
        self._mark_draining = mark_draining
        self._drain = drain
        self._last_bytes_s = last_bytes_s
        self._loop = asyncio.get_running_loop()
        self._previous: dict[int, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._signals_seen = 0

    def install(self) -> None:
        """Take the signals over; does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)

    def uninstall(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signals_seen += 1
        if self._signals_seen > 1:
            os._exit(EXIT_FORCED)  # worker threads may be deep in a forward pass: no joining
        self._mark_draining()
        self._loop.call_soon_threadsafe(self._start, number, frame)

    def _start(self, number: int, frame: FrameType | None) -> None:
        logger.info("signal %d: draining; send it again to leave at once", number)
        self._task = self._loop.create_task(self._drain_and_stop(number, frame))

    async def _drain_and_stop(self, number: int, frame: FrameType | None) -> None:
        await self._drain()
        server = server_behind(self._previous[number])
        if server is not None:
            stop_server(server, self._last_bytes_s)
        elif callable(self._previous[number]):
            self._previous[number](number, frame)


def server_behind(handler: Any) -> Server | None:
    """Return the server whose method a signal handler is, if it is one."""
    server = getattr(handler, "__self__", None)
    return server if isinstance(server, Server) else None


def stop_server(server: Server, last_bytes_s: float) -> None:
    """Ask a server to stop; connections that are open after `last_bytes_s` are cut.

    Uvicorn's handler would also raise the signal again after the shutdown, and the process
    would end by a signal instead of with exit status 0.
    """
    if server.config.timeout_graceful_shutdown is None:
        server.config.timeout_graceful_shutdown = math.ceil(last_bytes_s)
    server.should_exit = True
