"""One sequence a worker thread: the queue, the cap and the promises, whatever decodes.

Shared by the threads engine and the mock engine. It keeps what `engine.base` promises: first in
first out, at most `max_running` at once, and exactly one delta with a finish_reason for each
sequence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, wait
from concurrent.futures import Future as ConcurrentFuture

from palma.core.errors import EngineFailure, InvalidRequest, PalmaError
from palma.core.types import FinishReason
from palma.engine.base import EngineRequest, EngineStats, Sink, TokenDelta

logger = logging.getLogger(__name__)


class Sequence:
    """A request on its way through an engine, and what has been said about it.

    Attributes:
        request: What to decode.
        cancelled: Set from any thread; whoever decodes looks at it in every step.
    """

    def __init__(self, request: EngineRequest, sink: Sink) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self.last_progress = time.monotonic()
        self._sink = sink
        self._sink_failed = False

    def emit(self, delta: TokenDelta) -> None:
        """Pass a delta on. A sink that raises ends its sequence."""
        self.last_progress = time.monotonic()
        try:
            self._sink(delta)
        except Exception:
            logger.exception("%s: the sink failed; cancelling", self.request.request_id)
            self._sink_failed = True
            self.cancelled.set()

    def finish(self, delta: TokenDelta) -> None:
        """Pass the last delta on; a sink that has failed, or fails now, is told of an error."""
        if not self._sink_failed:
            self.emit(delta)
        if self._sink_failed:
            failure = EngineFailure("the answer could not be passed on; the log says why")
            self.emit(TokenDelta(finish_reason="error", error=failure))


Decode = Callable[[Sequence], FinishReason]
"""Decodes one sequence to its end, emitting its tokens, and says why it ended."""


class ThreadScheduler:
    """Runs sequences on an executor, at most `max_running` at once, the rest in a queue."""

    def __init__(self, decode: Decode, executor: Executor, max_running: int) -> None:
        self._decode = decode
        self._executor = executor
        self._max_running = max_running
        self._lock = threading.Lock()
        self._waiting: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}
        self._futures: set[ConcurrentFuture[None]] = set()
        self._closed = False

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Queue a sequence and start it as soon as fewer than `max_running` run."""
        sequence = Sequence(request, sink)
        with self._lock:
            if self._closed:
                raise EngineFailure("the engine is closed")
            if request.request_id in self._running or any(
                waiting.request.request_id == request.request_id for waiting in self._waiting
            ):
                raise InvalidRequest(f"request id {request.request_id!r} is in use")
            self._waiting.append(sequence)
            self._start_waiting()

    def cancel(self, request_id: str) -> None:
        """End a sequence: at once when it waits, at its next step when it runs."""
        with self._lock:
            running = self._running.get(request_id)
            if running is not None:
                running.cancelled.set()
                return
            waiting = [s for s in self._waiting if s.request.request_id == request_id]
            for sequence in waiting:
                self._waiting.remove(sequence)
        for sequence in waiting:
            sequence.emit(TokenDelta(finish_reason="cancelled"))

    def stats(self) -> EngineStats:
        """Count without waiting for a step."""
        with self._lock:
            running = list(self._running.values())
            num_waiting = len(self._waiting)
        latest = max((s.last_progress for s in running), default=None)
        stalled_s = 0.0 if latest is None else max(0.0, time.monotonic() - latest)
        return EngineStats(len(running), num_waiting, stalled_s)

    def close(self) -> None:
        """Cancel everything and wait until the running steps have ended."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            for sequence in self._running.values():
                sequence.cancelled.set()
            futures = set(self._futures)
        for sequence in waiting:
            sequence.emit(TokenDelta(finish_reason="cancelled"))
        wait(futures)

    def _start_waiting(self) -> None:
        """Move sequences from the queue to the executor; the lock is held."""
        while self._waiting and len(self._running) < self._max_running:
            sequence = self._waiting.popleft()
            sequence.last_progress = time.monotonic()
            self._running[sequence.request.request_id] = sequence
            future = self._executor.submit(self._run, sequence)
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)

    def _run(self, sequence: Sequence) -> None:
        """Decode one sequence on a worker thread; its last delta frees its place first."""
        delta = self._last_delta(sequence)
        try:
            with self._lock:
                del self._running[sequence.request.request_id]
                if not self._closed:
                    self._start_waiting()
        finally:
            sequence.finish(delta)

    def _last_delta(self, sequence: Sequence) -> TokenDelta:
        if sequence.cancelled.is_set():
            return TokenDelta(finish_reason="cancelled")
        try:
            sequence.emit(TokenDelta(started=True))
            finish_reason = self._decode(sequence)
        except PalmaError as error:
            return TokenDelta(finish_reason="error", error=error)
        except Exception:  # the engine's border: one request fails, the worker lives on
            logger.exception("%s: failed while decoding", sequence.request.request_id)
            failure = EngineFailure("the engine failed on this request; the log says why")
            return TokenDelta(finish_reason="error", error=failure)
        if sequence.cancelled.is_set():
            return TokenDelta(finish_reason="cancelled")
        return TokenDelta(finish_reason=finish_reason)
