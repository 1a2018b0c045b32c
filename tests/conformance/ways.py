"""How to ask through every operation that takes a body; a new dialect adds its ways here."""

from __future__ import annotations

from collections.abc import Mapping

from tests.conformance import (
    anthropic_way,
    embeddings_way,
    falcon_way,
    gallama_way,
    llama_stack_way,
    ollama_way,
    openai_chat_way,
    openai_completions_way,
    palma_way,
    responses_way,
    tokenize_way,
)
from tests.conformance.subject import Way

WAYS: Mapping[str, Way] = {
    **palma_way.WAYS,
    **gallama_way.WAYS,
    **llama_stack_way.WAYS,
    **falcon_way.WAYS,
    **anthropic_way.WAYS,
    **ollama_way.WAYS,
    **openai_chat_way.WAYS,
    **openai_completions_way.WAYS,
    **responses_way.WAYS,
    **embeddings_way.WAYS,
    **tokenize_way.WAYS,
}
"""The paths are those of /v1/capabilities."""
