"""How many threads compute a step: one less while another process takes a processor."""

from __future__ import annotations

from collections import deque

MIN_INTERVAL, MAX_INTERVAL = 8, 128
"""Steps from one trial of the other count to the next: more of them after each that lost."""

JUMP = 1.5
"""Steps that take so many times as long as before are a reason for a trial soon."""

NUM_REMEMBERED = 4
SMOOTHING = 0.05
LEAST_GAIN = 0.9
"""The other count must take less than this share of the time."""

WINS_TO_SWITCH = 2
"""So many trials in a row: one may have met a quiet moment."""


class ThreadChooser:
    """Learns from the clock whether all processors are to be had.

    Threads wait for each other many times in a step. If one of them shares its processor with
    somebody else's work, all wait for it, and fewer threads are faster. So now and then a step
    tries the other count, and whichever is faster is used until the next trial.

    Args:
        num_threads: How many there may be.
    """

    def __init__(self, num_threads: int) -> None:
        self._counts = (num_threads, max(1, num_threads - 1))
        self._preferred = 0
        self._interval = MIN_INTERVAL
        self._since_trial = 0
        self._wins = 0
        self._recent: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._usual_s: float | None = None

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
            self._judge(seconds)
            return
        self._since_trial += 1
        self._recent.append(seconds)
        if self._usual_s is None:
            self._usual_s = seconds
        elif self._recent_s > JUMP * self._usual_s and len(self._recent) == NUM_REMEMBERED:
            self._interval, self._usual_s = MIN_INTERVAL, self._recent_s
        else:
            self._usual_s += SMOOTHING * (seconds - self._usual_s)

    @property
    def _is_trial(self) -> bool:
        is_due = self._since_trial >= self._interval and len(self._recent) == NUM_REMEMBERED
        return self._counts[0] > 1 and is_due

    @property
    def _recent_s(self) -> float:
        return sum(self._recent) / len(self._recent)

    def _judge(self, trial_s: float) -> None:
        self._since_trial = 0
        if trial_s >= LEAST_GAIN * self._recent_s:
            self._wins = 0
            self._interval = min(2 * self._interval, MAX_INTERVAL)
            return
        self._wins += 1
        self._interval = MIN_INTERVAL
        if self._wins == WINS_TO_SWITCH:
            self._preferred = 1 - self._preferred
            self._wins = 0
            self._usual_s = None
            self._recent.clear()
