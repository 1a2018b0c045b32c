"""Embedders and cross-encoders against plain Transformers, one text at a time, unpadded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palma.core.config import Settings
from palma.core.errors import EngineFailure, InsufficientMemory, ModelLoadError
from palma.engine import create_encoder
from palma.engine.encoders import Encoder, Encoding, plan_batches
from palma.engine.mean_states import finite
from palma.models.spec import ModelSpec
from tests.tiny_encoders import HIDDEN, MEAN, NORMALIZE, NUM_POSITIONS, write_encoder, write_json

TEXTS = (
    "the capital of france is paris",
    "x",
    "bananas are yellow",
    "the the the the the the the the the the the the the",
    "Paris IS unknown words",
)
DENSE = (
    "Dense",
    {
        "in_features": HIDDEN,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
)


def load(folder: Path, purpose: Literal["embedding", "reranking"] = "embedding") -> Encoder:
    settings = Settings(engine="threads", device="cpu")
    return create_encoder(purpose, ModelSpec(folder.name, folder), settings)


def states_of(folder: Path, text: str) -> torch.Tensor:
    """What Transformers itself says of one text: (num_tokens, HIDDEN)."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        states: torch.Tensor = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0]
    return states


def weighted_mean(states: torch.Tensor) -> torch.Tensor:
    weights = torch.arange(1, len(states) + 1)[:, None]
    return (states * weights).sum(dim=0) / weights.sum()


POOLED: dict[str, Any] = {
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.amax(dim=0),
    "mean": lambda states: states.mean(dim=0),
    "mean_sqrt_len_tokens": lambda states: states.sum(dim=0) / math.sqrt(len(states)),
    "weightedmean": weighted_mean,
}


@pytest.mark.parametrize("mode", POOLED)
def test_each_pooling_is_that_of_the_states_of_one_text_alone(tmp_path: Path, mode: str) -> None:
    folder = write_encoder(tmp_path / "tiny", ("Pooling", {"pooling_mode": mode}))
    embedder = load(folder)

    vectors = embedder.compute([embedder.encode(text) for text in TEXTS])

    expected = torch.stack([POOLED[mode](states_of(folder, text)) for text in TEXTS])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert mode in embedder.info.description


def test_old_names_of_poolings_are_read_and_joined_in_their_order(tmp_path: Path) -> None:
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    folder = write_encoder(
        tmp_path / "tiny", ("Pooling", {"word_embedding_dimension": 16, **modes})
    )
    embedder = load(folder)

    (vector,) = embedder.compute([embedder.encode(TEXTS[0])])

    states = states_of(folder, TEXTS[0])
    np.testing.assert_allclose(vector, torch.cat([states[0], states.mean(dim=0)]), atol=1e-5)
    assert embedder.info.dim == 2 * HIDDEN


def test_a_dense_layer_and_normalizing_follow_the_pooling(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = write_encoder(tmp_path / "tiny", MEAN, DENSE, NORMALIZE)
    embedder = load(folder)

    (vector,) = embedder.compute([embedder.encode(TEXTS[0])])

    weights = load_file(folder / "2_Dense" / "model.safetensors")
    mean = states_of(folder, TEXTS[0]).mean(dim=0)
    changed = torch.tanh(weights["linear.weight"] @ mean + weights["linear.bias"])
    np.testing.assert_allclose(vector, changed / changed.norm(), atol=1e-5)
    assert embedder.info.dim == 5
    assert embedder.info.description == "mean pooling, a dense layer to 5, normalized"


def test_a_batch_gives_what_each_input_gives_alone(tmp_path: Path) -> None:
    embedder = load(write_encoder(tmp_path / "tiny", MEAN, NORMALIZE))
    encodings = [embedder.encode(text) for text in TEXTS]

    together = embedder.compute(encodings)

    alone = np.concatenate([embedder.compute([encoding]) for encoding in encodings])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_bare_model_is_pooled_by_the_mean(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "tiny")
    embedder = load(folder)

    (vector,) = embedder.compute([embedder.encode(TEXTS[0])])

    np.testing.assert_allclose(vector, states_of(folder, TEXTS[0]).mean(dim=0), atol=1e-5)


def test_nothing_is_cut_and_the_window_is_the_least_of_all_limits(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "tiny", MEAN)
    unlimited = load(folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 7})

    limited = load(folder)

    assert unlimited.info.max_input_tokens == NUM_POSITIONS
    assert limited.info.max_input_tokens == 7
    assert len(limited.encode("x " * 100).token_ids) == 102


