"""Engines that break, stall or are saturated: who is told, and who must not notice."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from palma.engine.base import TokenDelta
from tests.calls import CALLS, CHAT, CHAT_STREAM, INFERENCE, STREAM, STREAMS, Answer, Call
from tests.faults.tiny_engines import GREEDY, make_tiny_engine, slow_neighbour, spoil_logits
from tests.live_server import LiveServer, running_server, unharmed_neighbour, wait_until
from tests.spy_engine import Spy

SAMPLED = {"temperature": 1, "seed": 7, "max_tokens": 20}


# --- A real model, whose logits some prompts spoil --------------------------------------------


@pytest.fixture(scope="module")
def tiny_server() -> Iterator[LiveServer]:
    """A server with a real, small, random model."""
    spy = Spy(make_engine=make_tiny_engine, change_request=spoil_logits)
    with running_server(load=spy.load, default_max_new_tokens=20) as server:
        yield server


def ask_together(server: LiveServer, asks: list[tuple[Call, str, dict[str, Any]]]) -> list[Answer]:
    """Send several requests at once and return their answers in order."""
    with ThreadPoolExecutor(len(asks)) as clients:
        futures = [clients.submit(call.ask, server, text, **ps) for call, text, ps in asks]
        return [future.result() for future in futures]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("order", ["[raise]", "[nan]", "[inf]"])
def test_a_request_whose_logits_are_spoiled_fails_alone(
    tiny_server: LiveServer, order: str, sampling: dict[str, Any]
) -> None:
    """Faults 53 and 54."""
    good = [(call, f"neighbour {call}", sampling) for call in CALLS]
    bad = [(call, order, sampling) for call in CALLS]
    alone = [call.ask(tiny_server, text, **params) for call, text, params in good]

    answers = ask_together(tiny_server, [*bad, *good])

    for call, answer in zip(CALLS, answers[:4], strict=True):
        call.check_error(answer, 500, "engine_error")
        assert "secret" not in str(answer.error)
    assert [answer.text for answer in answers[4:]] == [answer.text for answer in alone]
    assert all(answer.is_whole for answer in answers[4:])
    tiny_server.wait_until_idle()


def test_logits_that_are_spoiled_late_end_a_stream_with_an_error_event(
    tiny_server: LiveServer,
) -> None:
    """Faults 53 and 54."""
    with unharmed_neighbour(tiny_server, slow_neighbour(tiny_server)):
        for call in STREAMS:
            for order in ("[raise late]", "[nan late]", "[inf late]"):
                answer = call.ask(tiny_server, order, **GREEDY)

                call.check_error(answer, 500, "engine_error")
                assert answer.text, "the tokens before the fault were lost"


def test_an_answer_is_the_same_alone_beside_others_and_after_an_abort(
    tiny_server: LiveServer,
) -> None:
    """Fault 60."""
    for params in (GREEDY, {"temperature": 1, "seed": 42, "max_tokens": 20}):
        asks = [(CALLS[n % 4], f"question {n}", params) for n in range(10)]
        alone = [call.ask(tiny_server, text, **ps) for call, text, ps in asks]

        together = ask_together(tiny_server, asks)
        abort_a_stream(tiny_server)
        after_abort = [call.ask(tiny_server, text, **ps) for call, text, ps in asks]

        texts = [answer.text for answer in alone]
        assert len(set(texts)) == 10, "the model says the same to everybody: this proves nothing"
        assert [answer.text for answer in together] == texts
        assert [answer.text for answer in after_abort] == texts
    tiny_server.wait_until_idle()


def test_an_abort_in_the_middle_of_a_neighbour_changes_nothing(tiny_server: LiveServer) -> None:
    """Fault 60."""
    alone = STREAM.ask(tiny_server, "[slow] question", **GREEDY)

    with ThreadPoolExecutor(1) as clients:
        beside: Future[Answer] = clients.submit(
            STREAM.ask, tiny_server, "[slow] question", **GREEDY
        )
        abort_a_stream(tiny_server)

    assert beside.result().text == alone.text
    tiny_server.wait_until_idle()


def abort_a_stream(server: LiveServer) -> None:
    """Begin a long stream and leave it after its first event."""
    body = STREAM.body("[slow] and never read to its end", max_tokens=200)
    with server.client.stream("POST", STREAM.path, json=body) as response:
        assert next(response.iter_lines()).startswith("data:")


def test_requests_beyond_the_cap_all_finish_in_the_order_of_their_start() -> None:
    """Fault 60: twenty requests wait behind two workers."""
    spy = Spy(make_engine=make_tiny_engine)
    with running_server(load=spy.load, threads_max_workers=2) as server:
        asks = [(CALLS[n % 4], f"question {n}", GREEDY) for n in range(22)]
        alone = [call.ask(server, text, **params).text for call, text, params in asks]
        spy.submitted.clear()
        spy.started.clear()

        answers = ask_together(server, asks)

        assert all(answer.is_whole for answer in answers)
        assert [answer.text for answer in answers] == alone
        assert len(spy.submitted) == 22
        for position, request in enumerate(spy.submitted):
            # Two that start together may report in either order.
            assert abs(spy.started.index(request) - position) <= 1
        server.wait_until_idle()


def test_a_log_probability_of_minus_infinity_is_a_number_in_json(tiny_server: LiveServer) -> None:
    """Fault 65."""
    asked = {**GREEDY, "logprobs": True, "top_logprobs": 5, "max_tokens": 2}
    with unharmed_neighbour(tiny_server, slow_neighbour(tiny_server)):
        whole = tiny_server.post(CHAT.path, CHAT.body("[few]", **asked))
        events = tiny_server.events(CHAT_STREAM.path, CHAT_STREAM.body("[few]", **asked))

    assert whole.status_code == 200, whole.text
    tokens = whole.json()["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 2
    for token in tokens:
        found = [rival["logprob"] for rival in token["top_logprobs"]]
        assert found[0] > found[1] > -100
        assert found[2:] == [-9999.0] * 3
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    assert [t for c in choices if c["logprobs"] for t in c["logprobs"]["content"]] == tokens


# --- Saturation and stalls ---------------------------------------------------------------------


def test_probes_answer_at_once_while_the_engine_is_saturated() -> None:
    """Faults 58 and 59: busy is not stuck, however long the queue is."""
    spy = Spy(make_engine=make_tiny_engine)
    with (
        running_server(load=spy.load, threads_max_workers=2, stall_timeout_s=1) as server,
        ThreadPoolExecutor(12) as clients,
    ):
        params = {"temperature": 0, "max_tokens": 60}
        alone = [call.ask(server, f"question {n}", **params).text for n, call in enumerate(CALLS)]
        asks = [
            clients.submit(call.ask, server, f"question {n % 4}", **params)
            for n, call in enumerate(CALLS * 3)
        ]
        wait_until(lambda: server.counts()[1] >= 5, "requests wait")
        times_s = [timed(server, path) for path in ["/livez", "/readyz"] * 10]

        assert not all(ask.done() for ask in asks), "it was not saturated: this proves nothing"
        # An orchestrator that gets no answer soon kills the server. A probe may be unlucky.
        assert statistics.median(times_s) < 0.1
        assert all(ask.result().is_whole for ask in asks)
        assert [ask.result().text for ask in asks] == alone * 3
        server.wait_until_idle()


def test_an_engine_that_stands_still_is_first_not_ready_and_then_not_alive() -> None:
    """Fault 58."""
    released = threading.Event()
    stuck = threading.Event()

    def hang(prompt: str, delta: TokenDelta) -> None:
        if "[hang]" in prompt and delta.token_ids:
            stuck.set()
            released.wait()

    spy = Spy(on_token=hang)
    with running_server(load=spy.load, stall_timeout_s=1) as server:
        with ThreadPoolExecutor(1) as clients:
            hanging = clients.submit(INFERENCE.ask, server, "[hang]")
            assert stuck.wait(5)
            assert server.get("/readyz").status_code == 200

            wait_until(lambda: server.get("/readyz").status_code == 503, "not ready")
            assert server.get("/livez").status_code == 200
            check_unhealthy(server.get("/readyz"))
            check_unhealthy(server.get("/v0.1.0/healthcheck"))
            wait_until(lambda: server.get("/livez").status_code == 503, "not alive")
            check_unhealthy(server.get("/livez"))

            released.set()
            assert hanging.result().is_whole
        server.wait_until_idle()
        assert server.get("/readyz").status_code == 200
        with unharmed_neighbour(server):
            assert INFERENCE.ask(server, "count to 3").text == "1 2 3 "


def timed(server: LiveServer, path: str) -> float:
    """Return the seconds that a probe takes; it must succeed."""
    started = time.monotonic()
    assert server.get(path).status_code == 200
    return time.monotonic() - started


def check_unhealthy(response: httpx.Response) -> None:
    body = response.json()
    assert (response.status_code, body["status"]) == (503, "unhealthy")
    assert "no token" in body["reason"]
    assert response.elapsed.total_seconds() < 5, "it waited for the engine"
