"""gallama's manager routes: who may call them, and what adding and removing do to others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI

from palma.core.access import sign_token
from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.engine.base import Engine
from palma.serving.registry import load_engine
from tests.calls import CHAT, STREAM
from tests.live_server import (
    PATIENCE_S,
    STREAM_PATH,
    LiveServer,
    new_client,
    parse_event,
    running_server,
    unharmed_neighbour,
    user,
    wait_until,
)

CHANGING = {
    "/add_model": {"model_id": "another"},
    "/remove_model": {"model_id": "mock"},
    "/download_model": {"model_name": "org/name"},
}
LOOKING = ("/list_models", "/loading_status", "/status")
KEY = "sk-of-the-operator"
SECRET = "a secret of more than thirty-two bytes"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without the models of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def server(home: Path) -> Iterator[LiveServer]:
    """A server whose operator lets requests change its models."""
    with running_server(allow_model_management=True) as live:
        yield live


@pytest.fixture(scope="module")
def same_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Such a server for all requests that are refused: none of them leaves a trace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        with running_server(allow_model_management=True) as live:
            yield live
            status = live.get("/status").json()
            assert (list(status["models"]), status["downloads"]) == (["mock"], {})


def add(server: LiveServer, body: Any) -> str:
    """Add models, wait until they are loaded or have failed, and return which."""
    response = server.post("/add_model", body)
    assert response.status_code == 200, response.text
    path = f"/task_status/{response.json()['task_id']}"

    def state() -> str:
        return str(server.get(path).json()["status"])

    wait_until(lambda: state().startswith(("completed", "failed")), "the load ends")
    return state()


def names(server: LiveServer) -> list[str]:
    return list(server.get("/list_models").json())


def say(server: LiveServer, model: str, order: str = "count to 3") -> httpx.Response:
    return server.post("/v1/chat/completions", {"model": model, "messages": user(order)})


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


# --- Who may call them ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHANGING)
def test_a_server_is_changed_by_nobody_unless_its_operator_allows_it(
    path: str, mock_server: LiveServer
) -> None:
    """Fault 135."""
    before = mock_server.get("/status").json()
    with unharmed_neighbour(mock_server):
        response = mock_server.post(path, CHANGING[path])

    assert response.status_code == 403
    assert "ALLOW_MODEL_MANAGEMENT=true" in response.json()["detail"]
    assert mock_server.get("/status").json() == before


@pytest.mark.parametrize("path", LOOKING)
def test_anybody_who_may_use_the_server_may_look(path: str, mock_server: LiveServer) -> None:
    assert mock_server.get(path).status_code == 200


def test_the_key_is_needed_for_all_but_health(home: Path) -> None:
    with running_server(allow_model_management=True, api_key=KEY) as server:
        for path in LOOKING:
            assert server.get(path).status_code == 401
            assert server.get(path, headers=BEARER).status_code == 200
        for path, body in CHANGING.items():
            response = server.post(path, body)
            assert response.status_code == 401
            assert "API key" in response.json()["detail"]
        assert server.get("/health").json() == {"status": "healthy"}
        assert server.post("/add_model", {"model_id": "b"}, headers=BEARER).status_code == 200


@pytest.mark.parametrize("keys", [{}, {"api_key": KEY}], ids=["no key", "a key"])
def test_a_token_lets_users_in_and_not_the_operator(keys: dict[str, Any], home: Path) -> None:
    """Fault 135."""
    token = sign_token({"sub": "a user"}, SECRET.encode(), expires_in_s=600)
    with running_server(allow_model_management=True, jwt_secret=SECRET, **keys) as server:
        for path, body in CHANGING.items():
            response = server.post(path, body, headers={"Authorization": f"Bearer {token}"})

            assert response.status_code == 403
            assert "API_KEY" in response.json()["detail"]
        looked = server.get("/list_models", headers={"Authorization": f"Bearer {token}"})
        assert list(looked.json()) == ["mock"]


@pytest.mark.parametrize("path", CHANGING)
def test_a_web_page_changes_nothing_on_a_server_without_a_key(
    path: str, same_server: LiveServer
) -> None:
    response = same_server.post(path, CHANGING[path], headers={"Origin": "http://evil.example"})

    assert response.status_code == 403
    assert "API_KEY" in response.json()["detail"]
    assert names(same_server) == ["mock"]


@pytest.mark.parametrize(
    "name", ["../m", "/etc", "~/m", "./m", "https://example.org/m", "a//b", "org/name.git", "é"]
)
def test_a_request_opens_no_path_and_no_address(name: str, same_server: LiveServer) -> None:
    """Faults 121 and 122."""
    for path, body in (
        ("/add_model", {"model_id": name}),
        ("/add_model", {"model_id": "b", "model_name": name}),
        ("/download_model", {"model_name": name}),
    ):
        response = same_server.post(path, body)

        assert response.status_code == 400, body
        assert "name" in response.json()["detail"]
    assert names(same_server) == ["mock"]
    assert same_server.get("/status").json()["downloads"] == {}


# --- What they do --------------------------------------------------------------------------------


def test_added_models_serve_beside_the_first_until_they_are_removed(server: LiveServer) -> None:
    client = OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    )
    with unharmed_neighbour(server):
        assert add(server, [{"model_id": "org/b"}, {"model_id": "c"}]) == "completed"
        assert [model.id for model in client.models.list()] == ["mock", "org/b", "c"]
        for name, served in {"org/b": "org/b", "b": "org/b", "c": "c", "mock": "mock"}.items():
            completion = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "count to 3"}]
            )
            assert completion.choices[0].message.content == "1 2 3 "
            assert completion.model == served

        assert server.post("/remove_model", {"model_id": "b"}).status_code == 200
        wait_until(lambda: names(server) == ["mock", "c"], "it is unloaded")

        with pytest.raises(NotFoundError, match=r"'org/b' is not served here. Served: mock, c\."):
            client.chat.completions.create(
                model="org/b", messages=[{"role": "user", "content": "hi"}]
            )


def test_each_instance_generates_at_once_whatever_the_others_do(home: Path) -> None:
    """Neither a second model nor a second instance takes a thread from the first."""
    body = {"model": "mock", "messages": user("slowly count to 60")}
    with running_server(
        allow_model_management=True, threads_max_workers=1, max_waiting_requests=0
    ) as server:
        assert add(server, [{"model_id": "mock"}, {"model_id": "b"}]) == "completed"
        with ThreadPoolExecutor(3) as clients:
            asked = [
                clients.submit(server.post, "/v1/chat/completions", {**body, "model": model})
                for model in ("mock", "mock", "b")
            ]
            wait_until(lambda: server.counts() == (3, 0), "three run")

            for model in ("mock", "b"):
                assert say(server, model).status_code == 429
            assert [text_of(each.result()).split()[-1] for each in asked] == ["60"] * 3
        server.wait_until_idle()


def test_a_model_with_a_full_queue_leaves_the_queue_of_another_alone(home: Path) -> None:
    with running_server(
        allow_model_management=True, threads_max_workers=1, max_waiting_requests=0
    ) as server:
        add(server, {"model_id": "b"})
        with unharmed_neighbour(server):
            assert CHAT.ask(server, "count to 3").status == 429
            assert text_of(say(server, "b")) == "1 2 3 "


def load_unless_broken(settings: Settings, executor: Executor) -> Engine:
    if settings.model_id == "org/broken":
        raise ModelLoadError("org/broken: its weights are broken")
    return load_engine(settings, executor)


def test_a_model_that_cannot_be_loaded_is_reported_and_harms_nobody(home: Path) -> None:
    """Fault 116, and what readiness is about."""
    with running_server(load=load_unless_broken, allow_model_management=True) as server:
        with unharmed_neighbour(server):
            state = add(server, {"model_id": "org/broken"})

            assert state == "failed: org/broken: its weights are broken"
            (instance,) = server.get("/list_models").json()["org/broken"]["instances"]
            assert instance["status"] == "failed"
            assert instance["error"] == "org/broken: its weights are broken"
            assert say(server, "org/broken").status_code == 503
            for path in ("/readyz", "/health", "/livez", "/startupz"):
                assert server.get(path).status_code == 200
            assert text_of(say(server, "mock")) == "1 2 3 "

        assert server.post("/remove_model", {"model_id": "org/broken"}).status_code == 200
        wait_until(lambda: names(server) == ["mock"], "the failure is forgotten")


def test_a_running_stream_ends_before_its_model_does(server: LiveServer) -> None:
    """Fault 110."""
    add(server, {"model_id": "b"})
    with unharmed_neighbour(server), stream_of(server, "b") as stream:
        server.post("/remove_model", {"model_id": "b"})

        assert server.get("/list_models").json()["b"]["instances"][0]["status"] == "unloading"
        assert say(server, "b").status_code == 404
        assert "".join(stream.rest()).endswith("60 <|eot_id|>")
        wait_until(lambda: names(server) == ["mock"], "it is unloaded")


def test_a_forced_removal_ends_a_running_stream_with_an_error(server: LiveServer) -> None:
    """Fault 110."""
    add(server, {"model_id": "b"})
    with unharmed_neighbour(server), stream_of(server, "b") as stream:
        server.post("/remove_model", {"model_id": "b", "force": True})

        *_, last = stream.rest()
        assert "unloaded" in last["error"]["message"]
        wait_until(lambda: names(server) == ["mock"], "it is unloaded")


class ModelStream:
    """A slow stream of the founding API whose first text has come."""

    def __init__(self, server: LiveServer, model: str) -> None:
        self._server = server
        self._body = {"model": model, "messages": user("slowly count to 60")}
        self._events: list[Any] = []
        self._first = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> ModelStream:
        self._reader.start()
        assert self._first.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.join(PATIENCE_S)

    def rest(self) -> list[Any]:
        """Return all events, once the stream has ended."""
        self._reader.join(PATIENCE_S)
        return self._events

    def _read(self) -> None:
        with (
            new_client(self._server.url) as client,
            client.stream("POST", STREAM_PATH, json=self._body) as response,
        ):
            for line in response.iter_lines():
                if line.startswith("data:"):
                    self._events.append(parse_event(line))
                    self._first.set()


def stream_of(server: LiveServer, model: str) -> ModelStream:
    return ModelStream(server, model)


def test_the_only_model_can_be_exchanged_for_another(server: LiveServer) -> None:
    server.post("/remove_model", {"model_id": "mock"})
    wait_until(lambda: names(server) == [], "it is unloaded")
    health = server.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert STREAM.ask(server, "count to 3").status == 503

    add(server, {"model_id": "b"})

    assert server.get("/health").status_code == 200
    assert STREAM.ask(server, "count to 3").text == "1 2 3 "


# --- Their keys ----------------------------------------------------------------------------------


def test_max_seq_len_and_model_name_are_honoured(server: LiveServer) -> None:
    add(server, {"model_id": "org/b", "model_name": "short", "max_seq_len": 64})

    card = server.get("/v1/models/org/b").json()
    assert (card["id"], card["max_model_len"]) == ("short", 64)


def test_a_short_name_has_the_keys_of_the_file_and_those_of_the_request_win(
    home: Path, server: LiveServer
) -> None:
    (home / ".palma").mkdir()
    (home / ".palma" / "models.yaml").write_text(
        "Tiny: {model_id: org/long-name, max_seq_len: 64}\n"
        "broken: {model_id: org/name, gpus: [1, 2]}\n"
    )

    add(server, {"model_id": "tiny"})
    add(server, {"model_id": "Tiny", "model_name": "other", "max_seq_len": 128})

    for name, window in {"tiny": 64, "org/long-name": 64, "long-name": 64, "other": 128}.items():
        assert server.get(f"/v1/models/{name}").json()["max_model_len"] == window
    refused = server.post("/add_model", {"model_id": "broken"})
    assert refused.status_code == 400
    assert "models.yaml: broken: gpus" in refused.json()["detail"]


REFUSED = {
    "gpus": [20, 15],
    "tensor_parallel": True,
    "cache_quant": "FP16",
    "quant": 4.0,
    "prompt_template": "Mistral",
    "draft_model_id": "b",
    "draft_model_name": "b",
    "draft_gpus": [1],
    "draft_cache_size": 4096,
    "draft_cache_quant": "Q4",
    "cache_size": 4096,
    "backend": "exllama",
    "max_seq_len": 0,
    "revision": "",
    "no_such_key": 1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name_and_nothing_is_added(
    name: str, same_server: LiveServer
) -> None:
    response = same_server.post(
        "/add_model", [{"model_id": "b"}, {"model_id": "c", name: REFUSED[name]}]
    )

    assert response.status_code == 400
    assert name in response.json()["detail"]
    assert names(same_server) == ["mock"]


@pytest.mark.parametrize("body", [[], "b", 7, True, [{"model_id": "b"}, "c"], {}, {"model_id": 1}])
def test_a_body_of_another_shape_is_400(body: Any, same_server: LiveServer) -> None:
    response = same_server.post("/add_model", body)

    assert response.status_code == 400
    assert response.json().keys() == {"detail"}


def test_errors_of_its_routes_have_its_envelope(same_server: LiveServer) -> None:
    answers = {
        404: same_server.get("/task_status/none"),
        405: same_server.get("/add_model"),
        415: same_server.client.post("/remove_model", content=b"{}"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.json().keys() == {"detail"}


@pytest.mark.parametrize("task_id", ["none", "load-", "load-x", "download-1", "load-99", "-"])
def test_a_task_that_never_was_is_404(task_id: str, same_server: LiveServer) -> None:
    assert same_server.get(f"/task_status/{task_id}").status_code == 404


def test_a_download_that_fails_says_why(server: LiveServer) -> None:
    with unharmed_neighbour(server):
        begun = server.post("/download_model", {"model_name": "mistral"}).json()
        path = f"/task_status/{begun['task_id']}"
        wait_until(
            lambda: server.get(path).json()["status"].startswith("failed"), "the download ends"
        )

        assert "model_not_cached" in server.get(path).json()["status"]
        (download,) = server.get("/status").json()["downloads"].items()
        assert download[0] == "mistralai/Mistral-7B-Instruct-v0.3"
        assert download[1]["status"] == "failed"


def test_bits_in_a_name_are_refused(same_server: LiveServer) -> None:
    response = same_server.post("/download_model", {"model_name": "mistral:4.0"})

    assert response.status_code == 400
    assert "leave ':4.0' out" in response.json()["detail"]


def test_two_continuous_engines_with_one_worker_each_both_serve(home: Path) -> None:
    """The loop of an engine holds a thread for ever: the second one needs its own."""
    with running_server(
        engine="continuous",
        device="cpu",
        cpu_kernel=False,
        threads_max_workers=1,
        allow_model_management=True,
    ) as server:
        keys = {"model_id": "palmita", "model_name": "small", "cache_size": 256}
        assert add(server, keys) == "completed"

        assert server.get("/v1/models/small").json()["max_model_len"] == 256
        question = "What is the capital of France?"
        answers = {text_of(ask_greedily(server, name, question)) for name in ("small", "palmita")}
        assert len(answers) == 1
        assert "Paris" in answers.pop()

        too_much = {**keys, "model_name": "large", "cache_size": 10**12}
        assert "KV_CACHE_TOKENS" in add(server, too_much)
        server.post("/remove_model", {"model_id": "small"})
        wait_until(lambda: "small" not in names(server), "it is unloaded")
        assert "Paris" in text_of(ask_greedily(server, "palmita", question))


def ask_greedily(server: LiveServer, model: str, question: str) -> httpx.Response:
    body = {"model": model, "messages": user(question), "temperature": 0}
    return server.post("/v1/chat/completions", body)


def test_stop_words_are_stop_by_another_name(mock_server: LiveServer) -> None:
    body = {"model": "mock", "messages": user("count to 9")}
    for path in ("/v1/chat/completions", "/v1/completions"):
        asked = body if "chat" in path else {"model": "mock", "prompt": "count to 9"}
        heard = mock_server.post(path, {**asked, "stop_words": ["4"]}).json()
        assert heard["choices"] == mock_server.post(path, {**asked, "stop": "4"}).json()["choices"]
        assert heard["choices"][0]["finish_reason"] == "stop"

    differing = mock_server.post("/v1/chat/completions", {**body, "stop": "3", "stop_words": ["4"]})
    assert differing.status_code == 400
    assert differing.json()["error"]["param"] == "stop_words"
