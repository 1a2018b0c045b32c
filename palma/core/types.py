"""The values that travel between the rooms: messages, sampling parameters, requests, chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from palma.core.errors import InvalidRequest

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
AnswerEnd = Literal["stop", "length", "tool_calls"]
"""How an answer ends when nothing goes wrong: with `tool_calls` it waits for their results."""

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of the client's that a model may call.

    Attributes:
        name: 1 to 64 letters, digits, underscores and hyphens.
        description: What it does, for the model to read.
        parameters: The JSON schema of its arguments, an object's, as JSON text.
    """

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made.

    Attributes:
        call_id: What its result refers to.
        name: Of the tool.
        arguments: A JSON object, as text.
    """

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Whose turn it is; `tool` brings the result of a call.
        content: Its text.
        tool_calls: The calls that an assistant's turn ends with.
        tool_call_id: The call whose result a tool's turn brings.
        reasoning: What the assistant thought before it answered.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a chat template renders.

    Attributes:
        messages: The conversation, at least one message.
        tools: What the model is told that it may call.
        continue_final_message: See `GenerationRequest`.
        enable_thinking: Asks a model that can do both to think before it answers, or not to; None
            leaves it to its template.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    continue_final_message: bool = False
    enable_thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which tools an answer may call.

    Attributes:
        tools: All of them, at least one; names differ.
        choice: `none` calls nothing, `auto` leaves it to the model, `required` calls at least one.
        name: With `required`: the one to call.
        parallel: Whether one answer may make several calls.
        param: The request field that names the tools.
    """

    tools: tuple[Tool, ...]
    choice: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    parallel: bool = True
    param: str = "tools"


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model thinks before it answers.

    Attributes:
        enabled: See `ChatPrompt.enable_thinking`.
        budget: Most tokens of thinking; the answer then begins. None is no bound but max_tokens.
        template: An XML text with `{placeholders}` to be filled first, as gallama has it; empty
            for none.
        param: The request field that bounds or guides it.
        switch_param: The request field that turns it on or off.
    """

    enabled: bool | None = None
    budget: int | None = None
    template: str = ""
    param: str = "thinking_template"
    switch_param: str = "reasoning_effort"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, and when to stop.

    Attributes:
        max_tokens: Most completion tokens; 0 only reads the prompt, None means as many as the
            window holds.
        min_tokens: Completion tokens before which no stop token may come, from 0 to max_tokens.
        temperature: Divides the logits, in [0, 100]; 0 means greedy.
        top_p: Probability mass to keep, in (0, 1]. Source: arXiv:1904.09751.
        top_k: Number of likeliest tokens to keep; 0 keeps all. Source: arXiv:1805.04833.
        min_p: Least probability to keep, as a share of the likeliest token's, in [0, 1].
            Source: arXiv:2407.01082.
        typical_p: Mass of the most typical tokens to keep, in (0, 1]. Source: arXiv:2202.00666.
        repetition_penalty: Divides positive logits of tokens already seen and multiplies
            negative ones, in [0.01, 100]; 1 is off. Source: arXiv:1909.05858.
        repetition_window: How many of the latest tokens, prompt included, count as seen; None
            means all of them.
        presence_penalty: Taken from the logit of every token of the completion so far, in
            [-2, 2]. Source: OpenAI's API reference.
        frequency_penalty: The same, once for each time the token occurred, in [-2, 2].
        logit_bias: Added to the logits of these token ids, each in [-100, 100].
        text_bias: The same for every token of these texts; serving moves it into `logit_bias`.
        stop_token_ids: More tokens that end the completion, beside the model's own.
        ignore_eos: Whether the model's own stop tokens are decoded like any other.
        num_logprobs: Likeliest tokens to report beside the chosen one, in [0, 20]; None reports
            nothing.
        mirostat: 1 or 2 keeps each token's surprise near a target and replaces top-k, top-p,
            min-p and typical; 0 is off. Source: arXiv:2007.14966.
        mirostat_tau: The target surprise in bits, in [0, 100].
        mirostat_eta: How fast it is approached, in [0, 1].
        seed: Start of the request's own random generator; None takes one from the system.

    Raises:
        InvalidRequest: A value lies outside its range.
    """

    max_tokens: int | None = 256
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    repetition_window: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    text_bias: Mapping[str, float] = field(default_factory=dict)
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    num_logprobs: int | None = None
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN is in no range
                raise InvalidRequest(
                    f"{name} must be {_words(low, high)}, found {value!r}", param=name
                )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, and there is room for {self.max_tokens} tokens "
                "at most; ask for fewer, or send a greater bound",
                param="min_tokens",
            )
        for token, bias in (*self.logit_bias.items(), *self.text_bias.items()):
            if not -100 <= bias <= 100:
                raise InvalidRequest(
                    f"logit_bias of token {token!r} must be from -100 to 100, found {bias!r}",
                    param="logit_bias",
                )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "max_tokens": (0, math.inf),
        "min_tokens": (0, math.inf),
        "temperature": (0, 100),
        "top_p": (math.ulp(0), 1),
        "top_k": (0, math.inf),
        "min_p": (0, 1),
        "typical_p": (math.ulp(0), 1),
        "repetition_penalty": (0.01, 100),
        "repetition_window": (0, math.inf),
        "presence_penalty": (-2, 2),
        "frequency_penalty": (-2, 2),
        "num_logprobs": (0, 20),
        "mirostat": (0, 2),
        "mirostat_tau": (0, 100),
        "mirostat_eta": (0, 1),
        "seed": (-MAX_SEED - 1, MAX_SEED),
    }
)
"""Least and greatest allowed value of the numeric sampling parameters."""


