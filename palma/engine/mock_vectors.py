"""Vectors without a model: equal for equal tokens, close for texts that share pairs of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DIM = 64


def mock_vector(token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return a vector of length 1 that counts the pairs of neighbouring tokens: (DIM,)."""
    counts = np.zeros(DIM, np.float32)
    for first, second in itertools.pairwise((0, *token_ids)):
        counts[(31 * first + second) % DIM] += 1
    return counts / np.linalg.norm(counts)
