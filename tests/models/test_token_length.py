from __future__ import annotations

import json
from typing import Any

import pytest

from palma.models.token_length import UNBOUNDED, max_token_chars


def definition(**changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {"a": 0, "abc": 1}, "byte_fallback": True}
    return {"model": model, "added_tokens": [{"content": "<eos>"}], **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 5),
        ({"added_tokens": []}, 3),
        ({"normalizer": {"type": "NFC"}}, 20),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend"}]}}, 5),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "_"}}, 5),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": ""}}, UNBOUNDED),
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "a"}},
            UNBOUNDED,
        ),
        ({"normalizer": {"type": "BertNormalizer"}}, UNBOUNDED),
        ({"pre_tokenizer": {"type": "Split", "behavior": "Isolated"}}, 5),
        ({"pre_tokenizer": {"type": "Split", "behavior": "Removed"}}, UNBOUNDED),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, UNBOUNDED),
        ({"added_tokens": [{"content": "<e>", "rstrip": True}]}, UNBOUNDED),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "unk_token": None}}, UNBOUNDED),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "unk_token": "a", "fuse_unk": False}}, 5),
        (
            {"model": {"type": "BPE", "vocab": {"a": 0}, "unk_token": "a", "fuse_unk": True}},
            UNBOUNDED,
        ),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "byte_fallback": True}}, 5),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, UNBOUNDED),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, UNBOUNDED),
    ],
)
def test_the_bound_is_read_from_the_definition_of_the_tokenizer(
    changes: dict[str, Any], expected: int
) -> None:
    assert max_token_chars(definition(**changes)) == expected


def test_a_composing_normalizer_folds_four_code_points_and_stays_within_the_bound() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "\u03b1\u0313\u0300\u0345" * 10

    num_tokens = len(backend.encode(text).ids)

    assert num_tokens < len(text)  # a bound of one character a token would be wrong
    assert len(text) <= num_tokens * max_token_chars(json.loads(backend.to_str()))
