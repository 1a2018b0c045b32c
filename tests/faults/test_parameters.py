"""Fields that are wrong, out of range, unknown or absurd are refused with 400 and by name."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from tests.faults.refusals import (
    BODIES,
    CHAT,
    MAX_ERROR_BYTES,
    ONE_OF_EACH,
    PALMA,
    PALMA_STREAM,
    PATHS,
    SOON_S,
    refusal,
    refused,
)
from tests.live_server import LiveServer, user

MILLION = 1_000_000

Fields = dict[str, Any]

WRONG_TYPES: list[tuple[str, Any]] = [
    ("messages", {}),
    ("messages", "Hello"),
    ("messages", None),
    ("messages.0", ["Hello"]),
    ("messages.0", [None]),
    ("messages.0.role", [{"role": 1, "content": "x"}]),
    ("messages.0.role", [{"content": "x"}]),
    ("messages.0.content", [{"role": "user", "content": 5}]),
    ("messages.0.content", [{"role": "user", "content": {"text": "x"}}]),
    ("messages.0.content", [{"role": "user", "content": True}]),
    ("temperature", "1"),
    ("temperature", True),
    ("temperature", [1]),
    ("top_p", "0.5"),
    ("top_p", True),
    ("top_k", "5"),
    ("top_k", 5.5),
    ("top_k", True),
    ("min_p", "0"),
    ("repetition_penalty", "1"),
    ("seed", "1"),
    ("seed", 1.5),
    ("seed", True),
    ("stop", 5),
    ("stop", {"a": 1}),
    ("stop.0", [5]),
    ("stop.1", ["a", None]),
    ("model", 5),
]
WRONG_TYPES_OF_V010 = [
    *(("max_new_tokens", value) for value in ("5", 5.0, True, [5])),
    *(("do_sample", value) for value in ("true", 1, 0)),
]
WRONG_TYPES_OF_CHAT = [
    *(("max_tokens", value) for value in ("5", 5.0, True, [5])),
    *(("max_completion_tokens", value) for value in ("5", 5.0, True)),
    *(("stream", value) for value in ("yes", 1, 0)),
    ("stream_options", True),
    ("stream_options.include_usage", {"include_usage": 1}),
    *((name, True) for name in ("n", "frequency_penalty", "presence_penalty", "top_logprobs")),
    *((name, 1) for name in ("logprobs", "tools", "response_format", "parallel_tool_calls")),
]

OUT_OF_RANGE: list[tuple[str, Any]] = [
    *(("temperature", value) for value in (-1, -1e-30, 2.01, 3, 1e300)),
    *(("top_p", value) for value in (0, -0.1, 1.1, 1e300)),
    *(("top_k", value) for value in (-1, -5)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("repetition_penalty", value) for value in (0, 1e-30, -1, 101)),
    *(("seed", value) for value in (2**63, -(2**63) - 1, 10**30)),
]
ON_THE_EDGE: list[Fields] = [
    {"temperature": 0},
    {"temperature": 1e-30},
    {"temperature": 2},
    {"top_p": 1e-30},
    {"top_p": 1},
    {"top_k": 0},
    {"top_k": 10**9},
    {"min_p": 0},
    {"min_p": 1},
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 100},
    {"seed": 2**63 - 1},
    {"seed": -(2**63)},
    {"stop": ["a" * 1000, "b", "c", "d"]},
]

pytestmark = [pytest.mark.timeout(45), pytest.mark.usefixtures("neighbour")]


@pytest.fixture
def server(mock_server: LiveServer) -> LiveServer:
    """The server with default settings."""
    return mock_server


def unsupported(server: LiveServer, fields: Fields, paths: tuple[str, ...] = PATHS) -> None:
    """POST a field that has no meaning here; it must not be ignored."""
    (name,) = fields
    for path in paths:
        answer = refused(server, path, name, fields)
        assert answer.code == ("unsupported_parameter" if path == CHAT else "invalid_request")


def test_wrong_types_are_refused_and_never_converted(server: LiveServer) -> None:
    """Fault 35: neither "5" nor 5.0 nor true is an integer."""
    for path in PATHS:
        own = WRONG_TYPES_OF_CHAT if path == CHAT else WRONG_TYPES_OF_V010
        for param, value in [*WRONG_TYPES, *own]:
            refused(server, path, param, {param.partition(".")[0]: value})


def test_unknown_fields_are_refused(server: LiveServer) -> None:
    """Faults 36 and 52: misspelled, of another server, smuggled into a message, a pickle."""
    unsupported(server, {"temprature": 1})
    unsupported(server, {"chat_template": "{{ messages }}"})
    unsupported(server, {"prompt_embeds": "gASVAAAAAA=="})
    unsupported(server, {"__class__": "x"})
    unsupported(server, {"max_tokens": 5}, paths=(PALMA, PALMA_STREAM))
    unsupported(server, {"stream": True}, paths=(PALMA, PALMA_STREAM))
    unsupported(server, {"max_new_tokens": 5}, paths=(CHAT,))
    for path in PATHS:
        message = {"role": "user", "content": "x", "weight": 1}
        refused(server, path, "messages.0.weight", {"messages": [message]})


def test_fields_that_only_label_a_request_are_taken(server: LiveServer) -> None:
    """Fault 36's other side."""
    labels = {"user": "me", "metadata": {"a": "b"}, "store": True, "n": 1, "logit_bias": {}}
    neutral = {"presence_penalty": 0, "tools": [], "logprobs": False, "response_format": None}

    answer = server.post(CHAT, {**BODIES[CHAT], **labels, **neutral})

    assert answer.status_code == 200


