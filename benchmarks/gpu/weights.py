"""Narrower weights: what they bring in speed, and what they cost in the logits."""

from __future__ import annotations

from typing import Any, get_args

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.decode import draw_prompt, measure_alone, measure_together
from palma.core.config import Settings

NARROW = "float8"


def weights(bench: Bench) -> None:
    """Speeds of `weights=float8` to those of bfloat16, and the error of the logits.

    Engines may change the layers of a model for good: so it is made anew before and afterwards.
    """
    if NARROW not in get_args(Settings.model_fields["weights"].annotation):
        bench.add("float8 weights", "not offered", "Settings.weights has no float8")
        return
    bench.drop_model()
    exact = _logits(bench)
    try:
        bench.start_engine(weights=NARROW)
        alone, itl_s, _ = measure_alone(bench)
        together, context = measure_together(bench)
        bench.note(batch1_tokens_per_s=alone, batch64_tokens_per_s=together)
        _add_speed(bench, "batch 1", alone, "batch1", f", median ITL {itl_s * 1000:.2f} ms")
        _add_speed(bench, "batch 64", together, "batch64", f", context {context:.0f}")
        bench.close_engine()
        _add_error(bench, exact, _logits(bench))
    finally:
        bench.drop_model()


def _add_speed(bench: Bench, name: str, rate: float, part: str, details: str) -> None:
    before = bench.figures.get(part, {}).get("tokens_per_s")
    bench.add(
        f"float8 weights, {name} decode",
        f"{rate:.1f} tok/s{details}",
        "bfloat16 was not measured" if before is None else f"{before:.1f} tok/s in bfloat16",
        ratio=None if before is None else rate / before,
    )


@torch.inference_mode()
def _logits(bench: Bench) -> torch.Tensor:
    """Return float32 logits of all positions of all prompts, of the ids that are text.

    They are computed by the model itself, without the engine: (num_positions, num_words).
    """
    num_prompts, num_tokens = bench.workload.quality
    model: Any = bench.model.loaded.model
    model.set_attn_implementation("sdpa")
    words = torch.tensor(bench.model.word_token_ids, device=bench.device)
    found = []
    for number in range(num_prompts):
        prompt = draw_prompt(bench, f"quality {number}", num_tokens)
        logits = model(torch.tensor([prompt], device=bench.device), use_cache=False).logits[0]
        found.append(logits[:, words].float())
    return torch.cat(found)


def _add_error(bench: Bench, exact: torch.Tensor, narrow: torch.Tensor) -> None:
    if torch.equal(exact, narrow):
        raise RuntimeError("once the engine is closed its model has its bfloat16 weights again")
    errors = (narrow - exact).norm(dim=-1) / exact.norm(dim=-1)
    agreement = (narrow.argmax(dim=-1) == exact.argmax(dim=-1)).float().mean().item()
    worst, mean = errors.max().item(), errors.mean().item()
    bench.note(max_relative_error=worst, mean_relative_error=mean, top1_agreement=agreement)
    bench.add(
        "float8 weights, relative error of the logits",
        f"mean {mean:.2%}, max {worst:.2%}",
        f"bfloat16, {len(errors)} positions",
        note=f"top-1 agrees at {agreement:.1%}",
    )
