"""Log-probabilities through HTTP as evaluations ask for them, against a direct forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.live_server import LiveServer, running_server
from tests.test_served_palmita import generate, model_and_tokenizer

PATH = "/v1/completions"
TOLERANCE = 1e-3
NUM_LONG = 1300
"""Tokens: more than twice what the continuous engine computes of a prompt in one step."""

TEXTS = [
    "The capital of Japan is Tokyo.",
    "<|begin_of_text|>Ahoy! ½ of a 🏴‍☠️ crew<|eot_id|>",
    "a",
    "What is the capital of France? Paris, said the pirate.",
]


@pytest.fixture(scope="module", params=["threads", "continuous"])
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with running_server(engine=request.param, device="cpu", torch_dtype="float32") as server:
        assert server.get("/v1/models").status_code == 200
        yield server


@cache
def prompts() -> tuple[tuple[int, ...], ...]:
    """Return the texts as token ids, one id alone, and a long prompt."""
    _, tokenizer = model_and_tokenizer()
    short = [tuple(tokenizer.encode(text)) for text in TEXTS]
    sentence = tokenizer.encode(" The capital of Peru is Lima, and Lima is large.")
    long = (sentence * NUM_LONG)[:NUM_LONG]
    return (*short, (5,), tuple(long))


@cache
def forward(prompt: tuple[int, ...]) -> Any:
    """Return the model's own log-probabilities, (num_tokens, vocab_size)."""
    import torch

    model, _ = model_and_tokenizer()
    with torch.inference_mode():
        return model(torch.tensor([prompt])).logits[0].float().log_softmax(dim=-1)


def ask(server: LiveServer, **body: Any) -> dict[str, Any]:
    response = server.post(PATH, {"model": "palmita", "temperature": 0, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_every_prompt_logprob_is_that_of_a_forward_pass(
    server: LiveServer, max_tokens: int
) -> None:
    """One request with several prompts, as `lm_eval --model local-completions` sends it."""
    body = {"prompt": prompts(), "echo": True, "logprobs": 1, "seed": 1234}

    answer = ask(server, **body, max_tokens=max_tokens)

    for prompt, choice in zip(prompts(), answer["choices"], strict=True):
        expected = forward(prompt)
        logprobs = choice["logprobs"]
        assert {len(entries) for entries in logprobs.values()} == {len(prompt) + max_tokens}
        assert logprobs["token_logprobs"][0] is None
        for position, token_id in enumerate(prompt[1:], start=1):
            row = expected[position - 1]
            told = logprobs["token_logprobs"][position]
            assert told == pytest.approx(float(row[token_id]), abs=TOLERANCE)
            best = max(logprobs["top_logprobs"][position].values())
            assert best == pytest.approx(float(row.max()), abs=TOLERANCE)
        if max_tokens:
            told = logprobs["token_logprobs"][-1]
            assert told == pytest.approx(float(expected[-1].max()), abs=TOLERANCE)
    num_prompt_tokens = sum(map(len, prompts()))
    assert answer["usage"]["prompt_tokens"] == num_prompt_tokens
    assert answer["usage"]["completion_tokens"] == max_tokens * len(prompts())


def test_a_prompt_that_is_in_the_prefix_cache_is_scored_alike(server: LiveServer) -> None:
    prompt = prompts()[-1]
    ask(server, prompt=prompt, max_tokens=1)

    answers = [ask(server, prompt=prompt, max_tokens=0, echo=True, logprobs=0) for _ in range(2)]

    expected = [float(row[t]) for row, t in zip(forward(prompt), prompt[1:], strict=False)]
    for answer in answers:
        told = answer["choices"][0]["logprobs"]["token_logprobs"]
        assert told[1:] == pytest.approx(expected, abs=TOLERANCE)


def test_offsets_lead_to_each_tokens_text(server: LiveServer) -> None:
    for text in TEXTS:
        (choice,) = ask(server, prompt=text, max_tokens=8, echo=True, logprobs=0)["choices"]

        logprobs = choice["logprobs"]
        assert choice["text"].startswith(text)
        for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
            if not token.startswith("bytes:") and offset < len(choice["text"]):
                assert choice["text"].startswith(token, offset)


def test_greedy_text_and_its_token_ids_are_continued_as_generate_does(server: LiveServer) -> None:
    _, tokenizer = model_and_tokenizer()
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    token_ids = tokenizer.encode(text)

    answer = ask(server, prompt=[token_ids], max_tokens=60)
    also = ask(server, prompt=text, max_tokens=60)

    expected = generate(messages, 60)
    assert answer["choices"][0]["text"] == also["choices"][0]["text"] == expected
    events = server.events(
        PATH, {"prompt": text, "max_tokens": 60, "temperature": 0, "stream": True}
    )
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == expected


def test_best_of_keeps_the_likeliest_of_the_answers_that_n_would_give(server: LiveServer) -> None:
    fields = {"prompt": TEXTS[0], "temperature": 1.5, "seed": 3, "max_tokens": 12}

    every = ask(server, **fields, n=6, logprobs=0)["choices"]
    best = ask(server, **fields, n=2, best_of=6)

    def mean(choice: dict[str, Any]) -> float:
        logprobs: list[float] = choice["logprobs"]["token_logprobs"]
        return sum(logprobs) / len(logprobs)

    ranked = sorted(every, key=mean, reverse=True)
    assert [choice["text"] for choice in best["choices"]] == [c["text"] for c in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in best["choices"])
    num_tokens = sum(len(choice["logprobs"]["tokens"]) for choice in every)
    assert best["usage"]["completion_tokens"] == num_tokens
    echoed = ask(server, **fields, n=1, best_of=6, echo=True)
    assert echoed["choices"][0]["text"] == TEXTS[0] + ranked[0]["text"]
