"""The protocol of models that read texts and write none: embedders and cross-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encoding:
    """An input as tokens.

    Attributes:
        token_ids: At least one, each within the vocabulary, what the model wants at its ends
            included.
        type_ids: Which text of a pair each token belongs to; empty when there is only one text,
            or the model does not ask.
    """

    token_ids: Sequence[int]
    type_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What an encoder computes, and where.

    Attributes:
        kind: "embedder" or "cross-encoder"; or "mock".
        description: How it makes its numbers from the model's states.
        dim: How many numbers it makes of an input.
        vocab_size: Ids lie in [0, vocab_size).
        max_input_tokens: Most tokens of an input.
        max_batch_tokens: Most tokens of a batch, padding included, unless one input has more.
        device: Torch's name of the device, or "none"; with `dtype`, and the reason for both.
    """

    kind: str
    description: str
    dim: int
    vocab_size: int
    max_input_tokens: int
    max_batch_tokens: int
    device: str
    dtype: str
    device_reason: str


class Encoder(Protocol):
    """A running model without a queue: callers bring batches, one after the other."""

    info: EncoderInfo

    def encode(self, *texts: str) -> Encoding:
        """Return the tokens of a text, or of a query and a document; any thread may call it."""

    def compute(self, batch: Sequence[Encoding]) -> NDArray[np.float32]:
        """Return a row of numbers for each input: (num_inputs, dim).

        Raises:
            InsufficientMemory: The batch does not fit beside what runs now.
            EngineFailure: The model computed no finite numbers.
        """

    def close(self) -> None:
        """Free the model."""


def plan_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Put inputs of like length together, so that little is padded.

    Args:
        lengths: Tokens of each input.
        max_batch_tokens: Most tokens of a batch, padding included; an input that has more by
            itself is a batch of its own.

    Returns:
        The indices of each batch's inputs; the longest come first.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * longest > max_batch_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches
