"""From a ModelSpec to a model in memory, on its device, ready to generate."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from palma.core.config import Settings
from palma.core.errors import ModelLoadError, SettingsError
from palma.core.model_card import Weights
from palma.models.checkpoint import check_checkpoint, count_parameters, naming
from palma.models.device import DeviceChoice, prepare_environment, select_device, suit_cpu
from palma.models.download import fetch_snapshot
from palma.models.memory_need import MemoryNeed, require_memory
from palma.models.process_memory import MappedFiles, own_memory
from palma.models.spec import ModelSpec
from palma.models.tokenizer import HFTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# The window of models goes by these names; the first one found counts.
_WINDOW_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
_DEFAULT_WINDOW = 4096
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory. Any thread may use it; nobody changes it.

    Attributes:
        model_id: The name that requests use.
        model: In eval mode, without gradients, and without sampling defaults of its own.
        tokenizer: The model's own.
        choice: The device and precision, with the reason for both.
        max_model_len: Most tokens of prompt and completion together.
        vocab_size: Rows of the embedding; ids lie in [0, vocab_size).
        stop_token_ids: Any of these ends an answer.
        weights: What it is made of.
    """

    model_id: str
    model: PreTrainedModel
    tokenizer: HFTokenizer
    choice: DeviceChoice
    max_model_len: int
    vocab_size: int
    stop_token_ids: frozenset[int]
    weights: Weights = field(default_factory=Weights)


def load_model(spec: ModelSpec, settings: Settings) -> LoadedModel:
    """Download where needed, check, and load a model; imports torch and blocks until it is done.

    Raises:
        ModelLoadError: The files are out of reach, broken, refused, or no causal language model.
        SettingsError: The device or the window asked for is not to be had.
    """
    prepare_environment()
    started = time.monotonic()
    choice = select_device(settings.device, settings.torch_dtype)
    logger.info("Loading %s on %s", spec.model_id, choice.device)

    def require_fit(num_parameters: int) -> None:
        require_memory(MemoryNeed.of(num_parameters, _suited(choice, num_parameters, settings)))

    folder = spec.source
    if not isinstance(folder, Path):
        folder = fetch_snapshot(spec, settings, require_fit=require_fit)
    with naming(spec.model_id):
        loaded = _load_folder(folder, spec, settings, choice)
    logger.info("Loaded %s in %.1f s", spec.model_id, time.monotonic() - started)
    return loaded


def _suited(choice: DeviceChoice, num_parameters: int, settings: Settings) -> DeviceChoice:
    is_cpu = choice.device == "cpu"
    return suit_cpu(choice, num_parameters, settings.torch_dtype) if is_cpu else choice


def _load_folder(
    folder: Path, spec: ModelSpec, settings: Settings, choice: DeviceChoice
) -> LoadedModel:
    check_checkpoint(folder, settings)
    num_parameters = count_parameters(folder)
    choice = _suited(choice, num_parameters, settings)
    require_memory(MemoryNeed.of(num_parameters, choice))
    logger.info("%s on %s in %s: %s", spec.model_id, choice.device, choice.dtype, choice.reason)
    with explaining(folder):
        config = _load_config(folder, settings)
        max_model_len = _max_model_len(config, settings)
        tokenizer = _load_tokenizer(folder, settings)
        model = _load_weights(folder, config, settings, choice)
    vocab_size = model.get_input_embeddings().num_embeddings
    _require_matching_vocabulary(tokenizer, vocab_size)
    stop_token_ids = _stop_token_ids(model, tokenizer, vocab_size, settings)
    _freeze(model, tokenizer, vocab_size, stop_token_ids)
    return LoadedModel(
        model_id=spec.model_id,
        model=model,
        tokenizer=HFTokenizer(tokenizer),
        choice=choice,
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        stop_token_ids=stop_token_ids,
        weights=_measure(model),
    )


def _measure(model: PreTrainedModel) -> Weights:
    parameters = list(model.parameters())
    return Weights(
        architecture=model.config.model_type,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_bytes=sum(parameter.nbytes for parameter in parameters),
    )


def load_blueprint(folder: Path, settings: Settings) -> PreTrainedModel:
    """Return a model's layers without any weights, on torch's meta device; imports torch.

    Raises:
        ModelLoadError: It is no causal language model, or its config is broken.
    """
    prepare_environment()
    import torch
    from transformers import AutoModelForCausalLM

    with explaining(folder):
        config = _load_config(folder, settings)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=settings.trust_remote_code
            )


@contextmanager
def explaining(folder: Path) -> Iterator[None]:
    """Turn what Transformers raises on a broken checkpoint into a ModelLoadError of one line."""
    try:
        yield
    except _loading_errors() as error:
        raise ModelLoadError(_one_line(error, folder)) from error


