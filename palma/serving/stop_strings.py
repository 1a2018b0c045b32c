"""Stop strings: they end an answer and are never seen in it, not even in part."""

from __future__ import annotations


class StopMatcher:
    """Lets text through as long as no stop string can begin in it.

    What could be the beginning of a stop string is held back until it is one (then it is
    dropped with all that follows) or can no longer be one (then it leaves).
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Return the text that may leave now; `matched` is the stop string that is complete."""
        if not self._stop:
            return text
        text = self._held + text
        found = [stop for stop in self._stop if stop in text]
        if found:
            self.matched = min(found, key=text.index)
            self._held = ""
            return text[: text.index(self.matched)]
        num_held = max(_overlap(text, stop) for stop in self._stop)
        cut = len(text) - num_held
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return what was held back: the answer ended before it became a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
