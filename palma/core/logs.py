"""Logging as entry points set it up. Lines carry request ids, never a prompt or a key."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure_logging(*, debug: bool) -> None:
    """Send Palma's and uvicorn's log lines to standard error, once."""
    logging.basicConfig(format=FORMAT, datefmt="%H:%M:%S")
    level = logging.DEBUG if debug else logging.INFO
    logging.getLogger("palma").setLevel(level)
    logging.getLogger("uvicorn").setLevel(logging.INFO)
