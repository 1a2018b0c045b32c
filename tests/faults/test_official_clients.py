"""What OpenAI's client makes of our answers: its errors, its retries and its deadlines."""

from __future__ import annotations

from typing import Any, cast

import openai
import pytest

from tests.calls import CHAT
from tests.live_server import QUEUE_HEAD, LiveServer, running_server, unharmed_neighbour, user
from tests.spy_engine import Spy


@pytest.fixture
def server(mock_server: LiveServer) -> LiveServer:
    """The server with default settings."""
    return mock_server


def sdk(server: LiveServer, **options: Any) -> openai.OpenAI:
    """Return the official client in its strictest mode."""
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        _strict_response_validation=True,
        **{"max_retries": 0, "timeout": 20, **options},
    )


def sdk_stream(client: openai.OpenAI, content: str, **params: Any) -> Any:
    """Ask for a stream and return it."""
    return client.chat.completions.create(
        model="mock", messages=cast(Any, user(content)), stream=True, **params
    )


def test_the_sdk_raises_on_an_error_after_the_first_byte(mock_server: LiveServer) -> None:
    """Fault 88: and the text that came before it is not lost."""
    texts: list[str] = []

    def read(stream: Any) -> None:
        for chunk in stream:
            texts.extend(choice.delta.content or "" for choice in chunk.choices)

    with unharmed_neighbour(mock_server), sdk(mock_server) as client:
        stream = sdk_stream(client, "slowly fail after 3")
        with pytest.raises(openai.APIError) as caught:
            read(stream)

    assert "".join(texts) == "1 2 3 "
    assert (caught.value.code, caught.value.type) == ("engine_error", "server_error")


@pytest.mark.usefixtures("neighbour")
def test_finish_reasons_are_stop_and_length_and_nothing_else(server: LiveServer) -> None:
    """Fault 90: each choice has one, at its end."""
    orders = {"count to 3": "stop", "count to 9": "length", "say ": "stop"}
    for order, expected in orders.items():
        with sdk(server) as client:
            chunks = list(sdk_stream(client, order, max_tokens=5))

        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons == [None] * (len(reasons) - 1) + [expected]
        assert CHAT.ask(server, order, max_tokens=5).finish_reason == expected


def test_the_strict_sdk_reads_past_keep_alives() -> None:
    """Fault 91."""
    with (
        running_server(sse_ping_s=0.005) as pinging,
        unharmed_neighbour(pinging),
        sdk(pinging) as client,
    ):
        chunks = list(sdk_stream(client, "slowly count to 5"))

    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "1 2 3 4 5 "


@pytest.mark.usefixtures("neighbour")
def test_the_usage_chunk_comes_last_and_only_when_asked_for(server: LiveServer) -> None:
    """Fault 92."""
    for include_usage in (None, False, True):
        asked = {} if include_usage is None else {"include_usage": include_usage}
        options = {"stream_options": asked} if asked else {}
        with sdk(server) as client:
            *chunks, last = sdk_stream(client, "count to 3", **options)

        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        if include_usage:
            assert last.choices == []
            assert last.usage.completion_tokens == 4
            assert last.usage.total_tokens == last.usage.prompt_tokens + 4
        else:
            assert last.choices
            assert last.usage is None


# --- Retries and deadlines ---------------------------------------------------------------------


def test_the_sdk_does_not_repeat_what_will_fail_again() -> None:
    """Fault 94: x-should-retry is false, so there is one call, not three."""
    spy = Spy()
    with (
        running_server(load=spy.load) as spied,
        sdk(spied, max_retries=2) as client,
        unharmed_neighbour(spied),
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="mock", messages=cast(Any, user("fail after 0, once")))

    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.code == "engine_error"
    assert len(spy.find("fail after 0, once")) == 1


def test_the_sdk_repeats_what_was_refused_for_want_of_room() -> None:
    """Fault 94: 429 says when, and the second try succeeds."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1, max_waiting_requests=0) as server:
        with unharmed_neighbour(server, QUEUE_HEAD):
            refused = CHAT.ask(server, "count to 3")
            assert refused.status == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert "x-should-retry" not in refused.headers

            with sdk(server, max_retries=2) as client:
                answer = client.chat.completions.create(
                    model="mock", messages=cast(Any, user("count to 3"))
                )

        assert answer.choices[0].message.content == "1 2 3 "
        assert len(spy.find("count to 3")) == 1


def test_a_request_whose_client_has_given_up_is_dropped_from_the_queue() -> None:
    """Fault 95: the SDK tells its timeout; no token is made for an answer that nobody awaits."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1) as server:
        with unharmed_neighbour(server, QUEUE_HEAD):
            headers = {"x-stainless-read-timeout": "0.1"}
            response = server.post(CHAT.path, CHAT.body("count to 7777"), headers=headers)

        assert response.status_code == 503
        assert response.json()["error"]["code"] == "queue_timeout"
        assert 1 <= int(response.headers["retry-after"]) <= 120
        assert spy.only("7777").num_tokens == 0
        assert spy.only("7777") not in spy.started
        assert spy.only("7777").finish_reason == "cancelled"


def test_a_queued_stream_whose_client_has_given_up_ends_with_an_error_event() -> None:
    """Fault 95."""
    spy = Spy()
    with running_server(load=spy.load, threads_max_workers=1) as server:
        with (
            unharmed_neighbour(server, QUEUE_HEAD),
            sdk(server, timeout=0.1) as client,
            pytest.raises(openai.APIError),
        ):
            list(sdk_stream(client, "count to 7777"))

        assert spy.only("7777").num_tokens == 0


@pytest.mark.usefixtures("neighbour")
def test_any_read_timeout_is_taken_while_there_is_room(server: LiveServer) -> None:
    """Fault 95: what is no time is no deadline."""
    for value in ("600", "0.5", "inf", "nan", "-1", "0", "soon", "1e400", ""):
        headers = {"x-stainless-read-timeout": value}

        response = server.post(CHAT.path, CHAT.body("count to 2"), headers=headers)

        assert response.status_code == 200, value
        assert response.json()["choices"][0]["message"]["content"] == "1 2 "
