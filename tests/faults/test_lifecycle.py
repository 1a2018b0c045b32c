"""Full queues, loading, shutting down, and starts that cannot succeed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.engine.base import Engine
from palma.serving.registry import load_engine
from tests.calls import CALLS, CHAT, CHAT_STREAM, STREAM, Answer
from tests.live_server import (
    LiveServer,
    read_to_end,
    running_server,
    unharmed_neighbour,
    wait_until,
)

REPOSITORY = Path(__file__).parents[2]
PROBES = ("/livez", "/readyz", "/startupz")
HEALTHCHECKS = ("/v0.1.0/healthcheck", "/v1/healthcheck")


def status_of(server: LiveServer, path: str) -> tuple[int, str]:
    """Return the HTTP status of a probe and the word that it says."""
    response = server.get(path)
    return response.status_code, response.json()["status"]


def check_retry_after(answer: Answer) -> None:
    """Assert that an SDK would try again, and when."""
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert "x-should-retry" not in answer.headers


# --- Full queues -------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_next_and_serves_those_it_took() -> None:
    """Fault 97."""
    with (
        running_server(threads_max_workers=1, max_waiting_requests=2) as server,
        ThreadPoolExecutor(2) as clients,
        unharmed_neighbour(server),
    ):
        accepted = [clients.submit(call.ask, server, "count to 3") for call in (STREAM, CHAT)]
        wait_until(lambda: server.counts() == (1, 2), "two wait")

        for call in CALLS:
            refused = call.ask(server, "count to 3")

            call.check_error(refused, 429, "queue_full")
            assert refused.error is not None
            assert refused.error["type"] == ("rate_limit_error" if call.is_chat else "api_error")
            check_retry_after(refused)
        assert status_of(server, "/readyz") == (200, "ok")
        assert [taken.result().text for taken in accepted] == ["1 2 3 ", "1 2 3 "]
        assert CHAT.ask(server, "count to 3").text == "1 2 3 "


def test_a_flood_is_refused_and_leaves_the_server_as_it_was() -> None:
    """Fault 97: every request is either served whole or refused with 429; none is lost."""
    with running_server(threads_max_workers=2, max_waiting_requests=4) as server:
        with ThreadPoolExecutor(24) as clients, unharmed_neighbour(server):
            flood = [clients.submit(CALLS[n % 4].ask, server, "count to 9") for n in range(96)]
            answers = [asked.result() for asked in flood]

        for answer in answers:
            if answer.status == 200:
                assert (answer.is_whole, answer.text) == (True, "1 2 3 4 5 6 7 8 9 ")
            else:
                assert answer.status == 429
                check_retry_after(answer)
        assert {answer.status for answer in answers} == {200, 429}


# --- Loading -----------------------------------------------------------------------------------


@contextlib.contextmanager
def loading_server() -> Iterator[tuple[LiveServer, threading.Event]]:
    """A server whose model is being loaded until the event is set."""
    may_load = threading.Event()

    def load(settings: Settings, executor: Executor) -> Engine:
        may_load.wait()
        return load_engine(settings, executor)

    try:
        with running_server(load=load, wait_ready=False) as server:
            yield server, may_load
    finally:
        may_load.set()


def test_while_the_model_loads_requests_are_told_to_come_back() -> None:
    """Fault 107."""
    with loading_server() as (server, may_load):
        for call in CALLS:
            answer = call.ask(server, "count to 3")
            call.check_error(answer, 503, "model_loading")
            check_retry_after(answer)
        assert [status_of(server, path) for path in PROBES] == [
            (200, "ok"),
            (503, "loading"),
            (503, "loading"),
        ]
        for path in HEALTHCHECKS:
            assert status_of(server, path) == (503, "loading")
            assert server.get(path).json()["reason"]
        assert server.get("/v1/models").json()["data"] == []

        may_load.set()
        wait_until(lambda: status_of(server, "/readyz") == (200, "ok"), "it is loaded")

        with unharmed_neighbour(server):
            assert [call.ask(server, "count to 3").text for call in CALLS] == ["1 2 3 "] * 4
        assert [status_of(server, path) for path in PROBES] == [(200, "ok")] * 3


def test_a_shutdown_does_not_wait_for_the_model() -> None:
    """Fault 107: a download may take an hour."""
    with loading_server():
        started = time.monotonic()

    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelLoadError("the weights are broken"), "the weights are broken"),
        (RuntimeError("a bug at /secret/path"), "the log says why"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said_to_all_and_not_retried(
    error: Exception, reason: str
) -> None:
    """Fault 107."""

    def load(settings: Settings, executor: Executor) -> Engine:
        raise error

    with running_server(load=load, wait_ready=False) as server:
        wait_until(lambda: status_of(server, "/readyz")[1] == "unhealthy", "loading fails")

        assert reason in server.get("/readyz").json()["reason"]
        assert status_of(server, "/livez") == (200, "ok")
        for call in CALLS:
            answer = call.ask(server, "count to 3")
            call.check_error(answer, 503, "unavailable")
            assert answer.headers["x-should-retry"] == "false"
            assert "secret" not in str(answer.error)


# --- Shutting down -----------------------------------------------------------------------------


def palma_command(port: int) -> list[str]:
    """Return the command of `palma serve`."""
    return [sys.executable, "-m", "palma", "serve", "--port", str(port)]


def uvicorn_command(port: int) -> list[str]:
    """Return the founding command."""
    return [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port)]


COMMANDS = {"palma serve": palma_command, "uvicorn server:app": uvicorn_command}
every_command = pytest.mark.parametrize("command", COMMANDS)


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

    def end(self, timeout_s: float) -> tuple[int, str]:
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


def ask_all(
    server: LiveServer, clients: ThreadPoolExecutor, content: str, **params: object
) -> list[Future[Answer]]:
    """Send a message in the four ways and return when the engine computes all four."""
    asked = [clients.submit(call.ask, server, content, **params) for call in CALLS]
    wait_until(lambda: server.counts()[0] == len(CALLS), "all are running")
    return asked


@every_command
def test_a_signal_lets_running_answers_finish_and_takes_nothing_new(command: str) -> None:
    """Fault 102: an idle connection does not hold it up, either."""
    with (
        server_process(command) as server,
        server.connect(),
        ThreadPoolExecutor(len(CALLS)) as clients,
    ):
        asked = ask_all(server, clients, "slowly count to 60")

        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/readyz").status_code == 503, "it drains", 1)

        for path in ("/readyz", *HEALTHCHECKS):
            assert status_of(server, path) == (503, "draining")
        assert status_of(server, "/livez") == (200, "ok")
        for call in CALLS:
            refused = call.ask(server, "count to 3")
            call.check_error(refused, 503, "draining")
            check_retry_after(refused)
        assert not any(one.done() for one in asked), "nothing was running: this proves nothing"
        for answer in (one.result() for one in asked):
            assert answer.is_whole
            assert answer.text == "".join(f"{n} " for n in range(1, 61))
        status, stderr = server.end(timeout_s=5)
        assert status == 0
        assert "Traceback" not in stderr


def test_answers_longer_than_the_grace_end_with_an_error() -> None:
    """Fault 102."""
    with (
        server_process("palma serve", SHUTDOWN_GRACE_S="0.2") as server,
        ThreadPoolExecutor(len(CALLS)) as clients,
    ):
        asked = ask_all(server, clients, "slowly count to 9999", max_tokens=10_000)

        server.process.send_signal(signal.SIGTERM)

        for call, answer in zip(CALLS, (one.result() for one in asked), strict=True):
            call.check_error(answer, 503, "draining")
            if call.is_stream:
                assert answer.text.startswith("1 2 3 ")
            else:
                check_retry_after(answer)
        status, stderr = server.end(timeout_s=5)
        assert status == 0
        assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("command", "first", "second"),
    [
        ("palma serve", signal.SIGTERM, signal.SIGTERM),
        ("uvicorn server:app", signal.SIGTERM, signal.SIGINT),
    ],
)
def test_a_second_signal_ends_the_process_at_once(
    command: str, first: signal.Signals, second: signal.Signals
) -> None:
    """Fault 103."""
    with server_process(command) as server, server.connect() as connection:
        connection.sendall(STREAM.request_bytes("slowly count to 99"))
        assert connection.recv(1)
        server.process.send_signal(first)
        wait_until(lambda: server.get("/readyz").status_code == 503, "it drains")
        assert server.process.poll() is None

        server.process.send_signal(second)

        status, _ = server.end(timeout_s=1)
        assert status == 1


def test_a_body_that_never_ends_does_not_hold_up_the_end() -> None:
    """Fault 102."""
    with (
        server_process("palma serve", BODY_TIMEOUT_S="0.3") as server,
        server.connect() as connection,
    ):
        connection.sendall(CHAT.request_bytes("count to 3")[:-1])
        assert server.get("/livez").status_code == 200

        server.process.send_signal(signal.SIGTERM)

        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")
        status, _ = server.end(timeout_s=6)
        assert status == 0


def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    """Fault 102: plain uvicorn waits for ever for it to take what has been written."""
    timeouts = {"SEND_TIMEOUT_S": "0.5", "BODY_TIMEOUT_S": "0.5"}
    with (
        server_process("uvicorn server:app", **timeouts) as server,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(CHAT_STREAM.request_bytes("count to 100000", max_tokens=100_000))
        wait_until(lambda: server.counts()[0] == 1, "it is running")
        server.wait_until_idle()  # dropped, with all buffers full

        server.process.send_signal(signal.SIGTERM)

        status, _ = server.end(timeout_s=6)
        assert status == 0


def test_an_interrupt_stops_an_idle_server_with_status_0() -> None:
    """Fault 102: Ctrl-C in a terminal."""
    with server_process("palma serve") as server:
        server.process.send_signal(signal.SIGINT)

        status, stderr = server.end(timeout_s=5)

    assert status == 0
    assert "Traceback" not in stderr


# --- Starts that cannot succeed ----------------------------------------------------------------

BAD_STARTS: dict[str, tuple[list[str], dict[str, str], str, list[str]]] = {
    # name: flags, environment, .env, words in the line
    "flag": (["--threads-max-workers", "ten"], {}, "", ["THREADS_MAX_WORKERS", "ten"]),
    "environment": ([], {"THREADS_MAX_WORKERS": "ten"}, "", ["THREADS_MAX_WORKERS", "ten"]),
    ".env": ([], {}, "THREADS_MAX_WORKERS=ten", ["THREADS_MAX_WORKERS", "ten"]),
    "no such choice": ([], {"DEVICE": "tpu"}, "", ["DEVICE", "tpu", "cuda"]),
    "two at once": (["--port", "-1"], {}, "DEFAULT_TOP_P=7", ["PORT", "-1", "DEFAULT_TOP_P", "7"]),
    "not a host": (["--host", "no host!"], {}, "", ["HOST", "no host!"]),
    "another machine's host": (["--host", "198.51.100.7"], {}, "", ["HOST", "198.51.100.7"]),
    "port in use": (["--port", "{port in use}"], {}, "", ["PORT", "{port in use}", "in use"]),
}


@pytest.fixture(scope="module")
def bad_starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FailedStart]:
    """The outcome of each start; they run at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        starts = {}
        for name, (flags, environment, env_file, _) in BAD_STARTS.items():
            folder = tmp_path_factory.mktemp("start")
            folder.joinpath(".env").write_text(env_file)
            command = [sys.executable, "-m", "palma", "serve", "--engine", "mock"]
            command += [flag.replace("{port in use}", port) for flag in flags]
            starts[name] = start(command, folder, environment)
        environment = {"ENGINE": "mock", "THREADS_MAX_WORKERS": "ten"}
        starts["uvicorn server:app"] = start(uvicorn_command(0), REPOSITORY, environment)
        starts["unknown flag"] = start([*palma_command(0), "--no-such-flag"], REPOSITORY, {})
        return {name: FailedStart(process, port) for name, process in starts.items()}


