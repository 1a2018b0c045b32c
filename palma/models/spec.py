"""Which model MODEL_ID means: the bundled one, a local folder, or a repository on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from palma.core.config import Settings
from palma.core.errors import SettingsError

# The Hub's own rules for a repository name, checked here so that a bad name never meets a disk.
_NAME_PART = r"\w(?:[\w.-]{0,94}\w)?"
_MODEL_NAME = re.compile(rf"(?:{_NAME_PART}/)?{_NAME_PART}", re.ASCII)
_FOLDER = re.compile(r"[/\\]|[.~][/\\]|[A-Za-z]:[/\\]")
"""How a folder begins: at a root, here, at home, or on a Windows drive."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model before it is loaded.

    Attributes:
        model_id: The name that requests use.
        source: A Hub repository, or the folder of a checkpoint.
        revision: Branch, tag or commit on the Hub; None is its main branch.
    """

    model_id: str
    source: str | Path
    revision: str | None = None


def is_model_name(text: str) -> bool:
    """Whether `text` could name a model: `name` or `org/name`, never a path or a URL.

    Names that come from requests pass here first.
    """
    if ".." in text or "--" in text or text.endswith(".git"):
        return False
    return _MODEL_NAME.fullmatch(text) is not None


def is_local(model_id: str) -> bool:
    """Whether a MODEL_ID means files that are on this machine whatever the Hub's cache has."""
    from palma.models.bundled import BUNDLED_MODEL_ID

    is_folder = _FOLDER.match(model_id) is not None and "\0" not in model_id
    return model_id == BUNDLED_MODEL_ID or (is_folder and Path(model_id).expanduser().is_dir())


def resolve_spec(settings: Settings) -> ModelSpec:
    """Say what MODEL_ID and MODEL_REVISION mean; looks at the disk, not at the network.

    A folder must be written as one (`/x`, `./x`, `~/x`); `x/y` is always a Hub name.

    Raises:
        SettingsError: MODEL_ID is neither a folder that is there nor a name, or MODEL_REVISION
            has no use.
    """
    from palma.models.bundled import BUNDLED_MODEL_ID, bundled_model_path

    model_id = settings.model_id or BUNDLED_MODEL_ID
    if model_id == BUNDLED_MODEL_ID:
        return _local_spec(settings, model_id, bundled_model_path())
    if _FOLDER.match(model_id) and "\0" not in model_id:
        folder = _existing_folder(model_id)
        return _local_spec(settings, folder.name, folder)
    if not is_model_name(model_id):
        raise SettingsError(
            f"MODEL_ID={model_id[:200]!r} is neither a Hub name (`org/name`) nor a folder "
            "(`/x`, `./x`, `~/x`)"
        )
    return ModelSpec(model_id, model_id, settings.model_revision)


def _local_spec(settings: Settings, model_id: str, folder: Path) -> ModelSpec:
    if settings.model_revision is not None:
        raise SettingsError(
            f"MODEL_REVISION={settings.model_revision!r}: only models on the Hub have revisions"
        )
    return ModelSpec(model_id, folder)


def _existing_folder(model_id: str) -> Path:
    folder = Path(model_id).expanduser().resolve()
    if not folder.is_dir() or not folder.name:
        raise SettingsError(f"MODEL_ID={model_id!r}: there is no such folder")
    return folder
