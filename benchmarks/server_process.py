"""Starts servers as processes of their own, waits until they answer, and ends them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

START_PATIENCE_S = 300.0
STOP_PATIENCE_S = 20.0
MEMORY_PERIOD_S = 0.1

Server = subprocess.Popen[bytes]


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Server:
    """Start a server; what it prints goes into the log file, or nowhere."""
    with (log or Path("/dev/null")).open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def running(server: Server, port: int, ready_path: str) -> Iterator[str]:
    """Wait until the path answers 200, yield the server's URL, and end its processes."""
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(server, url + ready_path)
        yield url
    finally:
        stop(server)


def wait_until_ready(server: Server, url: str) -> None:
    """Wait for a 200.

    Raises:
        TimeoutError: It did not come in time.
        RuntimeError: The server ended before.
    """
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} was not ready within {START_PATIENCE_S:g} s")


def stop(server: Server) -> None:
    """Ask a server and its children to end, and make them when they do not."""
    family = _family(server.pid)
    server.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_PATIENCE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class MemoryWatch:
    """Samples the resident memory of a process and its children on a thread of its own.

    Attributes:
        peak_bytes: The most that was seen so far.
    """

    def __init__(self, server: Server) -> None:
        self._pid = server.pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_bytes = 0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def now_bytes(self) -> int:
        """Return what the processes hold now."""
        total = 0
        for process in _family(self._pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def _watch(self) -> None:
        while not self._stopped.wait(MEMORY_PERIOD_S):
            self.peak_bytes = max(self.peak_bytes, self.now_bytes())
