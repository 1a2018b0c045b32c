"""Palma's own API on a real server with the mock engine."""

from __future__ import annotations

from datetime import datetime

from tests.live_server import LiveServer, user


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
