"""Embedders and cross-encoders from their folders to memory; read without their own packages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.models.checkpoint import check_checkpoint, count_parameters, naming, read_json_file
from palma.models.device import DeviceChoice, prepare_environment, select_device
from palma.models.download import fetch_snapshot
from palma.models.loader import explaining, read_weights
from palma.models.memory_need import MemoryNeed, require_memory
from palma.models.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from palma.models.sentence_modules import Pooling

logger = logging.getLogger(__name__)

MODULES_FILE = "modules.json"
_PROMPTS_FILE = "config_sentence_transformers.json"
_TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_NO_LIMIT = 10**9
"""Tokenizers that name no limit say 10**30."""


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A model that reads texts, in memory. Any thread may use it; nobody changes it.

    Attributes:
        model: In eval mode, without gradients.
        backend: Its tokenizer, which neither cuts nor pads.
        choice: The device and precision, with the reason for both.
        max_input_tokens: Most tokens of an input, those that the tokenizer adds included.
        vocab_size: Rows of the embedding; ids lie in [0, vocab_size).
        pad_token_id: What fills the rows of a batch.
        has_type_ids: Whether it is told which of two texts a token belongs to.
    """

    model: Any
    backend: Backend
    choice: DeviceChoice
    max_input_tokens: int
    vocab_size: int
    pad_token_id: int
    has_type_ids: bool


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    """An encoder and what makes a vector of its states.

    Attributes:
        encoder: Makes the states.
        pooling: Makes a vector of them.
        others: Change the vector, one after the other.
        prompt: Stands before every text.
    """

    encoder: LoadedEncoder
    pooling: Pooling
    others: tuple[Callable[[Any], Any], ...]
    prompt: str


def load_embedder(spec: ModelSpec, settings: Settings) -> LoadedEmbedder:
    """Load a model in the layout of sentence-transformers, or a bare one with mean pooling.

    Raises:
        ModelLoadError: The files are out of reach, broken, refused, or of an unknown kind.
        SettingsError: The device asked for is not there.
    """
    folder, choice = _prepare(spec, settings)
    with naming(spec.model_id), explaining(folder):
        return _load_embedder(folder, settings, choice)


def load_cross_encoder(spec: ModelSpec, settings: Settings) -> LoadedEncoder:
    """Load a sequence classifier with one label; raises what `load_embedder` does."""
    folder, choice = _prepare(spec, settings)
    with naming(spec.model_id), explaining(folder):
        config = _load_config(folder, settings)
        if config.num_labels != 1:
            raise ModelLoadError(
                f"it has {config.num_labels} labels: a model that ranks documents has one"
            )
        return _load_encoder(folder, settings, choice, config, "AutoModelForSequenceClassification")


def _prepare(spec: ModelSpec, settings: Settings) -> tuple[Path, DeviceChoice]:
    prepare_environment()
    choice = select_device(settings.device, settings.torch_dtype)
    logger.info("Loading %s on %s", spec.model_id, choice.device)
    folder = spec.source if isinstance(spec.source, Path) else fetch_snapshot(spec, settings)
    return folder, choice


def _load_embedder(folder: Path, settings: Settings, choice: DeviceChoice) -> LoadedEmbedder:
    from palma.models.sentence_modules import Pooling

    transformer, modules = _read_modules(folder)
    prompt = _default_prompt(folder)
    if modules:
        pooling, *others = modules
    else:
        pooling, others = Pooling(("mean",)), []
        logger.warning("It has no %s: mean pooling of its states it is", MODULES_FILE)
    if not isinstance(pooling, Pooling) or any(isinstance(other, Pooling) for other in others):
        raise ModelLoadError(f"{MODULES_FILE} must name one Pooling, and first")
    if prompt and not pooling.includes_prompt:
        raise ModelLoadError("it leaves its prompt out of the pooling, which is not supported")
    config = _load_config(transformer, settings)
    kind = "AutoModelForTextEncoding" if config.is_encoder_decoder else "AutoModel"
    encoder = _load_encoder(transformer, settings, choice, config, kind)
    for other in others:
        other.to(encoder.choice.device).requires_grad_(False)
    return LoadedEmbedder(encoder, pooling, tuple(others), prompt)


def _read_modules(folder: Path) -> tuple[Path, list[Any]]:
    """Return the folder of the Transformer, and the modules that follow it."""
    from palma.models.sentence_modules import read_dense, read_normalize, read_pooling

    if not (folder / MODULES_FILE).is_file():
        return folder, []
    readers = {"Pooling": read_pooling, "Dense": read_dense, "Normalize": read_normalize}
    first, *others = _module_entries(folder)
    if first[0] != "Transformer":
        raise ModelLoadError(
            f"its module {first[0]!r} is not supported: no Transformer comes first"
        )
    modules = []
    for kind, path in others:
        if kind not in readers:
            raise ModelLoadError(f"its module {kind!r} is not supported")
        modules.append(readers[kind](path))
    return first[1], modules


