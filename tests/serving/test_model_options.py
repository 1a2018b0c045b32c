"""From `-id`, MODELS and models.yaml to what is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from palma.core.config import Settings
from palma.core.errors import InvalidRequest, SettingsError, UnsupportedParameter
from palma.models.catalogue import Catalogue
from palma.serving.model_options import (
    ModelOptions,
    find_spec,
    make_plan,
    parse_models,
    startup_plans,
)

CATALOGUE: Catalogue = {
    "Mistral": {"model_id": "mistralai/Mistral-7B", "revision": "v3", "max_seq_len": 4096},
    "palmita": {"model_id": "palmita"},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_keys_are_read_as_they_are_written() -> None:
    (options,) = parse_models('model_id=org/a model_name="b" max_seq_len=4096 gpus=auto')

    assert options == ModelOptions(model_id="org/a", model_name="b", max_seq_len=4096, gpus="auto")


def test_semicolons_stand_between_models_and_quotes_keep_them() -> None:
    models = parse_models("model_id=a; model_id='/x; y/z' max_seq_len=64 ;model_id=c;")

    assert [options.model_id for options in models] == ["a", "/x; y/z", "c"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mistral", "mistral is no key=value"),
        ("model_id=a model_id=b", "model_id stands there twice"),
        ("model_id='a", "quotation mark"),
        ("max_seq_len=64", "model_id"),
        ("model_id=a max_seq_len=many", "max_seq_len"),
        ("model_id=a backend=exllama", "backend"),
        ("model_id=a no_such_key=1", "no_such_key is not a key; known: model_id, "),
        ("model_id=a gpus=20,15", "gpus: is not supported: .*DEVICE"),
        ("model_id=a cache_quant=Q8", "cache_quant: is not supported"),
        ("model_id=a draft_model_id=b", "draft_model_id: is not supported"),
        ("model_id=a quant=4.0", "quant: is not supported: .*WEIGHTS=int8"),
    ],
)
def test_what_cannot_be_honoured_is_named(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        parse_models(text)

    assert "\n" not in raised.value.message


def test_the_keys_of_a_model_win_over_those_of_the_catalogue_and_these_over_the_server_s() -> None:
    server = Settings(model_id="other/model", model_revision="main", max_model_len=512)

    named = make_plan(ModelOptions(model_id="mistral"), server, CATALOGUE)
    shorter = make_plan(ModelOptions(model_id="mistral", max_seq_len=64), server, CATALOGUE)
    direct = make_plan(ModelOptions(model_id="org/direct"), server, CATALOGUE)

    assert named.model_id == "mistral"
    assert named.aliases == {"mistralai/Mistral-7B", "Mistral-7B"}
    assert (named.settings.model_id, named.settings.model_revision) == (
        "mistralai/Mistral-7B",
        "v3",
    )
    assert [p.settings.max_model_len for p in (named, shorter, direct)] == [4096, 64, 512]
    assert (direct.model_id, set(direct.aliases)) == ("org/direct", {"direct"})
    assert direct.settings.model_revision is None


def test_a_folder_is_served_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()

    plan = make_plan(ModelOptions(model_id=str(folder)), Settings(), {})

    assert plan.model_id == "my-model"
    assert str(folder) in plan.aliases


def test_cache_size_is_for_the_continuous_engine_alone() -> None:
    options = ModelOptions(model_id="a", cache_size=4096)
    with pytest.raises(UnsupportedParameter, match="backend=continuous"):
        make_plan(options, Settings(engine="threads"), {})

    by_server = make_plan(options, Settings(engine="continuous"), {})
    by_key = make_plan(options.model_copy(update={"backend": "continuous"}), Settings(), {})

    assert by_server.settings.kv_cache_tokens == by_key.settings.kv_cache_tokens == 4096
    assert by_key.settings.engine == "continuous"


def test_another_engine_does_not_inherit_the_server_s_cache() -> None:
    server = Settings(engine="continuous", kv_cache_tokens=4096)

    plan = make_plan(ModelOptions(model_id="a", backend="threads"), server, {})

    assert plan.settings.kv_cache_tokens is None


def test_a_name_that_no_request_could_use_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be the name"):
        make_plan(ModelOptions(model_id="a", model_name="../a"), Settings(), {})


def test_without_a_word_the_bundled_model_is_served_and_no_file_is_made(home: Path) -> None:
    (plan,) = startup_plans(Settings())

    assert plan.model_id == "palmita"
    assert not (home / ".palma").exists()


def test_the_models_of_models_take_the_place_of_the_bundled_one(home: Path) -> None:
    plans = startup_plans(Settings(models="model_id=mistral; model_id=palmita model_name=p"))

    assert [plan.model_id for plan in plans] == ["mistral", "p"]
    assert (home / ".palma" / "models.yaml").exists()


def test_the_model_of_model_id_stands_before_them() -> None:
    plans = startup_plans(Settings(model_id="org/first", models="model_id=palmita"))

    assert [plan.model_id for plan in plans] == ["org/first", "palmita"]


@pytest.mark.parametrize(
    "models", [";", "model_id=a cache_size=64 backend=threads", "model_id=/no/where"]
)
def test_models_that_cannot_be_stop_the_start(models: str) -> None:
    with pytest.raises(SettingsError):
        startup_plans(Settings(models=models))


def test_a_name_leads_to_its_source() -> None:
    spec = find_spec("MISTRAL", Settings(), CATALOGUE)

    assert (spec.source, spec.revision) == ("mistralai/Mistral-7B", "v3")
    assert find_spec("org/x", Settings(model_revision="main"), CATALOGUE).revision is None
    assert isinstance(find_spec("palmita", Settings(), CATALOGUE).source, Path)


@pytest.mark.parametrize("name", ["mistral:4.0", "org/name:8", "palmita:16.0"])
def test_bits_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedParameter, match="quantized variants"):
        find_spec(name, Settings(), CATALOGUE)
