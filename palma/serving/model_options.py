"""What a model may be loaded with: the same keys in a flag, in `models.yaml` and in a request."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from palma.core.config import Settings
from palma.core.errors import InvalidRequest, SettingsError, UnsupportedParameter
from palma.models.catalogue import SHOWN_PATH, Catalogue, make_catalogue, read_catalogue
from palma.models.spec import ModelSpec, is_model_name, resolve_spec
from palma.serving.instance import LoadPlan


@dataclass(frozen=True, slots=True)
class _Refused:
    """Marks a key that is not honoured: only null, and values that ask for nothing, are taken."""

    why: str
    neutral: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        taken = [None, *self.neutral]
        return {"enum": taken, "description": self.why, "x-support": "neutral_only"}

    def _check(self, value: Any) -> Any:
        if value is None or value in self.neutral:
            return value
        raise PydanticCustomError("unsupported_value", "is not supported: {why}", {"why": self.why})


_BITS = re.compile(r"[^:]+:\d+(\.\d+)?")
"""As in `mistral:4.0`."""

_Name = Annotated[str, Field(min_length=1, max_length=400)]
_ONE_DEVICE = "a model is computed on one device, which DEVICE chooses"
_NO_DRAFT = _Refused("this server has no speculative decoding; leave it out")


class ModelOptions(BaseModel):
    """The keys of a model, gallama's and `revision`."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    model_id: Annotated[
        _Name, Field(description=f"A name of {SHOWN_PATH}, or of the Hub; locally also a folder.")
    ]
    model_name: Annotated[
        _Name | None, Field(description="The name that requests use; otherwise it is model_id.")
    ] = None
    revision: Annotated[_Name | None, Field(description="Branch, tag or commit on the Hub.")] = None
    max_seq_len: Annotated[
        int | None, Field(ge=16, description="Cap on prompt plus completion tokens.")
    ] = None
    cache_size: Annotated[
        int | None,
        Field(ge=16, description="Tokens that the continuous engine's KV cache holds."),
    ] = None
    backend: Annotated[
        Literal["transformers", "continuous", "threads", "mock"] | None,
        Field(description="What generates; transformers leaves the choice to the server."),
    ] = None

    gpus: Annotated[Any, _Refused(f"{_ONE_DEVICE}; only 'auto' is taken", ("auto",))] = None
    tensor_parallel: Annotated[Any, _Refused(f"{_ONE_DEVICE}; leave it out", (False,))] = None
    cache_quant: Annotated[
        Any, _Refused("the KV cache has the model's own precision; leave it out")
    ] = None
    quant: Annotated[
        Any,
        _Refused("weights are loaded as published; leave it out, or start with WEIGHTS=int8"),
    ] = None
    prompt_template: Annotated[
        Any, _Refused("the model's own chat template is used; leave it out")
    ] = None
    draft_model_id: Annotated[Any, _NO_DRAFT] = None
    draft_model_name: Annotated[Any, _NO_DRAFT] = None
    draft_gpus: Annotated[Any, _NO_DRAFT] = None
    draft_cache_size: Annotated[Any, _NO_DRAFT] = None
    draft_cache_quant: Annotated[Any, _NO_DRAFT] = None


