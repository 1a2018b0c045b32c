"""The likeliest token of each row of logits, or of those that the row's mask allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def likeliest(logits: torch.Tensor, masks: Sequence[bytes | None]) -> list[tuple[int, float]]:
    """Return the id and the logit of each row's likeliest allowed token.

    The logit is no finite number where a choice cannot be made: the row holds NaN or nothing
    but infinity, or its mask allows nothing.

    Args:
        logits: (num_rows, vocab_size), float32.
        masks: As from `TokenMask.allowed`, by row; None allows all.
    """
    if logits.device.type == "cpu":  # numpy takes a tenth of torch's time for this
        return [_of_row(row, mask) for row, mask in zip(logits.numpy(), masks, strict=True)]
    return of_all_rows(logits, masks)


def of_all_rows(logits: torch.Tensor, masks: Sequence[bytes | None]) -> list[tuple[int, float]]:
    """Return what `likeliest` does, all rows in the same operations."""
    greatest = logits.amax(dim=-1)
    if any(mask is not None for mask in masks):
        bits = torch.from_numpy(_all_bits(masks, logits.shape[1])).to(logits.device)
        logits = torch.where(bits, logits, -torch.inf)
    values, token_ids = logits.max(dim=-1)
    values = torch.where(greatest.isfinite(), values, torch.nan)
    return list(zip(token_ids.tolist(), values.tolist(), strict=True))


def allowed_ids(mask: bytes, vocab_size: int) -> NDArray[np.int64]:
    """Return the ids that a mask allows; it may be shorter or longer than the vocabulary."""
    ids: NDArray[np.int64] = np.flatnonzero(_bits(mask, vocab_size))
    return ids


def _of_row(row: NDArray[np.float32], mask: bytes | None) -> tuple[int, float]:
    token_id = int(row.argmax())  # of a NaN, if there is one
    value = float(row[token_id])
    if mask is None or not math.isfinite(value) or _allows(mask, token_id):
        return token_id, value
    ids = allowed_ids(mask, len(row))
    if not len(ids):
        return token_id, -math.inf
    token_id = int(ids[row[ids].argmax()])
    return token_id, float(row[token_id])


def _allows(mask: bytes, token_id: int) -> bool:
    return token_id >> 3 < len(mask) and bool(mask[token_id >> 3] >> (token_id & 7) & 1)


def _bits(mask: bytes, vocab_size: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(mask, np.uint8)[: -(-vocab_size // 8)]
    return np.unpackbits(packed, bitorder="little")[:vocab_size].view(np.bool_)


def _all_bits(masks: Sequence[bytes | None], vocab_size: int) -> NDArray[np.bool_]:
    """Return (num_rows, vocab_size): what the masks allow."""
    allowed = np.ones((len(masks), vocab_size), np.bool_)
    for row, mask in zip(allowed, masks, strict=True):
        if mask is not None:
            bits = _bits(mask, vocab_size)
            row[: len(bits)] = bits
            row[len(bits) :] = False
    return allowed
