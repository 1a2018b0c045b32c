"""Answers of a given form: schemas, regular expressions, grammars, choices and gallama's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.live_server import LiveServer, new_client, parse_event, running_server, user

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "mayors": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
        "founded": {"type": "integer", "minimum": -800, "maximum": 2000},
    },
    "required": ["name", "founded"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["threads", "continuous"])
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with running_server(engine=request.param, device="cpu", cpu_kernel=False) as server:
        yield server


def schema_format(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return OpenAI's `response_format` for a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def body(**fields: Any) -> dict[str, Any]:
    """Return a chat's body; a seed, so that a stream says what the whole answer says."""
    question = user("What is the capital of France?")
    return {"model": "palmita", "messages": question, "max_tokens": 60, "seed": 7, **fields}


def ask(server: LiveServer, **fields: Any) -> tuple[str, str]:
    """Return the text of a whole answer and why it ended; the stream must say the same."""
    response = server.post(CHAT, body(**fields))
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    events = server.events(CHAT, body(stream=True, **fields))
    choices = [event["choices"][0] for event in events[:-1]]
    assert "".join(c["delta"].get("content", "") for c in choices) == choice["message"]["content"]
    assert choices[-1]["finish_reason"] == choice["finish_reason"]
    return choice["message"]["content"], choice["finish_reason"]


def refusal(server: LiveServer, **fields: Any) -> dict[str, Any]:
    """Return the error of a request that is refused, as a stream too."""
    answers = [server.post(CHAT, body(stream=stream, **fields)) for stream in (False, True)]
    assert [answer.status_code for answer in answers] == [400, 400], answers[0].text
    error: dict[str, Any] = answers[0].json()["error"]
    assert answers[1].json()["error"]["message"] == error["message"]
    return error


@pytest.mark.parametrize("strict", [True, False, None])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0}, {"top_k": 5, "top_p": 0.9}])
def test_a_schema_is_fulfilled(server: LiveServer, strict: bool | None, sampling: Any) -> None:
    text, reason = ask(server, response_format=schema_format(CITY, strict=strict), **sampling)

    if reason == "stop":
        jsonschema.validate(json.loads(text), CITY)


def test_json_object_gives_an_object_or_is_cut(server: LiveServer) -> None:
    text, reason = ask(server, response_format={"type": "json_object"}, temperature=0)

    assert text.startswith("{")
    assert reason == "length" or isinstance(json.loads(text), dict)


def test_text_is_what_comes_without_a_format(server: LiveServer) -> None:
    plain = ask(server, temperature=0)

    assert ask(server, response_format={"type": "text"}, temperature=0) == plain
    assert plain[0] == "The capital of France is Paris."


@pytest.mark.parametrize("name", ["regex", "regex_pattern"])
def test_a_regular_expression_is_the_whole_answer(server: LiveServer, name: str) -> None:
    pattern = r"(Paris|Lyon), [A-Z][a-z]{2,6}/\d{3}"

    text, reason = ask(server, **{name: pattern})

    assert re.fullmatch(pattern, text)
    assert reason == "stop"


def test_a_lark_grammar_is_followed(server: LiveServer) -> None:
    grammar = 'start: pair{2}\npair: WORD "=" NUMBER ";"\nWORD: /[a-z]{2}/\nNUMBER: /[0-9]{1,2}/'

    text, reason = ask(server, grammar=grammar)

    assert re.fullmatch("([a-z]{2}=[0-9]{1,2};){2}", text)
    assert reason == "stop"


def test_one_of_the_choices_is_the_answer(server: LiveServer) -> None:
    assert ask(server, choice=["Berlin", "Paris"], temperature=0) == ("Paris", "stop")
    assert ask(server, choice=["🏴‍☠️ arr"], temperature=0) == ("🏴‍☠️ arr", "stop")


def test_the_answer_begins_as_gallamas_fields_say(server: LiveServer) -> None:
    assert re.match(r"(Yes|No)\. ", ask(server, regex_prefix_pattern=r"(Yes|No)\. ")[0])
    assert re.match("Well, |So ", ask(server, prefix_strings=["Well, ", "So "])[0])
    text, reason = ask(server, leading_prompt="The capital of France", temperature=0)
    assert text == "The capital of France is Paris."
    assert reason == "stop"


def test_a_leading_prompt_goes_with_another_form(server: LiveServer) -> None:
    assert ask(server, leading_prompt="B", choice=["Berlin", "Paris"]) == ("Berlin", "stop")
    text, _ = ask(server, leading_prompt="Par", regex_pattern="[A-Z][a-z]{4}s?")
    assert re.fullmatch("Par[a-z]{2}s?", text)


def test_what_does_not_fit_ends_with_length(server: LiveServer) -> None:
    text, reason = ask(server, response_format=schema_format(CITY), max_tokens=5)

    assert reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_form_is_complete_without_waiting_for_the_model(server: LiveServer) -> None:
    answer = server.post(CHAT, body(regex="ab", max_tokens=5)).json()

    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] <= 2


