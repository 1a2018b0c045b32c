"""An engine without a model: everything above it runs as it would, and torch is not imported.

For tests, for load balancers' rehearsals and for measuring what HTTP itself costs. It reads its
orders from the last message, which may be a tool's result, or from the raw prompt: `count to N`
answers `1 2 3 ... N `, one number a token; `say TEXT` answers TEXT, one byte a token; `fail after
N` breaks after N tokens; anything else is `count to 10`. `slowly` anywhere in the message makes
each token take 20 ms.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Executor

from palma.core.errors import EngineFailure
from palma.core.types import ChatPrompt, FinishReason
from palma.engine.base import (
    EngineInfo,
    EngineRequest,
    EngineStats,
    Sink,
    TokenDelta,
    TokenLogprobs,
    check_request,
)
from palma.engine.mock_vectors import mock_vector
from palma.engine.thread_scheduler import Sequence, ThreadScheduler

NUM_BYTES = 256
END_ID = NUM_BYTES
END_TOKEN = "<|eot_id|>"
FIRST_NUMBER_ID = END_ID + 1
VOCAB_SIZE = 200_000
MAX_MODEL_LEN = 131_072
SLOW_STEP_S = 0.02


class MockTokenizer:
    """A token a byte, one control token, and a token for each number with a space behind it."""

    special_tokens: tuple[str, ...] = (END_TOKEN,)
    chat_template = "{role}: {content}"
    max_token_chars = len(END_TOKEN)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return one id a byte; `<|eot_id|>` is one id when `parse_special` is set."""
        parts = text.split(END_TOKEN) if parse_special else [text]
        token_ids = list(parts[0].encode())
        for part in parts[1:]:
            token_ids.append(END_ID)
            token_ids.extend(part.encode())
        return token_ids

    def encode_prompt(self, text: str) -> list[int]:
        """Return one id a byte, control tokens parsed; nothing is added."""
        return self.encode(text, parse_special=True)

    def definition(self) -> str | None:
        """Return None: there is no `tokenizer.json` of it."""
        return None

    def token_bytes(self, token_id: int) -> bytes:
        """Return the byte, the number with its space, or the spelling of the control token."""
        if token_id == END_ID:
            return END_TOKEN.encode()
        is_byte = token_id < NUM_BYTES
        return bytes([token_id]) if is_byte else b"%d " % (token_id - FIRST_NUMBER_ID)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text; bytes that are no UTF-8 become U+FFFD."""
        pieces = bytearray()
        for token_id in token_ids:
            if token_id < NUM_BYTES:
                pieces.append(token_id)
            elif token_id >= FIRST_NUMBER_ID:
                pieces += b"%d " % (token_id - FIRST_NUMBER_ID)
        return pieces.decode(errors="replace")

    def decode_prompt(self, token_ids: list[int]) -> str:
        """Return the text of the ids, control tokens spelled out."""
        return b"".join(map(self.token_bytes, token_ids)).decode(errors="replace")

    def render_chat(self, chat: ChatPrompt) -> str:
        """Return each turn as `role: content` and the end token."""
        turns = [f"{message.role}: {message.content}{END_TOKEN}" for message in chat.messages]
        text = "".join(turns)
        return text.removesuffix(END_TOKEN) if chat.continue_final_message else text + "assistant: "


class MockEngine:
    """Answers without a model, through the same queue and threads as the threads engine."""

    def __init__(
        self, executor: Executor, max_running: int, max_model_len: int | None = None
    ) -> None:
        self.info = EngineInfo(
            engine="mock",
            vocab_size=VOCAB_SIZE,
            max_model_len=min(MAX_MODEL_LEN, max_model_len or MAX_MODEL_LEN),
            device="none",
            dtype="none",
            device_reason="the mock engine computes nothing",
            engine_reason="it was asked for",
            stop_token_ids=frozenset({END_ID}),
            embeddings="made up by the mock engine",
        )
        self.tokenizer = MockTokenizer()
        self._scheduler = ThreadScheduler(self._decode, executor, max_running)

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Queue a sequence; see `Engine.submit`."""
        check_request(request, self.info)
        self._scheduler.submit(request, sink)

    def cancel(self, request_id: str) -> None:
        """End a sequence; see `Engine.cancel`."""
        self._scheduler.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Cancel everything and wait for the running steps."""
        self._scheduler.close()

    def _decode(self, sequence: Sequence) -> FinishReason:
        order = self._last_message(sequence.request)
        step_s = SLOW_STEP_S if "slowly" in order else 0.0
        params = sequence.request.sampling_params
        if sequence.request.wants_prompt_logprobs:
            prompt = sequence.request.prompt_token_ids
            reports = tuple(_certain(token_id, params.num_logprobs) for token_id in prompt[1:])
            sequence.emit(TokenDelta(prompt_logprobs=reports))
        if sequence.request.wants_embedding:
            return self._embed(sequence, step_s)
        if params.max_tokens == 0:
            return "length"
        for num_tokens, token_id in enumerate(answer(order), start=1):
            if sequence.cancelled.is_set():
                return "cancelled"
            time.sleep(step_s)
            wants_logprobs = params.num_logprobs is not None
            logprobs = (_certain(token_id, params.num_logprobs),) if wants_logprobs else ()
            sequence.emit(TokenDelta(token_ids=(token_id,), logprobs=logprobs))
            if token_id == END_ID:
                return "stop"
            if num_tokens == params.max_tokens:
                break
        return "length"

    def _embed(self, sequence: Sequence, step_s: float) -> FinishReason:
        """Say the embedding of the prompt, after a step for each of its tokens."""
        token_ids = sequence.request.prompt_token_ids
        for _ in token_ids if step_s else ():
            time.sleep(step_s)
            if sequence.cancelled.is_set():
                return "cancelled"
        sequence.emit(TokenDelta(embedding=mock_vector(token_ids)))
        return "length"

    def _last_message(self, request: EngineRequest) -> str:
        turn = self.tokenizer.decode(_last_turn(request))
        text = turn.partition(": ")[2] or turn
        return text.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")


def _certain(token_id: int, num_logprobs: int | None) -> TokenLogprobs:
    """The mock engine never hesitates: no token has a rival."""
    return TokenLogprobs(token_id, 0.0, ((token_id, 0.0),) if num_logprobs else ())


def answer(order: str) -> Iterator[int]:
    """Yield the token ids of the answer to an order, the end token last."""
    if said := re.search(r"\bsay (.*)", order, re.DOTALL):
        yield from said[1].encode()
    elif failing := re.search(r"\bfail after (\d+)", order):
        yield from range(FIRST_NUMBER_ID + 1, FIRST_NUMBER_ID + 1 + int(failing[1]))
        raise EngineFailure("the mock engine was asked to fail")
    else:
        counted = re.search(r"\bcount to (\d+)", order)
        last = int(counted[1]) if counted else 10
        yield from range(FIRST_NUMBER_ID + 1, FIRST_NUMBER_ID + 1 + last)
    yield END_ID


def _last_turn(request: EngineRequest) -> list[int]:
    """Return the ids between the last two end tokens: the last message of the conversation."""
    token_ids = list(request.prompt_token_ids)
    ends = [i for i, token_id in enumerate(token_ids) if token_id == END_ID]
    if not ends:
        return token_ids
    start = ends[-2] + 1 if len(ends) > 1 else 0
    return token_ids[start : ends[-1]]
