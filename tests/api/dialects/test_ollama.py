"""Ollama's API, judged by the official client and by its rules for lines of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import ollama
import pytest

from palma.api.dialects.ollama.bodies import ChatBody, GenerateBody
from palma.api.dialects.ollama.options import Options
from palma.api.fields import NeutralOnly
from palma.engine.base import TokenDelta
from tests.faults.test_silent_clients import send_and_never_read
from tests.live_server import LiveServer, running_server, unharmed_neighbour, user, wait_until
from tests.spy_engine import MAX_STEPS_AFTER_CANCEL, Spy

if TYPE_CHECKING:
    from tests.calls import Call

CHAT, GENERATE = "/api/chat", "/api/generate"

DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def neutral_values(model: Any) -> dict[str, tuple[Any, ...]]:
    return {
        name: mark.values
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, NeutralOnly)
    }


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(mock_server.url) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(palmita_server.url) as client:
        yield client


def ask(client: ollama.Client, content: str, **kwargs: Any) -> Any:
    return client.chat(**{"model": "mock", "messages": user(content), **kwargs})


def lines(server: LiveServer, path: str, body: Any) -> list[Any]:
    with server.client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.iter_lines()]


def test_a_whole_chat_has_text_reason_and_measured_counts(client: ollama.Client) -> None:
    answer = ask(client, "count to 3")

    assert answer.message.role == "assistant"
    assert answer.message.content == "1 2 3 "
    assert answer.model == "mock"
    assert answer.done is True
    assert answer.done_reason == "stop"
    assert answer.eval_count == 4  # three numbers and the end token
    assert answer.prompt_eval_count == len(b"user: count to 3") + 1 + len(b"assistant: ")
    assert datetime.fromisoformat(answer.created_at).tzinfo is not None


def test_durations_are_nanoseconds_that_fit_into_each_other(client: ollama.Client) -> None:
    answer = ask(client, "slowly count to 3")

    first_step, other_steps = 20_000_000, 3 * 20_000_000
    assert answer.load_duration == 0
    assert answer.prompt_eval_duration >= first_step
    assert answer.eval_duration >= other_steps
    parts = answer.load_duration + answer.prompt_eval_duration + answer.eval_duration
    assert answer.total_duration >= parts


def test_lines_come_by_default_and_add_up_to_the_whole(mock_server: LiveServer) -> None:
    for content, options in (
        ("count to 12", {}),
        ("say a\u2028ñ🏴‍☠️", {}),
        ("count to 9", {"num_predict": 4}),
        ("count to 9", {"stop": ["5"]}),
    ):
        body = {"model": "mock", "messages": user(content), "options": options}
        whole = mock_server.post(CHAT, {**body, "stream": False}).json()

        *parts, last = lines(mock_server, CHAT, body)

        text = "".join(part["message"]["content"] for part in parts)
        assert text == whole["message"]["content"]
        assert [part["done"] for part in parts] == [False] * len(parts)
        assert last["message"] == {"role": "assistant", "content": ""}
        assert last.keys() == whole.keys()
        for name in ("done", "done_reason", "eval_count", "prompt_eval_count", "model"):
            assert last[name] == whole[name]


def test_the_client_reads_a_stream(client: ollama.Client) -> None:
    parts = list(ask(client, "say a\u2028b\x85c", stream=True))

    assert "".join(part.message.content for part in parts) == "a\u2028b\x85c"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_stream_is_not_compressed_but_a_long_answer_is(mock_server: LiveServer) -> None:
    body = {"model": "mock", "messages": user("count to 900")}

    stream = mock_server.post(CHAT, body)
    whole = mock_server.post(CHAT, {**body, "stream": False})

    assert "content-encoding" not in stream.headers
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.headers["x-accel-buffering"] == "no"
    assert whole.headers["content-encoding"] == "gzip"


def test_stop_strings_and_num_predict_end_the_answer(client: ollama.Client) -> None:
    stopped = ask(client, "count to 9", options={"stop": ["5", "3 4"]})
    cut = ask(client, "count to 9", options={"num_predict": 2})
    filled = ask(client, "count to 600", options={"num_predict": -2})

    assert (stopped.message.content, stopped.done_reason) == ("1 2 ", "stop")
    assert (cut.message.content, cut.done_reason) == ("1 2 ", "length")
    assert filled.eval_count == 601


def test_generate_asks_one_message_with_or_without_a_system_prompt() -> None:
    spy = Spy()
    with running_server(load=spy.load) as server, ollama.Client(server.url) as client:
        plain = client.generate(model="mock", prompt="say a")
        parts = list(client.generate(model="mock", prompt="say b", system="be brief", stream=True))
        raw = client.generate(model="mock", prompt="user: say c<|eot_id|>assistant: ", raw=True)

    assert plain.response == "a"
    assert "".join(part.response for part in parts) == "b"
    assert raw.response == "c"
    assert [request.prompt for request in spy.submitted] == [
        "user: say aassistant: ",
        "system: be briefuser: say bassistant: ",
        "user: say cassistant: ",
    ]


def test_raw_has_no_place_for_a_system_prompt_or_for_thinking(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="system"):
        client.generate(model="mock", prompt="hi", system="be brief", raw=True)
    with pytest.raises(ollama.ResponseError, match="think"):
        client.generate(model="mock", prompt="hi", think=True, raw=True)


def test_log_probabilities_cover_the_text_streamed_or_not(client: ollama.Client) -> None:
    whole = ask(client, "say ab", logprobs=True, top_logprobs=1)
    parts = list(ask(client, "say ab", logprobs=True, top_logprobs=1, stream=True))

    assert [entry.token for entry in whole.logprobs] == ["a", "b"]
    assert [entry.logprob for entry in whole.logprobs] == [0.0, 0.0]
    assert [entry.top_logprobs[0].token for entry in whole.logprobs] == ["a", "b"]
    streamed = [entry for part in parts for entry in part.logprobs or ()]
    assert streamed == list(whole.logprobs)
    with pytest.raises(ollama.ResponseError, match="logprobs"):
        ask(client, "say ab", top_logprobs=1)


def test_without_a_prompt_it_says_that_the_model_is_loaded(client: ollama.Client) -> None:
    chat = client.chat(model="mock", messages=[])
    completion = client.generate(model="mock", keep_alive="10m")

    assert (chat.message.content, chat.done_reason) == ("", "load")
    assert (completion.response, completion.done_reason) == ("", "load")
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate(model="other")
    assert caught.value.status_code == 404


def test_the_default_tag_and_the_hubs_address_are_no_part_of_a_name(client: ollama.Client) -> None:
    for name in ("mock:latest", "hf.co/mock"):
        assert ask(client, "count to 1", model=name).model == "mock"
    for name in ("mock:8b", "other", "org/other:latest"):
        with pytest.raises(ollama.ResponseError) as caught:
            ask(client, "hi", model=name)
        assert caught.value.status_code == 404


def test_a_last_turn_of_the_assistant_is_continued(palmita: ollama.Client) -> None:
    question = user("What is the capital of France?")
    greedy: Any = {"model": "palmita", "options": {"temperature": 0, "repeat_penalty": 1}}
    answer = palmita.chat(messages=question, **greedy).message.content
    begun = answer[: answer.index("Paris")]

    rest = palmita.chat(messages=[*question, {"role": "assistant", "content": begun}], **greedy)

    assert begun.rstrip() + rest.message.content == answer


def test_options_reach_the_model(palmita: ollama.Client) -> None:
    def count(**options: Any) -> str:
        chosen = {"num_predict": 40, "repeat_penalty": 1, **options}
        answer = palmita.generate(model="palmita", prompt="Count to ten.", options=chosen)
        return str(answer.response)

    greedy = count(temperature=0)
    assert count(temperature=2, top_k=1) == greedy
    assert count(temperature=2, top_p=1e-9) == greedy
    assert count(temperature=2, top_p=1, top_k=0, min_p=1) == greedy
    assert count(temperature=2, top_k=0, top_p=1, typical_p=1, seed=7) == count(
        temperature=2, top_k=0, top_p=1, typical_p=1, seed=7
    )
    assert len({count(temperature=2, top_k=0, top_p=1) for _ in range(4)}) > 1
    assert count(temperature=0, repeat_penalty=100, repeat_last_n=-1) != greedy
    assert count(temperature=0, repeat_penalty=100, repeat_last_n=0) == greedy
    drawn: Any = {"temperature": 2, "top_k": 0, "top_p": 1, "seed": 7}
    assert count(**drawn, presence_penalty=2) != count(**drawn)
    assert count(**drawn, frequency_penalty=2) != count(**drawn)
    assert count(temperature=2, top_k=0, top_p=1, mirostat=1, mirostat_tau=0) == greedy
    assert count(temperature=2, top_k=0, top_p=1, mirostat=2, mirostat_tau=0) == greedy


def test_what_is_left_out_has_ollamas_own_defaults() -> None:
    params = Options().sampling_params(None)

    assert (params.temperature, params.top_k, params.top_p) == (0.8, 40, 0.9)
    assert (params.repetition_penalty, params.repetition_window) == (1.1, 64)
    assert (params.max_tokens, params.seed) == (None, None)
    assert Options.model_validate({"top_k": None, "num_ctx": None}) == Options()


def test_num_ctx_is_a_smaller_window_and_never_a_larger_one(client: ollama.Client) -> None:
    answer = ask(client, "count to 900", options={"num_ctx": 64})

    assert answer.done_reason == "length"
    assert answer.prompt_eval_count + answer.eval_count == 64
    with pytest.raises(ollama.ResponseError, match="num_ctx") as caught:
        ask(client, "hi", options={"num_ctx": 131_073})
    assert caught.value.status_code == 400


def test_the_oldest_turns_go_only_where_the_client_asks_for_it() -> None:
    old_turn = [*user("x" * 80), {"role": "assistant", "content": "y" * 80}]
    messages = [{"role": "system", "content": "be brief"}, *old_turn, *user("say z")]
    spy = Spy()
    with running_server(load=spy.load) as server:
        body = {"model": "mock", "messages": messages, "options": {"num_ctx": 128}}
        dropped = server.post(CHAT, {**body, "truncate": True, "stream": False})
        refused = server.post(CHAT, body)

    assert dropped.json()["message"]["content"] == "z"
    assert [request.prompt for request in spy.submitted] == [
        "system: be briefuser: say zassistant: "
    ]
    assert refused.status_code == 400
    assert "window" in refused.json()["error"]


def test_neutral_values_and_durations_to_stay_loaded_are_taken(mock_server: LiveServer) -> None:
    for path, model, prompt in (
        (CHAT, ChatBody, {"messages": user("count to 1")}),
        (GENERATE, GenerateBody, {"prompt": "count to 1"}),
    ):
        values = neutral_values(model)
        neutral = {name: taken[0] for name, taken in values.items() if taken}
        options = {name: taken[0] for name, taken in neutral_values(Options).items() if taken}
        body = {"model": "mock", "stream": False, **prompt}

        for more in (
            neutral,
            {"options": {**options, "num_keep": 4}},
            dict.fromkeys([*values, "options", "keep_alive", "logprobs", "top_logprobs"]),
            {"options": dict.fromkeys(Options.model_fields)},
            *({"keep_alive": value} for value in (-1, 300, 0.5, "5m", "1h30m", "-1")),
        ):
            response = mock_server.post(path, {**body, **more})
            assert response.status_code == 200, (more, response.text)


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT, "tools", [{"type": "web_search"}]),
        (CHAT, "tools", [{"type": "function", "function": {"name": "f"}}] * 2),
        (CHAT, "think", "hardly"),
        (CHAT, "keep_alive", 0),
        (CHAT, "keep_alive", "0s"),
        (CHAT, "keep_alive", "soon"),
        (CHAT, "no_such_field", 1),
        (GENERATE, "suffix", "end"),
        (GENERATE, "template", "{{ .Prompt }}"),
        (GENERATE, "images", ["aGk="]),
        (GENERATE, "context", [1, 2]),
    ],
)
def test_what_would_have_no_effect_is_refused_by_name(
    mock_server: LiveServer, path: str, field: str, value: Any
) -> None:
    body = {"model": "mock", "prompt": "hi"} if path == GENERATE else {"model": "mock"}

    response = mock_server.post(path, {**body, field: value})

    assert response.status_code == 400
    assert response.json().keys() == {"error"}
    assert field in response.json()["error"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_thread", 8),
        ("num_gpu", 99),
        ("use_mmap", True),
        ("tfs_z", 0.5),
        ("num_predict", 0),
        ("temperature", -1),
        ("mirostat", 3),
        ("no_such_option", 1),
    ],
)
def test_options_that_would_have_no_effect_are_refused_by_name(
    client: ollama.Client, option: str, value: Any
) -> None:
    with pytest.raises(ollama.ResponseError, match=f"options.{option}") as caught:
        ask(client, "hi", options={option: value})

    assert caught.value.status_code == 400


def test_images_in_messages_are_refused_by_name(mock_server: LiveServer) -> None:
    messages = [{"role": "user", "content": "hi", "images": ["aGk="]}]

    response = mock_server.post(CHAT, {"model": "mock", "messages": messages})

    assert response.status_code == 400
    assert "messages.0.images" in response.json()["error"]


def test_an_answer_may_be_sent_back_as_it_came(client: ollama.Client) -> None:
    first = ask(client, "count to 3")

    answer = client.chat(
        model="mock",
        messages=[*user("count to 3"), first.message.model_dump(), *user("say more")],
    )

    assert answer.message.content == "more"


def test_errors_of_http_itself_are_in_the_same_envelope(mock_server: LiveServer) -> None:
    wrong_method = mock_server.get(CHAT)
    wrong_type = mock_server.client.post(CHAT, content="{}", headers={"Content-Type": "text/plain"})
    nowhere = mock_server.get("/api/nowhere")

    for response, status in ((wrong_method, 405), (wrong_type, 415), (nowhere, 404)):
        assert response.status_code == status
        assert response.json().keys() == {"error"}


def test_a_key_is_asked_for() -> None:
    with running_server(api_key="secret") as server:
        right = {"Authorization": "Bearer secret"}
        with ollama.Client(server.url, headers=right) as client:
            assert ask(client, "count to 1").message.content == "1 "
        with ollama.Client(server.url) as client, pytest.raises(ollama.ResponseError) as caught:
            client.list()

    assert caught.value.status_code == 401


def test_a_failure_in_the_middle_is_a_line_with_the_error(
    mock_server: LiveServer, client: ollama.Client
) -> None:
    with unharmed_neighbour(mock_server):
        found = lines(mock_server, CHAT, {"model": "mock", "messages": user("slowly fail after 2")})
        with pytest.raises(ollama.ResponseError, match="asked to fail"):
            list(ask(client, "fail after 2", stream=True))

    assert found[-1].keys() == {"error"}
    assert not any(line.get("done") for line in found)


def test_a_client_that_leaves_stops_the_work() -> None:
    spy = Spy()
    with running_server(load=spy.load) as server:
        body = {"model": "mock", "messages": user("slowly count to 9000")}
        with server.client.stream("POST", CHAT, json=body) as response:
            next(response.iter_lines())
        wait_until(lambda: spy.submitted[0].finish_reason is not None, "the sequence ends")

    assert spy.submitted[0].finish_reason == "cancelled"
    assert spy.submitted[0].num_tokens_after_cancel <= MAX_STEPS_AFTER_CANCEL


@dataclass(frozen=True)
class EndlessCall:
    """A request whose answer is longer than all buffers."""

    def request_bytes(self, content: str) -> bytes:
        body = json.dumps({"model": "mock", "messages": user(content)}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_client_that_stops_reading_is_dropped() -> None:
    def take_time(prompt: str, delta: TokenDelta) -> None:
        time.sleep(0.0002)  # the generation is far from its end when the client is dropped

    spy = Spy(on_token=take_time)
    with running_server(load=spy.load, send_timeout_s=0.3) as server:
        with send_and_never_read(server, cast("Call", EndlessCall()), "count to 100000"):
            wait_until(lambda: spy.submitted, "it is taken")
            wait_until(lambda: spy.submitted[0].finish_reason is not None, "it is dropped")
        server.wait_until_idle()

    assert spy.submitted[0].finish_reason == "cancelled"
