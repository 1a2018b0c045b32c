"""A model's config and size before its weights are here: from this machine's cache, or the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.models.checkpoint import (
    CONFIG_FILE,
    check_checkpoint,
    count_parameters,
    find_weights,
    naming,
    read_json_file,
    refuse_remote_code,
)
from palma.models.hub_errors import explain
from palma.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Preview:
    """What is known of a model without its weights.

    Attributes:
        folder: Has its config.json at least.
        num_parameters: Read from the headers of its weights.
        is_here: Whether all of it is on this machine.
    """

    folder: Path
    num_parameters: int
    is_here: bool


def preview_model(
    spec: ModelSpec,
    settings: Settings,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Preview:
    """Look at a model; of one that is on the Hub only, fetch its config and headers.

    Raises:
        ModelLoadError: It is out of reach, broken or refused.
    """
    with naming(spec.model_id):
        folder = spec.source if isinstance(spec.source, Path) else _cached(spec, cache_dir)
        is_on_hub = not isinstance(spec.source, Path)
        if folder is None or (is_on_hub and not _has_all_files(folder, settings)):
            return _preview_remote(spec, settings, endpoint, cache_dir)
        check_checkpoint(folder, settings)
        return Preview(folder, count_parameters(folder), is_here=True)


def cached_names() -> set[str]:
    """Return the Hub's names of the models whose files, or some of them, are in the cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return set()
    return {repository.repo_id for repository in found if repository.repo_type == "model"}


def _cached(spec: ModelSpec, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(
        str(spec.source), CONFIG_FILE, cache_dir=cache_dir, revision=spec.revision
    )
    return Path(config).parent if isinstance(config, str) else None


def _has_all_files(folder: Path, settings: Settings) -> bool:
    names = {path.name for path in folder.iterdir()}
    try:
        find_weights(names, lambda name: read_json_file(folder / name), settings)
    except ModelLoadError:
        return False
    return True


def _preview_remote(
    spec: ModelSpec, settings: Settings, endpoint: str | None, cache_dir: Path | None
) -> Preview:
    from huggingface_hub import HfApi, errors, hf_hub_download

    repository, revision = str(spec.source), spec.revision
    try:
        metadata = HfApi(endpoint=endpoint).get_safetensors_metadata(repository, revision=revision)
        config = hf_hub_download(
            repository, CONFIG_FILE, revision=revision, endpoint=endpoint, cache_dir=cache_dir
        )
    except errors.NotASafetensorsRepoError:
        raise ModelLoadError("the Hub has no safetensors weights of it") from None
    except (
        *(OSError, LookupError, TypeError, ValueError),  # the last three when junk came
        errors.HTTPError,  # type: ignore[attr-defined]
    ) as error:
        raise explain(error, revision) from None
    refuse_remote_code(read_json_file(Path(config)), settings)
    num_parameters = sum(metadata.parameter_count.values())
    return Preview(Path(config).parent, num_parameters, is_here=False)
