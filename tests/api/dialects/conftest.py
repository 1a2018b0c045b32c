"""What the tests of several dialects share."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.live_server import LiveServer, running_server
from tests.spy_engine import Spy
from tests.strict_clients import strict_openai_client
from tests.thinking_models import thinking_mock


@pytest.fixture(scope="session")
def strict_openai(mock_server: LiveServer) -> Iterator[openai.OpenAI]:
    """OpenAI's official client, which refuses answers that break its types."""
    with strict_openai_client(mock_server) as client:
        yield client


@pytest.fixture(scope="module")
def thinking_spy() -> Spy:
    """A mock engine that thinks when it is told to, and remembers what it was asked."""
    return thinking_mock()


@pytest.fixture(scope="module")
def thinking_server(thinking_spy: Spy) -> Iterator[LiveServer]:
    """A server with that engine."""
    with running_server(load=thinking_spy.load) as server:
        yield server
