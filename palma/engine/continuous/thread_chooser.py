"""How many threads compute a step: one less while another process takes a processor."""

from __future__ import annotations

from collections import deque

TRIAL_EVERY = 64
"""Steps from one trial of the other count to the next."""

TRIAL_STEPS = 2
NUM_REMEMBERED = 8

LEAST_GAIN = 0.9
"""The other count must take less than this share of the time."""

WINS_TO_SWITCH = 2
"""So many trials in a row: one may have met a quiet moment."""


class ThreadChooser:
    """Learns from the clock whether all processors are to be had.

    Threads wait for each other many times in a step. If one of them shares its processor with
    somebody else's work, all wait for it, and fewer threads are faster. So now and then a few
    steps try the other count, and whichever is faster is used until the next trial.

    Args:
        num_threads: How many there may be.
    """

    def __init__(self, num_threads: int) -> None:
        self._counts = (num_threads, max(1, num_threads - 1))
        self._preferred = 0
        self._num_steps = 0
        self._wins = 0
        self._recent: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._trial: list[float] = []

    @property
    def preferred(self) -> int:
        """The count that was faster of late."""
        return self._counts[self._preferred]

    def choose(self) -> int:
        """Return the count for the next step."""
        return self._counts[1 - self._preferred] if self._is_trial else self.preferred

    def note(self, seconds: float) -> None:
        """Take what that step took."""
        if self._is_trial:
            self._trial.append(seconds)
            if len(self._trial) == TRIAL_STEPS:
                self._judge()
        else:
            self._recent.append(seconds)
        self._num_steps += 1

    @property
    def _is_trial(self) -> bool:
        return (
            self._counts[0] > 1
            and len(self._recent) == NUM_REMEMBERED
            and self._num_steps % TRIAL_EVERY >= TRIAL_EVERY - TRIAL_STEPS
        )

    def _judge(self) -> None:
        trial, recent = sum(self._trial) / TRIAL_STEPS, sum(self._recent) / NUM_REMEMBERED
        self._wins = self._wins + 1 if trial < LEAST_GAIN * recent else 0
        if self._wins == WINS_TO_SWITCH:
            self._preferred = 1 - self._preferred
            self._wins = 0
            self._recent.clear()
        self._trial.clear()