def test_a_missing_or_malformed_model_is_400_and_an_unknown_one_404(server: LiveServer) -> None:
    """Faults 37, 121, 122: nothing is downloaded, or opened, because a stranger names it."""
    answer = refusal(server.post(CHAT, {"messages": user("x")}), CHAT)
    assert (answer.status, answer.param, answer.message) == (400, "model", "model is missing")

    unknown = ("gpt2", "MOCK", "org/other")
    malformed = ("", "../mock", "/etc/passwd", "mock ", "a.git", "http://x/y", "x" * 100_000)
    for name in (*unknown, *malformed):
        for path in PATHS:
            begun_at = time.monotonic()
            answer = refusal(server.post(path, {**BODIES[path], "model": name}), path)
            assert answer.status == (404 if name in unknown else 400), name
            assert ("Served: mock" in answer.message) == (name in unknown)
            assert path != CHAT or answer.param == "model"
            assert time.monotonic() - begun_at < SOON_S


def test_conversations_without_sense_are_refused_at_the_wrong_message(server: LiveServer) -> None:
    """Fault 38."""
    for path in PATHS:
        refused(server, path, "messages", {"messages": []})
        good = user("x")
        for role in ("robot", "", "USER"):
            wrong = [*good, {"role": role, "content": "x"}]
            refused(server, path, "messages.1.role", {"messages": wrong})
        for role, missing in (("tool", "tool_call_id"), ("function", "name")):
            wrong = [*good, {"role": role, "content": "x"}]
            fault = missing if path == CHAT else "role"
            refused(server, path, f"messages.1.{fault}", {"messages": wrong})
        for turn in ({"role": "user"}, {"role": "user", "content": None}):
            refused(server, path, "messages.1.content", {"messages": [*good, turn]})
        empty = {"role": "user", "content": []}
        refused(server, path, "messages.1.content", {"messages": [*good, empty]})
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "text"},
        {"type": "text", "text": 5},
        {"type": "text", "text": "x", "cache_control": {}},
        "x",
        None,
    ]
    for part in parts:
        message = {"role": "user", "content": [part]}
        refused(server, CHAT, "messages.0.content", {"messages": [message]})


def test_max_tokens_below_1_is_refused_and_a_trillion_means_the_whole_window(
    server: LiveServer,
) -> None:
    """Fault 39."""
    for name, path in (("max_new_tokens", PALMA), ("max_tokens", CHAT)):
        for value in (0, -1, -(10**12)):
            refused(server, path, name, {name: value})
        assert server.post(path, {**BODIES[path], name: 10**12}).status_code == 200
    refused(server, CHAT, "max_completion_tokens", {"max_completion_tokens": 0})
    refused(server, CHAT, "max_tokens", {"max_tokens": 5, "max_completion_tokens": 6})


def test_sampling_parameters_out_of_range_are_refused(server: LiveServer) -> None:
    """Faults 40 and 46."""
    for path in PATHS:
        for param, value in OUT_OF_RANGE:
            refused(server, path, param, {param: value})
    for param in ("frequency_penalty", "presence_penalty"):
        for value in (-2.01, 2.01, 100, True, "1"):
            refused(server, CHAT, param, {param: value})


def test_sampling_parameters_on_the_edge_of_their_range_are_taken(server: LiveServer) -> None:
    """Faults 40 and 46: extreme, and still a finite answer."""
    for path in (PALMA, CHAT):
        for fields in ON_THE_EDGE:
            answer = server.post(path, {**BODIES[path], **fields})
            assert answer.status_code == 200, fields
            assert "1 2 3 " in answer.text


def test_a_million_of_anything_is_refused_with_the_limit(server: LiveServer) -> None:
    """Fault 41."""
    for number in (0, -1, 129, 10**9):
        refused(server, CHAT, "n", {"n": number})
    unsupported(server, {"n": 1}, paths=(PALMA, PALMA_STREAM))
    unsupported(server, {"best_of": 10**9})
    unsupported(server, {"prompt": ["x"] * MILLION}, ONE_OF_EACH)
    for path in ONE_OF_EACH:
        assert "at most 4" in refused(server, path, "stop", {"stop": ["x"] * MILLION}).message


