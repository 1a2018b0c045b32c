"""A model's files from the Hugging Face Hub, or from its cache on this machine."""

from __future__ import annotations

import glob
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.models.checkpoint import (
    CONFIG_FILE,
    check_checkpoint,
    find_weights,
    naming,
    read_json_file,
)
from palma.models.hub_errors import explain
from palma.models.spec import ModelSpec

logger = logging.getLogger(__name__)

RequireFit = Callable[[int], None]
"""Takes a model's number of parameters; raises ModelLoadError where it has no room."""

_API_TIMEOUT_S = 10.0
_MODULE_FILE = re.compile(r"\d+_\w+/(config\.json|model\.safetensors)", re.ASCII)
"""Where sentence-transformers keeps what follows the Transformer: `1_Pooling/config.json`."""

_TEXT_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt")


@dataclass(frozen=True, slots=True)
class _Repository:
    """Where to ask, and for what; None takes the Hugging Face library's own default."""

    repo_id: str
    revision: str | None
    endpoint: str | None
    cache_dir: Path | None


@dataclass(frozen=True, slots=True)
class _Listing:
    """One commit: its hash, and the size in bytes of each file at its top or of a module."""

    commit: str
    sizes_bytes: Mapping[str, int]


def fetch_snapshot(
    spec: ModelSpec,
    settings: Settings,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
    require_fit: RequireFit | None = None,
) -> Path:
    """Return a folder with the files of one commit; downloads those that are not cached.

    The newest commit wins while the Hub can be asked, else the one in the cache. Only what Palma
    loads is downloaded, and only after the repository was found to be whole and harmless. Where
    there is a `require_fit`, the headers of the weights are read first, and no more of them.

    Raises:
        ModelLoadError: The model is out of reach, refused, or too large for disk or memory.
    """
    # The base of all errors of httpx, or of httpx2: whichever this huggingface_hub works with.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,
        SafetensorsParsingError,
        XetDownloadError,
    )

    repository = _Repository(str(spec.source), spec.revision, endpoint, cache_dir)
    with naming(repository.repo_id):
        try:
            listing = _list_files(repository)
        except (OSError, LookupError, TypeError, ValueError, HTTPError) as error:  # or junk came
            return _cached_after(explain(error, spec.revision), repository, settings)
        try:
            return _download(repository, listing, settings, require_fit)
        except SafetensorsParsingError as error:
            raise ModelLoadError(f"its weights are broken on the Hub: {error}") from None
        except (OSError, RuntimeError, ValueError, HTTPError, XetDownloadError) as error:
            raise explain(error, spec.revision) from None


def _list_files(repository: _Repository) -> _Listing:
    from huggingface_hub import HfApi

    _require_sendable_token()
    found = HfApi(endpoint=repository.endpoint).model_info(
        repository.repo_id,
        revision=repository.revision,
        files_metadata=True,
        timeout=_API_TIMEOUT_S,
    )
    files = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    wanted = {n: size for n, size in files.items() if "/" not in n or _MODULE_FILE.fullmatch(n)}
    return _Listing(str(found.sha), wanted)


def _require_sendable_token() -> None:
    """Keep a malformed token from the HTTP library, whose debug log would print it."""
    from huggingface_hub import get_token

    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise ModelLoadError(
            "the token in HF_TOKEN, or of `hf auth login`, holds characters that no token has: "
            "copy it anew"
        )


def _cached_after(reason: ModelLoadError, repository: _Repository, settings: Settings) -> Path:
    """The Hub gave no listing: use the cached commit if it is whole, else say why there is none."""
    try:
        folder = _snapshot(repository, repository.revision, [CONFIG_FILE], local_files_only=True)
    except OSError:
        raise reason from None
    try:
        check_checkpoint(folder, settings)
    except ModelLoadError as problem:
        raise ModelLoadError(f"{problem.message} (in the cache; {reason.message})") from None
    logger.warning("Using the cached %s: %s", repository.repo_id, reason.message)
    return folder


def _download(
    repository: _Repository,
    listing: _Listing,
    settings: Settings,
    require_fit: RequireFit | None,
) -> Path:
    def read(name: str) -> dict[str, Any]:
        # The cache learns the branch's commit from the config alone: all else asks for the commit.
        revision = repository.revision if name == CONFIG_FILE else listing.commit
        return _read_remote_json(repository, name, revision)

    weights = find_weights(listing.sizes_bytes, read, settings)
    suffixes = (*_TEXT_SUFFIXES, ".py") if settings.trust_remote_code else _TEXT_SUFFIXES
    texts = [
        name
        for name in listing.sizes_bytes
        if name.endswith(suffixes) and not name.endswith(".index.json")
    ]
    modules = [name for name in listing.sizes_bytes if name.endswith("/model.safetensors")]
    names = [*texts, *weights, *modules]
    missing = [name for name in names if not _is_cached(repository, listing, name)]
    _require_disk_space(repository, sum(listing.sizes_bytes[name] for name in missing))
    if require_fit is not None and not set(weights).isdisjoint(missing):
        _require_memory(repository, listing, weights, require_fit)
    return _snapshot(repository, listing.commit, names)


def _read_remote_json(repository: _Repository, name: str, revision: str | None) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        repository.repo_id,
        name,
        revision=revision,
        endpoint=repository.endpoint,
        cache_dir=repository.cache_dir,
    )
    return read_json_file(Path(path))


def _snapshot(
    repository: _Repository,
    revision: str | None,
    names: list[str],
    *,
    local_files_only: bool = False,
) -> Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository.repo_id,
        revision=revision,
        allow_patterns=[glob.escape(name) for name in names],
        endpoint=repository.endpoint,
        cache_dir=repository.cache_dir,
        local_files_only=local_files_only,
    )
    return Path(folder)


def _is_cached(repository: _Repository, listing: _Listing, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        repository.repo_id, name, cache_dir=repository.cache_dir, revision=listing.commit
    )
    return isinstance(found, str)


def _require_memory(
    repository: _Repository, listing: _Listing, weights: list[str], require_fit: RequireFit
) -> None:
    """Read the headers of safetensors files on the Hub; pickled ones have none."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=repository.endpoint)
    num_parameters = 0
    for name in (name for name in weights if name.endswith(".safetensors")):
        header = api.parse_safetensors_file_metadata(
            repository.repo_id, name, revision=listing.commit, timeout=_API_TIMEOUT_S
        )
        num_parameters += sum(header.parameter_count.values())
    require_fit(num_parameters)


def _require_disk_space(repository: _Repository, needed: int) -> None:
    from huggingface_hub import constants

    free = _free_bytes(repository.cache_dir or Path(constants.HF_HUB_CACHE))
    if needed > free:
        raise ModelLoadError(
            f"{needed / 1e9:.2f} GB are to be downloaded, and the disk of the cache has "
            f"{free / 1e9:.2f} GB free: make room, or move the cache with HF_HOME"
        )


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