class FailedStart:
    """The exit status and the output of a process that has ended by itself."""

    def __init__(self, process: subprocess.Popen[str], port_in_use: str) -> None:
        self.stdout, self.stderr = process.communicate(timeout=20)
        self.status = process.returncode
        self.port_in_use = port_in_use


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a process without waiting for it."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_start_that_cannot_succeed_says_why_in_one_line(
    bad_starts: dict[str, FailedStart], name: str
) -> None:
    """Fault 111."""
    failed = bad_starts[name]

    assert (failed.status, failed.stdout) == (2, "")
    (line,) = failed.stderr.splitlines()
    for word in BAD_STARTS[name][-1]:
        assert word.replace("{port in use}", failed.port_in_use) in line


def test_the_founding_command_says_in_one_line_which_setting_is_wrong(
    bad_starts: dict[str, FailedStart],
) -> None:
    """Fault 111."""
    failed = bad_starts["uvicorn server:app"]

    assert failed.status == 2
    (line,) = failed.stderr.splitlines()
    assert "THREADS_MAX_WORKERS" in line
    assert "ten" in line


def test_an_unknown_flag_is_named(bad_starts: dict[str, FailedStart]) -> None:
    """Fault 111."""
    failed = bad_starts["unknown flag"]

    assert failed.status == 2
    assert "--no-such-flag" in failed.stderr
    assert "Traceback" not in failed.stderr
