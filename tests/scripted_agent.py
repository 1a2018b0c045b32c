"""A model that follows a script: its answer depends on how many results it has been given."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from palma.engine.base import EngineRequest
from palma.engine.mock import END_TOKEN, MockTokenizer
from tests.spy_engine import Spy

RESULT_MARK = "<tool_response>"
"""What begins a result, for models whose template knows none."""


def call_text(name: str, **arguments: Any) -> str:
    """Return a call as models write it whose template knows none."""
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def following(*answers: str) -> Spy:
    """Return a spy whose engine says the first answer, and one further for each result."""

    def change_request(request: EngineRequest, prompt: str) -> EngineRequest:
        answer = answers[prompt.count(RESULT_MARK)]
        order = f"user: say {answer}{END_TOKEN}assistant: "
        token_ids = MockTokenizer().encode(order, parse_special=True)
        return replace(request, prompt_token_ids=tuple(token_ids))

    return Spy(change_request=change_request)
