"""`lm-eval`'s own client, `local-completions`, judges log-likelihoods through HTTP.

It is heavy and not among the test dependencies: `pip install "lm_eval[api]"` to run this.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from palma.models.bundled import bundled_model_path
from tests.live_server import LiveServer, running_server
from tests.test_served_palmita import model_and_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval_client = pytest.importorskip("lm_eval.models.openai_completions")
    lm_eval_instance = pytest.importorskip("lm_eval.api.instance")

TOLERANCE = 1e-3
PAIRS = [
    ("The capital of Japan is", " Tokyo."),
    ("The capital of Japan is", " Lima."),
    ("What is the capital of France?", " Paris, and the capital of Spain is Madrid."),
    ("Ahoy! ½ a crew of", " 🏴‍☠️ sailors"),
    ("", "Hello there"),
    ("x " * 600, "x x x"),
]
"""Contexts and what follows them; the last is longer than one step of a prefill."""


@pytest.fixture(scope="module", params=["threads", "continuous"])
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    model_and_tokenizer()  # what lm-eval brings makes the imports slow: not while a server starts
    with running_server(engine=request.param, device="cpu", torch_dtype="float32") as server:
        yield server


def log_likelihood(token_ids: list[int], num_context: int) -> tuple[float, bool]:
    """Return the direct forward pass's answer: log-probability, and whether it is greedy."""
    import torch

    model, _ = model_and_tokenizer()
    with torch.inference_mode():
        logprobs = model(torch.tensor([token_ids])).logits[0].float().log_softmax(dim=-1)
    rows = range(num_context - 1, len(token_ids) - 1)
    total = sum(float(logprobs[row, token_ids[row + 1]]) for row in rows)
    return total, all(int(logprobs[row].argmax()) == token_ids[row + 1] for row in rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_likelihoods_equal_a_forward_pass(server: LiveServer, batch_size: int) -> None:
    client: Any = lm_eval_client.LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model="palmita",
        tokenizer=str(bundled_model_path()),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
    )
    requests = [
        lm_eval_instance.Instance("loglikelihood", {}, pair, number)
        for number, pair in enumerate(PAIRS)
    ]

    answers = client.loglikelihood(requests)

    differences = []
    for (context, continuation), (told, told_greedy) in zip(PAIRS, answers, strict=True):
        if context:
            context_ids, continuation_ids = client._encode_pair(context, continuation)
        else:
            context_ids, continuation_ids = (
                [client.prefix_token_id],
                client.tok_encode(continuation),
            )
        token_ids = [*context_ids, *continuation_ids]
        expected, is_greedy = log_likelihood(token_ids, len(context_ids))
        differences.append(abs(told - expected))
        assert told_greedy == is_greedy
    print(f"{server.settings.engine}: largest difference {max(differences):.1e}")  # pytest -s
    assert max(differences) <= TOLERANCE
