"""The servers behind the proxy: which of them are well, and which has least to do."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 2.0


@dataclass(slots=True, eq=False)
class Upstream:
    """One server. Lives on the event loop.

    Attributes:
        url: Its base URL; requests' paths are added to it.
        is_healthy: Whether its last health check passed, and no connection has failed since.
        num_in_flight: Requests that it works on for this proxy.
        turn: When it was last chosen, as a number that only grows.
    """

    url: httpx.URL
    is_healthy: bool = False
    num_in_flight: int = 0
    turn: int = 0


class Upstreams:
    """Checks servers and says whose turn it is."""

    def __init__(self, urls: Sequence[str], health_path: str, client: httpx.AsyncClient) -> None:
        self.all = [Upstream(httpx.URL(url)) for url in urls]
        self._health_path = health_path
        self._client = client
        self._turns = itertools.count(1)

    @property
    def healthy(self) -> list[Upstream]:
        """Those that may be asked, the least loaded first, then the one that waited longest."""
        well = [upstream for upstream in self.all if upstream.is_healthy]
        return sorted(well, key=lambda upstream: (upstream.num_in_flight, upstream.turn))

    @contextmanager
    def working(self, upstream: Upstream) -> Iterator[None]:
        """Count a request as in flight there."""
        upstream.turn = next(self._turns)
        upstream.num_in_flight += 1
        try:
            yield
        finally:
            upstream.num_in_flight -= 1

    def set_health(self, upstream: Upstream, is_healthy: bool, reason: str) -> None:
        """Note how a server is, and log when that is new."""
        if upstream.is_healthy != is_healthy:
            state = "well" if is_healthy else "not well"
            logger.warning("%s is %s: %s", upstream.url, state, reason)
        upstream.is_healthy = is_healthy

    async def check_all(self) -> None:
        """Ask every server for its health, all at the same time."""
        await asyncio.gather(*(self._check(upstream) for upstream in self.all))

    async def keep_checking(self, interval_s: float) -> None:
        """Check again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.check_all()

    async def _check(self, upstream: Upstream) -> None:
        url = upstream.url.copy_with(path=upstream.url.path.rstrip("/") + self._health_path)
        try:
            response = await self._client.get(url, timeout=CHECK_TIMEOUT_S)
        except httpx.HTTPError as error:
            self.set_health(upstream, False, type(error).__name__)
        else:
            self.set_health(upstream, response.status_code == 200, f"{response.status_code}")
