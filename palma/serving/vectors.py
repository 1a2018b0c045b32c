"""Arithmetic on embeddings: cutting them short, and how alike two of them are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palma.core.errors import InvalidRequest

Vectors = NDArray[np.float32]


def shortened(vectors: Vectors, dim: int) -> Vectors:
    """Return the first `dim` numbers of each row, scaled to length 1.

    Models trained for it (Matryoshka) keep most of the meaning there. Source: arXiv:2205.13147.

    Args:
        vectors: (num_inputs, model_dim).
        dim: How many to keep; all of them leaves the rows as they are.

    Raises:
        InvalidRequest: The model makes fewer.
    """
    model_dim = vectors.shape[1]
    if dim > model_dim:
        raise InvalidRequest(
            f"dimensions is {dim}, and this model's embeddings have {model_dim}",
            param="dimensions",
        )
    return vectors if dim == model_dim else _normalized(vectors[:, :dim])


def cosine_similarities(vector: Vectors, others: Vectors) -> list[float]:
    """Return the cosine of the angle between a vector (dim,) and each row of (num_rows, dim)."""
    cosines = _normalized(others) @ _normalized(vector[None])[0]
    return [float(cosine) for cosine in cosines.clip(-1, 1)]


def _normalized(vectors: Vectors) -> Vectors:
    """Return rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    scaled: Vectors = vectors / lengths
    return scaled
