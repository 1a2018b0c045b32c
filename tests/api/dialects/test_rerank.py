"""Reranking over HTTP: by a cross-encoder, and by embeddings where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from palma.api.dialects.rerank import MAX_DOCUMENTS, RerankBody
from palma.api.fields import NeutralOnly
from tests.api.dialects.encoder_server import (
    EMBEDDER,
    RANKER,
    outcomes,
    post_bytes,
    running_encoders,
)
from tests.live_server import LiveServer, unharmed_neighbour, wait_until

PATH = "/v1/rerank"
DOCUMENTS = ["bananas", "a capital of france", "the capital"]
QUERY = "the capital of france"
REFUSED = [
    name
    for name, field in RerankBody.model_fields.items()
    if any(isinstance(mark, NeutralOnly) for mark in field.metadata)
]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_encoders() as server:
        yield server


def rerank(server: LiveServer, path: str = PATH, **fields: Any) -> dict[str, Any]:
    response = server.post(path, {"query": QUERY, "documents": DOCUMENTS, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_a_cross_encoder_answers_when_there_is_one(server: LiveServer, path: str) -> None:
    answer = rerank(server, path)

    assert (answer["model"], answer["method"]) == (RANKER, "cross_encoder")
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert [result["relevance_score"] for result in answer["results"]] == [0.75, 0.5, 0]
    num_tokens = sum(len(QUERY) + 1 + len(document) for document in DOCUMENTS)
    assert answer["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert answer["id"].startswith("rerank-")


@pytest.mark.parametrize("model", [EMBEDDER, "mock"])
def test_embeddings_rank_by_their_cosine_and_the_answer_says_so(
    server: LiveServer, model: str
) -> None:
    answer = rerank(server, model=model, documents=[*DOCUMENTS, QUERY])

    assert (answer["model"], answer["method"]) == (model, "embedding_cosine")
    best = answer["results"][0]
    assert best["index"] == 3
    assert best["relevance_score"] == pytest.approx(1, abs=1e-6)
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)


def test_without_encoders_the_chat_model_ranks(mock_server: LiveServer) -> None:
    answer = rerank(mock_server)

    assert (answer["model"], answer["method"]) == ("mock", "embedding_cosine")


def test_top_n_keeps_the_best_and_documents_come_back_on_request(server: LiveServer) -> None:
    documents = [{"text": text} for text in DOCUMENTS]

    answer = rerank(server, documents=documents, top_n=2, return_documents=True)

    assert [result["document"]["text"] for result in answer["results"]] == [
        "a capital of france",
        "the capital",
    ]
    assert all("document" not in result for result in rerank(server)["results"])
    assert len(rerank(server, top_n=99)["results"]) == 3


def test_equal_documents_stay_in_their_order(server: LiveServer) -> None:
    answer = rerank(server, documents=["same"] * 5)

    assert [result["index"] for result in answer["results"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "fields",
    [
        {"query": ""},
        {"query": None},
        {"documents": []},
        {"documents": ["a", ""]},
        {"documents": ["a", 5]},
        {"documents": [{"text": "a", "title": "b"}]},
        {"documents": ["a"] * (MAX_DOCUMENTS + 1)},
        {"top_n": 0},
        {"return_documents": 1},
        {"no_such_field": 1},
        *({name: "anything"} for name in REFUSED),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    server: LiveServer, fields: dict[str, Any]
) -> None:
    response = server.post(PATH, {"query": QUERY, "documents": DOCUMENTS, **fields})

    assert response.status_code == 400
    assert response.json()["error"]["param"].partition(".")[0] == next(iter(fields))


def test_too_long_ones_are_refused_with_both_counts(server: LiveServer) -> None:
    for model in (RANKER, EMBEDDER):
        body = {"model": model, "query": QUERY, "documents": ["short", "x" * 600]}
        document = server.post(PATH, body)
        query = server.post(PATH, {**body, "query": "x" * 700, "documents": ["short"]})

        assert document.status_code == query.status_code == 400
        assert document.json()["error"]["param"] == "documents"
        assert "documents[1] has 6" in document.json()["error"]["message"]
        assert query.json()["error"]["param"] == "query"
        assert "at most 512" in query.json()["error"]["message"]


def test_a_client_that_leaves_ends_its_work(server: LiveServer) -> None:
    before = outcomes(server, "cancelled")
    body = {"query": "slowly", "documents": [f"{number:0250d}" for number in range(400)]}
    with unharmed_neighbour(server):
        with server.connect() as connection:
            connection.sendall(post_bytes(PATH, body))
            wait_until(lambda: server.counts()[0] == 2, "it is computed beside the neighbour")

        wait_until(lambda: outcomes(server, "cancelled") == before + 1, "it is cancelled", 5)