def _words(low: float, high: float) -> str:
    least = "greater than 0" if low == math.ulp(0) else f"at least {low:g}"
    return least if high == math.inf else f"{least} and at most {high:g}"


ConstraintKind = Literal[
    "json_object",
    "json_schema",
    "grammar",
    "regex",
    "choice",
    "regex_prefix",
    "prefix_strings",
    "tools",
    "thinking",
]

MAX_CONSTRAINT_CHARS = 256 * 1024
"""A schema, a regular expression, a grammar, a list of choices."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A form that an answer must have.

    Attributes:
        kind: `regex_prefix` and `prefix_strings` bind the answer's beginning, the others all of it.
        text: A JSON schema; a Lark grammar; a regular expression; or a JSON list of strings, one
            of which it must be or begin with. Empty for `json_object`. What serving makes of tools
            and of a thinking template.
        param: The request field that asked for it.

    Raises:
        InvalidRequest: The text is longer than MAX_CONSTRAINT_CHARS.
    """

    kind: ConstraintKind
    text: str
    param: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_CONSTRAINT_CHARS:
            raise InvalidRequest(
                f"{self.param} has {len(self.text)} characters, and at most "
                f"{MAX_CONSTRAINT_CHARS} are taken",
                param=self.param,
            )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asked for, in no dialect.

    Attributes:
        request_id: Also the id in the log and in the `x-request-id` header.
        model: The model asked for; None means the default one.
        messages: The conversation, at least one message; empty when there is a `prompt`.
        prompt: Raw text or token ids to continue as they are, instead of a conversation.
        plain_prompt: Raw text to continue instead of the conversation where the model has no chat
            template of its own.
        echo: Whether the answer begins with the prompt, its log-probabilities included when
            those are asked for. Only with a `prompt`.
        scores_end_token: Whether the log-probabilities, if asked for, end with that of the end
            token, which is no text.
        sampling_params: How to sample.
        continue_final_message: Whether the answer goes on where the last message ends, instead of
            being a turn of its own; that message is the assistant's.
        stop: Strings that end the answer and do not appear in it.
        constraints: Forms that the answer must have, all of them at once.
        tool_use: What the answer may call; None for nothing.
        thinking: How the model thinks before it answers.
        max_tokens_is_default: True when the client did not name `max_tokens`: the bound then
            shrinks to what the window holds instead of being refused.
        max_model_len: A window smaller than the model's; None means the model's.
        num_fixed_messages: So many first messages stay when those after them are dropped, oldest
            first, until the rest fits; None drops nothing and refuses what does not fit.
        queue_timeout_s: Longest wait for a worker before the request is dropped.
        param: The request field that the conversation, or the prompt, comes from; None means the
            one of the same name.
    """

    request_id: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    plain_prompt: str | None = None
    echo: bool = False
    scores_end_token: bool = False
    continue_final_message: bool = False
    model: str | None = None
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    tool_use: ToolUse | None = None
    thinking: Thinking = field(default_factory=Thinking)
    max_tokens_is_default: bool = False
    max_model_len: int | None = None
    num_fixed_messages: int | None = None
    queue_timeout_s: float | None = None
    param: str | None = None

    @property
    def prompt_param(self) -> str:
        """The request field that errors about the prompt name."""
        return self.param or ("messages" if self.prompt is None else "prompt")


@dataclass(frozen=True, slots=True)
class Usage:
    """Measured token counts of one request; the end token counts as a completion token.

    The reasoning tokens are among the completion tokens.
    """

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0
    num_reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token as clients see it.

    Attributes:
        token_id: Its id.
        text: What it decodes to by itself; bytes that are no character alone are U+FFFD.
        utf8: Its bytes, which may be half a character's.
        logprob: Natural log-probability before any sampling; -9999 stands for minus infinity,
            None for a prompt's first token, which follows nothing.
    """

    token_id: int
    text: str
    utf8: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of the answer, and the likeliest ones in its place.

    Attributes:
        token: The one that stands there.
        top: The likeliest ones, likeliest first.
        text_offset: How many characters of the answer come before its text.
    """

    token: TokenText
    top: tuple[TokenText, ...] = ()
    text_offset: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call on its way to the client.

    Attributes:
        index: Which of the answer's calls, from 0.
        call_id: Its id, in its first piece.
        name: The tool's whole name, in its first piece.
        arguments: What has been added to the JSON text of the arguments.
    """

    index: int
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of the answer on its way to the client: whole UTF-8 characters.

    The last chunk of an answer, and only that one, has a finish_reason and the usage, and the stop
    string or the spelling of the stop token that ended it. The scored tokens, if asked for, are
    those whose text begins in this piece. In the order in which they came, a chunk's reasoning is
    before its text, and its text before its calls.
    """

    text: str
    finish_reason: AnswerEnd | None = None
    usage: Usage | None = None
    scored_tokens: tuple[ScoredToken, ...] = ()
    stop_string: str | None = None
    stop_token: str | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


class Tokenizer(Protocol):
    """Text to token ids and back. Every method may be called from any thread."""

    special_tokens: tuple[str, ...]
    """Strings that `encode` turns into control tokens when `parse_special` is set."""

    chat_template: str
    """The model's own, in Jinja; empty where it has none."""

    max_token_chars: int
    """Length of the longest token in characters: a bound on what one token can stand for."""

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of `text`; nothing is added at its ends."""

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a raw prompt: with what the model wants at its ends (as BOS)."""

    def definition(self) -> str | None:
        """Return the text of its `tokenizer.json`; None where it cannot be written as one."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that one token stands for, a control token's spelling too."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of the ids, control tokens left out."""

    def decode_prompt(self, token_ids: list[int]) -> str:
        """Return the text of the ids, control tokens spelled as `encode_prompt` takes them."""

    def render_chat(self, chat: ChatPrompt) -> str:
        """Return the prompt text that asks for the next assistant turn, or for the last one's rest.

        Tools, calls and results go into it as far as the template knows them.

        Raises:
            ChatTemplateRejected: The template does not accept these messages, or cannot leave the
                last one open.
        """
