"""Anthropic's messages, judged by the official client with strict validation of every response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from palma.api.dialects.anthropic.bodies import MessagesBody
from palma.api.fields import NeutralOnly
from tests.live_server import LiveServer, running_server, unharmed_neighbour, user, wait_until
from tests.spy_engine import MAX_STEPS_AFTER_CANCEL, Spy
from tests.strict_clients import strict_anthropic_client

PATH = "/v1/messages"

NEUTRAL_VALUES = {
    name: mark.values
    for name, field in MessagesBody.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, NeutralOnly)
}


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with strict_anthropic_client(mock_server) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with strict_anthropic_client(palmita_server) as client:
        yield client


def ask(client: anthropic.Anthropic, content: Any, **kwargs: Any) -> Any:
    return client.messages.create(
        **{
            "model": "mock",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": content}],
            **kwargs,
        }
    )


def final(client: anthropic.Anthropic, content: Any, **kwargs: Any) -> Any:
    """Ask for a stream and let the client's helper put the message together."""
    body: dict[str, Any] = {
        "model": "mock",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": content}],
        **kwargs,
    }
    with client.messages.stream(**body) as stream:
        return stream.get_final_message()


def without_id(message: Any) -> dict[str, Any]:
    parts = message.to_dict(exclude_none=True)
    return {name: value for name, value in parts.items() if name != "id"}


def test_a_whole_answer_has_text_reason_and_measured_usage(client: anthropic.Anthropic) -> None:
    message = ask(client, "count to 3")

    assert message.content[0].text == "1 2 3 "
    assert len(message.content) == 1
    assert message.id.startswith("msg_")
    assert message.model == "mock"
    assert message.stop_reason == "end_turn"
    assert message.stop_sequence is None
    assert message.usage.output_tokens == 4  # three numbers and the end token
    assert message.usage.input_tokens == len(b"user: count to 3") + 1 + len(b"assistant: ")
    assert message.usage.cache_read_input_tokens == 0
    assert message._request_id is not None


@pytest.mark.parametrize(
    ("content", "kwargs"),
    [
        ("count to 12", {}),
        ("say añb🏴‍☠️", {}),
        ("count to 9", {"max_tokens": 4}),
        ("count to 9", {"stop_sequences": ["5"]}),
        ("say ", {}),
    ],
)
def test_a_stream_adds_up_to_the_whole_message(
    client: anthropic.Anthropic, content: str, kwargs: Any
) -> None:
    assert without_id(final(client, content, **kwargs)) == without_id(
        ask(client, content, **kwargs)
    )


def test_events_come_in_their_order_each_named_by_its_type(mock_server: LiveServer) -> None:
    body = {"model": "mock", "max_tokens": 9, "messages": user("count to 2"), "stream": True}

    response = mock_server.post(PATH, body)

    names = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
    events = mock_server.events(PATH, body)
    assert [event["type"] for event in events] == names
    assert names == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events[0]["message"]
    assert start["stop_reason"] is None
    assert start["usage"]["input_tokens"] == events[-2]["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("stop", "text", "matched"), [(["5"], "1 2 3 4 ", "5"), (["5", "3 4"], "1 2 ", "3 4")]
)
def test_a_stop_sequence_ends_the_answer_and_is_named(
    client: anthropic.Anthropic, stop: list[str], text: str, matched: str
) -> None:
    message = ask(client, "count to 9", stop_sequences=stop)

    assert message.content[0].text == text
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == matched


def test_stop_reason_tells_max_tokens_from_a_full_window(
    client: anthropic.Anthropic,
) -> None:
    cut = ask(client, "count to 9", max_tokens=2)
    nothing = ask(client, "count to 9", max_tokens=0)
    with running_server(max_model_len=64) as server, strict_anthropic_client(server) as small:
        full = ask(small, "count to 900", max_tokens=1000)

    assert (cut.content[0].text, cut.stop_reason) == ("1 2 ", "max_tokens")
    assert (nothing.content[0].text, nothing.stop_reason) == ("", "max_tokens")
    assert nothing.usage.output_tokens == 0
    assert full.stop_reason == "model_context_window_exceeded"
    assert full.usage.input_tokens + full.usage.output_tokens == 64


