"""Request fields that several dialects share: their types, ranges and small print."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from palma.core.types import MAX_SEED, SamplingParams

MAX_MESSAGES = 10_000
"""They are checked on the event loop: this many take some 20 ms."""

MAX_STOP_STRINGS = 4
MAX_STOP_CHARS = 1000


Message = TypeVar("Message")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), FailFast()]
"""A conversation in the dialect's own kind of message."""

MaxTokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0)]
MinP = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100)]
Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[
    list[StopString], Field(max_length=MAX_STOP_STRINGS), BeforeValidator(_as_list)
]
"""One string or a list of up to four."""


class SamplingBody(BaseModel):
    """The fields about sampling that are the same in every dialect that has them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    stop: StopStrings | None = None

    def sampling_params(self, max_tokens: int | None, **defaults: float) -> SamplingParams:
        """Return what was given; for the rest `defaults`, then those of SamplingParams."""
        given = self.model_dump(include=set(SamplingBody.model_fields), exclude_none=True)
        given.pop("stop", None)
        return SamplingParams(max_tokens=max_tokens, **{**defaults, **given})
