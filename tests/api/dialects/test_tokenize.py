"""vLLM's /tokenize and /detokenize: what a request for an answer would count."""

from __future__ import annotations

from typing import Any

import pytest

from palma.engine.mock import END_ID, MockTokenizer
from tests.live_server import LiveServer, running_server, user
from tests.spy_engine import Spy
from tests.test_served_palmita import model_and_tokenizer

TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
TEXT = "Ahoy <|eot_id|> ½ 🏴‍☠️"


def tokenize(server: LiveServer, **body: Any) -> dict[str, Any]:
    response = server.post(TOKENIZE, body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(server: LiveServer, path: str, body: dict[str, Any], param: str) -> str:
    response = server.post(path, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    message: str = error["message"]
    return message


def test_a_text_becomes_the_tokenizers_own_ids_and_comes_back(palmita_server: LiveServer) -> None:
    _, tokenizer = model_and_tokenizer()

    answer = tokenize(palmita_server, model="palmita", prompt=TEXT)

    assert answer["tokens"] == tokenizer.encode(TEXT)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 2048
    assert answer["token_strs"] is None
    back = palmita_server.post(DETOKENIZE, {"tokens": answer["tokens"]})
    assert back.json() == {"prompt": TEXT}


def test_a_conversation_counts_as_the_same_chat_request_does(palmita_server: LiveServer) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello <|eot_id|>"}]},
    ]

    answer = tokenize(palmita_server, messages=messages)

    body = {"model": "palmita", "messages": messages, "max_tokens": 1}
    usage = palmita_server.post("/v1/chat/completions", body).json()["usage"]
    assert answer["count"] == usage["prompt_tokens"]


def test_a_final_message_may_be_continued(palmita_server: LiveServer) -> None:
    messages = [*user("Hello"), {"role": "assistant", "content": "Ahoy"}]
    continued = {"continue_final_message": True, "add_generation_prompt": False}

    tokens = tokenize(palmita_server, messages=messages, **continued)["tokens"]

    text = palmita_server.post(DETOKENIZE, {"tokens": tokens}).json()["prompt"]
    assert text.endswith("Ahoy")


def test_token_strs_are_the_tokens_texts(mock_server: LiveServer) -> None:
    answer = tokenize(mock_server, prompt="hé<|eot_id|>", return_token_strs=True)

    assert answer["tokens"] == [*"hé".encode(), 256]
    assert answer["token_strs"] == ["h", "\ufffd", "\ufffd", "<|eot_id|>"]


def test_special_tokens_are_added_to_a_text_unless_the_client_says_no() -> None:
    class BeginningTokenizer(MockTokenizer):
        def encode_prompt(self, text: str) -> list[int]:
            return [END_ID, *super().encode_prompt(text)]

    with running_server(load=Spy(tokenizer=BeginningTokenizer()).load) as server:
        assert tokenize(server, prompt="a")["tokens"] == [END_ID, 97]
        assert tokenize(server, prompt="a", add_special_tokens=True)["tokens"] == [END_ID, 97]
        assert tokenize(server, prompt="a", add_special_tokens=False)["tokens"] == [97]
        assert tokenize(server, prompt="")["tokens"] == [END_ID]


def test_an_empty_text_has_no_tokens(mock_server: LiveServer) -> None:
    assert tokenize(mock_server, prompt="")["count"] == 0
    assert mock_server.post(DETOKENIZE, {"tokens": []}).json() == {"prompt": ""}


def test_a_text_longer_than_the_window_is_counted_unless_it_is_hopeless() -> None:
    with running_server(max_model_len=16) as server:
        assert tokenize(server, prompt="x" * 100)["count"] == 100
        message = refused(server, TOKENIZE, {"prompt": "x" * 1000}, "prompt")
        assert "16 tokens" in message


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("prompt", {}),
        ("prompt", {"messages": None, "prompt": None}),
        ("messages", {"messages": []}),
        ("messages", {"prompt": "a", "messages": user("a")}),
        ("prompt", {"prompt": ["a"]}),
        ("add_special_tokens", {"messages": user("a"), "add_special_tokens": True}),
        ("add_generation_prompt", {"messages": user("a"), "add_generation_prompt": False}),
        ("add_generation_prompt", {"messages": user("a"), "continue_final_message": True}),
        ("add_generation_prompt", {"prompt": "a", "add_generation_prompt": True}),
        (
            "continue_final_message",
            {
                "messages": user("a"),
                "continue_final_message": True,
                "add_generation_prompt": False,
            },
        ),
        ("chat_template", {"messages": user("a"), "chat_template": "{{ 1 }}"}),
        ("tools", {"messages": user("a"), "tools": [{"type": "function"}]}),
        ("truncate", {"prompt": "a", "truncate": 5}),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(
    mock_server: LiveServer, param: str, body: dict[str, Any]
) -> None:
    refused(mock_server, TOKENIZE, body, param)


@pytest.mark.parametrize("tokens", [[-1], [97, 200_000], [2**63]])
def test_ids_from_outside_the_vocabulary_have_no_text(
    mock_server: LiveServer, tokens: list[int]
) -> None:
    assert "outside the vocabulary" in refused(
        mock_server, DETOKENIZE, {"tokens": tokens}, "tokens"
    )


def test_detokenize_takes_integers_only(mock_server: LiveServer) -> None:
    refused(mock_server, DETOKENIZE, {}, "tokens")
    refused(mock_server, DETOKENIZE, {"tokens": "5"}, "tokens")
    refused(mock_server, DETOKENIZE, {"tokens": ["5"]}, "tokens.0")
    refused(mock_server, DETOKENIZE, {"tokens": [True]}, "tokens.0")


def test_an_unknown_model_is_404(mock_server: LiveServer) -> None:
    for path, body in ((TOKENIZE, {"prompt": "a"}), (DETOKENIZE, {"tokens": [1]})):
        assert mock_server.post(path, {**body, "model": "gpt-9"}).status_code == 404
        assert mock_server.post(path, {**body, "model": "mock"}).status_code == 200
