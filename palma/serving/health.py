"""Whether this server would serve a request now. Reads a heartbeat; never waits on the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from palma.serving.service import GenerationService

Status = Literal["ok", "loading", "draining", "unhealthy"]

DEAD_AFTER_STALLS = 2
"""An engine silent for this many stall timeouts counts as dead, not only as not ready."""


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to a probe; `reason` is a sentence unless the status is "ok"."""

    status: Status
    reason: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether the probe succeeds."""
        return self.status == "ok"


OK = Health("ok")


class HealthMonitor:
    """Answers the probes from the registry's state and the engines' heartbeat.

    It is about the models that the server was started for: one that was added later and fails
    makes the server no less healthy.

    A busy engine is healthy however long its queue is; one that runs sequences and makes no
    token for `stall_timeout_s` is not.
    """

    def __init__(self, service: GenerationService, stall_timeout_s: float) -> None:
        self._service = service
        self._registry = service.registry
        self._stall_timeout_s = stall_timeout_s

    def ready(self) -> Health:
        """Return whether a request sent now would be taken."""
        if self._service.is_draining:
            return Health("draining", "the server is shutting down")
        started = self.started()
        return self._heartbeat(self._stall_timeout_s) if started.is_ok else started

    def started(self) -> Health:
        """Return whether the models of the start have been loaded."""
        match self._registry.state:
            case "loading":
                loading = ", ".join(self._registry.loading_ids)
                return Health("loading", f"{loading} is being loaded")
            case "ready":
                return OK
            case "failed" if self._registry.failure is not None:
                return Health("unhealthy", self._registry.failure.message)
            case _:
                return Health("unhealthy", "no model is loaded")

    def live(self) -> Health:
        """Return whether the process should go on living: it may be loading, or draining."""
        return self._heartbeat(DEAD_AFTER_STALLS * self._stall_timeout_s)

    def _heartbeat(self, timeout_s: float) -> Health:
        stalled_s = self._registry.stalled_s()
        if math.isinf(stalled_s):
            return Health("unhealthy", "the device has failed; restart the server")
        if stalled_s > timeout_s:
            return Health("unhealthy", f"the engine has made no token for {stalled_s:.0f} s")
        return OK
