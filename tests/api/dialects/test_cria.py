"""What cria adds to OpenAI's routes: names for streams, llama.cpp's sampling fields, a probe."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live_server import LiveServer, running_server, user

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PATHS = (CHAT, COMPLETIONS)
QUESTION = "What is the capital of Japan?"


def body(path: str, content: str, **fields: Any) -> dict[str, Any]:
    content_field = {"prompt": content} if path == COMPLETIONS else {"messages": user(content)}
    return {**content_field, **({"model": "mock"} if path == CHAT else {}), **fields}


def answer(server: LiveServer, path: str, **fields: Any) -> str:
    """Ask palmita the question and return what it says."""
    fields = {"max_tokens": 24, "model": "palmita", **fields}
    if path == COMPLETIONS:
        fields["prompt"] = server.post("/tokenize", {"messages": user(QUESTION)}).json()["tokens"]
    response = server.post(path, {**body(path, QUESTION), **fields})
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    text: str = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
    return text


@pytest.mark.parametrize("path", PATHS)
def test_repeat_penalty_is_repetition_penalty_within_a_window(
    palmita_server: LiveServer, path: str
) -> None:
    plain = answer(palmita_server, path, temperature=0)
    wanted = answer(palmita_server, path, temperature=0, repetition_penalty=2.0)
    assert wanted != plain

    def penalized(**fields: Any) -> str:
        return answer(palmita_server, path, temperature=0, **fields)

    assert penalized(repeat_penalty=2.0) == wanted  # fewer than 512 tokens: all of them
    assert penalized(repeat_penalty=2.0, repeat_last_n=-1) == wanted
    assert penalized(repeat_penalty=2.0, repetition_penalty=2.0) == wanted
    assert penalized(repeat_penalty=2.0, repeat_last_n=0) == plain
    assert penalized(repetition_penalty=2.0, repeat_last_n=0) == plain
    assert penalized(repeat_penalty=1.0) == plain


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_takes_as_surprising_tokens_as_asked(
    palmita_server: LiveServer, path: str, version: int
) -> None:
    def drawn(**fields: Any) -> str:
        return answer(palmita_server, path, mirostat=version, seed=5, temperature=2, **fields)

    greedy = answer(palmita_server, path, temperature=0)

    assert drawn(mirostat_tau=0, mirostat_eta=0) == greedy
    assert drawn(mirostat_tau=8) != greedy
    assert drawn(mirostat_tau=8) == drawn(mirostat_tau=8, mirostat_eta=0.1)
    assert drawn(mirostat_tau=8, mirostat_eta=1) != drawn(mirostat_tau=8, mirostat_eta=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["tokens", "Tokens"])
def test_logit_bias_may_name_texts_instead_of_token_ids(
    palmita_server: LiveServer, path: str, kind: str
) -> None:
    plain = answer(palmita_server, path, temperature=0)
    word = f" {plain.split()[-1]}"
    token_ids = palmita_server.post("/tokenize", {"prompt": word}).json()["tokens"]
    by_id = {"logit_bias": {str(token_id): -50 for token_id in token_ids}}

    expected = answer(palmita_server, path, temperature=0, **by_id)

    assert expected != plain
    by_text = {"logit_bias": {word: -50}, "logit_bias_type": kind}
    assert answer(palmita_server, path, temperature=0, **by_text) == expected
    with_type = {**by_id, "logit_bias_type": "input_ids"}
    assert answer(palmita_server, path, temperature=0, **with_type) == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("temperature", {"mirostat": 2, "temperature": 0}),
        ("top_k", {"mirostat": 2, "top_k": 40}),
        ("top_p", {"mirostat": 1, "top_p": 0.9}),
        ("min_p", {"mirostat": 2, "min_p": 0.1}),
        ("typical_p", {"mirostat": 2, "typical_p": 0.5}),
        ("mirostat_tau", {"mirostat_tau": 3}),
        ("mirostat_eta", {"mirostat": 0, "mirostat_eta": 0.5}),
        ("mirostat_tau", {"mirostat": 2, "mirostat_tau": -1}),
        ("mirostat_eta", {"mirostat": 2, "mirostat_eta": 1.5}),
        ("mirostat", {"mirostat": 3}),
        ("mirostat", {"mirostat": True}),
        ("mirostat", {"mirostat": "2"}),
        ("repeat_penalty", {"repeat_penalty": 1.1, "repetition_penalty": 1.2}),
        ("repeat_penalty", {"repeat_penalty": 0}),
        ("repeat_last_n", {"repeat_last_n": 64}),
        ("repeat_last_n", {"repeat_penalty": 1.1, "repeat_last_n": -2}),
        ("logit_bias_type", {"logit_bias_type": "words", "logit_bias": {"a": 1}}),
        ("logit_bias_type", {"logit_bias_type": "tokens"}),
        ("min_tokens", {"min_tokens": 4, "max_tokens": 3}),
        ("logit_bias", {"logit_bias": {"a": 1}}),
        ("logit_bias", {"logit_bias": {"a": 1}, "logit_bias_type": "input_ids"}),
        ("logit_bias", {"logit_bias": {"": 1}, "logit_bias_type": "tokens"}),
        ("logit_bias", {"logit_bias": {"a" * 101: 1}, "logit_bias_type": "tokens"}),
        ("logit_bias.a", {"logit_bias": {"a": 101}, "logit_bias_type": "tokens"}),
    ],
)
def test_contradictions_and_what_says_nothing_are_refused_by_name(
    mock_server: LiveServer, path: str, param: str, fields: dict[str, Any]
) -> None:
    response = mock_server.post(path, body(path, "count to 3", **fields))

    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]


def test_texts_of_too_many_tokens_are_refused(palmita_server: LiveServer) -> None:
    words = palmita_server.post("/detokenize", {"tokens": list(range(300, 1800))}).json()["prompt"]
    texts = {words[start : start + 20]: 1 for start in range(0, len(words), 20)}
    fields = {"logit_bias": texts, "logit_bias_type": "tokens"}

    response = palmita_server.post(COMPLETIONS, body(COMPLETIONS, "a", **fields))

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "logit_bias"
    assert "1024 are allowed" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_defaults_that_clients_send_are_taken(mock_server: LiveServer, path: str) -> None:
    fields = {
        "repeat_last_n": 512,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "logit_bias_type": "input_ids",
    }
    beside = {"mirostat": 2, "top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1}
    nulls = dict.fromkeys([*fields, "repeat_penalty"])

    for some in (fields, beside, nulls):
        assert mock_server.post(path, body(path, "count to 3", **some)).status_code == 200


def test_the_names_for_whole_and_streamed_chats(mock_server: LiveServer) -> None:
    chat = body(CHAT, "count to 3")

    whole = mock_server.post(f"{CHAT}_full", chat).json()
    events = mock_server.events(f"{CHAT}_stream", chat)

    assert whole["choices"][0]["message"]["content"] == "1 2 3 "
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "1 2 3 "
    for path, stream in ((f"{CHAT}_full", True), (f"{CHAT}_stream", False)):
        assert mock_server.post(path, {**chat, "stream": not stream}).status_code == 200
        refused = mock_server.post(path, {**chat, "stream": stream})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "stream"


def test_the_probe_needs_no_key() -> None:
    with running_server(api_key="secret") as server:
        assert server.get("/v1/health").json() == {"status": "ok"}
        assert server.client.head("/v1/health").status_code == 200
