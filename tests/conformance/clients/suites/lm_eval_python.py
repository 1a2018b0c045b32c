"""lm-eval's `local-completions`: log-likelihoods, texts and a whole evaluation over HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import requests
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from palma.models.bundled import bundled_model_path
from tests.conformance.clients.suites.subject import API_KEY, MODEL, URL

PAIRS = [
    ("The capital of Japan is", " Tokyo."),
    ("The capital of Japan is", " Lima."),
    ("What is the capital of France?", " Paris, and the capital of Spain is Madrid."),
    ("Ahoy! ½ a crew of", " 🏴‍☠️ sailors"),
    ("", "Hello there"),
]
"""Contexts and what follows them."""

TASK = {
    "task": "capitals",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_choice": [" Lima.", " Paris.", " Tokyo."],
    "doc_to_target": "{{label}}",
    "metric_list": [{"metric": "acc"}],
}

CAPITALS = [("Peru", 0), ("France", 1), ("Japan", 2)]


def new_client(batch_size: int = 1, **kwargs: Any) -> Any:
    os.environ["OPENAI_API_KEY"] = API_KEY  # it reads the key nowhere else
    return LocalCompletionsAPI(
        base_url=f"{URL}/v1/completions",
        model=MODEL,
        tokenizer=str(bundled_model_path()),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
        max_retries=1,
        **kwargs,
    )


def log_likelihoods(client: Any) -> list[tuple[float, bool]]:
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(PAIRS)]
    answers: list[tuple[float, bool]] = client.loglikelihood(requests)
    return answers


def complete(prompt: str, max_tokens: int, **fields: Any) -> dict[str, Any]:
    """Ask without lm-eval."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **fields}
    headers = {"Authorization": f"Bearer {API_KEY}"}
    response = requests.post(f"{URL}/v1/completions", json=body, headers=headers, timeout=60)
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_likelihoods_are_those_of_the_tokens(batch_size: int) -> None:
    """In tests/conformance/test_lm_eval.py they are compared with a forward pass."""
    client = new_client(batch_size)

    answers = log_likelihoods(client)

    assert all(logprob < 0 for logprob, _ in answers)
    assert answers[0][0] > answers[1][0]
    for (context, continuation), (logprob, is_greedy) in zip(PAIRS[:4], answers, strict=False):
        context_ids, continuation_ids = client._encode_pair(context, continuation)
        echoed = complete(context + continuation, 0, echo=True, logprobs=1)["logprobs"]
        own = echoed["token_logprobs"][-len(continuation_ids) :]
        assert logprob == pytest.approx(sum(own), abs=1e-3)
        greedy = complete(context, len(continuation_ids))["text"]
        assert is_greedy == (greedy == continuation), (context_ids, greedy)


def test_texts_are_generated_until_a_stop_string() -> None:
    fields = {"until": [".", "\n"], "max_gen_toks": 12, "temperature": 0}
    asked = Instance("generate_until", {}, ("The capital of Japan is", fields), 0)

    (text,) = new_client().generate_until([asked])

    assert text == complete("The capital of Japan is", 12, stop=[".", "\n"])["text"]
    assert "." not in text


def test_an_evaluation_of_choices_runs_to_its_score(tmp_path: Path) -> None:
    lines = [json.dumps({"country": country, "label": label}) for country, label in CAPITALS]
    (tmp_path / "capitals.jsonl").write_text("\n".join(lines))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "capitals.jsonl")}}}

    results: Any = lm_eval.simple_evaluate(
        model=new_client(), tasks=[task], bootstrap_iters=0, log_samples=True
    )

    assert results["results"]["capitals"]["acc,none"] == 1.0
    assert len(results["samples"]["capitals"]) == len(CAPITALS)


def test_an_unknown_model_fails() -> None:
    client = new_client()
    client.model = "gpt-9"

    with pytest.raises(Exception, match="404"):
        log_likelihoods(client)
