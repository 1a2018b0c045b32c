"""Request fields that several dialects share: their types, ranges and small print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from palma.core.errors import InvalidRequest
from palma.core.types import MAX_SEED, SamplingParams

SUPPORT = "x-support"
"""Keyword of a field's JSON Schema: `neutral_only` or `label`; without it the field is honoured."""


@dataclass(frozen=True, slots=True, eq=False)  # typing would take one of 0 for one of False
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
        return {"enum": [None, *self.values], SUPPORT: "neutral_only"}

    def _check(self, value: Any) -> Any:
        if value is None or any(_is_same(value, neutral) for neutral in self.values):
            return value
        only = " or ".join(repr(neutral) for neutral in self.values)
        taken = f"only {only} is taken" if only else "leave it out"
        raise PydanticCustomError("unsupported_value", "is not supported by this server; " + taken)


class Label:
    """Marks a field that labels a request and asks nothing of the answer: any value is taken."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Show that it is a label."""
        return {**handler(schema), SUPPORT: "label"}


def _is_same(value: Any, neutral: Any) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


MAX_MESSAGES = 10_000
"""They are checked on the event loop: this many take some 20 ms."""

MAX_PARTS = 10_000
"""In all messages together: parts of texts, calls, results. This many take some 0.1 s."""

MAX_BIASES = 1024
MAX_BIAS_CHARS = 100
MAX_STOP_TOKEN_IDS = 128
MAX_STOP_STRINGS = 4
MAX_STOP_CHARS = 1000


Message = TypeVar("Message")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def bound_parts(messages: Any) -> Any:
    """Return messages as they came, unless it would take seconds to check what is in them.

    Raises:
        ValueError: They have more than MAX_PARTS parts.
    """
    parts = list(_parts_in(messages))
    count = len(parts) + sum(1 for _ in _parts_in(parts))
    if count > MAX_PARTS:
        raise ValueError(f"{count} parts and calls are too many: at most {MAX_PARTS} are taken")
    return messages


def _parts_in(items: Any) -> Iterator[Any]:
    for item in items if isinstance(items, list) else ():
        for value in item.values() if isinstance(item, dict) else ():
            yield from value if isinstance(value, list) else ()


Messages = Annotated[
    list[Message],
    Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
    BeforeValidator(bound_parts),
]
"""A conversation in the dialect's own kind of message."""


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):  # which pydantic takes for the numbers of a Literal
        raise ValueError("must be a number")
    return value


MaxTokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0)]
MinP = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TypicalP = Annotated[float, Field(gt=0, le=1)]
Mirostat = Annotated[Literal[0, 1, 2], BeforeValidator(_not_bool)]
Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopList = Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)]
StopStrings = Annotated[
    StopList, BeforeValidator(_as_list, json_schema_input_type=StopString | StopList)
]
"""One string or a list of up to four."""


def _token_ids_as_numbers(value: Any, info: ValidationInfo) -> Any:
    """Turn the keys of `{"123": 1.5}`, which JSON makes strings, into token ids.

    They stay text where the field `logit_bias_type`, which must come before, says that.
    """
    if not isinstance(value, dict):
        return value
    if info.data.get("logit_bias_type") in TEXT_BIAS_TYPES:
        if not all(isinstance(key, str) and 0 < len(key) <= MAX_BIAS_CHARS for key in value):
            raise ValueError(f"the keys must be texts of 1 to {MAX_BIAS_CHARS} characters")
        return value
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in value):
        raise ValueError("the keys must be token ids")
    return {int(key): bias for key, bias in value.items()}


LogitBias = Annotated[
    dict[int | str, Bias],
    Field(max_length=MAX_BIASES),
    BeforeValidator(_token_ids_as_numbers, json_schema_input_type=dict[str, Bias]),
]
"""Token ids, written as strings, or texts; and what is added to their logits."""

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
        return SamplingParams(max_tokens=max_tokens, **{**defaults, **self._given()})

    def _given(self) -> dict[str, Any]:
        """Return what the body says, by the names of SamplingParams."""
        given = {
            name: value
            for name in type(self).model_fields
            if name in SAMPLING_NAMES and (value := getattr(self, name)) is not None
        }
        if "stop_token_ids" in given:
            given["stop_token_ids"] = frozenset(given["stop_token_ids"])
        return given


DEFAULT_REPEAT_LAST_N = 512
"""As in cria."""

TEXT_BIAS_TYPES = ("tokens", "Tokens")
"""Words of `logit_bias_type` for keys that are text: llama.cpp's and cria's spelling."""

NEUTRAL_BESIDE_MIROSTAT = {"top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1}
"""What Mirostat takes the place of, with the values that ask for nothing."""


class ExtendedSamplingBody(SamplingBody):
    """What OpenAI's dialects take beside that: their own penalties, and common extensions.

    `repeat_penalty` to `mirostat_eta` are those of llama.cpp's family, cria among it;
    `stop_words` is gallama's word for `stop`.
    """

    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias_type: Literal["input_ids", "tokens", "TokenIds", "Tokens"] | None = None
    logit_bias: LogitBias | None = None
    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None
    mirostat: Mirostat | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: StopTokenIds | None = None
    stop_words: StopStrings | None = None
    ignore_eos: bool | None = None
    typical_p: TypicalP | None = None

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        self._check_repeat_penalty()
        self._check_mirostat()
        self._check_logit_bias_type()
        self._take_stop_words()
        return self

    def _check_logit_bias_type(self) -> None:
        if self.logit_bias_type in TEXT_BIAS_TYPES and self.logit_bias is None:
            raise InvalidRequest("logit_bias_type needs logit_bias", param="logit_bias_type")

    def _take_stop_words(self) -> None:
        if self.stop_words is not None:
            if self.stop not in (None, self.stop_words):
                raise InvalidRequest(
                    "stop and stop_words are two words for one thing, and differ",
                    param="stop_words",
                )
            self.stop = self.stop_words

    def _check_repeat_penalty(self) -> None:
        penalties = {self.repeat_penalty, self.repetition_penalty} - {None}
        if len(penalties) > 1:
            raise InvalidRequest(
                "repeat_penalty and repetition_penalty are two words for one thing, and differ",
                param="repeat_penalty",
            )
        if not penalties and self.repeat_last_n not in (None, DEFAULT_REPEAT_LAST_N):
            raise InvalidRequest("repeat_last_n needs repeat_penalty", param="repeat_last_n")

    def _check_mirostat(self) -> None:
        if not self.mirostat:
            for name in ("mirostat_tau", "mirostat_eta"):
                if getattr(self, name) not in (None, getattr(SamplingParams(), name)):
                    raise InvalidRequest(f"{name} needs mirostat: 1 or 2", param=name)
            return
        if self.temperature == 0:
            raise InvalidRequest(
                "temperature 0 takes the likeliest token, and mirostat draws", param="temperature"
            )
        for name, neutral in NEUTRAL_BESIDE_MIROSTAT.items():
            if getattr(self, name) not in (None, neutral):
                message = f"{name} has no effect beside mirostat; leave it out"
                raise InvalidRequest(message, param=name)

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        if self.logit_bias_type in TEXT_BIAS_TYPES and "logit_bias" in given:
            given["text_bias"] = given.pop("logit_bias")
        if self.repeat_penalty is not None:
            given["repetition_penalty"] = self.repeat_penalty
            given["repetition_window"] = DEFAULT_REPEAT_LAST_N
        if self.repeat_last_n is not None:
            given["repetition_window"] = self.repeat_last_n if self.repeat_last_n >= 0 else None
        return given
