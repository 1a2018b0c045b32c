"""The next masks of sequences that decode together, computed in one call by several threads."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher
    from numpy.typing import NDArray

WORTH_A_CALL_S = 3e-4
"""Masks that take this long together are computed in one call: most of one take a thirtieth."""

WORTH_A_STEP_S = 2e-3
"""Where a step computes on all processors, only masks that take this long together are computed
beside it: its threads wait for each other, so that all wait for one that was held up."""

MAX_THREADS = 16
SMOOTHING = 0.1


class NextMask:
    """What a matcher allows next; belongs to the thread that moves the matcher.

    Args:
        matcher: It stays where it is until the mask was taken or dropped.
        batch: May compute it.
    """

    def __init__(self, matcher: LLMatcher, batch: MaskBatch) -> None:
        self.matcher = matcher
        self.work: Future[NDArray[np.uint8]] | None = None
        self.row = 0
        self._batch = batch

    def take(self) -> bytes:
        """Return it; it is computed here unless the batch has begun to."""
        self._batch.withdraw(self)
        if self.work is None or self.work.cancel():  # no thread was free to begin with it
            return self._batch.compute_here(self.matcher)
        mask: bytes = self.work.result()[self.row].tobytes()
        return mask

    def drop(self) -> None:
        """Wait until nobody else uses the matcher."""
        self._batch.withdraw(self)
        if self.work is not None and not self.work.cancel():
            self.work.result()


class MaskBatch:
    """Collects the masks that one model's sequences need next. Any thread may call.

    Args:
        executor: Where they are computed when they take long.
        vocab_size: How many bits each has.
        is_on_cpu: Whether the model computes on the same processors.
    """

    def __init__(self, executor: Executor, vocab_size: int, *, is_on_cpu: bool) -> None:
        self._executor = executor
        self._is_on_cpu = is_on_cpu
        self._num_bytes = -(-vocab_size // 32) * 4
        self._lock = threading.Lock()
        self._asked: list[NextMask] = []
        self._usual_s = 0.0
        self._threads: LLExecutor | None = None

    def ask(self, matcher: LLMatcher) -> NextMask:
        """Note that a mask will be needed soon."""
        mask = NextMask(matcher, self)
        with self._lock:
            self._asked.append(mask)
        return mask

    def withdraw(self, mask: NextMask) -> None:
        """Leave a mask to its own thread, if nobody has been given it yet."""
        with self._lock:
            if mask in self._asked:
                self._asked.remove(mask)

    def begin(self) -> None:
        """Have all masks that were asked for computed, unless that takes no time worth it."""
        with self._lock:
            masks, self._asked = self._asked, []
            expected_s = len(masks) * self._usual_s
            if expected_s < WORTH_A_CALL_S:
                return
            is_beside = not self._is_on_cpu or expected_s > WORTH_A_STEP_S
            work = self._submit(masks) if is_beside else self._claim()
            for row, mask in enumerate(masks):
                mask.row, mask.work = row, work
        if work is not None and not is_beside:
            self._compute_now(work, masks)

    def compute_here(self, matcher: LLMatcher) -> bytes:
        """Compute one mask in the calling thread."""
        started = time.perf_counter()
        mask = matcher.compute_bitmask()
        self._note(time.perf_counter() - started)
        return mask

    def _submit(self, masks: list[NextMask]) -> Future[NDArray[np.uint8]] | None:
        """Return the work of another thread; None if the server stops."""
        try:
            return self._executor.submit(self._compute, masks)
        except RuntimeError:
            return None

    def _claim(self) -> Future[NDArray[np.uint8]]:
        """Return work that has begun, so that nobody else begins with it."""
        work: Future[NDArray[np.uint8]] = Future()
        work.set_running_or_notify_cancel()
        return work

    def _compute_now(self, work: Future[NDArray[np.uint8]], masks: list[NextMask]) -> None:
        try:
            work.set_result(self._compute(masks))
        except BaseException as error:  # noqa: BLE001  # each sequence gets it with its mask
            work.set_exception(error)

    def _compute(self, masks: list[NextMask]) -> NDArray[np.uint8]:
        """Return (num_masks, num_bytes); most of it runs without the interpreter's lock."""
        from llguidance import LLExecutor

        if self._threads is None:
            self._threads = LLExecutor(min(os.cpu_count() or 1, MAX_THREADS))
        bits = np.zeros((len(masks), self._num_bytes), np.uint8)
        work = [(mask.matcher, row) for row, mask in enumerate(masks)]
        started = time.perf_counter()
        self._threads.unsafe_compute_mask_ptr(work, bits.ctypes.data, self._num_bytes, len(masks))
        self._note((time.perf_counter() - started) / len(masks))
        return bits

    def _note(self, seconds: float) -> None:
        self._usual_s += SMOOTHING * (seconds - self._usual_s)
