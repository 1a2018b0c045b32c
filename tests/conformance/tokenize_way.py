"""Ways of asking: text to token ids and back."""

from __future__ import annotations

from dataclasses import replace

import httpx

from palma.engine.mock import END_ID, MockTokenizer
from tests.conformance.demonstrations import CAPITALS, changes_the_answer, chooses_the_model
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.live_server import running_server, user
from tests.spy_engine import Spy

CHAT = {"prompt": None, "messages": user("Hello")}
UNFINISHED = {"prompt": None, "messages": [*user("Hello"), {"role": "assistant", "content": "I"}]}


def read(response: httpx.Response) -> Heard:
    """Read token ids, or a text."""
    answer = response.json()
    return Heard((str(answer.get("tokens", answer.get("prompt"))),), raw=answer)


class BeginningTokenizer(MockTokenizer):
    """Wants a control token before a text."""

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text, the control token first."""
        return [END_ID, *super().encode_prompt(text)]


def adds_special_tokens(subject: Subject, name: str) -> None:
    """What a model wants before a text; palmita wants nothing."""
    with running_server(load=Spy(tokenizer=BeginningTokenizer()).load) as server:
        other = replace(subject, server=server)
        tokens = [other.hear({"model": None, name: value}).raw["tokens"] for value in (True, False)]

    assert tokens[0] == [END_ID, *tokens[1]]


def leaves_the_final_message_open(subject: Subject, name: str) -> None:
    """The prompt ends in it, and not with the beginning of a turn."""
    opened = {"continue_final_message": True, "add_generation_prompt": False}
    closed = subject.hear(UNFINISHED).raw["tokens"]

    tokens = subject.hear(UNFINISHED, opened).raw["tokens"]

    assert tokens == closed[: len(tokens)]
    assert len(tokens) < len(closed)
    assert subject.send({**UNFINISHED, **opened, name: not opened[name]}).status_code == 400


def tells_the_texts(subject: Subject, name: str) -> None:
    """Of the tokens, one by one."""
    assert "".join(subject.hear({name: True}).raw["token_strs"]) == subject.way.body["prompt"]
    assert subject.hear({name: False}).raw["token_strs"] is None


TOKENIZE: dict[str, Demonstration] = {
    "model": chooses_the_model,
    "prompt": changes_the_answer("Hello", CAPITALS),
    "messages": changes_the_answer(user("Hello"), user(CAPITALS), beside=CHAT),
    "messages.*.role": changes_the_answer("user", "assistant", beside=CHAT),
    "messages.*.content": changes_the_answer("Hello", CAPITALS, beside=CHAT),
    "add_special_tokens": adds_special_tokens,
    "add_generation_prompt": leaves_the_final_message_open,
    "continue_final_message": leaves_the_final_message_open,
    "return_token_strs": tells_the_texts,
}

DETOKENIZE: dict[str, Demonstration] = {
    "model": chooses_the_model,
    "tokens": changes_the_answer([300, 301], [400]),
}

WAYS = {
    "/tokenize": Way(
        {"model": "palmita", "prompt": "Who are you?"},
        read,
        TOKENIZE,
        asks="prompt",
        greedy={},
        around={"messages": CHAT},
    ),
    "/detokenize": Way(
        {"model": "palmita", "tokens": [300, 301]}, read, DETOKENIZE, asks="tokens", greedy={}
    ),
}