def parse_models(text: str) -> list[ModelOptions]:
    """Read `model_id=a max_seq_len=4096; model_id=b`; quotes keep spaces and semicolons.

    Raises:
        SettingsError: It cannot be read, or asks for what cannot be had.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    lexer.commenters = ""
    models: list[dict[str, str]] = [{}]
    try:
        for word in lexer:
            if set(word) == {";"}:
                models.append({})
                continue
            key, equals, value = word.partition("=")
            if not equals or key in models[-1]:
                problem = "stands there twice" if equals else "is no key=value"
                raise SettingsError(f"-id {text!r}: {key} {problem}")
            models[-1][key] = value
    except ValueError:  # a quotation mark without its partner
        raise SettingsError(f"-id {text!r}: a quotation mark is missing") from None
    return [_validated(model, f"-id {text!r}", is_text=True) for model in models if model]


def _validated(keys: dict[str, Any], where: str, *, is_text: bool = False) -> ModelOptions:
    validate = ModelOptions.model_validate_strings if is_text else ModelOptions.model_validate
    try:
        return validate(keys)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = ", ".join(ModelOptions.model_fields)
        raise SettingsError(f"{where}: {name} is not a key; known: {known}")
    raise SettingsError(f"{where}: {name}: {problem['msg']}")


def find_model(name: str, catalogue: Catalogue) -> ModelOptions | None:
    """Return what the catalogue says about a short name, whatever its capitals; None without.

    Raises:
        SettingsError: It says what cannot be had.
    """
    for key, entry in catalogue.items():
        if key.lower() == name.lower():
            return _validated(entry, f"{SHOWN_PATH}: {key}")
    return None


def make_plan(options: ModelOptions, settings: Settings, catalogue: Catalogue) -> LoadPlan:
    """Say what shall be loaded: the server's settings, then the catalogue's keys, then `options`.

    Raises:
        InvalidRequest: A key cannot be honoured.
        SettingsError: The catalogue is wrong, or there is no such folder.
    """
    entry = find_model(options.model_id, catalogue)
    source = entry.model_id if entry else options.model_id
    given = {name: getattr(options, name) for name in options.model_fields_set}
    keys = (entry or options).model_copy(update={**given, "model_id": source})
    own = _settings_of(keys, settings)
    found = source if own.engine == "mock" else resolve_spec(own).model_id
    model_id = keys.model_name or (options.model_id if entry else found)
    if not is_model_name(model_id):
        raise InvalidRequest(
            f"{model_id[:100]!r} cannot be the name of a model", param="model_name"
        )
    aliases = {options.model_id, source, found, found.rpartition("/")[2]} - {model_id}
    return LoadPlan(model_id, own, frozenset(aliases))


def _settings_of(keys: ModelOptions, settings: Settings) -> Settings:
    own: dict[str, Any] = {"model_id": keys.model_id, "model_revision": keys.revision}
    if keys.backend not in (None, "transformers"):
        own["engine"] = keys.backend
        if keys.backend != "continuous":
            own["kv_cache_tokens"] = None  # the server's is for its own engine
    if keys.max_seq_len is not None:
        own["max_model_len"] = keys.max_seq_len
    if keys.cache_size is not None:
        own["kv_cache_tokens"] = keys.cache_size
        if own.get("engine", settings.engine) != "continuous":
            raise UnsupportedParameter(
                "cache_size is the size of the continuous engine's cache; other engines have "
                "none that requests share: leave it out, or choose backend=continuous",
                param="cache_size",
            )
    return settings.model_copy(update=own)


def find_spec(name: str, settings: Settings, catalogue: Catalogue) -> ModelSpec:
    """Say where a model of that name, short or the Hub's, comes from.

    Raises:
        UnsupportedParameter: It asks for a number of bits, as `name:4.0`.
        SettingsError: Nothing can have such a name.
    """
    if _BITS.fullmatch(name):
        raise UnsupportedParameter(
            f"{name}: quantized variants are not supported: weights are downloaded as published; "
            f"leave {name[name.rindex(':') :]!r} out",
            param="quant",
        )
    entry = find_model(name, catalogue)
    source, revision = (entry.model_id, entry.revision) if entry else (name, None)
    own = {"model_id": source, "model_revision": revision}
    return resolve_spec(settings.model_copy(update=own))


def plan_requested(models: list[ModelOptions], settings: Settings) -> list[LoadPlan]:
    """Return the plans for models that a request names; reads the catalogue.

    Raises:
        InvalidRequest: A key cannot be honoured, or something else than a name is in model_id.
        SettingsError: The catalogue cannot be read.
    """
    catalogue = read_catalogue()
    plans = []
    for options in models:
        require_name(options.model_id, "model_id")
        try:
            plans.append(make_plan(options, settings, catalogue))
        except SettingsError as error:
            raise InvalidRequest(error.message, param="model_id") from None
    return plans


def spec_requested(name: str, settings: Settings) -> ModelSpec:
    """Return the model that a request names; reads the catalogue; raises what `find_spec` does, and

    Raises:
        InvalidRequest: It is no name.
    """
    if not _BITS.fullmatch(name):
        require_name(name, "model_name")
    return find_spec(name, settings, read_catalogue())


def require_name(text: str, param: str) -> None:
    """Refuse what would open a path or an address.

    Raises:
        InvalidRequest: It is no name of a model.
    """
    if not is_model_name(text):
        raise InvalidRequest(
            f"{param} must be a name, such as org/name, and not a path or an address", param=param
        )


def startup_plans(settings: Settings) -> list[LoadPlan]:
    """Return the models of MODEL_ID and MODELS; without both, the bundled one.

    Raises:
        SettingsError: One of them names nothing that could be a model, or asks for too much.
    """
    plans = []
    if settings.model_id is not None or settings.models is None:
        model_id = "mock" if settings.engine == "mock" else resolve_spec(settings).model_id
        plans.append(LoadPlan(model_id, settings, frozenset({settings.model_id or model_id})))
    if settings.models is not None:
        make_catalogue()
        catalogue = read_catalogue()
        for options in parse_models(settings.models):
            try:
                plans.append(make_plan(options, settings, catalogue))
            except InvalidRequest as error:
                raise SettingsError(f"-id model_id={options.model_id}: {error.message}") from None
    if not plans:
        raise SettingsError(f"MODELS={settings.models!r} names no model")
    return plans
