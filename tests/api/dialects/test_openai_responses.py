"""Responses, judged by the official client with strict validation of every answer and event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from palma.api.dialects.openai_responses.bodies import ResponseBody
from palma.api.fields import NeutralOnly
from tests.api.dialects.responses_client import (
    LOGPROBS,
    PATH,
    WHOLE_STREAM,
    ask,
    ask_palmita,
    assert_refused_by_name,
    sdk,
    texts,
)
from tests.live_server import (
    LiveServer,
    new_client,
    parse_event,
    running_server,
    unharmed_neighbour,
    wait_until,
)

NEUTRAL_VALUES = {
    name: mark.values
    for name, field in ResponseBody.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, NeutralOnly)
}


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[Any]:
    with sdk(mock_server) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[Any]:
    with sdk(palmita_server) as client:
        yield client


def without_ids_and_times(response: Any) -> dict[str, Any]:
    body = response.to_dict()
    for name in ("id", "created_at", "completed_at"):
        del body[name]
    for item in body["output"]:
        del item["id"]
    return dict(body)


def test_a_whole_response_has_text_status_and_measured_usage(client: Any) -> None:
    response = ask(client, "count to 3", instructions="Be brief.", metadata={"project": "x"})

    assert response.output_text == "1 2 3 "
    assert (response.status, response.incomplete_details, response.error) == (
        "completed",
        None,
        None,
    )
    assert response.model == "mock"
    assert response.instructions == "Be brief."
    assert response.metadata == {"project": "x"}
    prompt = b"system: Be brief.\0user: count to 3\0assistant: "  # \0 stands for the end token
    assert response.usage.input_tokens == len(prompt)
    assert response.usage.output_tokens == 4  # three numbers and the end token
    assert response.usage.total_tokens == len(prompt) + 4
    assert (response.temperature, response.top_p) == (1, 1)
    assert response.completed_at >= response.created_at


def test_a_response_whose_tokens_run_out_is_incomplete(client: Any) -> None:
    response = ask(client, "count to 100", max_output_tokens=2)

    assert response.output_text == "1 2 "
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.max_output_tokens == response.usage.output_tokens == 2
    assert response.completed_at is None


def test_items_of_every_kind_are_read(client: Any) -> None:
    response = ask(
        client,
        [
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"role": "assistant", "content": "y"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "say a"},
                    {"type": "input_text", "text": "b"},
                ],
            },
        ],
    )

    assert response.output_text == "ab"
    turns = ("system: Be brief.", "user: x", "assistant: y", "user: say ab")
    expected = sum(len(turn) + 1 for turn in turns) + len("assistant: ")
    assert response.usage.input_tokens == expected


def test_output_may_be_sent_back_as_it_came(client: Any) -> None:
    first = ask(client, "count to 2", include=LOGPROBS)

    second = ask(
        client,
        [
            *first.output,
            *[item.to_dict() for item in first.output],
            {"role": "user", "content": "say more"},
        ],
    )

    assert second.output_text == "more"
    assert texts(client.responses.input_items.list(second.id, order="asc")) == [
        "1 2 ",
        "1 2 ",
        "say more",
    ]


def test_sampling_parameters_are_honoured_and_returned(palmita: Any) -> None:
    question = "What is the capital of Italy?"
    seeded = {"temperature": 1.5, "top_p": 0.9, "extra_body": {"seed": 3, "top_k": 50}}

    first, second = (ask(palmita, question, model="palmita", **seeded) for _ in range(2))
    stopped = ask_palmita(palmita, question, extra_body={"stop": "Rome"})

    assert first.output_text == second.output_text
    assert (first.temperature, first.top_p) == (1.5, 0.9)
    assert "Rome" in ask_palmita(palmita, question).output_text
    assert "Rome" not in stopped.output_text
    assert stopped.status == "completed"


@pytest.mark.parametrize(
    ("content", "kwargs"),
    [
        ("count to 12", {}),
        ("say añb🏴‍☠️\u2028!", {}),
        ("count to 9", {"max_output_tokens": 4}),
        ("say hé!", {"include": LOGPROBS, "top_logprobs": 1}),
        ("say ", {}),
    ],
)
def test_a_stream_comes_in_openais_order_and_equals_the_whole_response(
    client: Any, content: str, kwargs: dict[str, Any]
) -> None:
    whole = ask(client, content, **kwargs)

    events = list(ask(client, content, stream=True, **kwargs))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    kinds = [event.type for event in events if event not in deltas[1:]]
    expected = [kind for kind in WHOLE_STREAM if deltas or not kind.endswith("delta")]
    assert kinds == [*expected[:-1], f"response.{whole.status}"]
    last = events[-1].response
    assert without_ids_and_times(last) == without_ids_and_times(whole)
    assert "".join(delta.delta for delta in deltas) == whole.output_text
    text_done, part_done, item_done = events[-4:-1]
    assert text_done.text == part_done.part.text == whole.output_text
    assert item_done.item == last.output[0]
    part = whole.output[0].content[0]
    logprobs = [token.to_dict() for delta in deltas for token in delta.logprobs]
    assert logprobs == [token.to_dict() for token in part.logprobs]
    assert len({event.response.id for event in (*events[:2], events[-1])}) == 1
    ids = {event.item_id for event in (*deltas, text_done, part_done)} | {item_done.item.id}
    assert ids == {last.output[0].id}


def test_logprobs_cover_the_text(client: Any) -> None:
    (message,) = ask(client, "say hé!", include=LOGPROBS, top_logprobs=1).output

    tokens = message.content[0].logprobs
    assert b"".join(bytes(token.bytes) for token in tokens) == "hé!".encode()
    assert [token.top_logprobs[0].token for token in tokens] == [token.token for token in tokens]
    assert ask(client, "say x").output[0].content[0].logprobs == []


def test_the_clients_stream_helper_returns_the_final_response(client: Any) -> None:
    with client.responses.stream(model="mock", input="count to 3") as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert snapshots == ["1 ", "1 2 ", "1 2 3 "]
    assert final.output_text == "1 2 3 "
    assert client.responses.retrieve(final.id).output_text == "1 2 3 "


def test_events_have_their_names_and_end_with_done(mock_server: LiveServer) -> None:
    body = {"model": "mock", "input": "say x", "stream": True}

    with mock_server.client.stream("POST", PATH, json=body) as response:
        lines = [line for line in response.iter_lines() if line]

    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [parse_event(line) for line in lines if line.startswith("data: ")]
    assert names == [event["type"] for event in data[:-1]] == WHOLE_STREAM
    assert data[-1] == "[DONE]"


def test_a_failure_on_the_way_is_an_error_and_a_failed_response(
    mock_server: LiveServer, client: Any
) -> None:
    with unharmed_neighbour(mock_server):
        events = list(ask(client, "slowly fail after 3", stream=True))

    error, failed = events[-2:]
    assert (error.type, error.code) == ("error", "engine_error")
    assert failed.type == "response.failed"
    assert failed.response.status == "failed"
    assert failed.response.error.code == "server_error"
    assert failed.response.error.message == error.message
    assert failed.response.output_text == "1 2 3 "
    assert failed.response.output[0].status == "incomplete"
    assert client.responses.retrieve(failed.response.id) == failed.response


def test_a_failure_without_a_stream_is_an_http_error(client: Any) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, "fail after 3")

    assert caught.value.code == "engine_error"


def test_a_failed_stream_has_no_done(mock_server: LiveServer) -> None:
    events = mock_server.events(PATH, {"model": "mock", "input": "fail after 1", "stream": True})

    assert events[-1]["type"] == "response.failed"


def test_a_client_that_leaves_a_stream_ends_its_generation(mock_server: LiveServer) -> None:
    body = {"model": "mock", "input": "slowly count to 100000", "stream": True}

    with (
        unharmed_neighbour(mock_server),  # at its end nothing runs any more
        new_client(mock_server.url) as client,
        client.stream("POST", PATH, json=body) as response,
    ):
        lines = response.iter_lines()
        created = parse_event(next(line for line in lines if line.startswith("data: ")))
        next(line for line in lines if "output_text.delta" in line)

    assert mock_server.get(f"{PATH}/{created['response']['id']}").status_code == 404


def test_labels_and_neutral_values_are_taken(mock_server: LiveServer) -> None:
    neutral = {name: values[0] for name, values in NEUTRAL_VALUES.items() if values}
    shaped = {"text": {"format": {"type": "text"}}, "reasoning": {"effort": "none"}, "user": "me"}
    body = {"model": "mock", "input": "say x", **neutral, **shaped}

    assert mock_server.post(PATH, body).status_code == 200
    names = ResponseBody.model_fields.keys() - {"model", "input"}
    assert mock_server.post(PATH, {**body, **dict.fromkeys(names)}).status_code == 200


def test_a_client_that_leaves_while_it_waits_ends_its_generation(mock_server: LiveServer) -> None:
    body = b'{"model": "mock", "input": "slowly count to 100000"}'
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

    with unharmed_neighbour(mock_server), mock_server.connect() as connection:
        running, _ = mock_server.counts()
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: mock_server.counts()[0] > running, "it runs")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
            "input.0",
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"include": ["reasoning.encrypted_content"]}, "include.0"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"truncation": "some"}, "truncation"),
        ({"metadata": {"n": 1}}, "metadata.n"),
        ({"metadata": {"n": "x" * 513}}, "metadata.n"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": LOGPROBS * 17}, "include"),
        ({"input": [{"role": "user", "content": [{}] * 200}]}, "input.0.content.0.type"),
        ({"input": [{"type": "reasoning", "content": [1] * 200}]}, "input.0.content.0"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"previous_response_id": "x", "conversation": "y"}, "previous_response_id"),
        ({"conversation": {"name": "x"}}, "conversation"),
        ({"background": True, "store": False}, "background"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
    ],
)
def test_what_would_have_no_effect_is_refused_by_name(
    mock_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    assert_refused_by_name(mock_server, fields, param)


def test_an_unknown_model_is_404_with_its_code(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "hi", model="gpt-9")

    assert caught.value.code == "model_not_found"


def test_the_key_guards_what_is_stored() -> None:
    with running_server(api_key="secret") as server:
        for method, path in (
            ("GET", f"{PATH}/resp_x"),
            ("DELETE", f"{PATH}/resp_x"),
            ("GET", f"{PATH}/resp_x/input_items"),
            ("POST", f"{PATH}/resp_x/cancel"),
            ("GET", "/v1/conversations/conv_x"),
            ("GET", "/v1/conversations/conv_x/items"),
        ):
            assert server.client.request(method, path).status_code == 401, path


def test_ids_cannot_be_guessed(client: Any) -> None:
    ids = [ask(client, "say x").id for _ in range(3)]

    assert len(set(ids)) == 3
    for response_id in ids:
        prefix, _, secret = response_id.partition("_")
        assert prefix == "resp"
        assert len(bytes.fromhex(secret)) == 24
