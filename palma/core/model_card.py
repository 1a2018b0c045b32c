"""What a served model is made of, and what clients are told about it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Weights:
    """What a model is made of; the defaults are those of a model without any.

    Attributes:
        architecture: The family, as Transformers calls it: "llama".
        num_parameters: How many numbers it has learned.
        num_bytes: What they take in memory as they were loaded.
    """

    architecture: str = ""
    num_parameters: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What clients are told about a served model.

    Attributes:
        model_id: The name that requests use.
        created: Unix time in seconds at which it became ready here.
        max_model_len: Prompt and completion tokens that fit, together.
        engine: The engine that runs it, with the reason in `engine_reason`.
        device: For example "cpu" or "cuda:0"; with `dtype`, and `device_reason` for both.
        embeddings: How it embeds texts; empty when it does not.
        weights: What it is made of.
    """

    model_id: str
    created: int
    max_model_len: int
    engine: str
    device: str
    dtype: str
    device_reason: str
    engine_reason: str
    embeddings: str = ""
    weights: Weights = field(default_factory=Weights)
