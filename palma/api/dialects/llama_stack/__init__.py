"""Llama Stack's inference API: completion and chat completion, whole, as lines or as events.

The reference is the `llama-stack-client` package's types. Its present versions call the `/v1`
routes and read events; the routes without `/v1` stream one JSON object a line, unless the client
asks for events, as the first versions of that package did.
"""

from __future__ import annotations

from palma.api.dialects.llama_stack.routes import (
    CHAT_COMPLETION,
    COMPLETION,
    OPERATIONS,
    V1_PREFIX,
)
from palma.api.dialects.llama_stack.shapes import ErrorAnswer, error_answer
from palma.api.operation import Dialect

__all__ = ["CHAT_COMPLETION", "COMPLETION", "DIALECT", "V1_PREFIX", "error_answer"]

DIALECT = Dialect(name="Llama Stack", operations=OPERATIONS, error=ErrorAnswer)
