"""Falcon's API: plain text as it is made, and chat as events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from palma.core.config import Settings
from palma.engine.base import Engine
from palma.engine.mock import MockEngine
from tests.faults.test_silent_clients import send_and_never_read
from tests.live_server import (
    LiveServer,
    new_client,
    parse_event,
    running_server,
    unharmed_neighbour,
    user,
    wait_until,
)

if TYPE_CHECKING:
    from tests.calls import Call

INFERENCE = "/inference/mock"
PREDICTIONS = "/predictions/mock"
CHAT = "/chat/mock"
TEXTS = (INFERENCE, PREDICTIONS)
ALL = (*TEXTS, CHAT)
END = "<|endoftext|>"


def post(
    server: LiveServer, path: str, text: str = "x: count to 3", **fields: Any
) -> httpx.Response:
    return server.post(path, {"text": text, **fields})


def chat_events(server: LiveServer, text: str, path: str = CHAT, **fields: Any) -> list[Any]:
    """Return the events of a chat as pairs of name and data."""
    response = post(server, path, text, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n") for part in response.text.split("\n\n") if part]
    return [(head.removeprefix("event: "), parse_event(data)) for head, data in events]


def last_text(server: LiveServer, path: str, text: str, **fields: Any) -> str:
    """Return the whole answer of any of the three routes, without its end."""
    if path.startswith("/chat/"):
        *_, (_, data), close = chat_events(server, text, path, **fields)
        assert close == ("close", {"message": "Connection closed"})
        return str(data["message"])
    response = post(server, path, text, **fields)
    assert response.status_code == 200, response.text
    assert response.text.endswith(END)
    return response.text.removesuffix(END)


@pytest.mark.parametrize("path", TEXTS)
def test_the_answer_is_chunked_plain_text_that_ends_with_the_marker(
    path: str, mock_server: LiveServer
) -> None:
    response = post(mock_server, path)

    assert response.text == f"1 2 3 {END}"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.http_version == "HTTP/1.1"


@pytest.mark.parametrize("path", TEXTS)
def test_the_text_leaves_as_it_is_made_and_is_never_gzipped(
    path: str, mock_server: LiveServer
) -> None:
    body = {"text": "x: slowly count to 200", "max_tokens": 500}
    headers = {"Accept-Encoding": "gzip"}

    with mock_server.client.stream("POST", path, json=body, headers=headers) as response:
        assert response.headers.get("content-encoding", "identity") == "identity"
        first = next(response.iter_raw())

    assert first == b"1 "  # four seconds before the end


def test_inference_continues_the_text_as_it_stands(mock_server: LiveServer) -> None:
    assert last_text(mock_server, INFERENCE, "Q: say it as it is.") == "it as it is."


def test_predictions_and_chat_use_the_models_chat_template(palmita_server: LiveServer) -> None:
    question = "What is the capital of France?"
    expected = palmita_server.post(
        "/v1/chat/completions",
        {"model": "palmita", "messages": user(question), "temperature": 0},
    ).json()["choices"][0]["message"]["content"]

    for path in ("/predictions/palmita", "/chat/palmita"):
        assert last_text(palmita_server, path, question, top_k=1) == expected
    assert "Paris" in expected
    assert last_text(palmita_server, "/inference/palmita", question, top_k=1) != expected


def read_into(received: bytearray, server: LiveServer, path: str, text: str) -> None:
    """Add to the bytes what comes of an answer, also when it breaks."""
    with server.client.stream("POST", path, json={"text": text}) as response:
        for piece in response.iter_raw():
            received += piece


@pytest.fixture(scope="module")
def untemplated_server() -> Iterator[LiveServer]:
    """A mock model that has no chat template."""

    def load(settings: Settings, executor: Executor) -> Engine:
        engine = MockEngine(executor, settings.threads_max_workers)
        engine.tokenizer.chat_template = ""
        return engine

    with running_server(load=load) as server:
        yield server


def test_without_a_template_the_text_is_a_users_line(untemplated_server: LiveServer) -> None:
    """The mock engine says what follows `say`: all that stands behind the text, too."""
    for path in (PREDICTIONS, CHAT):
        assert last_text(untemplated_server, path, "say hi") == "hi\nAI: "


def test_chat_sends_the_text_so_far_and_a_farewell(mock_server: LiveServer) -> None:
    assert chat_events(mock_server, "count to 3") == [
        ("answer", {"message": "1 "}),
        ("answer", {"message": "1 2 "}),
        ("answer", {"message": "1 2 3 "}),
        ("close", {"message": "Connection closed"}),
    ]


@pytest.mark.parametrize("path", ALL)
def test_unspoken_max_tokens_are_128_and_spoken_ones_are_obeyed(
    path: str, mock_server: LiveServer
) -> None:
    assert len(last_text(mock_server, path, "x: count to 500").split()) == 128
    for max_tokens in (2, "2", " 2 "):
        assert last_text(mock_server, path, "x: count to 500", max_tokens=max_tokens) == "1 2 "


@pytest.mark.parametrize("path", ALL)
def test_a_stop_sequence_truncates_the_text(path: str, mock_server: LiveServer) -> None:
    assert last_text(mock_server, path, "x: count to 9", stop_sequence="4") == "1 2 3 "
    assert last_text(mock_server, path, "x: count to 9", stop_sequence=None).endswith("9 ")


def test_the_marker_in_the_middle_of_a_text_is_its_end(mock_server: LiveServer) -> None:
    order = f"x: say one{END}two.three"

    assert last_text(mock_server, INFERENCE, order) == "one"
    assert last_text(mock_server, INFERENCE, order, stop_sequence=".") == "one"


@pytest.mark.parametrize("path", ALL)
def test_return_prompt_puts_the_prompt_before_the_answer(
    path: str, mock_server: LiveServer
) -> None:
    prompt = "¿x?: count to 3"

    assert last_text(mock_server, path, prompt, return_prompt=True) == f"{prompt}1 2 3 "
    for nothing in (False, None):
        assert last_text(mock_server, path, prompt, return_prompt=nothing) == "1 2 3 "


@pytest.mark.parametrize("path", ALL)
def test_a_session_id_comes_back_in_a_header_and_keeps_nothing(
    path: str, mock_server: LiveServer
) -> None:
    first = post(mock_server, path, "x: say secret", session_id="team-1.a:b_c")
    second = post(mock_server, path, "x: count to 2", session_id="team-1.a:b_c")

    assert first.headers["x-session-id"] == second.headers["x-session-id"] == "team-1.a:b_c"
    assert "secret" not in second.text
    assert "x-session-id" not in post(mock_server, path).headers


def test_sampling_obeys_the_fields(palmita_server: LiveServer) -> None:
    def texts(**fields: Any) -> set[str]:
        return {
            last_text(palmita_server, "/predictions/palmita", "Tell me a story.", **fields)
            for _ in range(4)
        }

    (greedy,) = texts(top_k=1)
    assert texts(top_p=0.01, top_k="1000") == {greedy}
    assert texts(temperature="0.01") == {greedy}
    assert len(texts(temperature=1e2, top_p=1, top_k=1000, max_tokens=20)) > 1


BOUNDS = {
    "temperature": ("number from 0.01 to 100", ("0", 0, 100.1, "-1", "hot", True, [1], "nan")),
    "top_p": ("number from 0.01 to 1", (0, -1, 1.01, "3333ffaa", "inf", "1e-9")),
    "top_k": ("whole number from 1 to 1000", (0, 1001, "ddgsd", 1.5, "1.5", "٣", "1_0")),
    "max_tokens": ("whole number from 1 to 2048", (0, -1, 2049, 9999999, "dg2", "9" * 30, False)),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in BOUNDS.items() for value in values]
)
def test_a_number_out_of_bounds_is_refused_with_name_value_and_bounds(
    name: str, value: Any, mock_server: LiveServer
) -> None:
    for path in ALL:
        response = post(mock_server, path, **{name: value})

        assert response.status_code == 400
        error = response.json()
        assert error.keys() == {"status_code", "message"}
        assert error["status_code"] == 400
        assert error["message"].startswith(f"{name}: must be a {BOUNDS[name][0]}, found ")
        assert repr(value)[:20] in error["message"]


@pytest.mark.parametrize("numbers", [
    {"temperature": 0.01, "top_p": 0.01, "top_k": 1, "max_tokens": 1},
    {"temperature": "100", "top_p": "1.0", "top_k": "1000", "max_tokens": "2048"},
    {"temperature": "1e-2", "top_p": ".5", "top_k": "+7", "max_tokens": 5},
    {"temperature": None, "top_p": None, "top_k": None, "max_tokens": None},
])  # fmt: skip
def test_numbers_within_bounds_are_taken_also_as_strings(
    numbers: dict[str, Any], mock_server: LiveServer
) -> None:
    for path in ALL:
        assert post(mock_server, path, **numbers).status_code == 200


def test_numbers_as_strings_are_taken_in_this_dialect_only(mock_server: LiveServer) -> None:
    body = {"model": "mock", "messages": user("hi"), "max_tokens": "3"}

    assert mock_server.post("/v1/chat/completions", body).status_code == 400


@pytest.mark.parametrize(("body", "words"), [
    ({}, "text is missing"),
    ({"text": ""}, "text: "),
    ({"text": ["hi"]}, "text: "),
    ({"text": "hi", "stop_sequence": ""}, "stop_sequence: "),
    ({"text": "hi", "stop_sequence": ["."]}, "stop_sequence: "),
    ({"text": "hi", "return_prompt": "true"}, "return_prompt: "),
    ({"text": "hi", "session_id": "a b"}, "session_id: "),
    ({"text": "hi", "session_id": "a\r\nSet-Cookie: x"}, "session_id: "),
    ({"text": "hi", "session_id": "x\n"}, "session_id: "),
    ({"text": "hi", "session_id": "s" * 129}, "session_id: "),
    ({"text": "hi", "seed": 1}, "seed is not a parameter"),
])  # fmt: skip
def test_other_fields_are_refused_by_name(
    body: dict[str, Any], words: str, mock_server: LiveServer
) -> None:
    for path in ALL:
        response = mock_server.post(path, body)

        assert response.status_code == 400
        assert words in response.json()["message"]


@pytest.mark.parametrize("path", ALL)
def test_every_error_of_its_routes_is_in_its_envelope(path: str, mock_server: LiveServer) -> None:
    responses = {
        400: mock_server.client.post(
            path, content="{", headers={"Content-Type": "application/json"}
        ),
        404: post(mock_server, path.replace("mock", "falcon40b")),
        405: mock_server.get(path),
        415: mock_server.client.post(path, content="hi", headers={"Content-Type": "text/plain"}),
    }

    for status, response in responses.items():
        assert response.status_code == status
        assert response.json()["status_code"] == status
        assert response.json()["message"]


def test_literal_routes_of_other_dialects_stand_first(mock_server: LiveServer) -> None:
    chat = {"model": "mock", "messages": user("say hi")}

    llama_stack = mock_server.post("/inference/chat_completion", chat)

    assert llama_stack.json()["completion_message"]["content"] == "hi"


def test_a_full_queue_is_503_overloaded() -> None:
    with running_server(threads_max_workers=1, max_waiting_requests=0) as server:
        with server.client.stream(
            "POST", INFERENCE, json={"text": "x: slowly count to 2000", "max_tokens": 2048}
        ) as response:
            assert response.status_code == 200
            for path in ALL:
                refused = post(server, path)

                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json()["status_code"] == 503
                assert "overloaded" in refused.json()["message"]
        wait_until(lambda: post(server, INFERENCE).status_code == 200, "the place is free again")


def test_a_prompt_that_does_not_fit_is_400_before_a_byte_is_sent(
    palmita_server: LiveServer,
) -> None:
    for path in ("/inference/palmita", "/predictions/palmita", "/chat/palmita"):
        response = post(palmita_server, path, "word " * 5000)

        assert response.status_code == 400
        assert "window" in response.json()["message"]


@pytest.mark.parametrize("path", TEXTS)
def test_a_text_that_breaks_is_cut_off_so_that_no_client_takes_it_for_whole(
    path: str, mock_server: LiveServer
) -> None:
    received = bytearray()
    cut_off = pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read")
    with unharmed_neighbour(mock_server), cut_off:
        read_into(received, mock_server, path, "x: fail after 2")

    assert received.startswith(b'1 2 \n{"status_code":500,"message":"')
    assert END.encode() not in received


def test_a_chat_that_breaks_ends_with_an_error_and_no_farewell(mock_server: LiveServer) -> None:
    events = chat_events(mock_server, "fail after 2")

    assert [name for name, _ in events] == ["answer", "answer", "error"]
    assert events[-1][1]["status_code"] == 500


@pytest.mark.parametrize("path", ALL)
def test_a_client_that_leaves_cancels_the_work(path: str, mock_server: LiveServer) -> None:
    body = {"text": "x: slowly count to 2000", "max_tokens": 2048}

    with (
        unharmed_neighbour(mock_server),
        new_client(mock_server.url) as client,
        client.stream("POST", path, json=body) as response,
    ):
        next(response.iter_raw())

    mock_server.wait_until_idle()


@dataclass(frozen=True)
class FalconCall:
    """A request as `send_and_never_read` wants it."""

    path: str

    def request_bytes(self, content: str, **params: Any) -> bytes:
        """Return a whole HTTP request."""
        body = json.dumps({"text": content, **params})
        head = f"POST {self.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize("path", TEXTS)
def test_a_client_that_stops_reading_is_dropped(path: str) -> None:
    """The prompt alone fills all buffers; the answer would take 40 s."""
    call = cast("Call", FalconCall(path))
    prompt = "x" * 100_000 + ": slowly count to 2000"
    fields = {"return_prompt": True, "max_tokens": 2048}
    with (
        running_server(send_timeout_s=0.3) as server,
        send_and_never_read(server, call, prompt, **fields),
    ):
        wait_until(
            lambda: 'outcome="cancelled"' in server.get("/metrics").text, "it has been dropped"
        )
