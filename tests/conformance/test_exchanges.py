"""What was recorded with a dialect is still answered so, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.exchange import FOLDER, play, read_exchange
from tests.live_server import LiveServer, running_server

Servers = Callable[[dict[str, Any]], LiveServer]

FILES = sorted(FOLDER.glob("*/*.http"))


def named(path: Path) -> str:
    """Return the dialect and the file's name."""
    return f"{path.parent.name}/{path.stem}"


def test_there_are_exchanges_of_every_founding_dialect() -> None:
    assert {path.parent.name for path in FILES} == {"cria", "falcon", "gallama", "llama_stack"}


@pytest.fixture(scope="module")
def servers(mock_server: LiveServer) -> Iterator[Servers]:
    """One server for each set of settings, started when it is first asked for."""
    with ExitStack() as stack:
        started: dict[tuple[tuple[str, Any], ...], LiveServer] = {(): mock_server}

        def server_with(settings: dict[str, Any]) -> LiveServer:
            key = tuple(settings.items())
            if key not in started:
                started[key] = stack.enter_context(running_server(**settings))
            return started[key]

        yield server_with


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_answer_is_the_recorded_one(path: Path, servers: Servers) -> None:
    exchange = read_exchange(path)

    assert exchange.text == path.read_text(encoding="utf-8"), "the file is read as it is written"
    assert play(exchange, servers(exchange.settings)) == exchange.response
