"""`.env` as editors write it, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from palma.core.config import load_settings
from palma.core.errors import SettingsError


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of `.env` in the folder that the test runs in; what is read from it is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THREADS_MAX_WORKERS", "undone afterwards")
    monkeypatch.delenv("THREADS_MAX_WORKERS")
    return tmp_path / ".env"


def test_a_missing_env_file_is_fine(env_file: Path) -> None:
    assert not env_file.exists()

    assert load_settings().threads_max_workers == 10


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_an_env_file_is_read_with_and_without_a_byte_order_mark(
    env_file: Path, encoding: str
) -> None:
    env_file.write_text("THREADS_MAX_WORKERS=4\n", encoding=encoding)

    assert load_settings().threads_max_workers == 4


def test_a_flag_wins_over_the_env_file(env_file: Path) -> None:
    env_file.write_text("THREADS_MAX_WORKERS=4\n", encoding="utf-8")

    assert load_settings(threads_max_workers="5").threads_max_workers == 5


def test_an_env_file_in_another_encoding_is_named(env_file: Path) -> None:
    """PowerShell 5 writes UTF-16 where it is told to write a file."""
    env_file.write_text("THREADS_MAX_WORKERS=4\n", encoding="utf-16")

    with pytest.raises(SettingsError, match=r"\.env is not UTF-8"):
        load_settings()
