"""The token of the Hugging Face Hub goes by two names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from palma.core.config import load_settings

NAMES = ("HF_TOKEN", "HUGGINGFACE_ACCESS_TOKEN")


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of `.env` in the folder that the test runs in; what is read from it is undone."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.setenv(name, "undone afterwards")
        monkeypatch.delenv(name)
    return tmp_path / ".env"


@pytest.mark.parametrize(("lines", "expected"), [
    ("HUGGINGFACE_ACCESS_TOKEN=second", "second"),
    ("HF_TOKEN=\nHUGGINGFACE_ACCESS_TOKEN=second", "second"),
    ("HF_TOKEN=first\nHUGGINGFACE_ACCESS_TOKEN=second", "first"),
    ("HF_TOKEN=first", "first"),
])  # fmt: skip
def test_the_second_name_is_taken_where_the_first_is_not_set(
    lines: str, expected: str, env_file: Path
) -> None:
    env_file.write_text(lines)

    load_settings()

    from huggingface_hub import get_token

    assert os.environ["HF_TOKEN"] == expected
    assert get_token() == expected


def test_without_either_nothing_is_set(env_file: Path) -> None:
    load_settings()

    assert "HF_TOKEN" not in os.environ


def test_the_environment_serves_as_well_as_the_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUGGINGFACE_ACCESS_TOKEN", "second")

    load_settings()

    assert os.environ["HF_TOKEN"] == "second"
