"""Ollama's answers: POST /api/chat and POST /api/generate, whole or as lines of JSON.

The reference is Ollama's own documentation; the official `ollama` package is the judge.
"""

from __future__ import annotations

from palma.api.dialects.ollama.routes import OPERATIONS
from palma.api.ollama_shapes import ErrorAnswer
from palma.api.operation import Dialect

__all__ = ["DIALECT"]

DIALECT = Dialect(name="Ollama answers", operations=OPERATIONS, error=ErrorAnswer)
