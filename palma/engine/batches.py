"""Batches of encoders: padded tensors, and what happens when they do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from palma.core.errors import InsufficientMemory
from palma.engine.encoders import EncoderInfo, Encoding

if TYPE_CHECKING:
    from palma.models.encoder_loader import LoadedEncoder

MAX_BATCH_TOKENS = {"cpu": 2048, "cuda": 16_384, "mps": 4096}
"""By kind of device: what keeps it busy for some tenths of a second."""


def encoder_info(loaded: LoadedEncoder, kind: str, description: str, dim: int) -> EncoderInfo:
    """Return what an encoder computes, and where."""
    return EncoderInfo(
        kind=kind,
        description=description,
        dim=dim,
        vocab_size=loaded.vocab_size,
        max_input_tokens=loaded.max_input_tokens,
        max_batch_tokens=MAX_BATCH_TOKENS[loaded.choice.device.partition(":")[0]],
        device=loaded.choice.device,
        dtype=loaded.choice.dtype,
        device_reason=loaded.choice.reason,
    )


def padded(batch: Sequence[Encoding], loaded: LoadedEncoder) -> dict[str, torch.Tensor]:
    """Return the arguments of a forward pass, each (num_inputs, longest), on the model's device.

    Padding stands behind the tokens, so that positions count from the first.
    """
    longest = max(len(encoding.token_ids) for encoding in batch)
    shape = (len(batch), longest)
    token_ids = torch.full(shape, loaded.pad_token_id)
    mask = torch.zeros(shape, dtype=torch.int64)
    type_ids = torch.zeros(shape, dtype=torch.int64)
    for row, encoding in enumerate(batch):
        length = len(encoding.token_ids)
        token_ids[row, :length] = torch.tensor(encoding.token_ids)
        mask[row, :length] = 1
        if encoding.type_ids:
            type_ids[row, :length] = torch.tensor(encoding.type_ids)
    inputs = {"input_ids": token_ids, "attention_mask": mask}
    if loaded.has_type_ids:
        inputs["token_type_ids"] = type_ids
    return {name: tensor.to(loaded.model.device) for name, tensor in inputs.items()}


@contextmanager
def fitting(batch: Sequence[Encoding]) -> Iterator[None]:
    """Say it in Palma's words when the memory of the device runs out.

    Raises:
        InsufficientMemory: It did.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        num_tokens = sum(len(encoding.token_ids) for encoding in batch)
        raise InsufficientMemory(
            f"{num_tokens} tokens did not fit into memory beside the requests that run now",
            retry_after_s=10,
        ) from None
