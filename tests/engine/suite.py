"""How tests talk to an engine: submit, wait for the last delta, collect."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from palma.core.errors import PalmaError
from palma.core.types import FinishReason, SamplingParams
from palma.engine.base import Engine, EngineRequest, LogitsHook, TokenDelta, TokenLogprobs

PATIENCE_S = 20.0


@dataclass
class Collected:
    """A sink that remembers everything and knows when the sequence has ended."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[tuple[TokenLogprobs, ...]] = field(default_factory=list)
    num_cached_tokens: int = 0
    ends: list[TokenDelta] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, delta: TokenDelta) -> None:
        if delta.prompt_logprobs is not None:
            assert not self.token_ids, "the prompt's come before any token"
            self.prompt_logprobs.append(delta.prompt_logprobs)
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.num_cached_tokens += delta.num_cached_tokens
        if delta.started or delta.token_ids:
            self.started.set()
        if delta.finish_reason is not None:
            self.ends.append(delta)
            self.ended.set()

    def wait(self) -> FinishReason | None:
        """Wait for the end and return its reason; there must be exactly one."""
        assert self.ended.wait(PATIENCE_S), "the sequence never ended"
        assert len(self.ends) == 1
        return self.ends[0].finish_reason

    @property
    def error(self) -> PalmaError | None:
        """The error of the last delta."""
        return self.ends[0].error


def submit(
    engine: Engine,
    request_id: str,
    prompt: list[int],
    logits_hook: LogitsHook | None = None,
    **params: object,
) -> Collected:
    """Submit a greedy sequence unless `params` say otherwise."""
    collected = Collected()
    sampling_params = SamplingParams(**{"temperature": 0, "max_tokens": 20, **params})  # type: ignore[arg-type]
    engine.submit(EngineRequest(request_id, prompt, sampling_params, logits_hook), collected)
    return collected
