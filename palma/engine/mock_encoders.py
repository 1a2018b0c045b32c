"""Encoders without a model, for servers with the mock engine; `slowly` takes 20 ms an input."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from palma.core.errors import EngineFailure
from palma.engine.encoders import EncoderInfo, Encoding
from palma.engine.mock import SLOW_STEP_S, VOCAB_SIZE, MockTokenizer
from palma.engine.mock_vectors import DIM, mock_vector

MAX_INPUT_TOKENS = 512
MAX_BATCH_TOKENS = 256
SEPARATOR_ID = VOCAB_SIZE - 1


class MockEncoder:
    """Embeds by counting pairs of bytes; ranks by the share of the query's words in a document."""

    def __init__(self, kind: Literal["embedder", "cross-encoder"]) -> None:
        self.info = EncoderInfo(
            kind=kind,
            description="made up by the mock engine",
            dim=DIM if kind == "embedder" else 1,
            vocab_size=VOCAB_SIZE,
            max_input_tokens=MAX_INPUT_TOKENS,
            max_batch_tokens=MAX_BATCH_TOKENS,
            device="none",
            dtype="none",
            device_reason="the mock engine computes nothing",
        )
        self._tokenizer = MockTokenizer()

    def encode(self, *texts: str) -> Encoding:
        """Return one id a byte, and one between two texts."""
        first, *others = (self._tokenizer.encode(text, parse_special=False) for text in texts)
        return Encoding(first + [i for other in others for i in (SEPARATOR_ID, *other)])

    def compute(self, batch: Sequence[Encoding]) -> NDArray[np.float32]:
        """Return a row for each input: (num_inputs, dim)."""
        return np.stack([self._row(list(encoding.token_ids)) for encoding in batch])

    def close(self) -> None:
        """Do nothing."""

    def _row(self, token_ids: list[int]) -> NDArray[np.float32]:
        text = self._tokenizer.decode([0x20 if i == SEPARATOR_ID else i for i in token_ids])
        if "slowly" in text:
            time.sleep(SLOW_STEP_S)
        if "fail after" in text:
            raise EngineFailure("the mock engine was asked to fail")
        if self.info.kind == "embedder":
            return mock_vector(token_ids)
        end = token_ids.index(SEPARATOR_ID)
        query = set(self._tokenizer.decode(token_ids[:end]).split())
        document = set(self._tokenizer.decode(token_ids[end + 1 :]).split())
        return np.array([len(query & document) / max(1, len(query))], np.float32)
