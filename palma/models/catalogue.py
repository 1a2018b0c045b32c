"""Short names of models: `~/.palma/models.yaml`, made on first use with well-known ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from palma.core.errors import SettingsError

logger = logging.getLogger(__name__)

SHOWN_PATH = "~/.palma/models.yaml"

FIRST_CONTENT = """\
# Models by short names: `palma serve -id "model_id=mistral"`, `palma download mistral`.
# A name is followed by what `-id` takes; `model_id` is a Hub name (org/name) or a folder, and
# what `-id` says wins. For example:
#
# my-model:
#   model_id: ~/models/my-model
#   max_seq_len: 8192

llama-3.1-8B: {model_id: meta-llama/Llama-3.1-8B-Instruct}
llama-3.1-70B: {model_id: meta-llama/Llama-3.1-70B-Instruct}
mistral: {model_id: mistralai/Mistral-7B-Instruct-v0.3}
mistral-large: {model_id: mistralai/Mistral-Large-Instruct-2407}
mistral-nemo: {model_id: mistralai/Mistral-Nemo-Instruct-2407}
codestral: {model_id: mistralai/Codestral-22B-v0.1}
gemma-2-9B: {model_id: google/gemma-2-9b-it}
gemma-2-27B: {model_id: google/gemma-2-27b-it}
qwen-2-1.5B: {model_id: Qwen/Qwen2-1.5B-Instruct}
qwen-2-7B: {model_id: Qwen/Qwen2-7B-Instruct}
qwen-2-72B: {model_id: Qwen/Qwen2-72B-Instruct}
multilingual-e5-large-instruct: {model_id: intfloat/multilingual-e5-large-instruct}
gte-large-en-v1.5: {model_id: Alibaba-NLP/gte-large-en-v1.5}
palmita: {model_id: palmita}
"""

Catalogue = dict[str, dict[str, Any]]
"""Short name to its keys; nothing but the kinds of values is checked."""


def catalogue_path() -> Path:
    """Return where the file is, or will be."""
    return Path.home() / ".palma" / "models.yaml"


def make_catalogue() -> None:
    """Write the file unless it is there; where that is not possible, do without."""
    path = catalogue_path()
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(FIRST_CONTENT)
    except FileExistsError:
        pass
    except OSError as error:
        logger.warning("%s cannot be written: %s", SHOWN_PATH, error.strerror)


def read_catalogue() -> Catalogue:
    """Return what the file says; without one, what it would say at first.

    Raises:
        SettingsError: It is no YAML, or not of the right shape.
    """
    import yaml

    try:
        text = catalogue_path().read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        text = FIRST_CONTENT
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{SHOWN_PATH} cannot be read: {reason}") from None
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{SHOWN_PATH} is not valid YAML{where}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{SHOWN_PATH} must have a name for each model")
    for name, entry in content.items():
        if not (isinstance(entry, dict) and isinstance(entry.get("model_id"), str)):
            raise SettingsError(f"{SHOWN_PATH}: {name} has no model_id")
    return {str(name): entry for name, entry in content.items()}
