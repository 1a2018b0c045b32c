from __future__ import annotations

from pathlib import Path

import pytest

from palma.core.errors import SettingsError
from palma.models.spec import ModelSpec, is_model_name, resolve_spec

from .conftest import MakeSettings

GOOD_NAMES = ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B-Instruct", "a", "_x/y_", "1/2", "a" * 96]
BAD_NAMES = [
    "",
    "a/b/c",
    "../m/ok",
    "org/..",
    "a..b",
    "a--b",
    "org/name.git",
    "/etc/passwd",
    "./x",
    "~/x",
    "~",
    ".",
    ".hidden",
    "-x",
    "x-",
    "x.",
    "org/",
    "/name",
    "org//name",
    "org\\name",
    "C:\\models",
    "https://huggingface.co/org/name",
    "hf://org/name",
    "org/name\n",
    "org/na\0me",
    "org/na me",
    "org/náme",
    "a" * 97,
    "a" * 97 + "/b",
    "org/" + "b" * 100_000,
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_that_the_hub_would_take_is_a_model_name(name: str) -> None:
    from huggingface_hub.utils._validators import validate_repo_id

    validate_repo_id(name)

    assert is_model_name(name)


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_paths_addresses_and_malformed_names_are_no_model_names(name: str) -> None:
    assert not is_model_name(name)


@pytest.mark.parametrize("name", BAD_NAMES[1:], ids=range(1, len(BAD_NAMES)))
def test_a_model_id_that_is_neither_name_nor_folder_is_refused_in_one_line(
    name: str, make_settings: MakeSettings
) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve_spec(make_settings(model_id=name))

    assert "MODEL_ID=" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("path", ["/no/such/folder", "/etc/passwd", "./no-such-folder", "/"])
def test_a_folder_that_is_not_there_is_refused(path: str, make_settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match="there is no such folder"):
        resolve_spec(make_settings(model_id=path))


@pytest.mark.parametrize("model_id", [None, "palmita"])
def test_without_a_model_id_the_bundled_model_is_meant(
    model_id: str | None, make_settings: MakeSettings
) -> None:
    spec = resolve_spec(make_settings(model_id=model_id))

    assert spec.model_id == "palmita"
    assert isinstance(spec.source, Path)


def test_a_hub_name_keeps_its_revision(make_settings: MakeSettings) -> None:
    spec = resolve_spec(make_settings(model_id="org/name", model_revision="v1"))

    assert spec == ModelSpec("org/name", "org/name", "v1")


@pytest.mark.parametrize("written", ["{folder}", "./tiny", "./../{parent}/tiny", "~/tiny"])
def test_a_folder_is_served_under_its_base_name(
    written: str, tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    spec = resolve_spec(make_settings(model_id=written.format(folder=folder, parent=tmp_path.name)))

    assert spec == ModelSpec("tiny", folder.resolve())


def test_a_name_is_never_read_as_a_folder_that_happens_to_be_there(
    tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert resolve_spec(make_settings(model_id="org/name")).source == "org/name"


def test_a_revision_of_a_folder_is_refused_because_it_would_be_ignored(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    with pytest.raises(SettingsError, match="MODEL_REVISION='v1'"):
        resolve_spec(make_settings(model_id=str(tmp_path), model_revision="v1"))
