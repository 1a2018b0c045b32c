"""Writes a Llama checkpoint with a byte-level BPE tokenizer as a GGUF file for llama.cpp.

    python llama_gguf.py FOLDER bf16|q8_0|q4_0 RESULT

It runs in llama.cpp's virtual environment and needs the packages `gguf` and `numpy` only. The
converter of llama.cpp's own source tree refuses tokenizers whose fingerprint it does not know, as
palmita's; this one is for the checkpoints of `random_llama.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMAL, CONTROL, UNUSED = 1, 3, 5  # kinds of tokens


def tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and float32 values of each tensor of a safetensors file in bf16 or float32."""
    import numpy as np

    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            file.seek(8 + header_size + begin)
            raw = file.read(end - begin)
            if entry["dtype"] == "BF16":  # the upper half of a float32
                values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, np.float32)
            yield name, values.reshape(entry["shape"])


def gguf_name(name: str) -> str:
    """Return what GGUF calls a tensor."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.weight"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[part]}.weight"


def permuted(values: Any, num_heads: int) -> Any:
    """Reorder rows from halves (Transformers' rotary embedding) to pairs (llama.cpp's)."""
    num_rows, width = values.shape
    halves = values.reshape(num_heads, 2, num_rows // num_heads // 2, width)
    return halves.swapaxes(1, 2).reshape(num_rows, width)


def add_settings(writer: Any, config: dict[str, Any]) -> None:
    """Write the shape of the model."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Write the tokenizer; ids that it lacks become unused tokens."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    texts = {token_id: text for text, token_id in tokenizer["model"]["vocab"].items()}
    control = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = range(config["vocab_size"])
    known = texts | control
    kinds = [CONTROL if i in control else NORMAL if i in texts else UNUSED for i in ids]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([known.get(i, f"[PAD{i}]") for i in ids])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(one) if isinstance(one, list) else one for one in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def write(folder: Path, precision: str, result: Path) -> None:
    """Write the file: matrices in the precision, vectors in float32."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    kind = gguf.GGMLQuantizationType[precision.upper()]
    part = result.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{precision.upper()}"])
    add_settings(writer, config)
    add_tokenizer(writer, folder, config)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, read in tensors(folder / "model.safetensors"):
        new_name = gguf_name(name)
        num_heads = heads.get(new_name.split(".")[-2])
        values = permuted(read, num_heads) if num_heads else read
        if values.ndim == 1:
            writer.add_tensor(new_name, values)
        else:
            writer.add_tensor(new_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(result)


def main() -> None:
    """Convert what the command line names."""
    folder, precision, result = sys.argv[1:]
    write(Path(folder), precision, Path(result))


if __name__ == "__main__":
    main()
