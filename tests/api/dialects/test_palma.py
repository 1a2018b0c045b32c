"""Palma's own API on a real server with the mock engine."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.live_server import LiveServer, running_server, user
from tests.thinking_models import thinking_mock


def test_healthcheck_has_exactly_the_founding_keys(mock_server: LiveServer) -> None:
    for path in ("/v0.1.0/healthcheck", "/v1/healthcheck"):
        response = mock_server.get(path)

        assert response.status_code == 200
        body = response.json()
        assert body.keys() == {"status", "timestamp", "version"}
        assert (body["status"], body["version"]) == ("ok", "0.1.0")
        assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None


def test_inference_answers_with_data_alone(mock_server: LiveServer) -> None:
    response = mock_server.post("/v0.1.0/inference", {"messages": user("count to 3")})

    assert response.status_code == 200
    assert response.json() == {"data": "1 2 3 "}
    assert response.headers["palmapy-server-version"] == "0.1.0"


def test_stream_is_json_strings_and_ends_with_the_marker(mock_server: LiveServer) -> None:
    events = mock_server.events("/v0.1.0/stream", {"messages": user("count to 3")})

    assert events == ["1 ", "2 ", "3 ", "<|eot_id|>"]


def test_marker_ends_the_stream_also_when_max_new_tokens_runs_out(mock_server: LiveServer) -> None:
    body = {"messages": user("count to 100"), "max_new_tokens": 2}

    events = mock_server.events("/v0.1.0/stream", body)

    assert "".join(events) == "1 2 <|eot_id|>"


def test_what_a_model_thinks_is_no_part_of_the_answer() -> None:
    body = {"messages": user("say <think>\nHm.\n</think>\n\nHi.")}

    with running_server(load=thinking_mock().load) as server:
        whole = server.post("/v0.1.0/inference", body)
        events = server.events("/v0.1.0/stream", body)

    assert whole.json() == {"data": "Hi."}
    assert events == ["H", "i", ".", "<|eot_id|>"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"tools": []}, "tools"),
        ({"messages": [{"role": "tool", "content": "noon"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": []}]}, "tool_calls"),
    ],
)
def test_tools_are_no_part_of_the_contract(
    mock_server: LiveServer, fields: dict[str, Any], name: str
) -> None:
    for path in ("/v0.1.0/inference", "/v0.1.0/stream"):
        response = mock_server.post(path, {"messages": user("hi"), **fields})

        assert response.status_code == 400
        assert name in response.json()["error"]["message"]
