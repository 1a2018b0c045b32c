"""The scripts that stand beside the package: the sample client, and the set-up."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_server import LiveServer, running_server

ROOT = Path(__file__).parent.parent
STUB = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-c import"*) exit "${TOO_OLD:-0}" ;;
esac
"""


def use(
    server: LiveServer, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the sample client."""
    command = [sys.executable, "scripts/use.py", "--url", server.url, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("flags", [[], ["--completion"], ["--temperature", "0.5"]])
def test_the_sample_client_prints_the_answer_and_its_speed(
    flags: list[str], mock_server: LiveServer
) -> None:
    run = use(mock_server, ": count to 5", *flags)

    assert run.stdout.startswith("1 2 3 4 5 \n"), run.stderr
    assert "6 tokens in " in run.stdout  # with the end token, as the server counts
    assert re.search(r"\n\d+\.\d tokens/s\n$", run.stdout)


def test_the_sample_client_says_what_went_wrong(mock_server: LiveServer) -> None:
    for arguments, words in (
        (["--model", "gpt-9", "hi"], "gpt-9"),
        (["fail after 2"], "the mock engine was asked to fail"),
        (["--max-tokens", "0", "hi"], "max_tokens"),
        (["--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
    ):
        run = use(mock_server, *arguments)

        assert run.returncode == 1
        assert words in run.stderr
        assert "Traceback" not in run.stderr


def test_the_sample_client_brings_its_key() -> None:
    with running_server(api_key="sk-1") as server:
        assert use(server, "count to 2", API_KEY="sk-1").returncode == 0
        assert "API key" in use(server, "count to 2").stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the set-up needs, and a Python that only notes what it is asked."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    shutil.copy(ROOT / ".env.example", tmp_path)
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up from another folder."""
    stub = {"PYTHON": str(checkout / "python"), "CALLS": str(checkout / "calls")}
    return subprocess.run(
        ["bash", str(checkout / "scripts/setup.sh")],
        cwd=checkout.parent,
        env={**os.environ, **stub, **environment},
        capture_output=True,
        text=True,
    )


def test_the_setup_makes_an_environment_installs_palma_and_writes_env(checkout: Path) -> None:
    run = set_up(checkout)

    assert run.returncode == 0, run.stderr
    calls = (checkout / "calls").read_text().splitlines()
    assert "-m venv .venv" in calls
    assert calls[-1] == "-m pip install -e ."
    assert (checkout / ".env").read_text() == (ROOT / ".env.example").read_text()


def test_a_second_setup_keeps_what_is_there(checkout: Path) -> None:
    set_up(checkout)
    (checkout / ".env").write_text("PORT=9\n")
    (checkout / "calls").unlink()

    assert set_up(checkout).returncode == 0

    assert (checkout / ".env").read_text() == "PORT=9\n"
    assert "-m venv .venv" not in (checkout / "calls").read_text()


def test_the_setup_refuses_an_old_or_missing_python(checkout: Path) -> None:
    old = set_up(checkout, TOO_OLD="1")
    missing = set_up(checkout, PYTHON="/nowhere/python3")

    assert (old.returncode, missing.returncode) == (1, 1)
    assert "Python 3.11 or newer" in old.stderr
    assert "Python 3.11 or newer" in missing.stderr
    assert not (checkout / ".venv").exists()