def test_log_probabilities_come_with_the_tokens_of_a_form(server: LiveServer) -> None:
    fields = body(choice=["Berlin"], logprobs=True, top_logprobs=1, temperature=0)

    (choice,) = server.post(CHAT, fields).json()["choices"]

    scores = choice["logprobs"]["content"]
    assert "".join(score["token"] for score in scores) == "Berlin"
    assert scores[0]["logprob"] < -1  # the model itself would have begun otherwise
    assert scores[0]["top_logprobs"][0]["token"] != scores[0]["token"]


def test_n_answers_have_the_form_each(server: LiveServer) -> None:
    answer = server.post(CHAT, body(regex="[a-z]{3}[0-9]{2}", n=20)).json()

    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(texts) == 20
    assert all(re.fullmatch("[a-z]{3}[0-9]{2}", text) for text in texts)
    assert len(set(texts)) > 1


def test_completions_take_the_same_fields(server: LiveServer) -> None:
    fields = {"model": "palmita", "prompt": ["Once", "Twice"], "max_tokens": 40}

    answer = server.post(COMPLETIONS, {**fields, "response_format": schema_format(CITY)}).json()
    assert all(choice["text"].startswith("{") for choice in answer["choices"])
    answer = server.post(COMPLETIONS, {**fields, "choice": ["a", "b"]}).json()
    assert all(choice["text"] in ("a", "b") for choice in answer["choices"])
    events = server.events(COMPLETIONS, {**fields, "regex": "[xy]{4}", "stream": True})
    texts = ["", ""]
    for event in events[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert all(re.fullmatch("[xy]{4}", text) for text in texts)


TINY = {"enum": ["yes", "no"]}
"""A schema whose answers are one or two tokens."""

ELSEWHERE: list[tuple[str, dict[str, Any], list[str | int]]] = [
    (
        "/v1/responses",
        {
            "input": "France?",
            "text": {"format": {"type": "json_schema", "name": "a", "schema": TINY}},
        },
        ["output", 0, "content", 0, "text"],
    ),
    (
        "/v1/messages",
        {
            "messages": user("France?"),
            "max_tokens": 20,
            "output_config": {"format": {"type": "json_schema", "schema": TINY}},
        },
        ["content", 0, "text"],
    ),
    (
        "/api/chat",
        {"messages": user("France?"), "format": TINY, "stream": False},
        ["message", "content"],
    ),
    ("/api/generate", {"prompt": "France?", "format": TINY, "stream": False}, ["response"]),
    (
        "/inference/chat_completion",
        {
            "messages": user("France?"),
            "response_format": {"type": "json_schema", "json_schema": TINY},
        },
        ["completion_message", "content"],
    ),
]


@pytest.mark.parametrize(
    ("path", "fields", "place"), ELSEWHERE, ids=[path for path, _, _ in ELSEWHERE]
)
def test_other_dialects_take_a_schema_in_their_own_words(
    palmita_server: LiveServer, path: str, fields: dict[str, Any], place: list[str | int]
) -> None:
    response = palmita_server.post(path, {"model": "palmita", **fields})

    assert response.status_code == 200, response.text
    found = response.json()
    for step in place:
        found = found[step]
    assert json.loads(found) in TINY["enum"]


def test_responses_say_which_format_was_asked_for(palmita_server: LiveServer) -> None:
    asked = {"type": "json_schema", "name": "a", "schema": TINY, "strict": True}

    answer = palmita_server.post(
        "/v1/responses", {"model": "palmita", "input": "?", "text": {"format": asked}}
    ).json()

    assert answer["text"]["format"] == asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "json_schema", "schema": TINY},
        {"type": "json_schema", "name": "a"},
        {"type": "text", "name": "a"},
    ],
)
def test_a_format_of_responses_has_its_own_parts(
    palmita_server: LiveServer, wrong: dict[str, Any]
) -> None:
    body = {"model": "palmita", "input": "?", "text": {"format": wrong}}

    response = palmita_server.post("/v1/responses", body)

    assert response.status_code == 400
    assert "json_schema" in response.json()["error"]["message"]


def test_ollamas_word_for_any_object(palmita_server: LiveServer) -> None:
    body = {"model": "palmita", "prompt": "France?", "format": "json", "stream": False}

    answer = palmita_server.post("/api/generate", {**body, "options": {"num_predict": 30}}).json()

    assert answer["response"].startswith("{")


