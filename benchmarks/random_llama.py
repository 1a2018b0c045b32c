"""Makes Llama checkpoints with random weights: the speed of a real model, and nothing to download.

    python -m benchmarks.random_llama 115m benchmarks/models/llama-115m

The tokenizer is palmita's, and smaller than the vocabularies. So that every server writes the same
number of pieces of text, the logits of a token that is no text of its own (a control token, a part
of a character, an id that the tokenizer lacks) are 0 and greedy decoding never takes it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from palma.models.bundled import bundled_model_path

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {  # costs next to nothing
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 4096,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
    "135m": {  # SmolLM 135M
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "dtype": "float32",
    },
    "115m": {  # the same without most of its vocabulary
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 4096,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
    "1.1b": {  # TinyLlama 1.1B
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
}
MAX_POSITIONS = 4096
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make_checkpoint(shape: str, folder: Path) -> Path:
    """Write a checkpoint of the shape with palmita's tokenizer, unless it is there already."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = {"max_position_embeddings": MAX_POSITIONS, **SHAPES[shape]}
    dtype = getattr(torch, settings.pop("dtype"))
    model = LlamaForCausalLM(LlamaConfig(**settings, **_end_tokens())).to(dtype)
    if not settings["tie_word_embeddings"]:
        _silence_wordless_tokens(model.lm_head.weight)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(bundled_model_path() / name, folder / name)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json"))


def _end_tokens() -> dict[str, int]:
    tokenizer = _tokenizer()
    return {
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tokenizer.token_to_id("<|eot_id|>"),
    }


def _silence_wordless_tokens(output_weight: Any) -> None:
    """Set the rows of tokens that are no text of their own to 0; (vocab_size, hidden_size)."""
    tokenizer = _tokenizer()
    num_tokens = tokenizer.get_vocab_size()
    wordless = [
        token_id
        for token_id in range(num_tokens)
        if not (text := tokenizer.decode([token_id])) or "\ufffd" in text
    ]
    output_weight.data[wordless] = 0
    output_weight.data[num_tokens:] = 0


def main() -> None:
    """Make the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(make_checkpoint(arguments.shape, arguments.folder))


if __name__ == "__main__":
    main()