def _module_entries(folder: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module, in order."""
    entries = json.loads((folder / MODULES_FILE).read_bytes())
    found = []
    for entry in entries:
        path = (folder / entry["path"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ModelLoadError(f"{MODULES_FILE} points out of its folder")
        found.append((str(entry["type"]).rpartition(".")[2], path))
    if not found:
        raise ModelLoadError(f"{MODULES_FILE} names no module")
    return found


def _default_prompt(folder: Path) -> str:
    """Return what stands before every text; other prompts are the clients' own matter."""
    config = _read_optional(folder / _PROMPTS_FILE)
    name = config.get("default_prompt_name")
    return str((config.get("prompts") or {}).get(name) or "") if name else ""


def _load_config(folder: Path, settings: Settings) -> Any:
    from transformers import AutoConfig

    check_checkpoint(folder, settings)
    return AutoConfig.from_pretrained(
        folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
    )


def _load_encoder(
    folder: Path, settings: Settings, choice: DeviceChoice, config: Any, kind: str
) -> LoadedEncoder:
    tokenizer = _load_tokenizer(folder, settings)
    options = _transformer_options(folder)
    require_memory(MemoryNeed.of(count_parameters(folder), choice))
    model = _load_weights(folder, settings, choice, config, kind)
    vocab_size = model.get_input_embeddings().num_embeddings
    pad_token_id = tokenizer.pad_token_id
    return LoadedEncoder(
        model=model,
        backend=_backend(tokenizer, lowers_case=bool(options.get("do_lower_case"))),
        choice=_with_dtype(choice, model, settings),
        max_input_tokens=_max_input_tokens(options.get("max_seq_length"), tokenizer, model),
        vocab_size=vocab_size,
        pad_token_id=pad_token_id if pad_token_id is not None else 0,
        has_type_ids="token_type_ids" in tokenizer.model_input_names,
    )


def _load_tokenizer(folder: Path, settings: Settings) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
    )
    if not tokenizer.is_fast:
        raise ModelLoadError("its tokenizer is a slow one, of Python, which is not supported")
    return tokenizer


def _backend(tokenizer: Any, *, lowers_case: bool) -> Backend:
    """Return a copy that neither cuts nor pads, so that nothing changes it between threads."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers

    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    if lowers_case:
        before = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return backend


def _transformer_options(folder: Path) -> dict[str, Any]:
    """Read what sentence-transformers says about its Transformer.

    Raises:
        ModelLoadError: It is to be run in another way than for its last hidden states.
    """
    options = next(filter(None, (_read_optional(folder / n) for n in _TRANSFORMER_FILES)), {})
    task = options.get("transformer_task", "feature-extraction")
    if task not in ("feature-extraction", "sequence-classification"):
        raise ModelLoadError(f"its transformer_task {task!r} is not supported")
    return options


def _load_weights(
    folder: Path, settings: Settings, choice: DeviceChoice, config: Any, kind: str
) -> Any:
    import transformers

    is_auto = settings.torch_dtype == "auto"
    dtype = "auto" if is_auto and choice.device != "cpu" else choice.dtype
    model, report = read_weights(
        getattr(transformers, kind), folder, config, settings, device=choice.device, dtype=dtype
    )
    _require_whole(report)
    model.eval()
    model.requires_grad_(False)
    return model


def _require_whole(report: dict[str, Any]) -> None:
    """Refuse random weights, but for BERT's pooler, which nothing here uses.

    What a checkpoint has more, such as the head of another task, does no harm.
    """
    keys = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    missing = sorted(key for key in keys if not key.startswith("pooler."))
    if missing:
        raise ModelLoadError(f"The weights do not fit config.json: missing {missing[0]}")


def _with_dtype(choice: DeviceChoice, model: Any, settings: Settings) -> DeviceChoice:
    """Say in which precision it was loaded: on a GPU, in that of its files."""
    dtype = str(model.dtype).removeprefix("torch.")
    if settings.torch_dtype != "auto" or choice.device == "cpu":
        return choice
    where = choice.reason.partition("; ")[0]
    return DeviceChoice(choice.device, dtype, f"{where}; {dtype} because its files are in it.")


def _max_input_tokens(asked: Any, tokenizer: Any, model: Any) -> int:
    """Return the least of what the folder, the tokenizer and the positions allow."""
    limits = [asked] if isinstance(asked, int) else [tokenizer.model_max_length]
    num_positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(num_positions, int) and num_positions > 0:
        limits.append(num_positions - _first_position(model))
    limit = min(int(limit) for limit in limits if limit > 0)
    if limit > _NO_LIMIT:
        raise ModelLoadError("it does not say how long its inputs may be: set max_seq_length")
    return limit


def _first_position(model: Any) -> int:
    """Return how many positions are never used: RoBERTa and its kin count from behind a padding."""
    found = [m for n, m in model.named_modules() if n.endswith("position_embeddings")]
    padding = getattr(found[0], "padding_idx", None) if found else None
    return 0 if padding is None else padding + 1


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_file(path) if path.is_file() else {}
