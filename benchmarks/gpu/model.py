"""Llamas of well-known shapes with random weights, made on the device: no checkpoint anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from palma.core.model_card import Weights
from palma.models.bundled import bundled_model_path
from palma.models.device import select_device
from palma.models.loader import LoadedModel
from palma.models.tokenizer import HFTokenizer

ModelName = Literal["tiny", "1b", "8b"]
DeviceKind = Literal["cuda", "cpu"]

SILENT = 0.01
"""Factor of the output rows of tokens that must not be generated: random still, never chosen."""


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


SHAPES: dict[ModelName, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 4096,
        "tie_word_embeddings": False,
        "rope_parameters": _llama3_rope(8.0),
    },
    "1b": {  # Llama 3.2 1B
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "rope_parameters": _llama3_rope(32.0),
    },
    "8b": {  # Llama 3.1 8B
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "rope_parameters": _llama3_rope(8.0),
    },
}


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A loaded model, and what a benchmark must know about it.

    Attributes:
        loaded: As an engine gets it.
        word_token_ids: The ids that are text: prompts are made of them, and only they come out.
        weight_bytes: What one decode step reads of the weights: all but an embedding table of
            which it takes one row a token.
        kv_token_bytes: Keys and values of one token in all layers.
    """

    loaded: LoadedModel
    word_token_ids: list[int]
    weight_bytes: int
    kv_token_bytes: int

    def step_bytes(self, num_sequences: int, context: float) -> float:
        """Return the fewest bytes that one decode step must read.

        Args:
            num_sequences: How many decode together.
            context: Their mean number of keys.
        """
        return self.weight_bytes + num_sequences * context * self.kv_token_bytes


def make_model(name: ModelName, device: DeviceKind, max_model_len: int) -> RandomModel:
    """Make a bfloat16 model on the device; the same seed every time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

    choice = select_device(device, "bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path(), local_files_only=True)
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    config = LlamaConfig(
        **SHAPES[name], max_position_embeddings=131072, bos_token_id=None, eos_token_id=end
    )
    torch.manual_seed(0)
    with torch.device(choice.device):  # weights begin their life there, and are drawn there
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0)
    model.eval().requires_grad_(False)
    check_rotary(model)
    words = word_token_ids(tokenizer)
    _silence_others(model.lm_head.weight, words)
    parameters = list(model.parameters())
    num_bytes = sum(parameter.nbytes for parameter in parameters)
    is_tied = config.tie_word_embeddings
    loaded = LoadedModel(
        model_id=f"random-{name}",
        model=model,
        tokenizer=HFTokenizer(tokenizer),
        choice=choice,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        stop_token_ids=frozenset({end}),
        weights=Weights("llama", sum(parameter.numel() for parameter in parameters), num_bytes),
    )
    return RandomModel(
        loaded,
        words,
        num_bytes - (0 if is_tied else model.get_input_embeddings().weight.nbytes),
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2,
    )


def check_rotary(model: Any) -> None:
    """Make sure that the rotary frequencies are those of the config, and no leftovers of memory.

    Raises:
        RuntimeError: They are not.
    """
    rotary = model.model.rotary_emb
    fresh = type(rotary)(model.config)  # on the CPU
    found, expected = rotary.inv_freq.float().cpu(), fresh.inv_freq
    if not (expected[0] == 1 and torch.allclose(found, expected, rtol=1e-5, atol=0)):
        raise RuntimeError(f"rotary frequencies are {found[:4]}..., expected {expected[:4]}...")


def word_token_ids(tokenizer: Any) -> list[int]:
    """Return the ids that are text by themselves: no control tokens, no parts of a character."""
    texts = tokenizer.batch_decode(
        [[token_id] for token_id in range(len(tokenizer))], skip_special_tokens=True
    )
    return [
        token_id for token_id, text in enumerate(texts) if text.strip() and "\ufffd" not in text
    ]


def _silence_others(output_weight: torch.Tensor, words: list[int]) -> None:
    """Make sure that only words are generated; (vocab_size, hidden_size)."""
    silent = torch.ones(len(output_weight), dtype=torch.bool)
    silent[words] = False
    output_weight.data[silent.to(output_weight.device)] *= SILENT
