"""Transformers' continuous batching on the same model, the same requests and the same device.

This is what `generate_batch` does inside, its context manager and its queue, because
`generate_batch` itself takes one `max_new_tokens` for all requests.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu import torch_flash
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.mix import IN_PROCESS_SEED, NUM_COMPARED_TOKENS
from benchmarks.gpu.table import Goal
from benchmarks.gpu.workload import Job, draw_jobs
from palma.models.resources import release_memory

PEER_GOAL = Goal(2, 4, "x")
OWN_PACKAGES = ("transformers.", "torch.")
NEVER = -1
"""An end token that no vocabulary has."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the peer.

    Attributes:
        attention: "sdpa", what Transformers takes where flash-attn is not installed, or
            "torch_flash"; see that module.
        config: Arguments of ContinuousBatchingConfig, beside what it finds out by itself.
        words: For the table.
    """

    attention: str
    config: dict[str, Any]
    words: str


VARIANTS = {
    "flash": Variant(
        "torch_flash",
        {"use_cuda_graph": False, "use_async_batching": True},
        "PyTorch's FlashAttention, asynchronous, no CUDA graphs",
    ),
    "flash-graphs": Variant(
        "torch_flash",
        {"use_cuda_graph": True, "use_async_batching": True},
        "PyTorch's FlashAttention, asynchronous, CUDA graphs",
    ),
    "flash-compiled": Variant(
        "torch_flash",
        {"use_async_batching": True, "use_cuda_graph": False, "default_compile_level": 1},
        "PyTorch's FlashAttention, asynchronous, compiled",
    ),
    "sdpa": Variant("sdpa", {}, "SDPA, all else as it chooses by itself"),
}


@dataclass(slots=True)
class Outcome:
    """What one variant came to.

    Attributes:
        num_tokens: Output tokens until the end, or until it was cut.
        was_cut: Whether time ran out. The tail, when few requests are left and the rate is
            lowest, is missing then: the rate flatters.
        first_tokens: Of each request that ended, by its place in the list.
    """

    num_tokens: int = 0
    duration_s: float = 0.0
    was_cut: bool = False
    first_tokens: dict[int, list[int]] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens a second."""
        return self.num_tokens / self.duration_s


def peer(bench: Bench) -> None:
    """Every variant that was asked for; the fastest is the one to be compared with."""
    bench.close_engine()
    if foreign := _foreign_modules(bench.model.loaded.model):
        bench.say(f"the engine has left {', '.join(foreign)} in the model: it is made anew")
        bench.drop_model()
    jobs = draw_jobs(bench.workload, bench.model.word_token_ids, IN_PROCESS_SEED)
    outcomes: dict[str, Outcome] = {}
    for number, name in enumerate(bench.peers):
        limit_s = bench.left_s / (len(bench.peers) - number)
        try:
            outcomes[name] = _run(bench, VARIANTS[name], jobs, limit_s)
        except Exception as error:  # noqa: BLE001  # the others go on
            bench.say(f"{name} failed: {error!r}"[:500])
    if not outcomes:
        raise RuntimeError("no variant of Transformers' continuous batching ran")
    ours = bench.figures.get("mix256", {})
    fastest = max(outcomes, key=lambda name: outcomes[name].tokens_per_s)
    for name, outcome in outcomes.items():
        _add(bench, name, outcome, ours, is_fastest=name == fastest, num_requests=len(jobs))


def _foreign_modules(model: Any) -> list[str]:
    """Return the classes of a model's modules that are neither Transformers' nor PyTorch's."""
    classes = {type(module) for module in model.modules()}
    return sorted(c.__name__ for c in classes if not c.__module__.startswith(OWN_PACKAGES))


