"""Embeddings by a model that was trained for it, read from a sentence-transformers folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from palma.engine.batches import encoder_info, fitting, padded
from palma.engine.encoders import Encoding
from palma.engine.mean_states import finite
from palma.models.tokenizer import encode_unlocked

if TYPE_CHECKING:
    from palma.models.encoder_loader import LoadedEmbedder


class Embedder:
    """An `Encoder` that makes one vector of each text."""

    def __init__(self, loaded: LoadedEmbedder) -> None:
        self._loaded = loaded
        self._encoder = loaded.encoder
        steps = ", ".join(map(str, (loaded.pooling, *loaded.others)))
        prompt = f", after the prompt {loaded.prompt!r}" if loaded.prompt else ""
        dim = self._vectors([Encoding([0])]).shape[1]
        self.info = encoder_info(self._encoder, "embedder", f"{steps}{prompt}", dim)

    def encode(self, *texts: str) -> Encoding:
        """Return the tokens of one text, the model's prompt before it."""
        (text,) = texts
        return Encoding(encode_unlocked(self._encoder.backend, self._loaded.prompt + text).ids)

    def compute(self, batch: Sequence[Encoding]) -> NDArray[np.float32]:
        """Return a vector for each input: (num_inputs, dim); see `Encoder.compute`."""
        with fitting(batch):
            return finite(self._vectors(batch))

    def close(self) -> None:
        """Free the model."""
        del self._loaded, self._encoder

    @torch.inference_mode()
    def _vectors(self, batch: Sequence[Encoding]) -> torch.Tensor:
        inputs = padded(batch, self._encoder)
        states = self._encoder.model(**inputs).last_hidden_state.float()
        vectors: torch.Tensor = self._loaded.pooling(states, inputs["attention_mask"].bool())
        for change in self._loaded.others:
            vectors = change(vectors)
        return vectors
