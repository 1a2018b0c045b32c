"""Ranking by a model that reads query and document together: a classifier with one label."""

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
    from palma.models.encoder_loader import LoadedEncoder


class CrossEncoder:
    """An `Encoder` that says how well a document fits a query, from 0 to 1."""

    def __init__(self, loaded: LoadedEncoder) -> None:
        self._loaded = loaded
        self.info = encoder_info(loaded, "cross-encoder", "the sigmoid of its one logit", 1)

    def encode(self, *texts: str) -> Encoding:
        """Return the tokens of a query and a document."""
        query, document = texts
        found = encode_unlocked(self._loaded.backend, (query, document))
        return Encoding(found.ids, found.type_ids)

    def compute(self, batch: Sequence[Encoding]) -> NDArray[np.float32]:
        """Return a score for each pair: (num_pairs, 1); see `Encoder.compute`."""
        with fitting(batch), torch.inference_mode():
            logits = self._loaded.model(**padded(batch, self._loaded)).logits
            return finite(logits.float().sigmoid())

    def close(self) -> None:
        """Free the model."""
        del self._loaded
