"""How many characters of text one token can stand for, read from a tokenizer's definition."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

UNBOUNDED = sys.maxsize
"""Some token may stand for any amount of text."""

# Canonical composition folds at most 4 code points into one. Source: Unicode Annex #15.
_MAX_COMPOSED = 4
_KEEPING_NORMALIZERS = {"NFC": _MAX_COMPOSED, "NFKC": _MAX_COMPOSED} | dict.fromkeys(
    ("NFD", "NFKD", "Prepend", "Lowercase", "ByteLevel"), 1
)
_KEEPING_SPLITTERS = {"ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "Punctuation", "Split"}


def max_token_chars(definition: dict[str, Any]) -> int:
    """Return an upper bound for the `tokenizer.json` in `definition`, or UNBOUNDED.

    A byte-level vocabulary spells each byte as one character, so the length of its entries counts
    bytes, and no character has less than one. A tokenizer that drops text, or merges unknown
    characters into one token, has no bound.
    """
    if _merges_unknown(definition["model"]) or _drops_text(definition):
        return UNBOUNDED
    added = definition.get("added_tokens") or []
    if any(token.get("lstrip") or token.get("rstrip") for token in added):
        return UNBOUNDED  # such a token takes all the white space beside it
    entries = (*_vocabulary(definition["model"]), *(token["content"] for token in added))
    factor = 1
    for normalizer in _flatten(definition.get("normalizer"), "normalizers"):
        factor = max(factor, _KEEPING_NORMALIZERS.get(normalizer["type"], 1))
    return factor * max(map(len, entries))


def _vocabulary(model: dict[str, Any]) -> Iterator[str]:
    vocabulary = model["vocab"]  # a dict, or a list of (entry, score) for Unigram
    return iter(vocabulary) if isinstance(vocabulary, dict) else (entry for entry, _ in vocabulary)


def _merges_unknown(model: dict[str, Any]) -> bool:
    if model["type"] == "BPE":
        has_unknown = model.get("unk_token") is not None and not model.get("byte_fallback")
        return has_unknown and bool(model.get("fuse_unk"))
    return not (model["type"] == "Unigram" and model.get("byte_fallback"))


def _drops_text(definition: dict[str, Any]) -> bool:
    normalizers = _flatten(definition.get("normalizer"), "normalizers")
    splitters = _flatten(definition.get("pre_tokenizer"), "pretokenizers")
    return (
        _drops_unknown(definition)
        or not all(map(_normalizer_keeps, normalizers))
        or not all(map(_splitter_keeps, splitters))
    )


def _drops_unknown(definition: dict[str, Any]) -> bool:
    """Whether a BPE leaves out what its vocabulary lacks: it has no unknown token, and no bytes."""
    model = definition["model"]
    if model["type"] != "BPE" or model.get("unk_token") is not None or model.get("byte_fallback"):
        return False
    from tokenizers.pre_tokenizers import ByteLevel

    return not set(ByteLevel.alphabet()) <= model["vocab"].keys()


def _normalizer_keeps(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        found = normalizer["pattern"].get("String")
        return found is not None and len(normalizer["content"]) >= len(found)
    return normalizer["type"] in _KEEPING_NORMALIZERS


def _splitter_keeps(splitter: dict[str, Any]) -> bool:
    return splitter["type"] in _KEEPING_SPLITTERS and splitter.get("behavior") != "Removed"


def _flatten(step: dict[str, Any] | None, children: str) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step["type"] != "Sequence":
        yield step
        return
    for child in step[children]:
        yield from _flatten(child, children)