def test_case_is_lowered_and_the_prompt_put_before_where_the_folder_says_so(
    tmp_path: Path,
) -> None:
    folder = write_encoder(tmp_path / "tiny", MEAN)
    as_it_is = load(folder)
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    prompts = {"prompts": {"query": "capital of "}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", prompts)

    embedder = load(folder)

    assert embedder.encode("FRANCE") == as_it_is.encode("capital of france")
    assert "'capital of '" in embedder.info.description


def test_a_cross_encoder_reads_both_texts_together(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = write_encoder(tmp_path / "tiny", num_labels=1)
    ranker = load(folder, "reranking")
    pairs = [(TEXTS[0], text) for text in TEXTS]

    scores = ranker.compute([ranker.encode(*pair) for pair in pairs])

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    np.testing.assert_allclose(scores, torch.stack(logits).sigmoid(), atol=1e-5)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("Pooling", {"pooling_mode": "novel"})], "pooling mode 'novel'"),
        ([NORMALIZE], "must name one Pooling"),
        ([MEAN, MEAN], "must name one Pooling"),
        ([MEAN, ("LSTM", {})], "module 'LSTM'"),
        ([MEAN, ("Dense", {**DENSE[1], "use_residual": True})], "use_residual"),
        ([MEAN, ("Dense", {**DENSE[1], "activation_function": "os.system"})], "'system'"),
        ([MEAN, ("Normalize", {"module_input_name": "token_embeddings"})], "module_input_name"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_at_load(
    tmp_path: Path, modules: list[Any], message: str
) -> None:
    folder = write_encoder(tmp_path / "tiny", *modules)

    with pytest.raises(ModelLoadError, match=message):
        load(folder)


def test_modules_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "tiny", MEAN)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "../other", "type": "sentence_transformers.models.Pooling"},
    ]
    write_json(folder / "modules.json", modules)

    with pytest.raises(ModelLoadError, match="points out of its folder"):
        load(folder)


def test_missing_weights_of_a_dense_layer_are_named(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "tiny", MEAN, DENSE)
    (folder / "2_Dense" / "model.safetensors").unlink()

    with pytest.raises(ModelLoadError, match=r"2_Dense/model.safetensors is missing"):
        load(folder)


def test_a_classifier_of_several_labels_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="it has 3 labels"):
        load(write_encoder(tmp_path / "tiny", num_labels=3), "reranking")


def test_a_cross_encoder_whose_head_is_missing_is_refused(tmp_path: Path) -> None:
    """Transformers would give it a random one."""
    folder = write_encoder(tmp_path / "tiny")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"num_labels": 1,', 1))

    with pytest.raises(ModelLoadError, match="missing classifier"):
        load(folder, "reranking")


def test_numbers_that_are_none_are_a_failure_and_not_an_answer() -> None:
    with pytest.raises(EngineFailure, match="no finite numbers"):
        finite(torch.tensor([1.0, math.nan]))


def test_running_out_of_memory_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load(write_encoder(tmp_path / "tiny", MEAN))

    def hungry(*_: object) -> None:
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(embedder, "_vectors", hungry)

    with pytest.raises(InsufficientMemory, match="3 tokens did not fit"):
        embedder.compute([Encoding([1, 2, 3])])


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 512))
def test_batches_hold_each_input_once_and_keep_to_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = plan_batches(lengths, budget)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    longest_of = [max(lengths[index] for index in batch) for batch in batches]
    assert longest_of == sorted(longest_of, reverse=True)