def test_a_logit_bias_that_is_no_bias_is_refused(server: LiveServer) -> None:
    """Fault 42."""
    biases: list[tuple[str, Any]] = [
        ("logit_bias", {"999999999": 1}),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"-5": 1}),
        ("logit_bias.5", {"5": 1e9}),
        ("logit_bias.5", {"5": "1"}),
        ("logit_bias", {str(token): 1 for token in range(200_000)}),
        ("logit_bias", []),
        ("logit_bias", "5"),
    ]
    for param, bias in biases:
        refused(server, CHAT, param, {"logit_bias": bias})
    unsupported(server, {"logit_bias": {"5": 1}}, paths=(PALMA, PALMA_STREAM))


def test_too_many_logprobs_are_refused(server: LiveServer) -> None:
    """Fault 43."""
    for number in (21, MILLION, -1):
        refused(server, CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": number})
    refused(server, CHAT, "top_logprobs", {"top_logprobs": 5})
    unsupported(server, {"logprob_token_ids": list(range(MILLION))}, ONE_OF_EACH)
    unsupported(server, {"prompt_logprobs": MILLION})
    unsupported(server, {"logprobs": True}, paths=(PALMA, PALMA_STREAM))


def test_token_ids_in_parameters_must_be_in_the_vocabulary(server: LiveServer) -> None:
    """Fault 44."""
    for token_ids in ([5], [200_000], [-1]):
        unsupported(server, {"bad_words": token_ids})
        unsupported(server, {"stop_token_ids": token_ids}, paths=(PALMA, PALMA_STREAM))
    refused(server, CHAT, "stop_token_ids", {"stop_token_ids": [200_000]})
    refused(server, CHAT, "stop_token_ids.0", {"stop_token_ids": [-1]})
    refused(server, CHAT, "stop_token_ids", {"stop_token_ids": [5] * MILLION})


def test_stop_strings_that_are_empty_huge_or_too_many_are_refused(
    server: LiveServer,
) -> None:
    """Fault 45."""
    for path in PATHS:
        refused(server, path, "stop.0", {"stop": ""})
        refused(server, path, "stop.1", {"stop": ["a", ""]})
        refused(server, path, "stop.0", {"stop": "x" * 1001})
        refused(server, path, "stop.0", {"stop": "x" * 7_000_000})
        assert "at most 4" in refused(server, path, "stop", {"stop": list("abcde")}).message
        answer = refusal(server.post(path, {**BODIES[path], "stop": "x" * 10_000_000}), path)
        assert answer.status == 413


def test_fields_that_contradict_each_other_are_refused(server: LiveServer) -> None:
    """Fault 51."""
    refused(server, CHAT, "stream_options", {"stream_options": {"include_usage": True}})
    refused(server, CHAT, "response_format", {"response_format": {"type": "json_schema"}})
    for kind in ({"type": "xml"}, {}):
        refused(server, CHAT, "response_format.type", {"response_format": kind})


@pytest.mark.parametrize("strange", ["x" * MILLION, list(range(9999)), {"x": "y" * 9999}])
@pytest.mark.parametrize(
    ("path", "body", "known"),
    [
        (
            "/v1/messages",
            {"max_tokens": 1, "messages": [{"role": "user", "content": [{}]}]},
            "text",
        ),
        ("/inference/completion", {"content": "x", "sampling_params": {"strategy": {}}}, "greedy"),
    ],
)
def test_a_kind_that_nobody_knows_is_not_repeated_at_length(
    server: LiveServer, path: str, body: Fields, known: str, strange: Any
) -> None:
    asked = {"model": "mock", **copy.deepcopy(body)}
    inside = asked.get("sampling_params", {}).get("strategy")
    if inside is None:
        inside = asked["messages"][0]["content"][0]
    inside["type"] = strange

    response = server.post(path, asked)

    assert response.status_code == 400
    assert len(response.content) < 2 * MAX_ERROR_BYTES
    assert known in response.text


def test_an_empty_prompt_gets_an_answer(server: LiveServer) -> None:
    """Fault 48: the chat template around it is never empty."""
    for path in (PALMA, CHAT):
        for content in ("", " ", "\0"):
            answer = server.post(path, {**BODIES[path], "messages": user(content)})
            assert answer.status_code == 200, repr(content)


def test_prompt_ids_outside_the_vocabulary_never_reach_the_device(server: LiveServer) -> None:
    """Faults 48 and 49: completions take token ids, and look at each."""
    for prompt in ([-1], [200_000], [5, 10**12], [[5], [200_000]], [5, "x"], [5.5], [True]):
        for stream in (False, True):
            body = {"model": "mock", "prompt": prompt, "stream": stream}
            assert refusal(server.post("/v1/completions", body), "/v1/completions").status == 400
    body = {"model": "mock", "prompt": list(b"say yes")}
    assert server.post("/v1/completions", body).json()["choices"][0]["text"] == "yes"


def test_token_ids_as_messages_are_refused(server: LiveServer) -> None:
    """Faults 48 and 49: a chat takes none, in whatever field."""
    for token_ids in ([], [5], [-1], [200_000]):
        unsupported(server, {"prompt": token_ids})
        unsupported(server, {"prompt_token_ids": token_ids})
        message = {"role": "user", "content": token_ids}
        for path in PATHS:
            refused(server, path, "messages.0.content", {"messages": [message]})
