"""Prompts and completions that do not fit the model's window, or are no text at all."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from palma.core.config import Settings
from palma.core.errors import InvalidRequest
from palma.core.types import SamplingParams
from palma.engine import Engine, create_engine
from palma.engine.base import EngineRequest, TokenDelta
from tests.faults.refusals import CHAT, PALMA, PATHS, refused
from tests.live_server import LiveServer, running_server, unharmed_neighbour, user

MAX_MODEL_LEN = 64

pytestmark = pytest.mark.timeout(45)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server whose model has a window of 64 tokens."""
    with running_server(max_model_len=MAX_MODEL_LEN) as live:
        yield live


@pytest.fixture
def engine() -> Iterator[Engine]:
    """The mock engine without a server."""
    with ThreadPoolExecutor(1) as executor:
        settings = Settings(engine="mock", max_model_len=MAX_MODEL_LEN)
        mock = create_engine(settings, None, executor)
        yield mock
        mock.close()


@pytest.mark.usefixtures("neighbour")
def test_a_prompt_longer_than_the_window_is_refused_with_both_numbers(
    server: LiveServer,
) -> None:
    """Fault 47: a little too long, and so long that it is not even tokenized."""
    for path in PATHS:
        for content in ("x" * 60, "x" * 7_000_000, "<|eot_id|>" * 500_000):
            answer = refused(server, path, "messages", {"messages": user(content)})
            assert f"holds {MAX_MODEL_LEN} tokens" in answer.message
            assert path != CHAT or answer.code == "context_length_exceeded"


def test_a_message_full_of_control_tokens_and_private_characters_costs_no_minutes(
    mock_server: LiveServer,
) -> None:
    """Fault 64: spelled control tokens are shielded by marks, which nobody can exhaust."""
    marks = "".join(f"\ue000{number}\ue001" for number in range(100_000))
    with unharmed_neighbour(mock_server):
        for path in PATHS:
            refused(mock_server, path, "messages", {"messages": user("<|eot_id|>" + marks)})
            refused(mock_server, path, "messages", {"messages": user("<|eot_id|>x" * 100_000)})


@pytest.mark.usefixtures("neighbour")
def test_a_completion_that_does_not_fit_beside_the_prompt_is_refused_with_both_numbers(
    server: LiveServer,
) -> None:
    """Faults 39 and 47: chosen, it is refused; left to the server, it takes the room there is."""
    prompt = user("count to 99")
    num_prompt_tokens = len("user: count to 99assistant: ") + 1
    room = MAX_MODEL_LEN - num_prompt_tokens
    for path in PATHS:
        name = "max_tokens" if path == CHAT else "max_new_tokens"
        asked = {"messages": prompt, name: room + 1}
        answer = refused(server, path, "messages", asked)
        assert f"holds {MAX_MODEL_LEN} tokens" in answer.message
        assert f"asks for {MAX_MODEL_LEN + 1}" in answer.message
        assert f"at most {room}" in answer.message
        assert path != CHAT or answer.code == "context_length_exceeded"

    counted = "".join(f"{number} " for number in range(1, room + 1))
    for bound in (room, MAX_MODEL_LEN + 1, 10**12, None):
        asked = {"messages": prompt, "max_new_tokens": bound}
        assert server.post(PALMA, asked).json() == {"data": counted}
    chat = server.post(CHAT, {"messages": prompt, "model": "mock"}).json()
    assert chat["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["total_tokens"] == MAX_MODEL_LEN


@pytest.mark.parametrize("token_ids", [[], [-1], [200_000], [5, 10**12], [0] * MAX_MODEL_LEN])
def test_an_engine_refuses_token_ids_that_no_device_should_see(
    engine: Engine, token_ids: list[int]
) -> None:
    """Faults 48 and 49, below HTTP."""
    deltas: list[TokenDelta] = []
    request = EngineRequest("bad", token_ids, SamplingParams(max_tokens=1))

    with pytest.raises(InvalidRequest):
        engine.submit(request, deltas.append)

    assert deltas == []
    assert engine.stats().num_running == engine.stats().num_waiting == 0
