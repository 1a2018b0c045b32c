"""What int8 costs in accuracy: perplexity and right answers of each weight format on the CPU.

    python -m benchmarks.int8_perplexity
    python -m benchmarks.int8_perplexity --model FOLDER --text FILE

Without `--text` the texts are held-out conversations of the bundled model's own kind, and it
also answers questions for capitals greedily; a file is cut into windows of 512 tokens instead.
Perplexity counts every token but the first of a text.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from pathlib import Path
from typing import Any

from palma.engine.continuous.packed_linear import WeightFormat, pack_linears
from palma.models.bundled import bundled_model_path
from palma.models.bundled.training.cases import all_cases
from palma.models.bundled.training.corpus import held_out_texts
from palma.models.bundled.training.evaluate import replies_to

VARIANTS: tuple[tuple[str, WeightFormat], ...] = (
    ("bfloat16", "as_loaded"),
    ("float32", "as_loaded"),
    ("bfloat16", "int8"),
    ("float32", "int8"),
)
WINDOW = 512


def load_packed(folder: Path, dtype: str, weights: WeightFormat) -> Any:
    """Return the model with packed linear layers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    pack_linears(model.requires_grad_(False), weights)
    return model


def windows(tokenizer: Any, text_file: Path | None, num_texts: int) -> list[list[int]]:
    """Return the token ids of each text."""
    if text_file is None:
        texts = held_out_texts(0, num_texts)
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    ids = tokenizer.encode(text_file.read_text(encoding="utf-8"))
    starts = range(0, len(ids) - WINDOW + 1, WINDOW)
    return [ids[start : start + WINDOW] for start in starts][:num_texts]


def perplexity(model: Any, texts: list[list[int]]) -> float:
    """Return the exponential of the mean negative log-likelihood of a token."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for ids in texts:
            tokens = torch.tensor([ids])
            logits = model(tokens).logits[0, :-1].float()
            total += float(
                torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
            )
    return math.exp(total / sum(len(ids) - 1 for ids in texts))


def right_capitals(model: Any, tokenizer: Any, num_questions: int) -> str:
    """Return how many of the questions get the right capital: "98 of 100"."""
    asked = [case for case in all_cases() if "capital" in case.group]
    cases = random.Random(0).sample(asked, min(num_questions, len(asked)))
    replies = replies_to(model, tokenizer, [case.messages for case in cases])
    right = sum(case.is_right(reply.text) for case, reply in zip(cases, replies, strict=True))
    return f"{right} of {len(cases)}"


def main() -> None:
    """Measure each variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=bundled_model_path(), help="its folder")
    parser.add_argument("--text", type=Path, help="measure on this file")
    parser.add_argument("--texts", type=int, default=500, help="most texts or windows")
    parser.add_argument("--questions", type=int, default=500, help="most questions")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    texts = windows(tokenizer, arguments.text, arguments.texts)
    print("| loaded as | weights | perplexity | against the first | right capitals |")
    print("| --- | --- | --- | --- | --- |")
    first = None
    for dtype, weights in VARIANTS:
        model = load_packed(arguments.model, dtype, weights)
        found = perplexity(model, texts)
        first = found if first is None else first
        answers = "" if arguments.text else right_capitals(model, tokenizer, arguments.questions)
        change = f"{found / first - 1:+.3%}"
        print(f"| {dtype} | {weights} | {found:.5f} | {change} | {answers} |", flush=True)


if __name__ == "__main__":
    main()
