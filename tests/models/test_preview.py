"""What is known of a model before its weights are here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.models.checkpoint import count_parameters
from palma.models.download import fetch_snapshot
from palma.models.preview import preview_model
from palma.models.spec import ModelSpec

from .fake_hub import GATED, FakeHub, running_hub
from .test_refused_models import bring_code, pickle_the_weights, truncate

SPEC = ModelSpec("org/tiny", "org/tiny")


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that has one model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with running_hub() as running:
        running.folders = {"org/tiny": checkpoint}
        yield running


def test_a_folder_is_described_by_its_headers(checkpoint: Path) -> None:
    preview = preview_model(ModelSpec("tiny", checkpoint), Settings())

    assert preview.num_parameters == count_parameters(checkpoint) > 0
    assert (preview.folder, preview.is_here) == (checkpoint, True)


def test_a_model_of_the_hub_is_described_alike_and_not_downloaded(
    hub: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for _ in range(2):  # the config that the first look leaves in the cache misleads no second one
        preview = preview_model(SPEC, Settings(), endpoint=hub.endpoint, cache_dir=cache)

        assert preview.num_parameters == count_parameters(checkpoint)
        assert not preview.is_here
        assert {path.name for path in preview.folder.iterdir()} == {"config.json"}


def test_a_cached_model_is_looked_at_without_the_hub(
    hub: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    fetch_snapshot(SPEC, Settings(), endpoint=hub.endpoint, cache_dir=cache)
    hub.paths.clear()

    preview = preview_model(SPEC, Settings(), endpoint=hub.endpoint, cache_dir=cache)

    assert (preview.num_parameters, preview.is_here) == (count_parameters(checkpoint), True)
    assert hub.paths == []


def test_what_would_be_refused_is_refused_with_the_same_words(
    hub: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    hub.refusals = {"org/gated": GATED}
    hub.folders["org/gated"] = checkpoint
    with pytest.raises(ModelLoadError, match="org/gated: the model is gated"):
        preview_model(
            ModelSpec("org/gated", "org/gated"),
            Settings(),
            endpoint=hub.endpoint,
            cache_dir=cache,
        )
    bring_code(checkpoint)
    with pytest.raises(ModelLoadError, match=r"org/tiny: .*TRUST_REMOTE_CODE"):
        preview_model(SPEC, Settings(), endpoint=hub.endpoint, cache_dir=cache)


def test_pickled_weights_on_the_hub_are_refused(
    hub: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    pickle_the_weights(checkpoint)

    with pytest.raises(ModelLoadError, match="no safetensors"):
        preview_model(SPEC, Settings(), endpoint=hub.endpoint, cache_dir=tmp_path)


def test_a_broken_folder_is_refused(checkpoint: Path) -> None:
    truncate(checkpoint)

    with pytest.raises(ModelLoadError, match=r"tiny: model\.safetensors is broken"):
        preview_model(ModelSpec("tiny", checkpoint), Settings())


def test_an_unknown_model_offline_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="model_not_cached"):
        preview_model(SPEC, Settings(), cache_dir=tmp_path)
