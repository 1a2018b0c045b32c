"""gallama's manager, as its clients call it: the exchanges of gallama/manager.json, replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, running_server, wait_until

EXCHANGES = Path(__file__).parent / "gallama" / "manager.json"


def answer_to(server: LiveServer, request: dict[str, Any]) -> tuple[int, Any]:
    """Send a request; where the answer has the server's port, write `<port>`."""
    response = server.client.request(request["method"], request["path"], json=request.get("json"))
    return response.status_code, json.loads(
        response.text.replace(f'"port":{server.port}', '"port":"<port>"')
    )


def test_the_exchanges_go_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with running_server(allow_model_management=True) as server:
        for exchange in json.loads(EXCHANGES.read_text(encoding="utf-8")):
            expected = (exchange["status"], exchange["json"])
            if exchange.get("eventually"):

                def is_there(request: Any = exchange["request"], expected: Any = expected) -> bool:
                    return bool(answer_to(server, request) == expected)

                wait_until(is_there, exchange["says"])
            assert answer_to(server, exchange["request"]) == expected, exchange["says"]
