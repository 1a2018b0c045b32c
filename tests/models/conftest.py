"""Tiny random models, made by the tests: no weights are downloaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palma.core.config import Settings

from .fake_hub import FakeHub, running_hub

MakeSettings = Callable[..., Settings]
ChangeConfig = Callable[..., None]

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
    "<|bos|>{{ m.role }}: {{ m.content }}<|eos|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant:{% endif %}"
)


@pytest.fixture
def make_settings() -> MakeSettings:
    """Settings on the CPU, whatever the environment says."""

    def make(**changes: Any) -> Settings:
        fixed = {"device": "cpu", "torch_dtype": "auto", "model_id": None, "model_revision": None}
        return Settings(**{**fixed, **changes})

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE with three merges, three control tokens and an ordinary added one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    vocabulary |= {"".join(pair): 256 + i for i, pair in enumerate(merges)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|bos|>", "<|eos|>", "<|eot_id|>"])
    backend.add_tokens(["<tool>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|eos|>"
    )
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def _model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=259,
        eos_token_id=260,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def _checkpoint(_model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    _model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(_checkpoint: Path, tmp_path: Path) -> Path:
    """The folder `tiny` of a small random Llama with its tokenizer; the test may spoil it."""
    return Path(shutil.copytree(_checkpoint, tmp_path / "tiny"))


@pytest.fixture
def sharded_checkpoint(checkpoint: Path, _model: Any) -> Path:
    """The same model, its weights in several files."""
    (checkpoint / "model.safetensors").unlink()
    _model.save_pretrained(checkpoint, max_shard_size="10KB")
    return checkpoint


@pytest.fixture
def pickled_checkpoint(checkpoint: Path, _model: Any) -> Path:
    """The same model, its weights pickled."""
    import torch

    (checkpoint / "model.safetensors").unlink()
    torch.save(_model.state_dict(), checkpoint / "pytorch_model.bin")
    return checkpoint


@pytest.fixture
def change_config(checkpoint: Path) -> ChangeConfig:
    """Changes entries of `config.json` in `checkpoint`."""

    def change(**entries: Any) -> None:
        path = checkpoint / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A fake Hub, for a process that has no token and may go online."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running_hub() as running:
        yield running
