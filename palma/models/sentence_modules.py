"""What follows the Transformer in a sentence-transformers folder: pooling, dense, normalize.

Source of the layout: the configuration files that `sentence_transformers` 2 to 6 write.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palma.core.errors import ModelLoadError
from palma.models.checkpoint import read_json_file

Pool = Callable[[Tensor, Tensor], Tensor]
"""Takes states (batch, length, hidden), float32, and the mask of real tokens (batch, length)."""

_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which several of them are joined."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "GELU": nn.GELU,
    "Identity": nn.Identity,
    "ReLU": nn.ReLU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
}


class Pooling(nn.Module):
    """One vector from the states of an input's tokens; padding stands behind them.

    Args:
        modes: What is computed; the results of several are joined.
        includes_prompt: False leaves the tokens of a prompt out, which is not supported.
    """

    def __init__(self, modes: tuple[str, ...], *, includes_prompt: bool = True) -> None:
        super().__init__()
        unknown = [mode for mode in modes if mode not in POOLS]
        if unknown:
            raise ModelLoadError(f"its pooling mode {unknown[0]!r} is not supported")
        self.modes = modes
        self.includes_prompt = includes_prompt

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, num_modes * hidden)."""
        return torch.cat([POOLS[mode](states, mask) for mode in self.modes], dim=-1)

    def __str__(self) -> str:
        return f"{' and '.join(self.modes)} pooling"


class Dense(nn.Module):
    """A linear layer and an activation after the pooling."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__()
        _require(config, "module_input_name", "sentence_embedding")
        _require(config, "module_output_name", "sentence_embedding", None)
        _require(config, "use_residual", False)
        name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        if name not in _ACTIVATIONS:
            raise ModelLoadError(f"the activation {name!r} of its dense layer is not supported")
        self.activation = _ACTIVATIONS[name]()
        weight = weights["linear.weight"].float()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in weights)
        self.linear.load_state_dict(
            {key.removeprefix("linear."): value.float() for key, value in weights.items()}
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Take (batch, in_features); return (batch, out_features)."""
        changed: Tensor = self.activation(self.linear(vectors))
        return changed

    def __str__(self) -> str:
        return f"a dense layer to {self.linear.out_features}"


class Normalize(nn.Module):
    """Scales each vector to length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Take and return (batch, dim)."""
        return nn.functional.normalize(vectors, dim=-1)

    def __str__(self) -> str:
        return "normalized"


def read_pooling(folder: Path) -> Pooling:
    """Read a Pooling module.

    Raises:
        ModelLoadError: It does something that is not supported.
    """
    config = read_json_file(folder / "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_NAMES.items() if config.get(key)] or "mean"
    modes = (modes,) if isinstance(modes, str) else tuple(map(str, modes))
    return Pooling(modes, includes_prompt=config.get("include_prompt") is not False)


def read_dense(folder: Path) -> Dense:
    """Read a Dense module.

    Raises:
        ModelLoadError: It does something that is not supported, or its weights are missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    config = read_json_file(folder / "config.json")
    try:
        weights = load((folder / "model.safetensors").read_bytes())
        return Dense(config, weights)
    except OSError:
        raise ModelLoadError(f"{folder.name}/model.safetensors is missing") from None
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"the weights in {folder.name} are broken: {error}") from None


def read_normalize(folder: Path) -> Normalize:
    """Read a Normalize module, which may have a configuration or none.

    Raises:
        ModelLoadError: It does something that is not supported.
    """
    path = folder / "config.json"
    config = read_json_file(path) if path.is_file() else {}
    _require(config, "module_input_name", "sentence_embedding")
    _require(config, "module_output_name", "sentence_embedding", None)
    return Normalize()


def _require(config: dict[str, Any], key: str, *taken: Any) -> None:
    if key in config and config[key] not in taken:
        raise ModelLoadError(f"a module's {key} is {config[key]!r}, which is not supported")


def _first(states: Tensor, _: Tensor) -> Tensor:
    return states[:, 0]


def _last(states: Tensor, mask: Tensor) -> Tensor:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(dim=1) - 1]


def _max(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)


def _sum(states: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("blh,bl->bh", states, weights.to(states.dtype))


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return _sum(states, mask) / mask.sum(dim=1, keepdim=True)


def _mean_sqrt(states: Tensor, mask: Tensor) -> Tensor:
    return _sum(states, mask) / mask.sum(dim=1, keepdim=True).sqrt()


def _weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return _sum(states, weights) / weights.sum(dim=1, keepdim=True)


POOLS: dict[str, Pool] = {
    "cls": _first,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
}
