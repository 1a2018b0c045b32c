"""What is fetched from the Hub for a model in the layout of sentence-transformers."""

from __future__ import annotations

from pathlib import Path

from palma.models.download import fetch_snapshot
from palma.models.encoder_loader import load_embedder
from palma.models.spec import ModelSpec
from tests.tiny_encoders import HIDDEN, MEAN, NORMALIZE, write_encoder

from .conftest import MakeSettings
from .fake_hub import FakeHub

DENSE = ("Dense", {"in_features": HIDDEN, "out_features": 3, "activation_function": "x.Identity"})


def test_the_modules_come_too_and_nothing_else_of_the_subfolders(
    hub: FakeHub, tmp_path: Path, make_settings: MakeSettings
) -> None:
    written = write_encoder(tmp_path / "tiny", MEAN, DENSE, NORMALIZE)
    for name in ("onnx/model.onnx", "2_Dense/pytorch_model.bin", "1_Pooling/README.md"):
        (written / name).parent.mkdir(exist_ok=True)
        (written / name).write_text("not asked for")
    hub.folders["org/tiny"] = written
    spec = ModelSpec("org/tiny", "org/tiny")

    folder = fetch_snapshot(
        spec, make_settings(), endpoint=hub.endpoint, cache_dir=tmp_path / "cache"
    )

    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {n for n in found if "/" in n} == {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Normalize/config.json",
    }
    loaded = load_embedder(ModelSpec("tiny", folder), make_settings())
    assert [str(module) for module in (loaded.pooling, *loaded.others)] == [
        "mean pooling",
        "a dense layer to 3",
        "normalized",
    ]
