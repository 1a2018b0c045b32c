"""Embeddings over HTTP: by the chat model's engine, and by an embedding model beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from palma.api.dialects.openai_embeddings import MAX_INPUTS, MAX_TOKEN_IDS
from palma.core.config import Settings
from palma.core.errors import SettingsError
from palma.serving.encoders import plan_encoders
from tests.api.dialects.encoder_server import (
    EMBEDDER,
    RANKER,
    SLOW_INPUTS,
    outcomes,
    post_bytes,
    running_encoders,
    served_models,
)
from tests.live_server import (
    LiveServer,
    Neighbour,
    new_client,
    running_server,
    unharmed_neighbour,
    user,
    wait_until,
)
from tests.tiny_encoders import MEAN, NORMALIZE, write_encoder

PATH = "/v1/embeddings"
CHAT_MODEL = "mock"
BOTH = (CHAT_MODEL, EMBEDDER)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_encoders() as server:
        yield server


def client_of(server: LiveServer, **kwargs: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, **kwargs)


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def embed(server: LiveServer, value: Any, model: str = EMBEDDER, **fields: Any) -> httpx.Response:
    return server.post(PATH, {"model": model, "input": value, **fields})


def vectors(response: httpx.Response) -> np.ndarray[Any, Any]:
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]])


@pytest.mark.parametrize("model", BOTH)
def test_the_official_client_reads_base64_and_numbers_alike(
    server: LiveServer, client: openai.OpenAI, model: str
) -> None:
    by_default = client.embeddings.create(model=model, input=["hello", "añb🏴‍☠️"])
    with client_of(server, _strict_response_validation=True) as strict:
        as_numbers = strict.embeddings.create(
            model=model, input=["hello", "añb🏴‍☠️"], encoding_format="float"
        )

    assert as_numbers.model == by_default.model == model
    assert [item.index for item in as_numbers.data] == [0, 1]
    num_tokens = len(b"hello") + len("añb🏴‍☠️".encode())
    assert as_numbers.usage.prompt_tokens == as_numbers.usage.total_tokens == num_tokens
    for one, other in zip(by_default.data, as_numbers.data, strict=True):
        same = np.array([one.embedding, other.embedding], np.float32)
        assert (same[0] == same[1]).all()
        assert np.linalg.norm(other.embedding) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("model", BOTH)
def test_token_ids_are_what_their_text_is(server: LiveServer, model: str) -> None:
    of_text = vectors(embed(server, ["hello", "you"], model))

    of_ids = vectors(embed(server, [list(b"hello"), list(b"you")], model))
    of_one = vectors(embed(server, list(b"hello"), model))

    assert (of_ids == of_text).all()
    assert (of_one == of_text[:1]).all()


@pytest.mark.parametrize("model", BOTH)
def test_the_most_inputs_are_answered_in_their_order(server: LiveServer, model: str) -> None:
    inputs = [f"{number} " * (1 + number % 7) for number in range(MAX_INPUTS)]

    found = vectors(embed(server, inputs, model))

    assert len(found) == MAX_INPUTS
    for number in (0, 1, 1000, MAX_INPUTS - 1):
        alone = vectors(embed(server, inputs[number], model))
        np.testing.assert_array_equal(found[number], alone[0])


@pytest.mark.parametrize("model", BOTH)
def test_dimensions_keep_the_first_numbers_at_length_1(server: LiveServer, model: str) -> None:
    (whole,) = vectors(embed(server, "hello", model))

    (short,) = vectors(embed(server, "hello", model, dimensions=40))

    np.testing.assert_allclose(short, whole[:40] / np.linalg.norm(whole[:40]), atol=1e-6)
    refused = embed(server, "hello", model, dimensions=len(whole) + 1)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "dimensions"
    assert str(len(whole)) in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "value",
    [
        *("", [], [""], ["a", ""], [[]], [[1], []], [[[1]]], ["a"] * (MAX_INPUTS + 1)),
        *(5, None, {}, True, [True], [1.5], [1, "a"], ["a", 1], [[1, "a"]], ["a", None]),
    ],
)
def test_what_is_no_input_is_refused_by_name(server: LiveServer, value: Any) -> None:
    response = embed(server, value)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith("input")
    assert len(response.content) < 1000


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("token_id", [-1, 200_000, 2**60])
def test_token_ids_outside_the_vocabulary_are_refused(
    server: LiveServer, model: str, token_id: int
) -> None:
    response = embed(server, [[1], [5, token_id]], model)

    assert response.status_code == 400
    assert f"input[1] has the token id {token_id}" in response.json()["error"]["message"]


@pytest.mark.parametrize(("model", "limit"), [(CHAT_MODEL, 131_072), (EMBEDDER, 512)])
def test_one_that_is_too_long_is_refused_with_both_counts_and_never_cut(
    server: LiveServer, model: str, limit: int
) -> None:
    assert embed(server, ["x" * limit], model).status_code == 200

    response = embed(server, ["x", "x" * (limit + 1)], model)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input"
    assert f"input[1] has {limit + 1} tokens" in error["message"]
    assert f"at most {limit}" in error["message"]


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    "value",
    ["x" * 7_000_000, [1] * (MAX_TOKEN_IDS + 1), ["x"] * 1_000_000],
    ids=["a long text", "many token ids", "many texts"],
)
def test_huge_inputs_are_refused_beside_an_unharmed_neighbour(
    server: LiveServer, model: str, value: Any
) -> None:
    with unharmed_neighbour(server):
        response = embed(server, value, model)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"model": "org/other"}, "model", 404),
        ({"model": "../etc"}, "model", 400),
        ({"model": RANKER}, "model", 400),
        ({"model": None}, "model", 400),
        ({"encoding_format": "int8"}, "encoding_format", 400),
        ({"dimensions": 0}, "dimensions", 400),
        ({"dimensions": True}, "dimensions", 400),
        ({"no_such_field": 1}, "no_such_field", 400),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    server: LiveServer, fields: dict[str, Any], param: str, status: int
) -> None:
    response = server.post(PATH, {"model": EMBEDDER, "input": "x", **fields})

    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    labelled = embed(server, "x", user="me", encoding_format=None, dimensions=None)
    assert labelled.status_code == 200


def test_the_models_say_how_they_embed(server: LiveServer) -> None:
    cards = served_models(server)

    assert cards[CHAT_MODEL]["embeddings"] == "made up by the mock engine"
    assert cards[EMBEDDER]["engine"] == "embedder"
    assert cards[EMBEDDER]["max_model_len"] == 512
    assert cards[RANKER]["embeddings"] == ""
    assert server.get(f"/v1/models/{EMBEDDER}").json() == cards[EMBEDDER]


@pytest.mark.parametrize("model", BOTH)
def test_a_place_in_the_model_s_queue_is_held_as_by_any_request(model: str) -> None:
    with running_encoders(threads_max_workers=1, max_waiting_requests=0) as server:
        with server.connect() as busy:
            busy.sendall(post_bytes(PATH, {"model": model, "input": SLOW_INPUTS}))
            wait_until(lambda: server.counts() == (1, 0), "it is computed")

            refused = [embed(server, "x", model)]
            chat = server.post("/v0.1.0/inference", {"messages": user("count to 1")})

            if model == CHAT_MODEL:
                refused.append(chat)
            else:
                assert chat.status_code == 200
            assert {response.status_code for response in refused} == {429}
            assert int(refused[0].headers["retry-after"]) >= 1
            assert server.get("/readyz").status_code == 200
        server.wait_until_idle()
        assert embed(server, "x", model).status_code == 200


@pytest.mark.parametrize("model", BOTH)
def test_a_client_that_leaves_ends_its_work(server: LiveServer, model: str) -> None:
    before = outcomes(server, "cancelled")
    with unharmed_neighbour(server):
        with server.connect() as connection:
            connection.sendall(post_bytes(PATH, {"model": model, "input": SLOW_INPUTS}))
            wait_until(lambda: server.counts()[0] == 2, "it is computed beside the neighbour")

        wait_until(lambda: outcomes(server, "cancelled") == before + 1, "it is cancelled", 5)


def test_a_small_request_passes_between_the_parts_of_a_large_one(server: LiveServer) -> None:
    large: list[int] = []

    def ask() -> None:
        with new_client(server.url) as client:
            body = {"model": EMBEDDER, "input": SLOW_INPUTS[:100]}
            large.append(client.post(PATH, json=body).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: server.counts()[0] == 1, "the large one is computed")

    small = embed(server, "x")

    assert small.status_code == 200
    assert large == []
    asking.join()
    assert large == [200]


def test_a_failure_is_its_own_request_s_alone(server: LiveServer) -> None:
    with unharmed_neighbour(server):
        response = embed(server, ["fine", "fail after 0"])

    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert embed(server, "fine").status_code == 200


def test_tokens_are_counted_in_the_metrics(server: LiveServer) -> None:
    def num_tokens() -> float:
        lines = server.get("/metrics").text.splitlines()
        return float(next(s for s in lines if s.startswith("palma_prompt_tokens_total")).split()[1])

    for model in BOTH:
        before = num_tokens()

        embed(server, ["abc", "de"], model)

        assert num_tokens() == before + 5


def test_a_name_that_nothing_can_have_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"^EMBEDDING_MODEL_ID='/no/such/folder'"):
        plan_encoders(Settings(embedding_model_id="/no/such/folder"))
    with pytest.raises(SettingsError, match=r"^RERANK_MODEL_ID="):
        plan_encoders(Settings(rerank_model_id="a b"))


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """palmita on the continuous engine, a tiny embedder, and a ranker whose folder is empty."""
    folder = tmp_path_factory.mktemp("encoders")
    (folder / "empty").mkdir()
    embedder = write_encoder(folder / "tiny", MEAN, NORMALIZE)
    with running_server(
        engine="continuous",
        cpu_kernel=False,
        device="cpu",
        threads_max_workers=2,
        embedding_model_id=str(embedder),
        rerank_model_id=str(folder / "empty"),
    ) as server:
        wait_until(lambda: "tiny" in served_models(server), "the embedder is ready", 60)
        yield server


def test_both_kinds_of_model_embed_beside_an_unchanged_stream(real_server: LiveServer) -> None:
    question = {"messages": user("What is the capital of France?"), "do_sample": False}
    neighbour = Neighbour.heard_alone(real_server, question)
    texts = ["the capital of france", "paris is the capital", "bananas are yellow"]
    alone = {name: vectors(embed(real_server, texts, name)) for name in ("palmita", "tiny")}

    with unharmed_neighbour(real_server, neighbour):
        beside = {name: vectors(embed(real_server, texts, name)) for name in ("palmita", "tiny")}

    for name, found in beside.items():
        np.testing.assert_allclose(found, alone[name], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert beside["palmita"].shape[1] != beside["tiny"].shape[1]
    cards = served_models(real_server)
    assert cards["tiny"]["embeddings"] == "mean pooling, normalized"
    assert "was not trained to embed" in cards["palmita"]["embeddings"]


def test_a_model_that_cannot_be_loaded_harms_nothing_else(
    real_server: LiveServer, tmp_path: Path
) -> None:
    response = real_server.post("/v1/rerank", {"query": "x", "documents": ["y"]})

    assert response.status_code == 503
    assert "empty is not available" in response.json()["error"]["message"]
    assert real_server.get("/readyz").status_code == 200
    assert embed(real_server, "x", "tiny").status_code == 200
