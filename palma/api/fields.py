"""Request fields that several dialects share: their types, ranges and small print."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from palma.core.types import MAX_SEED, SamplingParams


@dataclass(frozen=True, slots=True)
class NeutralOnly:
    """Marks a field that is not honoured: only null, and values that ask for nothing, are taken.

    `Annotated[Any, NeutralOnly(1)]`. Without values the field is refused whatever it says. The
    values are compared as JSON does: 0 is 0.0, but true is not 1.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check the value after its type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Show the values that are taken."""
        return {"enum": [None, *self.values]}

    def _check(self, value: Any) -> Any:
        if value is None or any(_is_same(value, neutral) for neutral in self.values):
            return value
        only = " or ".join(repr(neutral) for neutral in self.values)
        taken = f"only {only} is taken" if only else "leave it out"
        raise PydanticCustomError("unsupported_value", "is not supported by this server; " + taken)


class Label:
    """Marks a field that labels a request and asks nothing of the answer: any value is taken."""


def _is_same(value: Any, neutral: Any) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


MAX_MESSAGES = 10_000
"""They are checked on the event loop: this many take some 20 ms."""

MAX_BIASES = 1024
MAX_STOP_TOKEN_IDS = 128
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
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TypicalP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[
    list[StopString], Field(max_length=MAX_STOP_STRINGS), BeforeValidator(_as_list)
]
"""One string or a list of up to four."""


def _token_ids_as_numbers(value: Any) -> Any:
    """Turn the keys of `{"123": 1.5}`, which JSON makes strings, into token ids."""
    if not isinstance(value, dict):
        return value
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in value):
        raise ValueError("the keys must be token ids")
    return {int(key): bias for key, bias in value.items()}


LogitBias = Annotated[
    dict[int, Bias], Field(max_length=MAX_BIASES), BeforeValidator(_token_ids_as_numbers)
]
"""Token ids, written as strings, and what is added to their logits."""

StopTokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_STOP_TOKEN_IDS)]

SAMPLING_NAMES = {field.name for field in fields(SamplingParams)} - {"max_tokens"}
"""Fields of a body that go into SamplingParams as they are."""


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
        given = {
            name: value
            for name in type(self).model_fields
            if name in SAMPLING_NAMES and (value := getattr(self, name)) is not None
        }
        if "stop_token_ids" in given:
            given["stop_token_ids"] = frozenset(given["stop_token_ids"])
        return SamplingParams(max_tokens=max_tokens, **{**defaults, **given})


class ExtendedSamplingBody(SamplingBody):
    """What OpenAI's dialects take beside that: their own penalties, and common extensions."""

    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: StopTokenIds | None = None
    ignore_eos: bool | None = None
    typical_p: TypicalP | None = None
