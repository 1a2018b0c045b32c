"""Writes a trained model's folder as it ships: bfloat16 weights, tokenizer, generation settings."""

import copy
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palma.models.bundled.training.corpus import END_OF_TEXT


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder beside its place first, then move its files in, one rename each."""
    for key in ("is_local", "local_files_only"):  # how it was loaded, not what it is
        tokenizer.init_kwargs.pop(key, None)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as beside:
        shipped = copy.deepcopy(model).to(torch.bfloat16)
        shipped.generation_config = generation_config(tokenizer)
        shipped.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        for file in Path(beside).iterdir():
            shutil.move(file, out / file.name)


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Return the settings that end a generation at either of Llama 3's end tokens."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)],
        pad_token_id=tokenizer.pad_token_id,
    )
