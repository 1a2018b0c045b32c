"""A chat model's idea of a text: the mean of its last hidden states, of length 1."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from palma.core.errors import EngineFailure, UnsupportedParameter


def last_hidden_states(model: Any, token_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Return the last hidden states of one sequence, without the cost of its logits.

    Args:
        model: A causal language model of Transformers.
        token_ids: (1, num_tokens).
        inputs: More arguments of its forward pass.

    Returns:
        (num_tokens, hidden_size), float32.

    Raises:
        UnsupportedParameter: The model shows no hidden states.
    """
    output = model.base_model(input_ids=token_ids, **{"use_cache": False, **inputs})
    states = getattr(output, "last_hidden_state", None)
    if states is None:
        raise UnsupportedParameter(
            "this model shows no hidden states, so it cannot embed a text", param="model"
        )
    return cast("torch.Tensor", states)[0].float()


class MeanStates:
    """Adds up hidden states that come in parts."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None
        self._num_tokens = 0

    def add(self, states: torch.Tensor) -> None:
        """Take the next states: (num_tokens, hidden_size), float32."""
        total = states.sum(dim=0)
        self._total = total if self._total is None else self._total + total
        self._num_tokens += len(states)

    def embedding(self) -> NDArray[np.float32]:
        """Return their mean, scaled to length 1: (hidden_size,), float32.

        Raises:
            EngineFailure: The model computed no finite numbers.
        """
        assert self._total is not None, "at least one token has been read"
        mean = self._total / self._num_tokens
        return finite(torch.nn.functional.normalize(mean, dim=0))


def finite(numbers: torch.Tensor) -> NDArray[np.float32]:
    """Return numbers that left the device, float32.

    Raises:
        EngineFailure: Some are no numbers, or infinite.
    """
    on_cpu = numbers.float().cpu()
    if not bool(on_cpu.isfinite().all()):
        raise EngineFailure("the model computed no finite numbers for this input")
    return cast("NDArray[np.float32]", on_cpu.numpy())
