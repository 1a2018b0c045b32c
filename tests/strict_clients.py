"""The official clients at their strictest: they refuse answers that break their own types."""

from __future__ import annotations

from typing import Any

import anthropic
import openai

from tests.live_server import LiveServer


def strict_openai_client(server: LiveServer, **options: Any) -> openai.OpenAI:
    """Return OpenAI's client; it does not try anything twice unless the options say so."""
    chosen = {"api_key": "unused", "max_retries": 0, **options}
    return openai.OpenAI(base_url=f"{server.url}/v1", _strict_response_validation=True, **chosen)


def strict_anthropic_client(server: LiveServer, api_key: str = "unused") -> anthropic.Anthropic:
    """Return Anthropic's client; it does not try anything twice."""
    return anthropic.Anthropic(
        base_url=server.url, api_key=api_key, max_retries=0, _strict_response_validation=True
    )
