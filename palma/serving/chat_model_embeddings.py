"""Embeddings by a chat model: the engine reads each text, and says the mean of its states."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from palma.core.errors import EngineFailure, RequestCancelled
from palma.core.types import SamplingParams
from palma.engine.base import Engine, EngineRequest, TokenDelta
from palma.engine.encoders import Encoding
from palma.serving.encoder_turns import Input, check_encoding
from palma.serving.prompt import refuse_hopeless_length

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ONLY_READ = SamplingParams(max_tokens=0)


async def embed_by_engine(
    engine: Engine, executor: Executor, engine_id: str, inputs: Sequence[Input], *, param: str
) -> tuple[list[NDArray[np.float32]], int]:
    """Return the embedding of each input, and how many tokens they have together.

    One input after the other takes its place among the engine's sequences, so that the many
    inputs of one request do not stand before everybody else's. None is computed before all have
    been found to fit.

    Raises:
        InvalidRequest: An input does not fit, or is no input.
    """
    loop = asyncio.get_running_loop()
    prompts = []
    for number, text in enumerate(inputs):
        name = f"{param}[{number}]"
        prompts.append(await loop.run_in_executor(executor, _encode, engine, text, name, param))
    vectors = [await _read(engine, engine_id, prompt) for prompt in prompts]
    return vectors, sum(map(len, prompts))


def _encode(engine: Engine, text: Input, name: str, param: str) -> Sequence[int]:
    info, tokenizer = engine.info, engine.tokenizer
    if isinstance(text, str):
        refuse_hopeless_length(len(text), tokenizer.max_token_chars, info.max_model_len, param)
    token_ids = tokenizer.encode_prompt(text) if isinstance(text, str) else text
    check_encoding(
        Encoding(token_ids),
        name,
        vocab_size=info.vocab_size,
        max_tokens=info.max_model_len,
        param=param,
    )
    return token_ids


async def _read(engine: Engine, engine_id: str, prompt: Sequence[int]) -> NDArray[np.float32]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[NDArray[np.float32]] = loop.create_future()
    found: list[NDArray[np.float32]] = []

    def sink(delta: TokenDelta) -> None:
        if delta.embedding is not None:
            found.append(delta.embedding)
        if delta.finish_reason is not None:
            loop.call_soon_threadsafe(_settle, answer, found, delta)

    engine.submit(EngineRequest(engine_id, prompt, ONLY_READ, wants_embedding=True), sink)
    try:
        return await answer
    finally:
        engine.cancel(engine_id)  # harmless when it has ended


def _settle(
    answer: asyncio.Future[NDArray[np.float32]],
    found: list[NDArray[np.float32]],
    last: TokenDelta,
) -> None:
    if answer.done():
        return
    if found and last.finish_reason == "length":
        answer.set_result(found[0])
    elif last.finish_reason == "cancelled":
        answer.set_exception(RequestCancelled("the request was cancelled"))
    else:
        answer.set_exception(last.error or EngineFailure("the engine made no embedding"))
