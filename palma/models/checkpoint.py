"""What a model's files must be before a single weight is read, on disk or on the Hub."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palma.core.config import Settings
from palma.core.errors import ModelLoadError

ReadJson = Callable[[str], dict[str, Any]]
"""Takes the name of a file and returns the JSON object in it."""

CONFIG_FILE = "config.json"
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Put the model's name before the message of a ModelLoadError."""
    try:
        yield
    except ModelLoadError as error:
        message = f"{model}: {error.message}"
        raise ModelLoadError(message, retry_after_s=error.retry_after_s) from error


def check_checkpoint(folder: Path, settings: Settings) -> None:
    """Refuse a folder that is no whole, harmless checkpoint; fast, whatever its size.

    Raises:
        ModelLoadError: A file is missing, broken, or needs a trust that was not given.
    """
    if not folder.is_dir():
        raise ModelLoadError("its folder is missing")
    names = {path.name for path in folder.iterdir()}

    def read(name: str) -> dict[str, Any]:
        return read_json_file(folder / name)

    for name in find_weights(names, read, settings):
        _check_weights_file(folder / name)


def count_parameters(folder: Path) -> int:
    """Count the numbers in a checked folder's weights; reads headers only.

    Pickled weights have none: their length in bytes says about how many they are.
    """
    from safetensors import safe_open

    num_parameters = 0
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as weights:
                shapes = (weights.get_slice(name).get_shape() for name in weights.keys())  # noqa: SIM118  # no dict
                num_parameters += sum(map(math.prod, shapes))
    if num_parameters == 0:
        sizes = (p.stat().st_size for p in folder.iterdir() if p.suffix in _PICKLE_SUFFIXES)
        num_parameters = sum(sizes) // 2
    return num_parameters


def find_weights(names: Collection[str], read_json: ReadJson, settings: Settings) -> list[str]:
    """Return the names of the files that hold the weights, an index first.

    Args:
        names: The files of the checkpoint, as far as they lie at its top.
        read_json: Reads one of them.
        settings: For the trust that the operator gives.

    Raises:
        ModelLoadError: The checkpoint is incomplete, or needs a trust that was not given.
    """
    if CONFIG_FILE not in names:
        raise ModelLoadError(f"{CONFIG_FILE} is missing: this is no Transformers checkpoint")
    refuse_remote_code(read_json(CONFIG_FILE), settings)
    for single, index in (_SAFETENSORS, _PICKLED) if settings.allow_pickle else (_SAFETENSORS,):
        if single in names:
            return [single]
        if index in names:
            return [index, *_shards(index, names, read_json)]
    raise ModelLoadError(_why_no_weights(names))


def read_json_file(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ModelLoadError: It is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error.strerror}") from None
    except ValueError:  # bad JSON or bad UTF-8
        raise ModelLoadError(f"{path.name} is not valid JSON") from None
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} does not hold a JSON object")
    return content


def refuse_remote_code(config: dict[str, Any], settings: Settings) -> None:
    """Refuse a model that needs Python code of its own, unless the operator trusts it.

    Raises:
        ModelLoadError: It does.
    """
    if "auto_map" in config and not settings.trust_remote_code:
        raise ModelLoadError(
            f"{CONFIG_FILE} has an auto_map: this model brings Python code of its own. "
            "Read that code, then set TRUST_REMOTE_CODE=true to run it"
        )


def _shards(index: str, names: Collection[str], read_json: ReadJson) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{index} has no weight_map")
    shards = sorted({str(shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise ModelLoadError(f"{missing[0]} is missing: {index} names it ({_count(missing)})")
    return shards


def _count(missing: list[str]) -> str:
    return "1 file is missing" if len(missing) == 1 else f"{len(missing)} files are missing"


def _why_no_weights(names: Collection[str]) -> str:
    if any(name.endswith(_PICKLE_SUFFIXES) for name in names):
        return (
            "the weights are pickled, and a pickle can run code when it is loaded. Choose a model "
            "with safetensors, or set ALLOW_PICKLE=true if you trust this one"
        )
    if any(name.endswith(".gguf") for name in names):
        return f"the weights are GGUF files; Palma reads {_SAFETENSORS[0]}"
    return f"there are no weights: neither {_SAFETENSORS[0]} nor {_SAFETENSORS[1]}"


def _check_weights_file(path: Path) -> None:
    """Read the header, which must fit the file's length to the byte."""
    if path.suffix != ".safetensors":
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise ModelLoadError(f"{path.name} is broken or truncated: {error}") from None
    except OSError as error:
        reason = error.strerror or "not found"
        raise ModelLoadError(f"{path.name} cannot be read: {reason}") from None
