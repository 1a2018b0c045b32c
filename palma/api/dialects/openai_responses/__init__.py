"""OpenAI's responses and conversations: POST /v1/responses, whole, streamed or in the background.

The reference is the official `openai` package's types; its strict client is the judge. What a
response was made from is kept in a `ResponseStore`.
"""

from __future__ import annotations

from palma.api.dialects.openai_responses import conversations, routes
from palma.api.dialects.openai_responses.background import BackgroundResponses
from palma.api.openai_shapes import ErrorAnswer
from palma.api.operation import Dialect

__all__ = ["DIALECT", "BackgroundResponses"]

DIALECT = Dialect(
    name="OpenAI responses",
    operations=(*routes.OPERATIONS, *conversations.OPERATIONS),
    error=ErrorAnswer,
)
