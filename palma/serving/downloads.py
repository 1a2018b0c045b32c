"""Downloads of models in the background: one for each model, however many ask for it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from palma.core.config import Settings
from palma.core.errors import PalmaError, Unavailable
from palma.models.download import fetch_snapshot
from palma.models.spec import ModelSpec

logger = logging.getLogger(__name__)

Fetch = Callable[[ModelSpec, Settings], Path]


class Download:
    """The files of one model on their way. Lives on the event loop.

    Attributes:
        number: Tells it from the others of this server.
        spec: The model.
        state: How far it is.
        failure: Why it failed.
    """

    def __init__(self, number: int, spec: ModelSpec) -> None:
        self.number = number
        self.spec = spec
        self.state: Literal["downloading", "done", "failed"] = "downloading"
        self.failure: PalmaError | None = None
        self._ended = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the files are here; whoever stops waiting does not stop the download.

        Raises:
            PalmaError: They cannot be had; the message says why, and what to do.
        """
        await self._ended.wait()
        if self.failure is not None:
            raise self.failure

    def end(self, error: PalmaError | None) -> None:
        """Note the outcome."""
        self.failure = error
        self.state = "done" if error is None else "failed"
        self._ended.set()


class Downloads:
    """All downloads of a server. Lives on the event loop.

    Nothing here asks who may download: the caller does, before a name gets here.

    Args:
        settings: Whom to trust, and where to look.
        fetch: Brings the files of a model from the Hub, and blocks until they are here.
    """

    def __init__(self, settings: Settings, fetch: Fetch = fetch_snapshot) -> None:
        self._settings = settings
        self._fetch = fetch
        self._downloads: dict[ModelSpec, Download] = {}
        self._numbers = itertools.count(1)

    @property
    def all(self) -> tuple[Download, ...]:
        """Every model that was asked for since the start, oldest first."""
        return tuple(self._downloads.values())

    def start(self, spec: ModelSpec) -> Download:
        """Begin to download a model, or join a download of it; what failed begins anew."""
        download = self._downloads.get(spec)
        if download is None or download.state != "downloading":
            self._downloads[spec] = download = Download(next(self._numbers), spec)
            self._begin(download)
        return download

    def _begin(self, download: Download) -> None:
        if isinstance(download.spec.source, Path):  # it lies on this machine
            download.end(None)
            return
        loop = asyncio.get_running_loop()

        def run() -> None:
            error = self._error_of(download.spec)
            if not loop.is_closed():
                loop.call_soon_threadsafe(download.end, error)

        # A daemon: a shutdown does not wait for a download to end.
        threading.Thread(target=run, name="palma-download", daemon=True).start()

    def _error_of(self, spec: ModelSpec) -> PalmaError | None:
        try:
            self._fetch(spec, self._settings)
        except PalmaError as error:
            return error
        except Exception:  # a thread's border: whoever waits would wait for ever
            logger.exception("downloading %s failed", spec.model_id)
            return Unavailable("the model could not be downloaded; the log says why")
        logger.info("%s is downloaded", spec.model_id)
        return None
