"""Settings: flags, then the environment, then `.env`, then the defaults below."""

from __future__ import annotations

import os
from typing import Any, Literal

from dotenv import load_dotenv
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from palma.core.errors import SettingsError

MIN_SECRET_BYTES = 32
"""As long as the hash: a shorter secret is the weakest part of HS256. Source: RFC 7518, 3.2."""

SECOND_TOKEN_NAME = "HUGGINGFACE_ACCESS_TOKEN"
"""Taken for HF_TOKEN where that is not set."""

DtypeName = Literal["auto", "bfloat16", "float16", "float32"]


class Settings(BaseSettings):
    """Everything an operator can choose. Each field is also a flag of `palma serve`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    debug: bool = Field(False, description="Log every HTTP request, and more.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="Key that requests must bring; only the health probes need none.",
    )
    jwt_secret: SecretStr | None = Field(
        None,
        description="Secret of the HS256 tokens that requests may bring instead of the key; "
        "`palma token` makes them.",
    )
    jwt_require_exp: bool = Field(True, description="Refuse tokens that never expire.")

    model_id: str | None = Field(
        None, description="Hub name or folder of the model; unset: the bundled one."
    )
    models: str | None = Field(
        None,
        description="More models, as -id takes them, semicolons between: `model_id=a; model_id=b`.",
    )
    model_revision: str | None = Field(None, description="Branch, tag or commit on the Hub.")
    embedding_model_id: str | None = Field(
        None, description="Hub name or folder of a model for embeddings; unset: the chat model."
    )
    rerank_model_id: str | None = Field(
        None,
        description="Hub name or folder of a cross-encoder for /v1/rerank; unset: embeddings' "
        "cosine.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that the model's repository brings."
    )
    allow_pickle: bool = Field(
        False,
        description="Load pickled weights, which can run code; safetensors needs no such trust.",
    )
    engine: Literal["continuous", "threads", "mock"] = Field(
        "continuous",
        description="What generates: all requests in one forward pass, a worker thread a request, "
        "or a mock without torch.",
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="Where to compute; auto: CUDA, then Metal, then CPU."
    )
    torch_dtype: DtypeName = Field("auto", description="Precision of weights and activations.")
    weights: Literal["as_loaded", "int8", "float8"] = Field(
        "as_loaded",
        description="Linear layers' weights; int8 is faster on a CPU, float8 on an NVIDIA GPU, and "
        "both are slightly less exact.",
    )
    compile_layers: bool = Field(
        True,
        description="Compile the model's layers while it serves on an NVIDIA GPU, and then use "
        "them.",
    )
    cpu_kernel: bool = Field(
        True, description="Build a C++ kernel for the CPU where a compiler is found."
    )
    max_model_len: int | None = Field(
        None, ge=16, description="Cap on prompt plus completion tokens; unset: the model's own."
    )
    kv_cache_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens that the continuous engine's KV cache holds; unset: as many as all "
        "running requests need, where memory allows.",
    )
    convert_tokens_to_ids: str = Field(
        "<|eot_id|>", description="An extra token that ends an answer, where the tokenizer has it."
    )

    allow_model_management: bool = Field(
        False,
        description="Let requests load, unload and download models; whoever may send them may.",
    )

    threads_max_workers: int = Field(
        10, ge=1, le=1024, description="Requests of a model that generate at once; the rest wait."
    )
    max_waiting_requests: int = Field(
        128, ge=0, le=100_000, description="Requests that may wait; the next one gets 429."
    )

    responses_database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the database of /v1/responses; unset: a SQLite file in "
        "~/.palma, or memory where that cannot be written; sqlite:// is memory.",
    )
    responses_keep_days: float = Field(
        30, gt=0, allow_inf_nan=False, description="Days that a stored response is kept."
    )
    responses_max_stored: int = Field(
        100_000, ge=1, description="Most stored responses; the oldest go."
    )

    default_do_sample: bool = Field(True, description="/v0.1.0 default of do_sample.")
    default_max_new_tokens: int = Field(256, ge=1, description="/v0.1.0 default of max_new_tokens.")
    default_temperature: float = Field(
        0.6, ge=0, le=2, allow_inf_nan=False, description="/v0.1.0 default of temperature."
    )
    default_top_p: float = Field(
        0.7, gt=0, le=1, allow_inf_nan=False, description="/v0.1.0 default of top_p."
    )
    default_access_control_allow_origin: str = Field(
        "*", description="Origins that browsers may call from: * or a comma list."
    )
    default_access_control_max_age: int = Field(
        86400, ge=0, description="Seconds a browser may remember the answer to a preflight."
    )

    max_request_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="Largest request body; a larger one gets 413."
    )
    max_header_bytes: int = Field(
        64 * 1024, ge=1024, description="Largest request header block; a larger one gets 431."
    )
    max_header_count: int = Field(
        200, ge=10, description="Most request header lines; more get 431."
    )
    header_timeout_s: float = Field(
        15, gt=0, allow_inf_nan=False, description="Seconds a client has to send its headers."
    )
    body_timeout_s: float = Field(
        30, gt=0, allow_inf_nan=False, description="Seconds a client has to send its body."
    )
    send_timeout_s: float = Field(
        30, gt=0, allow_inf_nan=False, description="Seconds a client may stop reading a stream."
    )
    stream_interval_s: float = Field(
        0.02,
        ge=0,
        allow_inf_nan=False,
        description="Least seconds between two pieces of an answer: faster tokens leave together.",
    )
    sse_ping_s: float = Field(
        15,
        gt=0,
        allow_inf_nan=False,
        description="Seconds between keep-alive comments in a stream.",
    )
    shutdown_grace_s: float = Field(
        30, ge=0, allow_inf_nan=False, description="Seconds that running requests get on SIGTERM."
    )
    stall_timeout_s: float = Field(
        120,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that running requests may make no token, a long prompt's first one "
        "included, before health fails.",
    )

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        num_bytes = MIN_SECRET_BYTES if secret is None else len(secret.get_secret_value().encode())
        if num_bytes < MIN_SECRET_BYTES:
            raise ValueError(f"has {num_bytes} bytes; {MIN_SECRET_BYTES} are the least")
        return secret

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of DEFAULT_ACCESS_CONTROL_ALLOW_ORIGIN, one by one."""
        parts = self.default_access_control_allow_origin.split(",")
        return tuple(part.strip() for part in parts if part.strip())


def load_settings(**flags: Any) -> Settings:
    """Read `.env` into the environment, then build the settings; flags win over both.

    `.env` goes into the environment so that the Hugging Face libraries see HF_TOKEN (or the same
    under its second name) and HF_HUB_OFFLINE from it too. Only entry points call this, before
    those libraries are imported.

    Raises:
        SettingsError: A value is wrong; the message is one line that names it.
    """
    try:
        load_dotenv(".env", encoding="utf-8-sig")  # Notepad puts a mark before the first line
    except UnicodeDecodeError:
        raise SettingsError("the file .env is not UTF-8; save it anew as UTF-8") from None
    if not os.environ.get("HF_TOKEN") and (token := os.environ.get(SECOND_TOKEN_NAME)):
        os.environ["HF_TOKEN"] = token
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0])
        is_secret = "Secret" in str(Settings.model_fields[field].annotation)
        value = "***" if is_secret else repr(problem["input"])
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{field.upper()}={value}: {message}")
    return "; ".join(problems)
