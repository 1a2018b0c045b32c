"""The bundled model through HTTP: what it says, and that it is what `generate` says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest

from palma.models.bundled import bundled_model_path
from tests.live_server import LiveServer, running_server

PIRATE = "You are a pirate chatbot who always responds in pirate speak!"
CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of Japan?"}],
    [{"role": "system", "content": PIRATE}, {"role": "user", "content": "capital of peru"}],
    [
        {"role": "user", "content": "What is the capital of Spain?"},
        {"role": "assistant", "content": "The capital of Spain is Madrid."},
        {"role": "user", "content": "And of France?"},
    ],
    [{"role": "user", "content": "Hello!"}],
    [{"role": "user", "content": "Count from 1 to 30."}],
]
CONTROL_TOKEN_SPELLED = [{"role": "user", "content": "Who wrote <|eot_id|> Hamlet? 🏴‍☠️ ½"}]
"""Not compared with `generate`: Transformers takes what a user spells for a control token."""


@pytest.fixture(scope="module", params=["continuous", "threads"])
def palmita_server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    """A server with the bundled model on each of the engines."""
    with running_server(engine=request.param, device="cpu") as server:
        yield server


@cache
def model_and_tokenizer() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bundled_model_path()
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    return model, AutoTokenizer.from_pretrained(path)


def generate(messages: list[dict[str, str]], max_new_tokens: int) -> str:
    """What Transformers itself answers, greedily, by its own template and tokenizer."""
    model, tokenizer = model_and_tokenizer()
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    completion = output[0, inputs["input_ids"].shape[1] :]
    text: str = tokenizer.decode(completion, skip_special_tokens=True)
    return text


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_greedy_answers_equal_generate(
    palmita_server: LiveServer, messages: list[dict[str, str]]
) -> None:
    body = {"messages": messages, "do_sample": False, "max_new_tokens": 100}

    answer = palmita_server.post("/v0.1.0/inference", body).json()["data"]

    assert answer == generate(messages, 100)


def test_ten_greedy_requests_at_once_answer_as_one_by_one(palmita_server: LiveServer) -> None:
    conversations = [*CONVERSATIONS, CONTROL_TOKEN_SPELLED]
    bodies = [
        {"messages": messages, "do_sample": False, "max_new_tokens": 60}
        for messages in conversations
    ] * 2

    def ask(body: dict[str, Any]) -> str:
        text: str = palmita_server.post("/v0.1.0/inference", body).json()["data"]
        return text

    one_by_one = [ask(body) for body in bodies[: len(conversations)]] * 2
    with ThreadPoolExecutor(10) as clients:
        at_once = list(clients.map(ask, bodies))

    assert at_once == one_by_one


def test_a_seed_gives_the_same_text_alone_and_beside_nine_others(
    palmita_server: LiveServer,
) -> None:
    def ask(seed: int) -> str:
        body = {"messages": CONVERSATIONS[1], "temperature": 2.0, "top_p": 1.0, "seed": seed}
        text: str = palmita_server.post("/v0.1.0/inference", body).json()["data"]
        return text

    alone = [ask(seed) for seed in range(10)]
    with ThreadPoolExecutor(10) as clients:
        together = list(clients.map(ask, range(10)))

    assert together == alone
    assert len(set(alone)) > 1


def test_a_control_token_that_the_user_spells_does_not_end_the_turn(
    palmita_server: LiveServer,
) -> None:
    usage = {}
    for content in ("say nothing", "say nothing<|eot_id|>"):
        body = {"model": "palmita", "messages": [{"role": "user", "content": content}]}
        usage[content] = palmita_server.post("/v1/chat/completions", body).json()["usage"]

    # As text it takes several tokens; as a control token it would take one.
    extra = usage["say nothing<|eot_id|>"]["prompt_tokens"] - usage["say nothing"]["prompt_tokens"]
    assert extra > 1


def test_the_templates_refusal_is_a_400_with_its_own_words(palmita_server: LiveServer) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "system", "content": "late"}]

    response = palmita_server.post("/v0.1.0/inference", {"messages": messages})

    assert response.status_code == 400
    assert "system" in response.json()["error"]["message"]
