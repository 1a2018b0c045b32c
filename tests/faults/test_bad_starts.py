"""Starts that cannot succeed: one line says why, and the exit status is 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.server_process import REPOSITORY, palma_command, uvicorn_command
from tests.live_server import LiveServer, counting_neighbour, unharmed_neighbour

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
def bad_starts(
    tmp_path_factory: pytest.TempPathFactory, mock_server: LiveServer
) -> dict[str, FailedStart]:
    """The outcome of each start; they run at the same time, beside the server on the port."""
    port = str(mock_server.port)
    with unharmed_neighbour(mock_server, counting_neighbour(100)):
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