def _add(
    bench: Bench,
    name: str,
    outcome: Outcome,
    ours: dict[str, Any],
    *,
    is_fastest: bool,
    num_requests: int,
) -> None:
    rate = outcome.tokens_per_s
    cut = f", cut after {outcome.duration_s:.0f} s" if outcome.was_cut else ""
    agreement = _agreement(ours.get("first_tokens", []), outcome.first_tokens)
    bench.note(**{name: {"tokens_per_s": rate, "cut": outcome.was_cut, "agreement": agreement}})
    bench.add(
        f"{num_requests} mixed requests, against generate_batch ({name})",
        f"{ours['tokens_per_s']:.0f} tok/s" if ours else "not measured",
        f"{rate:.0f} tok/s{cut}: {VARIANTS[name].words}",
        ratio=ours["tokens_per_s"] / rate if ours else None,
        goal=PEER_GOAL if is_fastest else None,
        note="" if agreement is None else f"{agreement:.0%} of the first tokens are ours",
    )


def _agreement(ours: Sequence[list[int]], theirs: dict[int, list[int]]) -> float | None:
    """Return the share of first tokens that are the same; bfloat16 lets some differ."""
    pairs = [
        (our_id, their_id)
        for place, token_ids in theirs.items()
        if place < len(ours)
        for our_id, their_id in zip(ours[place], token_ids, strict=False)
    ]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def _run(bench: Bench, variant: Variant, jobs: Sequence[Job], limit_s: float) -> Outcome:
    """Run all requests with one variant; the time of its set-up does not count."""
    from transformers import ContinuousBatchingConfig, GenerationConfig
    from transformers.generation.continuous_batching.utils import WorkloadHints

    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    model: Any = bench.model.loaded.model
    started = time.monotonic()
    if variant.attention == torch_flash.NAME:
        torch_flash.attach(model)
    else:
        model.set_attn_implementation(variant.attention)
    hints = WorkloadHints(
        max_prompt_length=max(len(job.prompt_token_ids) for job in jobs),
        max_generated_length=max(job.num_tokens for job in jobs),
        num_requests=len(jobs),
    )
    is_cuda = bench.device.type == "cuda"
    config = variant.config if is_cuda else {"num_blocks": 16, "max_batch_tokens": 64}
    try:
        with model.continuous_batching_context_manager(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=NEVER, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                allow_block_sharing=False, **config
            ),
            workload_hints=hints,
            timeout=20,
        ) as manager:
            bench.say(f"{variant.words}: set up in {time.monotonic() - started:.1f} s")
            outcome = _collect(manager, jobs, limit_s - (time.monotonic() - started))
    finally:
        model.set_attn_implementation("sdpa")
        gc.collect()
        release_memory()
    bench.say(f"{outcome.num_tokens} tokens in {outcome.duration_s:.1f} s")
    return outcome


def _collect(manager: Any, jobs: Sequence[Job], limit_s: float) -> Outcome:
    outcome = Outcome()
    begin = time.monotonic()
    places = {
        manager.add_request(
            job.prompt_token_ids, max_new_tokens=job.num_tokens, eos_token_id=NEVER
        ): i
        for i, job in enumerate(jobs)
    }
    while len(outcome.first_tokens) < len(jobs):
        result = manager.get_result(timeout=0.5)
        if result is not None and result.error is not None:
            raise RuntimeError(result.error)
        if result is not None and result.is_finished():
            place = places[result.request_id]
            if len(result.generated_tokens) != jobs[place].num_tokens:
                raise RuntimeError(f"{len(result.generated_tokens)} tokens came, others were asked")
            outcome.num_tokens += len(result.generated_tokens)
            outcome.first_tokens[place] = result.generated_tokens[:NUM_COMPARED_TOKENS]
        if time.monotonic() - begin > limit_s:
            outcome.was_cut = True
            running = list(manager.batch_processor.scheduler.active_requests.values())
            outcome.num_tokens += sum(state.generated_len() for state in running)
            break
        if result is None and not manager.is_running():
            raise RuntimeError("its thread ended")
    outcome.duration_s = time.monotonic() - begin
    if outcome.was_cut:
        manager.stop(block=True, timeout=20, hard_stop=True)
    return outcome
