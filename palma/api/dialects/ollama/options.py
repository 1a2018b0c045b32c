"""How Ollama's requests say to sample: their options, and Ollama's own defaults."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from palma.api.fields import (
    Label,
    MinP,
    Mirostat,
    NeutralOnly,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopStrings,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from palma.api.ollama_shapes import allow_nulls, drop_nulls
from palma.core.types import SamplingParams


def _check_num_predict(value: int) -> int:
    if value < -2 or value == 0:
        raise ValueError("must be at least 1, or -1 or -2 for as many as fit")
    return value


class Options(BaseModel):
    """How to sample. What is left out, or null, has Ollama's own default."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=allow_nulls)

    temperature: Temperature = 0.8
    top_k: TopK = 40
    top_p: TopP = 0.9
    min_p: MinP = 0.0
    typical_p: TypicalP = 1.0
    repeat_penalty: RepetitionPenalty = 1.1
    repeat_last_n: Annotated[int, Field(ge=-1)] = 64
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    mirostat: Mirostat = 0
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] = 5.0
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: Seed = -1
    num_predict: Annotated[int, AfterValidator(_check_num_predict)] = -1
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    stop: StopStrings = Field(default_factory=list)

    num_keep: Annotated[Any, Label()] = None

    embedding_only: Annotated[Any, NeutralOnly(False)] = None
    f16_kv: Annotated[Any, NeutralOnly()] = None
    logits_all: Annotated[Any, NeutralOnly(False)] = None
    low_vram: Annotated[Any, NeutralOnly(False)] = None
    main_gpu: Annotated[Any, NeutralOnly(0)] = None
    num_batch: Annotated[Any, NeutralOnly()] = None
    num_gpu: Annotated[Any, NeutralOnly(-1)] = None
    num_thread: Annotated[Any, NeutralOnly(0)] = None
    numa: Annotated[Any, NeutralOnly(False)] = None
    penalize_newline: Annotated[Any, NeutralOnly(True)] = None
    tfs_z: Annotated[Any, NeutralOnly(1)] = None
    use_mlock: Annotated[Any, NeutralOnly(False)] = None
    use_mmap: Annotated[Any, NeutralOnly()] = None
    vocab_only: Annotated[Any, NeutralOnly(False)] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, options: Any) -> Any:
        return drop_nulls(options)

    def sampling_params(self, num_logprobs: int | None) -> SamplingParams:
        """Translate: -1 stands for a random seed, for all tokens, and for as many as fit."""
        return SamplingParams(
            max_tokens=None if self.num_predict < 0 else self.num_predict,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repeat_penalty,
            repetition_window=None if self.repeat_last_n < 0 else self.repeat_last_n,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            mirostat=self.mirostat,
            mirostat_tau=self.mirostat_tau,
            mirostat_eta=self.mirostat_eta,
            seed=None if self.seed == -1 else self.seed,
            num_logprobs=num_logprobs,
        )