def _loading_errors() -> tuple[type[Exception], ...]:
    """What Transformers is known to raise on a checkpoint that it cannot load."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    plain = (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)
    return (*plain, EOFError, pickle.UnpicklingError, SafetensorError, StrictDataclassError)


def _one_line(error: Exception, folder: Path) -> str:
    text = str(error).replace(f"{folder}/", "").replace(str(folder), folder.name)
    return " ".join(text.split())[:500] or type(error).__name__


def _load_config(folder: Path, settings: Settings) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
    )
    if not _is_causal(config, settings):
        names = ", ".join(config.architectures or [config.model_type])
        raise ModelLoadError(f"{names} is not a causal language model: it cannot chat")
    return config


def _is_causal(config: Any, settings: Settings) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if settings.trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {}):
        return True
    causal_class = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if causal_class is None or getattr(config, "is_encoder_decoder", False):
        return False
    architectures = config.architectures or [causal_class]
    return any(n == causal_class or n.endswith(_CAUSAL_ENDINGS) for n in architectures)


def _max_model_len(config: Any, settings: Settings) -> int:
    text_config = config.get_text_config()
    found = (getattr(text_config, name, None) for name in _WINDOW_NAMES)
    window = next((n for n in found if isinstance(n, int) and n > 0), None)
    asked = settings.max_model_len
    if window is None:
        logger.warning("The model names no window; MAX_MODEL_LEN or %d it is", _DEFAULT_WINDOW)
        return asked or _DEFAULT_WINDOW
    if asked is not None and asked > window:
        raise SettingsError(f"MAX_MODEL_LEN={asked}: this model has a window of {window} tokens")
    return asked or window


def _load_tokenizer(folder: Path, settings: Settings) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
    )


def _load_weights(
    folder: Path, config: Any, settings: Settings, choice: DeviceChoice
) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model, report = read_weights(
        AutoModelForCausalLM, folder, config, settings, device=choice.device, dtype=choice.dtype
    )
    _require_clean(report)
    return cast("PreTrainedModel", model)


def read_weights(
    model_class: Any, folder: Path, config: Any, settings: Settings, *, device: str, dtype: str
) -> tuple[Any, dict[str, Any]]:
    """Return a model of a Transformers class, and Transformers' report of what did not fit."""
    model, report = model_class.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        device_map={"": device},
        use_safetensors=None if settings.allow_pickle else True,
        trust_remote_code=settings.trust_remote_code,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # so that the report names them
        output_loading_info=True,
    )
    if device == "cpu":
        _own_memory(model, MappedFiles(folder))
    return model, report


def _own_memory(model: PreTrainedModel, mapped: MappedFiles) -> None:
    """Copy the weights out of the memory-mapped files, one by one.

    Else whoever writes to these files changes the running model, and whoever shortens them ends
    the process with a bus error.
    """
    for parameter in model.parameters():
        parameter.data = own_memory(parameter.data, mapped)


def _require_clean(report: dict[str, Any]) -> None:
    """Transformers fills what a checkpoint lacks with random numbers: refuse such a model."""
    for kind in ("missing", "unexpected", "mismatched"):
        found = report[f"{kind}_keys"]
        keys = sorted(key if isinstance(key, str) else key[0] for key in found)
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ModelLoadError(
                f"The weights do not fit config.json: {kind} {', '.join(keys[:3])}{more}"
            )
    if report.get("error_msgs"):
        raise ModelLoadError(f"The weights do not fit config.json: {report['error_msgs'][0]}")


def _require_matching_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    # Tokens added later may lie beyond the embedding (Gemma 3 has one for images): an engine
    # refuses their ids. The vocabulary itself may not.
    if tokenizer.vocab_size > vocab_size:
        raise ModelLoadError(
            f"The tokenizer has {tokenizer.vocab_size} tokens and the model's embedding "
            f"{vocab_size}: they do not belong together"
        )


def _stop_token_ids(
    model: Any, tokenizer: Any, vocab_size: int, settings: Settings
) -> frozenset[int]:
    eos = model.generation_config.eos_token_id
    ids = [
        *(eos if isinstance(eos, list) else [eos]),
        tokenizer.eos_token_id,
        tokenizer.get_vocab().get(settings.convert_tokens_to_ids),
    ]
    return frozenset(_known_ids(ids, vocab_size))


def _known_ids(ids: Iterable[int | None], vocab_size: int) -> list[int]:
    """Old checkpoints say -1, or an id beyond the vocabulary, for "there is none"."""
    return [i for i in ids if i is not None and 0 <= i < vocab_size]


def _freeze(model: Any, tokenizer: Any, vocab_size: int, stop_token_ids: frozenset[int]) -> None:
    """Leave nothing of the checkpoint that would change a request's own parameters."""
    from transformers import GenerationConfig

    stops = sorted(stop_token_ids)
    pads = (model.generation_config.pad_token_id, tokenizer.pad_token_id, *stops, 0)
    model.generation_config = GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=stops or None,
        pad_token_id=_known_ids(pads, vocab_size)[0],
    )
    model.eval()
    model.requires_grad_(False)
