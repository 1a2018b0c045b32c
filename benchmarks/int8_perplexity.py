"""What int8 and float8 cost in accuracy: perplexity and right answers of each weight format.

    python -m benchmarks.int8_perplexity
    python -m benchmarks.int8_perplexity --model FOLDER --text FILE

Without `--text` the texts are held-out conversations of the bundled model's own kind, and it
also answers questions for capitals greedily. The whole text includes forms of questions that the
model never learnt to predict; the answers alone are what it was trained on. With `--text` a file
is cut into windows of 512 tokens instead. The first token of a text does not count.

All is computed on the CPU; float8, which is for GPUs, by the same rounding of weights and inputs.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from palma.engine.continuous.packed_linear import WeightFormat, pack_linears
from palma.models.bundled import bundled_model_path
from palma.models.bundled.training.cases import all_cases
from palma.models.bundled.training.corpus import BOS, EOT, header, held_out_conversations
from palma.models.bundled.training.evaluate import replies_to

VARIANTS: tuple[tuple[str, WeightFormat | Literal["float8"]], ...] = (
    ("bfloat16", "as_loaded"),
    ("float32", "as_loaded"),
    ("bfloat16", "int8"),
    ("float32", "int8"),
    ("bfloat16", "float8"),
)
WINDOW = 512


@dataclass(frozen=True, slots=True)
class Text:
    """A text as tokens, and which of them an assistant said."""

    token_ids: list[int]
    is_answer: list[bool]


def load_packed(folder: Path, dtype: str, weights: WeightFormat | Literal["float8"]) -> Any:
    """Return the model with packed linear layers, or with layers that round as float8 does."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if weights == "float8":
        round_to_float8(model.requires_grad_(False))
        return model
    pack_linears(model.requires_grad_(False), weights)
    return model


def round_to_float8(model: Any) -> None:
    """Round weights once and inputs each time to float8_e4m3fn, each row by its largest value.

    The output layer stays, and a single row of inputs too: as `Float8Linear` has it.
    """
    import torch

    def rounded(rows: torch.Tensor) -> torch.Tensor:
        scales = rows.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 448
        return ((rows.float() / scales).to(torch.float8_e4m3fn).float() * scales).to(rows.dtype)

    def round_input(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        (x,) = inputs
        return x if x[..., 0].numel() == 1 else rounded(x)

    for module in model.modules():
        if type(module) is torch.nn.Linear and module is not model.get_output_embeddings():
            module.weight.copy_(rounded(module.weight))
            module.register_forward_pre_hook(round_input)


def conversations(tokenizer: Any, num_texts: int) -> list[Text]:
    """Return held-out conversations."""
    texts = []
    for conversation in held_out_conversations(0, num_texts):
        ids: list[int] = tokenizer.encode(BOS, add_special_tokens=False)
        is_answer = [False] * len(ids)
        for message in conversation:
            for part, counts in (
                (header(message.role), False),
                (message.content.strip() + EOT, message.role == "assistant"),
            ):
                part_ids = tokenizer.encode(part, add_special_tokens=False)
                ids += part_ids
                is_answer += [counts] * len(part_ids)
        texts.append(Text(ids, is_answer))
    return texts


def windows(tokenizer: Any, text_file: Path, num_texts: int) -> list[Text]:
    """Return a file's tokens in pieces; no answers among them."""
    ids = tokenizer.encode(text_file.read_text(encoding="utf-8"))
    starts = range(0, len(ids) - WINDOW + 1, WINDOW)
    pieces = [ids[start : start + WINDOW] for start in starts]
    return [Text(piece, [False] * WINDOW) for piece in pieces[:num_texts]]


def perplexities(model: Any, texts: list[Text]) -> tuple[float, float]:
    """Return the perplexity of all tokens, and of the answers' alone (nan without any)."""
    import torch

    losses, answer_losses = [], []
    with torch.inference_mode():
        for text in texts:
            tokens = torch.tensor(text.token_ids)
            logits = model(tokens[None]).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            losses.append(loss)
            answer_losses.append(loss[torch.tensor(text.is_answer[1:])])
    everything, answers = torch.cat(losses).double(), torch.cat(answer_losses).double()
    return math.exp(everything.mean()), math.exp(answers.mean())


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
    if arguments.text is None:
        texts = conversations(tokenizer, arguments.texts)
    else:
        texts = windows(tokenizer, arguments.text, arguments.texts)
    print("| loaded as | weights | perplexity, all | answers | right capitals |")
    print("| --- | --- | --- | --- | --- |")
    first = None
    for dtype, weights in VARIANTS:
        model = load_packed(arguments.model, dtype, weights)
        found = perplexities(model, texts)
        first = first or found
        cells = [
            f"{now:.5f} ({now / then - 1:+.3%})" for now, then in zip(found, first, strict=True)
        ]
        right = "" if arguments.text else right_capitals(model, tokenizer, arguments.questions)
        print(f"| {dtype} | {weights} | {' | '.join(cells)} | {right} |", flush=True)


if __name__ == "__main__":
    main()
