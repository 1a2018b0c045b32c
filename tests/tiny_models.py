"""Tiny random models in memory: no files, no downloads, the same weights every time."""

from __future__ import annotations

from typing import Any, cast

from palma.core.types import Tokenizer
from palma.engine.mock import END_ID, MockTokenizer
from palma.models.device import DeviceChoice
from palma.models.loader import LoadedModel
from palma.models.tokenizer import HFTokenizer

VOCAB_SIZE = 300
MAX_MODEL_LEN = 256


def tiny_llama(
    *,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    num_layers: int = 2,
    max_model_len: int = MAX_MODEL_LEN,
    initializer_range: float = 0.5,
) -> Any:
    """Return a Llama with random float32 weights; by default for bytes and a few ids more."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_model_len,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def tiny_loaded_model(
    *, stop_token_ids: frozenset[int] = frozenset({END_ID}), device: str = "cpu"
) -> LoadedModel:
    """Return a loaded model whose tokens are bytes, as an engine gets it."""
    tokenizer: Tokenizer = MockTokenizer()
    return LoadedModel(
        model_id="tiny",
        model=tiny_llama().to(device),
        tokenizer=cast(Any, tokenizer),
        choice=DeviceChoice(device=device, dtype="float32", reason="a test"),
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        stop_token_ids=stop_token_ids,
    )


def tiny_hf_tokenizer(chat_template: str) -> HFTokenizer:
    """Return a byte-level Hugging Face tokenizer with three control tokens and a template."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|bos|>", "<|eos|>", "<|eot_id|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>")
    fast.chat_template = chat_template
    return HFTokenizer(fast)
