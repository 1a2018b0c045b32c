"""Engines around tiny random models, whose logits some prompts spoil."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from palma.engine.base import Engine, EngineRequest
from tests.live_server import LiveServer, Neighbour, user
from tests.tiny_models import tiny_hf_tokenizer, tiny_loaded_model

if TYPE_CHECKING:
    import torch

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('only the first turn may be a system turn') }}{% endif %}"
    "<|bos|>{{ m.role }}: {{ m.content }}<|eos|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant:{% endif %}"
)

GREEDY = {"temperature": 0, "max_tokens": 20}

SPOILED = {"nan": float("nan"), "inf": float("-inf"), "few": float("-inf")}


def make_tiny_engine(executor: Executor, max_running: int) -> Engine:
    """A small random Llama on the threads engine; its tokens are bytes."""
    from palma.engine.threads import ThreadsEngine

    return ThreadsEngine(tiny_loaded_model(stop_token_ids=frozenset()), executor, max_running)


def make_templated_engine(executor: Executor, max_running: int) -> Engine:
    """The same with a Hugging Face tokenizer and `TEMPLATE`."""
    from palma.engine.threads import ThreadsEngine

    tokenizer = tiny_hf_tokenizer(TEMPLATE)
    loaded = dataclasses.replace(tiny_loaded_model(stop_token_ids=frozenset()), tokenizer=tokenizer)
    return ThreadsEngine(loaded, executor, max_running)


def spoil_logits(request: EngineRequest, prompt: str) -> EngineRequest:
    """Give a logits hook to prompts that ask for one, as `[raise]` or `[nan late]` do."""
    kind = next(
        (kind for kind in ("raise", "nan", "inf", "few", "slow") if f"[{kind}" in prompt), None
    )
    if kind is None:
        return request
    num_good_tokens = 15 if " late]" in prompt else 0

    def hook(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        if kind == "slow":
            time.sleep(0.01)
        elif len(completion) >= num_good_tokens:
            if kind == "raise":
                raise ZeroDivisionError("a logits hook with a bug at /secret/path")
            return logits.index_fill(0, completion_ids(logits, kind), SPOILED[kind])
        return logits

    return dataclasses.replace(request, logits_hook=hook)


def completion_ids(logits: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the ids to spoil: one for NaN, all for -inf, and "few" leaves the likeliest two."""
    import torch

    if kind == "few":
        return logits.argsort(descending=True)[2:]
    return torch.arange(1 if kind == "nan" else logits.numel())


def slow_neighbour(server: LiveServer) -> Neighbour:
    """Return a neighbour of 0.2 s for a server whose requests `spoil_logits` changes."""
    body = {"messages": user("[slow] neighbour"), "do_sample": False, "max_new_tokens": 20}
    return Neighbour.heard_alone(server, body)
