"""Anthropic's messages: POST /v1/messages, whole or as typed events, and its count of tokens.

The reference is the official `anthropic` package's types; its strict client is the judge.
"""

from __future__ import annotations

from palma.api.dialects.anthropic.routes import OPERATIONS, PREFIX
from palma.api.dialects.anthropic.shapes import ErrorAnswer, error_answer
from palma.api.operation import Dialect

__all__ = ["DIALECT", "PREFIX", "error_answer"]

DIALECT = Dialect(name="Anthropic messages", operations=OPERATIONS, error=ErrorAnswer)
