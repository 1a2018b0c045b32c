"""Text completions, judged by the official client with strict validation of whole answers."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.live_server import LiveServer, running_server, unharmed_neighbour, wait_until
from tests.spy_engine import Spy

PATH = "/v1/completions"
NAMES = (PATH, "/v1/chat/generate")


@pytest.fixture(scope="module")
def client(strict_openai: openai.OpenAI) -> openai.OpenAI:
    return strict_openai


def ask(server: LiveServer, prompt: Any, **fields: Any) -> dict[str, Any]:
    """POST a body and return the whole answer."""
    response = server.post(PATH, {"prompt": prompt, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def streamed(events: list[Any]) -> list[dict[str, Any]]:
    """Fold the events of a stream into choices as a whole answer has them."""
    assert events[-1] == "[DONE]"
    folded: dict[int, dict[str, Any]] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            known = folded.setdefault(choice["index"], {**choice, "text": "", "logprobs": None})
            known["text"] += choice["text"]
            known["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"] is not None:
                whole = known["logprobs"] or {name: [] for name in choice["logprobs"]}
                known["logprobs"] = {
                    name: whole[name] + part for name, part in choice["logprobs"].items()
                }
    return [folded[index] for index in sorted(folded)]


def refused(server: LiveServer, param: str, words: str = "", **fields: Any) -> None:
    """POST a body that must be refused, with the field's name."""
    response = server.post(PATH, {"prompt": "count to 3", **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_official_client_gets_text_reason_and_measured_usage(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="mock", prompt="count to 3", user="me")

    (choice,) = completion.choices
    assert (choice.text, choice.finish_reason, choice.index) == ("1 2 3 ", "stop", 0)
    assert completion.model == "mock"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(b"count to 3")
    assert completion.usage.completion_tokens == 4  # three numbers and the end token


def test_sixteen_tokens_unless_the_client_says_otherwise(mock_server: LiveServer) -> None:
    answer = ask(mock_server, "count to 99")

    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"
    assert texts(ask(mock_server, "count to 99", max_tokens=2)) == ["1 2 "]


def test_a_default_of_sixteen_shrinks_where_the_window_holds_fewer() -> None:
    with running_server(max_model_len=32) as server:
        answer = ask(server, "please count to 99 now")

        assert answer["usage"]["completion_tokens"] == 32 - len("please count to 99 now")
        refused(server, "prompt", prompt="x" * 20, max_tokens=16)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("say a", ["a"]),
        (["say a", "say b"], ["a", "b"]),
        (list(b"say a"), ["a"]),
        ([list(b"say a"), list(b"say b")], ["a", "b"]),
    ],
)
def test_a_prompt_is_a_text_or_token_ids_or_a_list_of_either(
    mock_server: LiveServer, prompt: Any, expected: list[str]
) -> None:
    answer = ask(mock_server, prompt)

    assert texts(answer) == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == len("say a") * len(expected)


@pytest.mark.parametrize(
    "prompt",
    [5, True, {}, [], [[]], [[1], []], ["a", 1], [1, "a"], [1, True], [[1], ["a"]], [1.0], [None]],
)
def test_anything_else_is_no_prompt(mock_server: LiveServer, prompt: Any) -> None:
    refused(mock_server, "prompt", "must be a text", prompt=prompt)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("token_id", [-1, 200_000, 2**63])
def test_a_token_id_from_outside_the_vocabulary_is_refused(
    mock_server: LiveServer, token_id: int, echo: bool
) -> None:
    refused(mock_server, "prompt", "outside the vocabulary", prompt=[97, token_id], echo=echo)


