from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.models.checkpoint import check_checkpoint, naming

from .conftest import ChangeConfig, MakeSettings


def refusal(folder: Path, settings: Settings) -> str:
    with pytest.raises(ModelLoadError) as caught:
        check_checkpoint(folder, settings)
    assert str(folder) not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def spoil_truncated(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-10])


def spoil_missing(shard: Path) -> None:
    shard.unlink()


def spoil_empty(shard: Path) -> None:
    shard.write_bytes(b"")


def spoil_header(shard: Path) -> None:
    shard.write_bytes(b"\xff" * 8 + shard.read_bytes()[8:])


def spoil_pointer(shard: Path) -> None:
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def spoil_link(shard: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("on Windows links need the administrator's leave")
    shard.unlink()
    shard.symlink_to("gone")


@pytest.mark.parametrize(
    "spoil",
    [spoil_missing, spoil_truncated, spoil_empty, spoil_header, spoil_pointer, spoil_link],
)
def test_a_broken_shard_is_named_at_once(
    spoil: Callable[[Path], None], sharded_checkpoint: Path, make_settings: MakeSettings
) -> None:
    shard = sorted(sharded_checkpoint.glob("model-*.safetensors"))[1]
    spoil(shard)
    started = time.monotonic()

    message = refusal(sharded_checkpoint, make_settings())

    assert shard.name in message
    assert time.monotonic() - started < 5


def test_gguf_files_are_refused_by_name(checkpoint: Path, make_settings: MakeSettings) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model.gguf")

    assert "GGUF" in refusal(checkpoint, make_settings())


def test_an_index_cannot_name_a_file_outside_the_folder(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "outside.safetensors")
    index = {"weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "../outside.safetensors is missing" in refusal(checkpoint, make_settings())


def test_a_whole_checkpoint_passes(sharded_checkpoint: Path, make_settings: MakeSettings) -> None:
    check_checkpoint(sharded_checkpoint, make_settings())


def test_pickled_weights_need_the_operators_trust(
    pickled_checkpoint: Path, make_settings: MakeSettings
) -> None:
    assert "ALLOW_PICKLE=true" in refusal(pickled_checkpoint, make_settings())

    check_checkpoint(pickled_checkpoint, make_settings(allow_pickle=True))


def test_code_in_the_repository_needs_the_operators_trust(
    checkpoint: Path, change_config: ChangeConfig, make_settings: MakeSettings
) -> None:
    change_config(auto_map={"AutoConfig": "own.Config"})

    assert "TRUST_REMOTE_CODE=true" in refusal(checkpoint, make_settings())

    check_checkpoint(checkpoint, make_settings(trust_remote_code=True))


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": 7}', "7", "{"])
def test_a_malformed_index_is_named(
    index: str, checkpoint: Path, make_settings: MakeSettings
) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(index)

    assert "model.safetensors.index.json" in refusal(checkpoint, make_settings())


def test_naming_puts_the_model_before_the_message_and_keeps_the_rest() -> None:
    with pytest.raises(ModelLoadError) as caught, naming("tiny"):
        raise ModelLoadError("broken", retry_after_s=3)

    assert (caught.value.message, caught.value.retry_after_s) == ("tiny: broken", 3)
