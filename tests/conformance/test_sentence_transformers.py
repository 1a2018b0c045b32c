"""Our embeddings and scores against those of the `sentence-transformers` package itself.

It is installed for this alone: `pip install sentence-transformers`, then `pytest -m slow`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from palma.core.config import Settings
from palma.engine import create_encoder
from palma.engine.encoders import Encoder
from palma.models.spec import ModelSpec
from tests.tiny_encoders import HIDDEN, MEAN, NORMALIZE, Module, write_encoder, write_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs, about their own old names
]

MAX_DIFFERENCE = 1e-5
TEXTS = [
    "the capital of france is paris",
    "x",
    "  bananas   are\nyellow ",
    "the " * 30,
    "añb🏴‍☠️ [SEP] of unknown words",
    "BANANAS Are yellow",
]
DENSE: Module = (
    "Dense",
    {
        "in_features": HIDDEN,
        "out_features": 7,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
)
OLD_MEAN_AND_CLS: Module = (
    "Pooling",
    {
        "word_embedding_dimension": HIDDEN,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": True,
    },
)
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def pooling(mode: str) -> Module:
    return ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": mode})


def load(folder: Path, purpose: Literal["embedding", "reranking"]) -> Encoder:
    settings = Settings(engine="threads", device="cpu")
    return create_encoder(purpose, ModelSpec(folder.name, folder), settings)


def assert_same(folder: Path) -> None:
    judge: Any = pytest.importorskip("sentence_transformers")
    embedder = load(folder, "embedding")

    ours = embedder.compute([embedder.encode(text) for text in TEXTS])

    model = judge.SentenceTransformer(str(folder), device="cpu")
    theirs = model.encode(TEXTS)
    assert ours.shape == theirs.shape
    assert float(np.abs(ours - theirs).max()) < MAX_DIFFERENCE
    assert embedder.info.max_input_tokens == model.max_seq_length


@pytest.mark.parametrize("mode", MODES)
def test_each_pooling_agrees(tmp_path: Path, mode: str) -> None:
    assert_same(write_encoder(tmp_path / "tiny", pooling(mode), NORMALIZE))


@pytest.mark.parametrize(
    "modules",
    [(MEAN,), (MEAN, DENSE), (MEAN, DENSE, NORMALIZE), (OLD_MEAN_AND_CLS,), ()],
    ids=["mean", "dense", "all", "joined", "bare"],
)
def test_what_follows_the_pooling_agrees(tmp_path: Path, modules: tuple[Module, ...]) -> None:
    assert_same(write_encoder(tmp_path / "tiny", *modules))


def test_limits_case_and_prompts_agree(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "tiny", MEAN)
    options = {"max_seq_length": 39, "do_lower_case": True}
    write_json(folder / "sentence_bert_config.json", options)
    prompts = {"prompts": {"query": "capital of "}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", prompts)

    assert_same(folder)


def test_a_model_that_the_package_saved_itself_agrees(tmp_path: Path) -> None:
    judge: Any = pytest.importorskip("sentence_transformers")
    written = write_encoder(tmp_path / "written", MEAN, DENSE, NORMALIZE)
    judge.SentenceTransformer(str(written), device="cpu").save(str(tmp_path / "saved"))

    assert_same(tmp_path / "saved")


def test_a_cross_encoder_agrees(tmp_path: Path) -> None:
    judge: Any = pytest.importorskip("sentence_transformers")
    folder = write_encoder(tmp_path / "tiny", num_labels=1)
    ranker = load(folder, "reranking")
    pairs = [(TEXTS[0], text) for text in TEXTS]

    ours = ranker.compute([ranker.encode(*pair) for pair in pairs])[:, 0]

    theirs = judge.CrossEncoder(str(folder), device="cpu").predict(pairs)
    assert float(np.abs(ours - theirs).max()) < MAX_DIFFERENCE
