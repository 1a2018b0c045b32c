"""Tiny random encoders in folders as sentence-transformers writes them; no downloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = ("the", "capital", "of", "france", "is", "paris", "bananas", "are", "yellow", "##s", "x")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_POSITIONS = 40
HIDDEN = 16

Module = tuple[str, Mapping[str, Any]]
"""The last part of its type, and its configuration."""

MEAN: Module = ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"})
NORMALIZE: Module = ("Normalize", {})


def write_encoder(folder: Path, *modules: Module, num_labels: int | None = None) -> Path:
    """Write a BERT with a WordPiece tokenizer; `num_labels` makes a classifier of it.

    Args:
        folder: Is made.
        modules: What follows the Transformer; without any there is no `modules.json`.
        num_labels: Of the classifier.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=NUM_POSITIONS,
        initializer_range=0.5,
        num_labels=num_labels or 2,
    )
    model = BertModel(config) if num_labels is None else BertForSequenceClassification(config)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    if modules:
        _write_modules(folder, modules)
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _write_modules(folder: Path, modules: tuple[Module, ...]) -> None:
    import torch
    from safetensors.torch import save_file

    names = ["Transformer", *(kind for kind, _ in modules)]
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if i else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(names)
    ]
    write_json(folder / "modules.json", entries)
    for number, (kind, config) in enumerate(modules, start=1):
        module = folder / f"{number}_{kind}"
        write_json(module / "config.json", config)
        if kind == "Dense":
            shape = (config["out_features"], config["in_features"])
            weights = {"linear.weight": torch.randn(shape), "linear.bias": torch.randn(shape[:1])}
            save_file(weights, module / "model.safetensors")
