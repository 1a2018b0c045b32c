"""How Llama Stack's requests say to sample: by a strategy, or by the numbers alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from palma.api.dialects.llama_stack.turns import StrictBody
from palma.api.fields import MaxTokens, SamplingBody, TopP
from palma.core.errors import InvalidRequest
from palma.core.types import SamplingParams

DEFAULT_MAX_TOKENS = 100
DEFAULT_TOP_P = 0.95
"""Of the strategy `top_p`, as Llama Stack has it."""


class GreedyStrategy(StrictBody):
    """Take the likeliest token."""

    type: Literal["greedy"]


class TopPStrategy(StrictBody):
    """Draw from the likeliest tokens that have this share of the probability."""

    type: Literal["top_p"]
    temperature: Annotated[float, Field(gt=0, le=2)] | None = None
    top_p: TopP | None = None


class TopKStrategy(StrictBody):
    """Draw from so many likeliest tokens."""

    type: Literal["top_k"]
    top_k: Annotated[int, Field(ge=1)] | None = None


Strategy = Annotated[GreedyStrategy | TopPStrategy | TopKStrategy, Field(discriminator="type")]


def _as_object(strategy: Any) -> Any:
    """Take a bare name, as in the API's first versions: its numbers stand beside it."""
    return {"type": strategy} if isinstance(strategy, str) else strategy


class SamplingParamsBody(SamplingBody):
    """How the next token is chosen: by a strategy, or by the numbers alone."""

    strategy: Annotated[Strategy, BeforeValidator(_as_object)] | None = None
    max_tokens: MaxTokens | None = None


def sampling_params(body: SamplingParamsBody, num_logprobs: int | None) -> SamplingParams:
    """Say in the sampler's words what was asked for.

    Raises:
        InvalidRequest: A number contradicts the strategy.
    """
    numbers = body.model_copy(update=_strategy_numbers(body))
    reported = {} if num_logprobs is None else {"num_logprobs": num_logprobs}
    return numbers.sampling_params(body.max_tokens or DEFAULT_MAX_TOKENS, **reported)


def _strategy_numbers(body: SamplingParamsBody) -> dict[str, Any]:
    """Say in the sampler's words what the strategy says.

    Without a strategy, and without any of the numbers, the likeliest token is taken: so it is in
    Llama Stack, and in the API that this one follows.
    """
    strategy = body.strategy
    if isinstance(strategy, GreedyStrategy):
        if body.temperature not in (None, 0, 1):
            param = "sampling_params.temperature"
            raise InvalidRequest(f"{param} has no effect with the strategy greedy", param=param)
        return {"temperature": 0.0}
    if isinstance(strategy, TopPStrategy):
        temperature = _agreed("temperature", strategy.temperature, body.temperature)
        top_p = _agreed("top_p", strategy.top_p, body.top_p)
        return {"temperature": temperature, "top_p": DEFAULT_TOP_P if top_p is None else top_p}
    if isinstance(strategy, TopKStrategy):
        top_k = _agreed("top_k", strategy.top_k, body.top_k)
        if not top_k:
            param = "sampling_params.strategy.top_k"
            raise InvalidRequest(f"{param} is missing", param=param)
        return {"top_k": top_k}
    is_silent = (body.temperature, body.top_p, body.top_k, body.min_p) == (None,) * 4
    return {"temperature": 0.0} if is_silent else {}


def _agreed(name: str, of_strategy: float | None, beside_it: float | None) -> float | None:
    """Return the number that stands in the strategy, beside it, or, the same, in both places."""
    if of_strategy is None:
        return beside_it
    if beside_it not in (None, of_strategy):
        param = f"sampling_params.{name}"
        raise InvalidRequest(f"{param} and the strategy's differ; send only one", param=param)
    return of_strategy