@pytest.mark.parametrize("body", [{}, {"prompt": None}, {"prompt": ""}])
def test_an_empty_prompt_is_refused_by_a_model_that_begins_texts_with_nothing(
    mock_server: LiveServer, body: dict[str, Any]
) -> None:
    response = mock_server.post(PATH, body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
    assert "empty" in response.json()["error"]["message"]


def test_choices_of_the_first_prompt_come_first_and_each_prompt_counts_once(
    mock_server: LiveServer,
) -> None:
    answer = ask(mock_server, ["say a", "say bb"], n=2)

    assert texts(answer) == ["a", "a", "bb", "bb"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == len("say a") + len("say bb")
    assert answer["usage"]["completion_tokens"] == 2 * 2 + 2 * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "count to 12"},
        {"prompt": "count to 12", "max_tokens": 3, "logprobs": 2},
        {"prompt": "say añb🏴‍☠️", "logprobs": 0, "echo": True, "max_tokens": 40},
        {"prompt": ["say ab", "count to 3"], "n": 2, "echo": True},
        {"prompt": "count to 9", "stop": ["7", "5 6"], "logprobs": 1},
        {"prompt": "say nothing", "echo": True, "max_tokens": 0, "logprobs": 1},
    ],
)
def test_a_stream_folds_to_the_whole_answer(
    mock_server: LiveServer, fields: dict[str, Any]
) -> None:
    whole = ask(mock_server, **fields)

    events = mock_server.events(PATH, {**fields, "stream": True})

    assert streamed(events) == whole["choices"]
    assert len({event["id"] for event in events[:-1]}) == 1
    assert {event["object"] for event in events[:-1]} == {"text_completion"}


