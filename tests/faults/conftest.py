"""What tests of hostile clients share: a server, and a stream that must not notice them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.live_server import LiveServer, running_server, unharmed_neighbour


@pytest.fixture(scope="session")
def server() -> Iterator[LiveServer]:
    """A server that soon loses its patience, and takes at most a megabyte."""
    with running_server(
        header_timeout_s=0.5, body_timeout_s=0.5, max_request_bytes=1024 * 1024
    ) as live:
        yield live


@pytest.fixture
def neighbour(server: LiveServer, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Run a test beside a stream; its client's faults are no errors of ours in the log."""
    with unharmed_neighbour(server):
        yield
    errors = [r for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not errors, [record.getMessage() for record in errors]
