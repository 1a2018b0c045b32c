"""A model that has no room is refused before a byte of its weights is downloaded."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from palma.core.errors import ModelLoadError
from palma.models import loader
from palma.models.checkpoint import count_parameters
from palma.models.device import DeviceChoice
from palma.models.download import fetch_snapshot
from palma.models.loader import load_model
from palma.models.spec import ModelSpec

from .conftest import MakeSettings
from .fake_hub import FakeHub

SPEC = ModelSpec("org/tiny", "org/tiny")


@pytest.fixture
def tiny_hub(
    hub: FakeHub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeHub:
    """The fake Hub with org/tiny, from which `load_model` downloads into a cache of its own."""
    hub.folders["org/tiny"] = checkpoint
    fetch = functools.partial(fetch_snapshot, endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(loader, "fetch_snapshot", fetch)
    return hub


def set_free_memory(monkeypatch: pytest.MonkeyPatch, free: dict[str, int]) -> None:
    """Give devices this many free bytes."""
    monkeypatch.setattr("palma.models.memory_need.available_bytes", free.__getitem__)


def header_requests(hub: FakeHub) -> list[str]:
    """Return the names of the files of which only the beginning was asked for."""
    return [path.rpartition("/")[2] for path in hub.paths if path.startswith("RANGE")]


def test_memory_is_checked_from_the_headers_and_both_figures_are_named(
    tiny_hub: FakeHub,
    checkpoint: Path,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = count_parameters(checkpoint) * 4
    set_free_memory(monkeypatch, {"cpu": needed - 1})

    with pytest.raises(ModelLoadError) as caught:
        load_model(SPEC, make_settings(torch_dtype="float32"))

    assert f"need {needed / 1e9:.2f} GB of memory" in caught.value.message
    assert f"{(needed - 1) / 1e9:.2f} GB are free" in caught.value.message
    assert header_requests(tiny_hub) == ["model.safetensors"]
    assert tiny_hub.downloaded == {"config.json"}


def test_the_memory_of_the_gpu_counts_where_the_model_goes_there(
    tiny_hub: FakeHub,
    checkpoint: Path,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The figures are of bfloat16, which is what this GPU is said to compute in."""
    choice = DeviceChoice("cuda:0", "bfloat16", "a test")
    monkeypatch.setattr(loader, "select_device", lambda *_: choice)
    set_free_memory(monkeypatch, {"cuda:0": count_parameters(checkpoint) * 2 - 1})

    with pytest.raises(ModelLoadError, match="insufficient_memory"):
        load_model(SPEC, make_settings())

    assert tiny_hub.downloaded == {"config.json"}


def test_a_model_that_just_fits_is_downloaded_and_loaded(
    tiny_hub: FakeHub,
    checkpoint: Path,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_free_memory(monkeypatch, {"cpu": count_parameters(checkpoint) * 4})

    assert load_model(SPEC, make_settings(torch_dtype="float32")).vocab_size == 272

    assert "model.safetensors" in tiny_hub.downloaded


def test_every_shard_counts(
    tiny_hub: FakeHub,
    sharded_checkpoint: Path,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_hub.folders["org/tiny"] = sharded_checkpoint
    shards = sorted(path.name for path in sharded_checkpoint.glob("model-*.safetensors"))
    set_free_memory(monkeypatch, {"cpu": count_parameters(sharded_checkpoint) * 4 - 1})

    with pytest.raises(ModelLoadError, match="insufficient_memory"):
        load_model(SPEC, make_settings(torch_dtype="float32"))

    assert len(shards) > 2
    assert sorted(header_requests(tiny_hub)) == shards
    assert tiny_hub.downloaded == {"config.json", "model.safetensors.index.json"}


def test_what_is_cached_needs_no_headers_from_the_hub(
    tiny_hub: FakeHub, make_settings: MakeSettings
) -> None:
    load_model(SPEC, make_settings())
    tiny_hub.paths.clear()

    load_model(SPEC, make_settings())

    assert header_requests(tiny_hub) == []
    assert tiny_hub.downloaded == set()


def test_the_disk_is_checked_first(
    tiny_hub: FakeHub, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_hub.claimed_sizes["model.safetensors"] = 10**18
    set_free_memory(monkeypatch, {"cpu": 0})

    with pytest.raises(ModelLoadError, match=r"1000000000\.00 GB are to be downloaded.* GB free"):
        load_model(SPEC, make_settings())

    assert header_requests(tiny_hub) == []


def test_weights_without_a_header_are_refused_before_they_are_downloaded(
    tiny_hub: FakeHub, checkpoint: Path, make_settings: MakeSettings
) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 1000)

    with pytest.raises(ModelLoadError, match="broken on the Hub"):
        load_model(SPEC, make_settings())

    assert tiny_hub.downloaded == {"config.json"}