def test_the_official_client_reads_streams(mock_server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{mock_server.url}/v1", api_key="unused") as client:
        stream = client.completions.create(model="mock", prompt="count to 3", stream=True)

        assert "".join(chunk.choices[0].text for chunk in stream) == "1 2 3 "


def test_usage_comes_in_a_last_event_of_its_own_and_only_when_asked_for(
    mock_server: LiveServer,
) -> None:
    body = {"prompt": ["say a", "say bb"], "n": 2, "stream": True}

    *events, usage, done = mock_server.events(
        PATH, {**body, "stream_options": {"include_usage": True}}
    )

    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == ask(mock_server, ["say a", "say bb"], n=2)["usage"]
    assert all(event["usage"] is None for event in events)
    assert all("usage" not in event for event in mock_server.events(PATH, body)[:-1])
    refused(mock_server, "stream_options", stream_options={"include_usage": True})


def test_echo_repeats_the_prompt_with_its_control_tokens(mock_server: LiveServer) -> None:
    prompt = "say a<|eot_id|>"
    token_ids = [*b"say a", 256]

    for form in (prompt, token_ids):
        choice = ask(mock_server, form, echo=True, logprobs=0)["choices"][0]

        assert choice["text"] == "say a<|eot_id|>a"
        assert choice["logprobs"]["tokens"] == [*"say a", "<|eot_id|>", "a", "<|eot_id|>"]
        assert choice["logprobs"]["text_offset"] == [*range(6), 15, 16]


def test_logprobs_are_lists_of_equal_length_that_begin_with_null(mock_server: LiveServer) -> None:
    (choice,) = ask(mock_server, "say hé", echo=True, logprobs=2)["choices"]

    logprobs = choice["logprobs"]
    e_acute = ["bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs["tokens"] == [*"say h", *e_acute, "h", *e_acute, "<|eot_id|>"]
    assert logprobs["token_logprobs"] == [None] + [0.0] * 10
    assert logprobs["top_logprobs"][0] is None
    for token, top in zip(logprobs["tokens"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert top == {token: 0.0}
    text = choice["text"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if len(token) == 1:
            assert text[offset] == token
    assert logprobs["text_offset"][-1] == len(text)


def test_the_end_tokens_probability_is_told_and_a_stop_strings_is_not(
    mock_server: LiveServer,
) -> None:
    (ended,) = ask(mock_server, "say ab", logprobs=0)["choices"]
    (stopped,) = ask(mock_server, "count to 9", logprobs=0, stop="4")["choices"]

    assert ended["logprobs"]["tokens"] == ["a", "b", "<|eot_id|>"]
    assert ended["text"] == "ab"
    assert stopped["logprobs"]["tokens"] == ["1 ", "2 ", "3 "]
    assert stopped["text"] == "1 2 3 "


def test_without_logprobs_there_are_none(mock_server: LiveServer) -> None:
    assert ask(mock_server, "say a", echo=True)["choices"][0]["logprobs"] is None


def test_echo_with_max_tokens_0_reads_the_prompt_only(mock_server: LiveServer) -> None:
    answer = ask(mock_server, "say a", echo=True, max_tokens=0, logprobs=1)

    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("say a", "length")
    assert choice["logprobs"]["tokens"] == list("say a")
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": -1}),
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": True}),
        ("n", {"n": 0}),
        ("n", {"n": 129}),
        ("best_of", {"best_of": 1, "n": 2}),
        ("best_of", {"best_of": 2, "stream": True}),
        ("suffix", {"suffix": "and then"}),
        ("echo", {"echo": 1}),
        ("messages", {"messages": []}),
        ("max_completion_tokens", {"max_completion_tokens": 5}),
        ("logit_bias", {"logit_bias": {"a": 1}}),
        ("prompt", {"prompt": ["a"] * 33, "n": 128}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    mock_server: LiveServer, param: str, fields: dict[str, Any]
) -> None:
    refused(mock_server, param, **fields)


def test_more_answers_than_the_server_takes_at_once_are_refused(mock_server: LiveServer) -> None:
    response = mock_server.post(PATH, {"prompt": ["a"] * 139})

    assert response.status_code == 400
    assert "at most 138 at a time" in response.json()["error"]["message"]


def test_values_that_ask_for_nothing_are_taken(mock_server: LiveServer) -> None:
    names = "best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed"
    names += " stop stream stream_options suffix temperature top_p user"

    neutral = ask(mock_server, "count to 3", **dict.fromkeys(names.split()))
    best_of = ask(mock_server, "count to 3", best_of=1, n=1, suffix="", echo=False)

    assert texts(neutral) == texts(best_of) == ["1 2 3 "]


def test_an_unknown_model_is_404_and_none_is_the_default_one(mock_server: LiveServer) -> None:
    assert ask(mock_server, "say a")["model"] == "mock"
    assert mock_server.post(PATH, {"model": "gpt-9", "prompt": "a"}).status_code == 404


def test_gallamas_name_is_the_same_route(mock_server: LiveServer) -> None:
    body = {"prompt": ["say a", "count to 3"], "n": 2, "echo": True, "logprobs": 1}

    answers = [mock_server.post(name, body).json()["choices"] for name in NAMES]

    assert answers[0] == answers[1]


def test_crias_names_stream_always_or_never(mock_server: LiveServer) -> None:
    body = {"prompt": "count to 3"}
    full, stream = f"{PATH}_full", f"{PATH}_stream"

    for extra in ({}, {"stream": False}, {"stream": None}):
        assert texts(mock_server.post(full, {**body, **extra}).json()) == ["1 2 3 "]
    for extra in ({}, {"stream": True}, {"stream": None}):
        (choice,) = streamed(mock_server.events(stream, {**body, **extra}))
        assert choice["text"] == "1 2 3 "
    for path, contrary in ((full, True), (stream, False)):
        response = mock_server.post(path, {**body, "stream": contrary})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "stream"
    assert mock_server.post(full, {**body, "stream": 0}).status_code == 400


def test_a_failure_before_the_first_byte_is_a_status_and_after_it_the_last_event(
    mock_server: LiveServer,
) -> None:
    with unharmed_neighbour(mock_server):
        whole = mock_server.post(PATH, {"prompt": "fail after 2"})
        events = mock_server.events(PATH, {"prompt": "fail after 2", "stream": True})
        early = mock_server.post(PATH, {"prompt": [-1], "stream": True})

    assert whole.status_code == 500
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["1 ", "2 "]
    assert events[-1]["error"] == whole.json()["error"]
    assert early.status_code == 400


def test_one_bad_prompt_of_several_fails_them_all(mock_server: LiveServer) -> None:
    prompts = ["slowly count to 9000", "fail after 1"]

    response = mock_server.post(PATH, {"prompt": prompts, "max_tokens": 9000})

    assert response.status_code == 500
    mock_server.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_every_answer(stream: bool) -> None:
    spy = Spy()
    with running_server(load=spy.load) as server:
        body = {"prompt": ["slowly a", "slowly b"], "n": 2, "stream": stream}
        request = server.client.build_request("POST", PATH, json=body)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        content = request.read()
        with server.connect() as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            wait_until(lambda: spy.num_tokens("slowly") >= 4, "they have begun")

        wait_until(lambda: all(r.finish_reason for r in spy.find("slowly")), "all have ended")
        assert [r.finish_reason for r in spy.find("slowly")] == ["cancelled"] * 4
