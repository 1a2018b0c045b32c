"""Where a client is installed and its suite runs: a virtual environment, or a folder of npm's.

Nothing is written outside of it: caches are beside it, and the home folder of suites is empty.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Protocol

from tests.conformance.clients.catalogue import Client
from tests.conformance.clients.results import Result, read_junit
from tests.conformance.clients.server import API_KEY, REPOSITORY, environment

PYTEST = "pytest>=9"

INSTALL_PATIENCE_S = 900
SUITE_PATIENCE_S = 600

Command = list[str | Path]


class CannotInstall(Exception):
    """The package, or what installs it, is not to be had here; the message says why."""


class Environment(Protocol):
    """One client's."""

    client: Client
    folder: Path

    def install(self) -> None:
        """Install the client, unless it is there.

        Raises:
            CannotInstall: It is not to be had.
        """

    def version(self) -> str:
        """Return which version was installed."""

    def command(self, report: Path) -> Command:
        """Return what runs the suite and writes a report as JUnit does."""


def environment_of(client: Client, root: Path) -> Environment:
    """Return the environment of a client; nothing is made yet."""
    return NodeEnvironment(client, root) if client.is_node else PythonEnvironment(client, root)


def run_suite(environment_: Environment, urls: dict[str, str], home: Path) -> Result:
    """Run the suite of a client that is installed against the servers at these URLs."""
    client = environment_.client
    report = environment_.folder / "results.xml"
    report.unlink(missing_ok=True)
    told = {**urls, "PALMA_API_KEY": API_KEY}
    try:
        subprocess.run(
            environment_.command(report),
            cwd=REPOSITORY,
            env={**environment(home), **told},
            timeout=SUITE_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{client.name}: not within {SUITE_PATIENCE_S} s")
    return read_junit(client.name, environment_.version(), report)


class PythonEnvironment:
    """A virtual environment with the client and pytest."""

    def __init__(self, client: Client, root: Path) -> None:
        self.client = client
        self.folder = root / _folder_name(client)
        self._python = self.folder / "bin" / "python"
        self._cache = root / "pip"

    def install(self) -> None:
        """Install the client and pytest."""
        if not self._python.exists():
            venv.create(self.folder, with_pip=True)
        pip: Command = [self._python, "-m", "pip", "install", "--disable-pip-version-check"]
        _install([*pip, *self.client.requirements, PYTEST], PIP_CACHE_DIR=str(self._cache))

    def version(self) -> str:
        """Ask the environment."""
        package = re.split(r"[^\w.-]", self.client.requirements[0])[0]
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        run = subprocess.run([self._python, "-c", code], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    def command(self, report: Path) -> Command:
        """Return pytest's, away from what this repository sets and fixes for its own tests."""
        pytest: Command = [self._python, "-m", "pytest", "-q", "-c", os.devnull, "--noconftest"]
        options: Command = ["-p", "no:cacheprovider", "-W", "ignore", "--rootdir", REPOSITORY]
        return [*pytest, *options, f"--junitxml={report}", self.client.path]


class NodeEnvironment:
    """A folder with the client in `node_modules` and the suite beside it, where imports look."""

    def __init__(self, client: Client, root: Path) -> None:
        self.client = client
        self.folder = root / _folder_name(client)
        package = client.requirements[0].partition("@")[0]
        self._package_json = self.folder / "node_modules" / package / "package.json"
        self._cache = root / "npm"

    def install(self) -> None:
        """Install the client."""
        if self._package_json.exists():
            return
        npm = shutil.which("npm")
        if npm is None:
            raise CannotInstall("npm is not here")
        self.folder.mkdir(parents=True, exist_ok=True)
        install: Command = [npm, "install", "--prefix", self.folder, "--no-audit", "--no-fund"]
        _install([*install, *self.client.requirements], npm_config_cache=str(self._cache))

    def version(self) -> str:
        """Read what npm unpacked."""
        return str(json.loads(self._package_json.read_text(encoding="utf-8"))["version"])

    def command(self, report: Path) -> Command:
        """Return that of Node's own test runner."""
        suite = shutil.copy(self.client.path, self.folder)
        shown = ["--test-reporter=spec", "--test-reporter-destination=stdout"]
        written = ["--test-reporter=junit", f"--test-reporter-destination={report}"]
        return ["node", "--test", *shown, *written, suite]


def _folder_name(client: Client) -> str:
    return re.sub(r"\W+", "-", client.name).strip("-")


def _install(command: Command, **caches: str) -> None:
    try:
        run = subprocess.run(
            command,
            env={**os.environ, **caches},
            capture_output=True,
            text=True,
            timeout=INSTALL_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"not installed within {INSTALL_PATIENCE_S} s") from None
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if "error" in line.lower()]
        raise CannotInstall(said[0] if said else f"the status was {run.returncode}")
