"""What was recorded with a dialect is still answered so, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.exchange import FOLDER, play, read_exchange
from tests.live_server import LiveServer, running_server

FILES = sorted(FOLDER.glob("*/*.http"))


def named(path: Path) -> str:
    """Return the dialect and the file's name."""
    return f"{path.parent.name}/{path.stem}"


def test_there_are_exchanges_of_both_dialects() -> None:
    assert {path.parent.name for path in FILES} >= {"falcon", "llama_stack"}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_answer_is_the_recorded_one(path: Path, mock_server: LiveServer) -> None:
    exchange = read_exchange(path)
    assert exchange.text == path.read_text(encoding="utf-8"), "the file is read as it is written"

    if not exchange.settings:
        assert play(exchange, mock_server) == exchange.response
        return
    with running_server(**exchange.settings) as server:
        assert play(exchange, server) == exchange.response
