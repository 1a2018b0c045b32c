"""A server in a process of its own, for signals, exit statuses and start-up."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from palma.core.config import Settings
from tests.live_server import PATIENCE_S, LiveServer, wait_until

REPOSITORY = Path(__file__).parents[2]


def palma_command(port: int) -> list[str]:
    """Return the command of `palma serve`."""
    return [sys.executable, "-m", "palma", "serve", "--port", str(port)]


def uvicorn_command(port: int) -> list[str]:
    """Return the founding command."""
    return [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port)]


COMMANDS = {"palma serve": palma_command, "uvicorn server:app": uvicorn_command}


class ServerProcess(LiveServer):
    """A server in a process of its own."""

    def __init__(self, command: str, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        super().__init__(port, Settings())
        self.process = subprocess.Popen(
            COMMANDS[command](port),
            cwd=REPOSITORY,
            env={**os.environ, "ENGINE": "mock", **settings},
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_ready(self) -> bool:
        """Return whether it answers and would serve; fails when the process has ended."""
        assert self.process.poll() is None, self.process.communicate()[1]
        try:
            return self.get("/readyz").status_code == 200
        except httpx.ConnectError:
            return False

    def end(self, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        """Wait for the end and return the exit status and what is on standard error."""
        _, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stderr


@contextlib.contextmanager
def server_process(command: str, **settings: str) -> Iterator[ServerProcess]:
    """Start a server in a process of its own; whatever happens, it has ended afterwards."""
    server = ServerProcess(command, **settings)
    with server.process, server.client:
        try:
            wait_until(server.is_ready, "the process serves")
            yield server
        finally:
            server.process.kill()
