"""An engine around an engine: it writes down what happens, and may change it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from palma.core.config import Settings
from palma.core.types import ChatPrompt, Tokenizer
from palma.engine.base import Engine, EngineRequest, EngineStats, Sink, TokenDelta
from palma.engine.mock import MockEngine, MockTokenizer

ChangeRequest = Callable[[EngineRequest, str], EngineRequest]
"""Takes a request and the text of its prompt; returns the request that the engine gets."""

MAX_STEPS_AFTER_CANCEL = 2
"""The step under way when nobody wants it any more, and one that was ordered meanwhile."""


@dataclass
class SpiedRequest:
    """What became of one request.

    Attributes:
        prompt: The text of its prompt.
        num_tokens: Tokens that the engine has made for it.
        num_tokens_at_cancel: How many they were when it was first cancelled.
        finish_reason: How the engine says that it ended.
    """

    prompt: str
    prompt_token_ids: tuple[int, ...]
    num_tokens: int = 0
    num_tokens_at_cancel: int | None = None
    finish_reason: str | None = None

    @property
    def num_tokens_after_cancel(self) -> int:
        """Tokens that were made although nobody wanted them any more."""
        assert self.num_tokens_at_cancel is not None, "it was never cancelled"
        return self.num_tokens - self.num_tokens_at_cancel


@dataclass
class Spy:
    """What `load` gives to a server, and the record of what the server did with it.

    Attributes:
        make_engine: Builds the engine that does the work.
        change_request: Changes requests on their way to it.
        on_token: Called in the engine's thread with each prompt and delta, before it leaves.
        tokenizer: Takes the place of the engine's own.
    """

    make_engine: Callable[[Executor, int], Engine] = MockEngine
    change_request: ChangeRequest = lambda request, prompt: request
    on_token: Callable[[str, TokenDelta], object] = lambda prompt, delta: None
    tokenizer: Tokenizer | None = None
    submitted: list[SpiedRequest] = field(default_factory=list)
    started: list[SpiedRequest] = field(default_factory=list)

    def load(self, settings: Settings, executor: Executor) -> SpyEngine:
        """Make the engine; to be passed to `running_server`."""
        inner = self.make_engine(executor, settings.threads_max_workers)
        return SpyEngine(inner, self)

    def find(self, words: str) -> list[SpiedRequest]:
        """Return the requests whose prompt contains some words, oldest first."""
        return [request for request in list(self.submitted) if words in request.prompt]

    def only(self, words: str) -> SpiedRequest:
        """Return the one request whose prompt contains some words."""
        (request,) = self.find(words)
        return request

    def num_tokens(self, words: str) -> int:
        """Return how many tokens such requests have got."""
        return sum(request.num_tokens for request in self.find(words))


class SpyEngine:
    """Passes everything on to another engine, and reports to a spy."""

    def __init__(self, inner: Engine, spy: Spy) -> None:
        self.info = inner.info
        self.tokenizer = spy.tokenizer or inner.tokenizer
        self._inner = inner
        self._spy = spy
        self._requests: dict[str, SpiedRequest] = {}

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Write the request down and pass it on."""
        token_ids = tuple(request.prompt_token_ids)
        prompt = self.tokenizer.decode(list(token_ids))
        spied = SpiedRequest(prompt, token_ids)
        self._requests[request.request_id] = spied
        self._spy.submitted.append(spied)

        def spying_sink(delta: TokenDelta) -> None:
            if delta.started:
                self._spy.started.append(spied)
            spied.num_tokens += len(delta.token_ids)
            spied.finish_reason = delta.finish_reason
            self._spy.on_token(prompt, delta)
            sink(delta)

        self._inner.submit(self._spy.change_request(request, prompt), spying_sink)

    def cancel(self, request_id: str) -> None:
        """Write down how far the sequence had come, and cancel it."""
        spied = self._requests.get(request_id)
        if spied is not None and spied.num_tokens_at_cancel is None:
            spied.num_tokens_at_cancel = spied.num_tokens
        self._inner.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return the other engine's counts."""
        return self._inner.stats()

    def close(self) -> None:
        """Close the other engine."""
        self._inner.close()


class FailingTokenizer(MockTokenizer):
    """The mock's tokenizer, whose methods raise where a text asks for it.

    Args:
        errors: A method's name and a word, to the error that the method raises on that word.
    """

    def __init__(self, errors: dict[tuple[str, str], Exception]) -> None:
        self._errors = errors

    def render_chat(self, chat: ChatPrompt) -> str:
        """Render, or raise."""
        self._maybe_raise("render_chat", " ".join(message.content for message in chat.messages))
        return super().render_chat(chat)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Encode, or raise."""
        self._maybe_raise("encode", text)
        return super().encode(text, parse_special=parse_special)

    def decode(self, token_ids: list[int]) -> str:
        """Decode, or raise."""
        text = super().decode(token_ids)
        self._maybe_raise("decode", text)
        return text

    def _maybe_raise(self, step: str, text: str) -> None:
        for (failing_step, word), error in self._errors.items():
            if step == failing_step and word in text:
                raise error