def test_text_blocks_are_joined_and_turns_of_one_role_are_merged() -> None:
    spy = Spy()
    with running_server(load=spy.load) as server, strict_anthropic_client(server) as client:
        client.messages.create(
            model="mock",
            max_tokens=9,
            system=[{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            messages=[
                {"role": "user", "content": "Hi."},
                {"role": "user", "content": [{"type": "text", "text": "say a"}]},
            ],
        )

    assert spy.submitted[0].prompt == "system: Be brief.user: Hi.\nsay aassistant: "


def test_an_answer_may_be_sent_back_as_it_came(client: anthropic.Anthropic) -> None:
    first = ask(client, "count to 3")

    turns = [*user("count to 3"), first.to_param(), *user("say more")]

    assert ask(client, "", messages=turns).content[0].text == "more"


def test_a_last_turn_of_the_assistant_is_continued(palmita: anthropic.Anthropic) -> None:
    question = "What is the capital of France?"
    greedy: Any = {"model": "palmita", "max_tokens": 30, "extra_body": {"temperature": 0}}
    answer = ask(palmita, question, **greedy).content[0].text
    begun = answer[: answer.index("Paris")]
    turns = [*user(question), {"role": "assistant", "content": begun}]

    rest = ask(palmita, "", messages=turns, **greedy)
    streamed = final(palmita, "", messages=turns, **greedy)

    assert begun.rstrip() + rest.content[0].text == answer
    assert without_id(streamed) == without_id(rest)


def test_sampling_parameters_reach_the_model(palmita: anthropic.Anthropic) -> None:
    def answers(**params: Any) -> set[str]:
        texts = set()
        for _ in range(4):
            message = ask(
                palmita, "Tell me a story.", model="palmita", max_tokens=12, extra_body=params
            )
            texts.add(message.content[0].text)
        return texts

    greedy = answers(temperature=0)
    assert len(greedy) == 1
    assert answers(temperature=1, top_k=1) == greedy
    assert answers(temperature=1, top_p=1e-9) == greedy


def test_tokens_are_counted_as_the_answer_counts_them(client: anthropic.Anthropic) -> None:
    prompt: Any = {
        "model": "mock",
        "system": "be brief",
        "messages": [{"role": "user", "content": "count to 3"}],
    }

    count = client.messages.count_tokens(**prompt)

    assert count.input_tokens == client.messages.create(max_tokens=9, **prompt).usage.input_tokens


def test_labels_and_neutral_values_are_taken(mock_server: LiveServer) -> None:
    neutral = {name: values[0] for name, values in NEUTRAL_VALUES.items() if values}
    body = {"model": "mock", "max_tokens": 9, "messages": user("count to 1")}

    marked = {"type": "text", "text": "count to 1", "cache_control": {"type": "ephemeral"}}
    labelled = {
        **body,
        **neutral,
        "metadata": {"user_id": "me"},
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
        "system": [marked],
        "messages": [{"role": "user", "content": [marked]}],
    }
    nulls = {**body, **dict.fromkeys([*NEUTRAL_VALUES, "stop_sequences", "system", "top_k"])}

    assert mock_server.post(PATH, labelled).status_code == 200
    assert mock_server.post(PATH, nulls).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 1.1),
        ("tool_choice", {"type": "any"}),
        ("tool_choice", {"type": "auto", "disable_parallel_tool_use": 1}),
        ("thinking", {"type": "between_tools"}),
        ("service_tier", "priority"),
        ("max_tokens", -1),
        ("stop_sequences", "END"),
        ("no_such_field", 1),
    ],
)
def test_what_would_have_no_effect_is_refused_by_name(
    mock_server: LiveServer, field: str, value: Any
) -> None:
    body = {"model": "mock", "max_tokens": 9, "messages": user("count to 1"), field: value}

    response = mock_server.post(PATH, body)

    assert response.status_code == 400
    answer = response.json()
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "invalid_request_error"
    assert field in answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "image", "source": {"type": "url", "url": "http://x/"}}, "'image'"),
        ({"type": "redacted_thinking", "data": "x"}, "'redacted_thinking'"),
        ({"type": "text", "text": "hi", "citations": [{"type": "x"}]}, "citations"),
        ({"type": "text"}, "text is missing"),
        ({"type": "tool_use", "id": "1", "name": "f", "input": {}}, "tool_use blocks"),
        ({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]}, "'image'"),
        ("hi", "found 'hi'"),
    ],
)
def test_other_blocks_are_refused_by_name(
    client: anthropic.Anthropic, block: Any, words: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words):
        ask(client, [block])


def test_max_tokens_is_required(mock_server: LiveServer) -> None:
    response = mock_server.post(PATH, {"model": "mock", "messages": user("hi")})

    assert response.status_code == 400
    assert "max_tokens is missing" in response.json()["error"]["message"]


def test_an_unknown_model_is_not_found(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask(client, "hi", model="org/other")

    assert caught.value.type == "not_found_error"
    assert caught.value.request_id is not None
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="org/other", messages=[{"role": "user", "content": ""}])


def test_the_key_comes_in_anthropics_header() -> None:
    with running_server(api_key="secret") as server:
        with strict_anthropic_client(server, "secret") as client:
            assert ask(client, "count to 1").content[0].text == "1 "
        with (
            strict_anthropic_client(server, "wrong") as client,
            pytest.raises(anthropic.AuthenticationError) as caught,
        ):
            ask(client, "hi")

    assert caught.value.type == "authentication_error"


def test_errors_of_http_itself_are_in_the_same_envelope(mock_server: LiveServer) -> None:
    wrong_method = mock_server.get(PATH)
    wrong_type = mock_server.client.post(PATH, content="{}", headers={"Content-Type": "text/plain"})
    nowhere = mock_server.post(f"{PATH}/batches", {})

    for response, status in ((wrong_method, 405), (wrong_type, 415), (nowhere, 404)):
        assert response.status_code == status
        assert response.json()["type"] == "error"
        assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_failure_in_the_middle_is_an_error_event_and_no_end(
    mock_server: LiveServer, client: anthropic.Anthropic
) -> None:
    body = {
        "model": "mock",
        "max_tokens": 9,
        "messages": user("slowly fail after 2"),
        "stream": True,
    }

    with unharmed_neighbour(mock_server):
        events = mock_server.events(PATH, body)
        with pytest.raises(anthropic.APIStatusError) as caught:
            final(client, "fail after 2")

    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert events[-1]["request_id"].startswith("req_")
    assert "message_stop" not in [event["type"] for event in events]
    assert caught.value.type == "api_error"


def test_a_client_that_leaves_stops_the_work() -> None:
    spy = Spy()
    with running_server(load=spy.load) as server:
        with (
            strict_anthropic_client(server) as client,
            client.messages.stream(
                model="mock",
                max_tokens=10_000,
                messages=[{"role": "user", "content": "slowly count to 9000"}],
            ) as stream,
        ):
            next(stream.text_stream)
        wait_until(lambda: spy.submitted[0].finish_reason is not None, "the sequence ends")

    assert spy.submitted[0].finish_reason == "cancelled"
    assert spy.submitted[0].num_tokens_after_cancel <= MAX_STEPS_AFTER_CANCEL
