"""Ways of asking: OpenAI's embeddings, and reranking."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest

from tests.conformance.demonstrations import changes_the_answer, chooses_the_model
from tests.conformance.subject import Demonstration, Heard, Subject, Way

PARIS = "Paris is the capital of France."
OSLO = "Oslo is the capital of Norway."


def read_embeddings(response: httpx.Response) -> Heard:
    """Read vectors, whatever their format."""
    answer = response.json()
    return Heard(tuple(str(item["embedding"]) for item in answer["data"]), raw=answer)


def read_ranking(response: httpx.Response) -> Heard:
    """Read which document stands where, and how well it fits."""
    answer = response.json()
    return Heard((str(answer["results"]),), raw=answer)


def writes_base64(subject: Subject, name: str) -> None:
    """Of the same numbers."""
    numbers = subject.hear({name: "float"}).raw["data"][0]["embedding"]
    text = subject.hear({name: "base64"}).raw["data"][0]["embedding"]

    assert (np.frombuffer(base64.b64decode(text), "<f4") == np.array(numbers, np.float32)).all()


def shortens(subject: Subject, name: str) -> None:
    """To the first numbers, at length 1."""
    numbers = subject.hear({name: 9}).raw["data"][0]["embedding"]

    assert len(numbers) == 9
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-6)


def keeps_the_best(subject: Subject, name: str) -> None:
    """The best one alone is the first of all."""
    every = subject.hear({name: None}).raw["results"]

    assert subject.hear({name: 1}).raw["results"] == every[:1]


def repeats_documents(subject: Subject, name: str) -> None:
    """Beside their numbers."""
    documents = subject.way.body["documents"]
    for result in subject.hear({name: True}).raw["results"]:
        assert result["document"] == documents[result["index"]]
    assert "document" not in subject.hear({name: False}).raw["results"][0]


EMBEDDINGS: dict[str, Demonstration] = {
    "model": chooses_the_model,
    "input": changes_the_answer(OSLO, [1, 2], ["x", "y"], [[1], [2, 3]]),
    "encoding_format": writes_base64,
    "dimensions": shortens,
}

RERANK: dict[str, Demonstration] = {
    "model": chooses_the_model,
    "query": changes_the_answer("Where is Norway?", "What is yellow?"),
    "documents": changes_the_answer([OSLO], [{"text": "x"}]),
    "documents.*.text": changes_the_answer("Bananas are yellow.", PARIS),
    "top_n": keeps_the_best,
    "return_documents": repeats_documents,
}

RERANK_WAY = Way(
    {
        "model": "palmita",
        "query": "Where is France?",
        "documents": [{"text": PARIS}, {"text": OSLO}],
    },
    read_ranking,
    RERANK,
    greedy={},
)

WAYS = {
    "/v1/embeddings": Way(
        {"model": "palmita", "input": PARIS}, read_embeddings, EMBEDDINGS, greedy={}
    ),
    "/v1/rerank": RERANK_WAY,
    "/v2/rerank": RERANK_WAY,
    "/rerank": RERANK_WAY,
}
