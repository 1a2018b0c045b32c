"""Choosing the next token of one sequence from its logits.

The order is Transformers' own: bias and penalties, temperature, top-k, top-p, min-p, typical.
No step sorts the whole vocabulary unless the nucleus is wider than its likeliest tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from palma.core.errors import EngineFailure
from palma.core.types import SamplingParams
from palma.engine.base import LogitsHook, TokenLogprobs, TokenMask
from palma.engine.likeliest import allowed_ids
from palma.engine.mirostat import Mirostat

NUCLEUS_PREFILTER = 256
"""Tokens that a top-p nucleus is looked for in first."""

MIN_TEMPERATURE = 1e-6
"""Below it float32 logits cannot be divided; the difference from greedy has long vanished."""

ROWS_AT_ONCE = 64
"""Positions of a prompt that are scored together: as float32, each has a whole vocabulary."""

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say. Source: OpenAI's API."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, and how likely it and others were if the request wants to know."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class Sampler:
    """Draws the tokens of one sequence from a random generator of its own.

    The same seed and logits give the same tokens whatever else the process does. Not
    thread-safe: a sequence has one sampler and one decoding thread.

    Args:
        params: The sequence's own.
        prompt_token_ids: What came before the completion.
        stop_token_ids: The model's; `min_tokens` keeps these and the request's own away.
        device: Where the logits are.
        hook: Changes the logits first.
        mask: Bounds what may be chosen, after all else has changed the logits.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        stop_token_ids: frozenset[int],
        device: torch.device,
        hook: LogitsHook | None = None,
        *,
        mask: TokenMask | None = None,
    ) -> None:
        self._params = params
        self._hook = hook
        self._mask = mask
        self._device = device
        self._prompt_token_ids = prompt_token_ids
        self._completion: list[int] = []
        self._counts: Counter[int] = Counter()
        self._stop_token_ids = sorted(stop_token_ids | params.stop_token_ids)
        self._mirostat = (
            Mirostat(params.mirostat, params.mirostat_tau, params.mirostat_eta)
            if params.mirostat
            else None
        )

    @cached_property
    def _prompt(self) -> torch.Tensor:
        return torch.tensor(list(self._prompt_token_ids), device=self._device)

    @cached_property
    def _generator(self) -> torch.Generator:
        generator = torch.Generator(device=self._device)
        if self._params.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self._params.seed)
        return generator

    @property
    def takes_argmax(self) -> bool:
        """Whether the next token is simply the likeliest, and nobody asks how likely."""
        return self.takes_likeliest and not self._is_masked

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is the likeliest of those that the mask allows."""
        params = self._params
        return (
            params.is_greedy
            and self._hook is None
            and params.num_logprobs is None
            and not params.logit_bias
            and params.repetition_penalty == 1
            and params.presence_penalty == params.frequency_penalty == 0
            and len(self._completion) >= params.min_tokens
        )

    @property
    def is_complete(self) -> bool:
        """Whether the mask lets nothing follow, so that the completion ends here."""
        return self._mask is not None and self._mask.is_complete

    @property
    def _is_masked(self) -> bool:
        return self._mask is not None and not self._mask.is_free

    def allowed(self) -> bytes | None:
        """Return the mask of the next token; None allows all.

        Raises:
            InvalidRequest: See `TokenMask.allowed`.
        """
        if self._mask is None or self._mask.is_free:
            return None
        return self._mask.allowed()

    def accept(self, token_id: int) -> Choice:
        """Note a token that was chosen without `sample`; only while `takes_likeliest`.

        Raises:
            InvalidRequest: See `TokenMask.allowed`.
        """
        self._note(token_id)
        return Choice(token_id)

    def prepare(self) -> None:
        """Begin with what the next choice needs; see `TokenMask.prepare`."""
        if self._mask is not None and not self._mask.is_free:
            self._mask.prepare()

    def sample(self, logits: torch.Tensor) -> Choice:
        """Choose the next token.

        Args:
            logits: (vocab_size,), float32; not changed.

        Raises:
            EngineFailure: The logits hold NaN, or no token has a finite logit.
            InvalidRequest: See `TokenMask.allowed`.
        """
        if self._hook is not None:
            logits = self._hook(logits, self._completion)
        require_finite(logits)
        token_id = self._draw(*self.distribution(logits))
        self._counts[token_id] += 1
        self._note(token_id)
        num_logprobs = self._params.num_logprobs
        if num_logprobs is None:
            return Choice(token_id)
        return Choice(token_id, report_logprobs(logits, token_id, num_logprobs))

    def distribution(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens that may come next, with weights, as `candidates` does.

        Args:
            logits: (vocab_size,), float32, after the hook.

        Raises:
            EngineFailure: No token is left.
            InvalidRequest: See `TokenMask.allowed`.
        """
        logits = self._penalize(logits)
        allowed = self.allowed()
        if allowed is None:
            return self._weigh(logits)
        token_ids = torch.from_numpy(allowed_ids(allowed, logits.numel())).to(logits.device)
        logits = logits[token_ids]
        if not logits.numel():
            raise EngineFailure("no token may come next in this request")
        require_finite(logits)
        weights, chosen = self._weigh(logits)
        return weights, token_ids[chosen]

    def _weigh(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of some tokens may come, by index, with weights as `candidates` does."""
        if self._params.is_greedy:
            likeliest = logits.argmax(dim=0, keepdim=True)
            return torch.ones_like(likeliest, dtype=logits.dtype), likeliest
        if self._mirostat is None:
            return candidates(logits, self._params)
        probs = scale(logits, self._params.temperature).softmax(dim=-1)
        return self._mirostat.candidates(probs)

    def _note(self, token_id: int) -> None:
        self._completion.append(token_id)
        if self._mask is None or self._mask.is_free or token_id in self._stop_token_ids:
            return
        self._mask.commit(token_id)

    def _draw(self, weights: torch.Tensor, token_ids: torch.Tensor) -> int:
        index = 0
        if token_ids.numel() > 1:
            index = draw(weights, self._generator)
        if self._mirostat is not None:
            self._mirostat.observe(float(weights[index]))
        return int(token_ids[index])

    def _penalize(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply what depends on the tokens so far: bias, penalties, `min_tokens`."""
        params = self._params
        if params.logit_bias:
            logits = _add(logits, params.logit_bias)
        if params.repetition_penalty != 1:
            seen = torch.cat([self._prompt, torch.tensor(self._completion, device=self._device)])
            if params.repetition_window is not None:
                seen = seen[max(0, len(seen) - params.repetition_window) :]
            logits = penalize_repetition(logits, seen.long(), params.repetition_penalty)
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            presence, frequency = params.presence_penalty, params.frequency_penalty
            logits = _add(logits, {t: -presence - n * frequency for t, n in self._counts.items()})
        if len(self._completion) < params.min_tokens and self._stop_token_ids:
            stops = torch.tensor(self._stop_token_ids, device=self._device)
            logits = logits.index_fill(0, stops, -torch.inf)
            require_finite(logits)
        return logits


def draw(weights: torch.Tensor, generator: torch.Generator) -> int:
    """Return an index, drawn in proportion to the weights: one number finds it in their sums.

    `torch.multinomial` draws a number for each weight: twenty times as slow at 49,152 of them.

    Args:
        weights: (num_candidates,), float32, none negative, at least one positive.
        generator: On the device of the weights.
    """
    is_on_mps = weights.device.type == "mps"  # which has no float64
    sums = weights.cumsum(0, dtype=torch.float32 if is_on_mps else torch.float64)
    point = sums[-1] * torch.rand((), generator=generator, dtype=sums.dtype, device=weights.device)
    index = torch.searchsorted(sums, point, right=True)  # never one of weight 0
    return min(int(index), int(torch.searchsorted(sums, sums[-1])))


def require_finite(logits: torch.Tensor) -> None:
    """Raise EngineFailure unless the greatest logit is a finite number."""
    if not math.isfinite(float(logits.max())):
        raise EngineFailure("the model's output for this request is not a number")


def penalize_repetition(
    logits: torch.Tensor, seen_token_ids: torch.Tensor, penalty: float
) -> torch.Tensor:
    """Make seen tokens less likely. Source: arXiv:1909.05858.

    Args:
        logits: (vocab_size,), float32.
        seen_token_ids: (num_seen,), int64, repeats allowed.
        penalty: Above 1 makes repeats rarer, below 1 likelier.

    Returns:
        (vocab_size,), float32.
    """
    seen = logits[seen_token_ids]
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return logits.scatter(0, seen_token_ids, seen)


def scale(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide the logits by a temperature above 0, the greatest being 0 so that none overflows."""
    return (logits - logits.max()) / max(temperature, MIN_TEMPERATURE)


def candidates(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that may be drawn, with weights in proportion to their probability.

    Args:
        logits: (vocab_size,), float32, at least one of them finite.
        params: temperature above 0, top_k, top_p, min_p and typical_p.

    Returns:
        Weights (num_candidates,), float32, not normalized, and ids (num_candidates,), int64.
    """
    scaled = scale(logits, params.temperature)
    if 0 < params.top_k < scaled.numel():
        least = scaled.topk(params.top_k).values[-1]
        token_ids = (scaled >= least).nonzero()[:, 0]  # as many more as are tied with the last
        scaled = scaled[token_ids]
    else:
        token_ids = torch.arange(scaled.numel(), device=scaled.device)
    probs = scaled.softmax(dim=-1)
    if params.top_p < 1:
        probs, order = _nucleus(probs, params.top_p)
        token_ids = token_ids[order]
    if params.min_p > 0:
        likely = probs >= params.min_p * probs.max()
        probs, token_ids = probs[likely], token_ids[likely]
    if params.typical_p < 1:
        typical = _typical(probs / probs.sum(), params.typical_p)
        probs, token_ids = probs[typical], token_ids[typical]
    return probs, token_ids


def report_logprobs(logits: torch.Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Return the log-probabilities of a token and of the likeliest, before any sampling.

    Args:
        logits: (vocab_size,), float32.
        token_id: The chosen one.
        num_top: How many of the likeliest to name.
    """
    return _report_rows(logits[None], [token_id], num_top)[0]


def report_prompt_logprobs(
    logits: torch.Tensor, next_token_ids: Sequence[int], num_top: int
) -> list[TokenLogprobs]:
    """Return `report_logprobs` of several positions of a prompt.

    Args:
        logits: (num_positions, vocab_size), of any precision.
        next_token_ids: The token that follows each position in the prompt.
        num_top: How many of the likeliest to name.

    Raises:
        EngineFailure: The logits hold NaN.
    """
    reports = []
    for start in range(0, len(next_token_ids), ROWS_AT_ONCE):
        token_ids = next_token_ids[start : start + ROWS_AT_ONCE]
        reports += _report_rows(logits[start : start + ROWS_AT_ONCE].float(), token_ids, num_top)
    return reports


def _report_rows(
    logits: torch.Tensor, token_ids: Sequence[int], num_top: int
) -> list[TokenLogprobs]:
    """Return `report_logprobs` of each row of (num_rows, vocab_size), float32."""
    require_finite(logits.amax(dim=-1).sum())
    logprobs = logits.log_softmax(dim=-1).clamp_min(LEAST_LOGPROB)
    chosen = logprobs.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0]
    values, top_token_ids = logprobs.topk(min(num_top, logprobs.shape[1]))
    rows = zip(token_ids, chosen.tolist(), top_token_ids.tolist(), values.tolist(), strict=True)
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(top_ids, top_logprobs, strict=True)))
        for token_id, logprob, top_ids, top_logprobs in rows
    ]


def _add(logits: torch.Tensor, amounts: Mapping[int, float]) -> torch.Tensor:
    """Return the logits with an amount added to each of these token ids."""
    token_ids = torch.tensor(list(amounts), device=logits.device)
    values = torch.tensor(list(amounts.values()), dtype=logits.dtype, device=logits.device)
    return logits.index_add(0, token_ids, values)


def _nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the likeliest tokens until their mass reaches `top_p`; likeliest first."""
    values, order = probs.topk(min(NUCLEUS_PREFILTER, probs.numel()))
    if values.sum() < top_p:
        values, order = probs.sort(descending=True)
    mass_before = values.cumsum(dim=-1) - values
    num_kept = max(1, int((mass_before < top_p).sum()))
    return values[:num_kept], order[:num_kept]


def _typical(probs: torch.Tensor, mass: float) -> torch.Tensor:
    """Return which tokens to keep: those whose surprise is nearest to the expected one.

    A token that is exactly as far from it as the last one is kept too.
    """
    surprise = -probs.log()
    entropy = (probs * surprise).nansum()
    distances, order = (surprise - entropy).abs().sort()
    num_before = int((probs[order].cumsum(dim=-1) < mass).sum())
    return order[distances <= distances[min(num_before, probs.numel() - 1)]]
