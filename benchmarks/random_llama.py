"""Makes Llama checkpoints with random weights: the speed of a real model, and nothing to download.

python -m benchmarks.random_llama 135m benchmarks/models/llama-135m
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from palma.models.bundled import bundled_model_path

SHAPES: dict[str, dict[str, int]] = {
    "135m": {  # SmolLM 135M
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make_checkpoint(shape: str, folder: Path) -> Path:
    """Write a checkpoint of the shape with palmita's tokenizer, unless it is there already."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {"max_position_embeddings": 2048, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**settings, **SHAPES[shape]))
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        source = bundled_model_path() / name
        if source.exists():
            shutil.copy(source, folder / name)
    return folder


def main() -> None:
    """Make the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(make_checkpoint(arguments.shape, arguments.folder))


if __name__ == "__main__":
    main()
