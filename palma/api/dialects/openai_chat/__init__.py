"""OpenAI's chat completions: POST /v1/chat/completions, whole or as a stream.

The reference is the official `openai` package's types; its strict client is the judge.
"""

from __future__ import annotations

from palma.api.dialects.openai_chat.routes import DIALECT

__all__ = ["DIALECT"]