def test_the_official_client_parses_into_a_model(server: LiveServer) -> None:
    class Place(BaseModel):
        kind: Literal["city", "village"]
        name: Annotated[str, Field(max_length=8)]
        numbers: Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(max_length=3)]
        is_capital: bool

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        for seed in range(20):
            try:
                completion = client.chat.completions.parse(
                    model="palmita",
                    messages=[{"role": "user", "content": "Paris?"}],
                    response_format=Place,
                    max_tokens=80,
                    seed=seed,
                )
            except openai.LengthFinishReasonError:
                continue
            assert isinstance(completion.choices[0].message.parsed, Place)
            return
    pytest.fail("none of the answers ended in time")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prefix_strings": ["a"], "regex": "a"}, ["prefix_strings", "regex"]),
        ({"prefix_strings": ["a"], "regex_prefix_pattern": "a"}, ["regex_prefix_pattern"]),
        ({"regex": "a", "regex_pattern": "a"}, ["regex and regex_pattern"]),
        ({"regex": "a", "choice": ["a"]}, ["regex and choice"]),
        ({"response_format": {"type": "json_object"}, "grammar": "x"}, ["response_format and gr"]),
        ({"leading_prompt": "{", "response_format": {"type": "json_object"}}, ["leading_prompt"]),
        ({"leading_prompt": "1", "regex": "[a-z]+"}, ["regex and leading_prompt", "fulfils"]),
        ({"regex": "a", "ignore_eos": True}, ["regex", "ignore_eos"]),
        ({"regex": "a", "min_tokens": 4}, ["regex", "min_tokens"]),
        ({"regex": ""}, ["regex"]),
        ({"regex": "(a"}, ["regex: unclosed group"]),
        ({"regex_prefix_pattern": "a(?=b)"}, ["regex_prefix_pattern", "look-ahead"]),
        ({"regex": "(a{1,1000}){1,1000}"}, ["regex"]),
        ({"grammar": "start: nothing"}, ["grammar", "nothing"]),
        ({"choice": []}, ["choice"]),
        ({"choice": ["a", ""]}, ["choice.1"]),
        ({"choice": ["a"] * 10_001}, ["choice"]),
        ({"response_format": {"type": "json_schema"}}, ["json_schema"]),
        ({"response_format": {"type": "xml"}}, ["response_format.type"]),
        ({"response_format": {"type": "text", "json_schema": {}}}, ["response_format"]),
        ({"response_format": {"type": "text", "value": {}}}, ["value goes with"]),
        ({"response_format": schema_format({"$ref": "#"})}, ["nothing fulfils"]),
        ({"response_format": schema_format({"$ref": "http://localhost:1/s"})}, ["localhost"]),
        ({"response_format": schema_format({"enum": ["value"] * 100_000})}, ["at most 262144"]),
        (
            {"response_format": schema_format({"properties": {"a": {"type": "sting"}}})},
            ["response_format.json_schema.schema", "#/properties/a"],
        ),
        (
            {"response_format": schema_format({"type": "integer", "minimum": 1, "maximum": 0})},
            ["Unsatisfiable"],
        ),
    ],
)
def test_bad_forms_are_refused_by_name(
    palmita_server: LiveServer, fields: dict[str, Any], named: list[str]
) -> None:
    error = refusal(palmita_server, **fields)

    assert all(name in error["message"] for name in named), error


def test_a_schema_that_is_too_deep_is_refused(palmita_server: LiveServer) -> None:
    schema: dict[str, Any] = {}
    for _ in range(300):
        schema = {"properties": {"a": schema}}

    assert (
        "too deeply nested"
        in refusal(palmita_server, response_format=schema_format(schema))["message"]
    )


def test_hostile_forms_do_not_disturb_those_who_stream(palmita_server: LiveServer) -> None:
    hostile: list[dict[str, Any]] = [
        {"response_format": schema_format({"type": "integer", "multipleOf": 1_000_007})},
        {"regex": "a" * 200_000},
        {"grammar": 'start: s\ns: s s | "a" | "ab" | "b"'},
    ]
    free = body(temperature=0, max_tokens=20, stream=True, ignore_eos=True)
    formed = body(regex="[a-z]{60}", max_tokens=60, stream=True)
    expected = [palmita_server.events(CHAT, free), palmita_server.events(CHAT, formed)]
    for fields in hostile:
        with new_client(palmita_server.url) as client:
            found = []
            for neighbour in (free, formed):
                with client.stream("POST", CHAT, json=neighbour) as stream:
                    lines = stream.iter_lines()
                    events = [parse_event(next(lines))]
                    assert palmita_server.post(CHAT, body(**fields)).status_code == 400
                    events += [parse_event(line) for line in lines if line]
                found.append(events)
        assert [texts(events) for events in found] == [texts(events) for events in expected]
    palmita_server.wait_until_idle()


def texts(events: list[Any]) -> str:
    """Join the text of a stream."""
    choices = [event["choices"][0] for event in events if event != "[DONE]"]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_the_mock_engine_refuses_by_name(mock_server: LiveServer) -> None:
    fields: list[dict[str, Any]] = [
        {"regex": "a"},
        {"response_format": {"type": "json_object"}},
    ]
    for field in fields:
        error = refusal(mock_server, **{**field, "model": "mock"})

        assert "mock engine cannot honour" in error["message"]
        assert error["code"] == "unsupported_parameter"
        assert error["param"] == next(iter(field))
