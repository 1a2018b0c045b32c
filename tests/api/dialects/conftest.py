"""What the tests of several dialects share."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.live_server import LiveServer


@pytest.fixture(scope="session")
def strict_openai(mock_server: LiveServer) -> Iterator[openai.OpenAI]:
    """OpenAI's official client, which refuses answers that break its types."""
    with openai.OpenAI(
        base_url=f"{mock_server.url}/v1",
        api_key="unused",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client
