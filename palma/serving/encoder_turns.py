"""Who computes next with an encoder: one batch at a time, in turn, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeVar

from palma.core.errors import ContextLengthExceeded, InvalidRequest
from palma.engine.encoders import Encoder, Encoding, plan_batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

Input = str | tuple[int, ...]
"""A text, or its token ids."""

HEAD_CHARS_PER_TOKEN = 32
"""A text is taken for huge from twice as many characters for each token that fits."""

MAX_CHARS_AT_ONCE = 100_000
"""Text that is tokenized in one turn, unless one input is longer."""


class EncoderTurns:
    """Gives the encoders' one thread to jobs in turn.

    A small job passes between the batches of a large one; one that is cancelled stops after the
    batch that it computes.

    Args:
        executor: Has a thread for this beside those that generate.
        note_busy: Is told 1 when a turn begins and -1 when it ends.
    """

    def __init__(self, executor: Executor, note_busy: Callable[[int], None]) -> None:
        self._executor = executor
        self._note_busy = note_busy
        self._lock = asyncio.Lock()  # first come, first served

    async def encode(
        self, encoder: Encoder, inputs: Sequence[tuple[Input, ...]], *, param: str
    ) -> list[Encoding]:
        """Tokenize inputs, each of which is a text or a pair of texts.

        Raises:
            ContextLengthExceeded: One has more tokens than the model takes.
            InvalidRequest: One has no tokens, or some outside the vocabulary.
        """
        encodings: list[Encoding] = []
        for part in _slices(inputs):
            encodings += await self._run(_encode_all, encoder, part, len(encodings), param)
        return encodings

    async def compute(
        self, encoder: Encoder, encodings: Sequence[Encoding]
    ) -> list[NDArray[np.float32]]:
        """Return the numbers of each input, in the order of the inputs."""
        lengths = [len(encoding.token_ids) for encoding in encodings]
        rows: dict[int, NDArray[np.float32]] = {}
        for batch in plan_batches(lengths, encoder.info.max_batch_tokens):
            numbers = await self._run(encoder.compute, [encodings[i] for i in batch])
            rows |= zip(batch, numbers, strict=True)
        return [rows[i] for i in range(len(rows))]

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        async with self._lock:
            self._note_busy(1)
            work = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])  # the thread cannot be stopped: the turn is not over
                work.exception()
                raise
            finally:
                self._note_busy(-1)


def check_encoding(
    encoding: Encoding, name: str, *, vocab_size: int, max_tokens: int, param: str
) -> None:
    """Refuse what a model cannot read.

    Args:
        encoding: The input as tokens.
        name: What the message calls it.
        vocab_size: Ids lie in [0, vocab_size).
        max_tokens: Most tokens that the model takes.
        param: The field of the request.

    Raises:
        ContextLengthExceeded: There are more.
        InvalidRequest: There are none, or some outside the vocabulary.
    """
    token_ids = encoding.token_ids
    if not token_ids:
        raise InvalidRequest(f"{name} is empty; send at least one character", param=param)
    if len(token_ids) > max_tokens:
        raise ContextLengthExceeded(
            f"{name} has {len(token_ids)} tokens, and this model takes at most {max_tokens}. "
            "Send less, or in parts.",
            param=param,
        )
    if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        outside = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise InvalidRequest(
            f"{name} has the token id {outside}, which is outside the vocabulary: ids go from 0 "
            f"to {vocab_size - 1}",
            param=param,
        )


def _encode_all(
    encoder: Encoder, inputs: Iterable[tuple[Input, ...]], first_number: int, param: str
) -> list[Encoding]:
    info = encoder.info
    encodings = []
    for number, parts in enumerate(inputs, start=first_number):
        name = f"{param}[{number}]"
        texts = [part for part in parts if isinstance(part, str)]
        ids = [part for part in parts if not isinstance(part, str)]
        _refuse_huge(encoder, texts, name, param)
        encoding = Encoding(ids[0]) if ids else encoder.encode(*texts)
        check_encoding(
            encoding,
            name,
            vocab_size=info.vocab_size,
            max_tokens=info.max_input_tokens,
            param=param,
        )
        encodings.append(encoding)
    return encodings


def _refuse_huge(encoder: Encoder, texts: Sequence[str], name: str, param: str) -> None:
    """Refuse a text whose beginning is too long already: megabytes take seconds to tokenize.

    Where a beginning is cut off, its last tokens may be others; twice too many leave no doubt.
    """
    max_tokens = encoder.info.max_input_tokens
    max_chars = HEAD_CHARS_PER_TOKEN * max_tokens
    if all(len(text) <= 2 * max_chars for text in texts):
        return
    num_tokens = len(encoder.encode(*(text[:max_chars] for text in texts)).token_ids)
    if num_tokens > 2 * max_tokens:
        raise ContextLengthExceeded(
            f"{name} has more than {num_tokens} tokens, and this model takes at most "
            f"{max_tokens}. Send less, or in parts.",
            param=param,
        )


def _slices(inputs: Sequence[tuple[Input, ...]]) -> Iterator[list[tuple[Input, ...]]]:
    """Cut a list of inputs into parts of bounded length."""
    part: list[tuple[Input, ...]] = []
    num_chars = 0
    for parts in inputs:
        length = sum(map(len, parts))
        if part and num_chars + length > MAX_CHARS_AT_ONCE:
            yield part
            part, num_chars = [], 0
        part.append(parts)
        num_chars += length
    if part:
        yield part
