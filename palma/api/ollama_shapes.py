"""What Ollama's routes share: the envelope of errors, names of models, moments, small print."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, Field
from starlette.requests import Request
from typing_extensions import TypedDict

from palma.core.errors import InvalidRequest, ModelNotFound, PalmaError
from palma.serving.instance import ServedModel

PREFIX = "/api"

DEFAULT_TAG = ":latest"
HUB_PREFIXES = ("hf.co/", "huggingface.co/")

_DURATION = re.compile(r"-?\d+|[-+]?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")

ModelName = Annotated[str, Field(validation_alias=AliasChoices("model", "name"))]
"""A model's name; `name` is what the field was called in Ollama's first years."""


def _check_keep_alive(value: float | str) -> float | str:
    if isinstance(value, str) and not _DURATION.fullmatch(value):
        raise ValueError('must be a number of seconds or a duration such as "5m"')
    if not any(digit in "123456789" for digit in str(value)):
        raise ValueError("0 would unload the model, which may be at work for others")
    return value


KeepAlive = Annotated[float | str, AfterValidator(_check_keep_alive)]
"""How long the model shall stay loaded at least: here it does until the server ends."""


class ErrorAnswer(TypedDict):
    """The envelope of every error; also the line that ends a stream which failed."""

    error: str


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    return {"error": error.message}


def plain_name(name: str) -> str:
    """Return a model's name without what says nothing here: `:latest`, or the Hub's address."""
    for prefix in HUB_PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix(DEFAULT_TAG)


def find_model(request: Request, name: str) -> ServedModel:
    """Return a model that is served.

    Raises:
        ModelNotFound, ModelLoading, Unavailable: See `ModelRegistry.get`.
    """
    try:
        served: ServedModel = request.state.service.registry.get(plain_name(name))
    except InvalidRequest as error:  # such as `llama3:8b`: Ollama's name, and nobody's here
        raise ModelNotFound(error.message, param="model") from None
    return served


def drop_nulls(options: Any) -> Any:
    """Return options without those that are null: they are left out."""
    if not isinstance(options, dict):
        return options
    return {name: value for name, value in options.items() if value is not None}


def allow_nulls(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema of options what `drop_nulls` does."""
    for name, field in schema["properties"].items():
        default = {"default": field.pop("default")} if "default" in field else {}
        schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **default}


def timestamp(seconds: float) -> str:
    """Return a moment of Unix time as Ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
