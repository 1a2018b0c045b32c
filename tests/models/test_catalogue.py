"""The short names of `~/.palma/models.yaml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from palma.core.errors import SettingsError
from palma.models.catalogue import FIRST_CONTENT, catalogue_path, make_catalogue, read_catalogue
from palma.models.spec import is_model_name


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_first_content_names_models_of_the_hub() -> None:
    for name, entry in read_catalogue().items():
        assert is_model_name(name)
        assert is_model_name(entry["model_id"])
    assert read_catalogue()["mistral"] == {"model_id": "mistralai/Mistral-7B-Instruct-v0.3"}


def test_reading_leaves_no_file_behind() -> None:
    read_catalogue()

    assert not catalogue_path().exists()


def test_the_file_is_made_once_and_never_overwritten(home: Path) -> None:
    make_catalogue()
    assert (home / ".palma" / "models.yaml").read_text(encoding="utf-8") == FIRST_CONTENT

    catalogue_path().write_text("mine: {model_id: org/mine, max_seq_len: 64}\n")
    make_catalogue()

    assert read_catalogue() == {"mine": {"model_id": "org/mine", "max_seq_len": 64}}


def test_a_home_that_cannot_be_written_is_no_obstacle(home: Path) -> None:
    (home / ".palma").write_text("a file where the folder should be")

    make_catalogue()

    assert "mistral" in read_catalogue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: {", "not valid YAML at line"),
        (b"- a\n- b\n", "a name for each model"),
        (b"a: org/name\n", "a has no model_id"),
        (b"a: {max_seq_len: 64}\n", "a has no model_id"),
        (b"a: {model_id: [1]}\n", "a has no model_id"),
        (b"a: \xff\n", "not UTF-8"),
        (b"a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_said_in_one_line(content: bytes, words: str) -> None:
    make_catalogue()
    catalogue_path().write_bytes(content)

    with pytest.raises(SettingsError, match=words) as raised:
        read_catalogue()

    assert "~/.palma/models.yaml" in raised.value.message
    assert "\n" not in raised.value.message


def test_an_empty_file_names_no_model() -> None:
    make_catalogue()
    catalogue_path().write_text("# nothing\n")

    assert read_catalogue() == {}
