"""Where a client is installed and its suite is run: a virtual environment, or a folder of npm's.

Nothing is written outside of it: caches are beside it, and the home folder of suites is empty.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.conformance.clients.catalogue import Client
from tests.conformance.clients.results import Result, read_junit
from tests.conformance.clients.server import API_KEY, REPOSITORY, environment

PYTEST = "pytest>=9"

INSTALL_PATIENCE_S = 900
SUITE_PATIENCE_S = 600


class CannotInstall(Exception):
    """The package, or what installs it, is not to be had here; the message says why."""


class Environment(Protocol):
    """One client's."""

    def install(self) -> None:
        """Install the client, unless it is there.

        Raises:
            CannotInstall: It is not to be had.
        """

    def run(self, url: str) -> Result:
        """Run the suite against a server."""


def environment_of(client: Client, root: Path) -> Environment:
    """Return the environment of a client; nothing is made yet."""
    return NodeEnvironment(client, root) if client.is_node else PythonEnvironment(client, root)


class PythonEnvironment:
    """A virtual environment with the client and pytest."""

    def __init__(self, client: Client, root: Path) -> None:
        self.client = client
        self.root = root
        self.folder = root / _folder_name(client)
        self.python = self.folder / "bin" / "python"

    def install(self) -> None:
        """Install the client and pytest."""
        if not self.python.exists():
            venv.create(self.folder, with_pip=True)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install([*pip, *self.client.requirements, PYTEST], PIP_CACHE_DIR=str(self.root / "pip"))

    def run(self, url: str) -> Result:
        """Run the suite with pytest, away from this repository's settings for it."""
        report = self.folder / "results.xml"
        pytest = [self.python, "-m", "pytest", "-q", "-c", os.devnull, "--noconftest"]
        plugins = ["-p", "no:cacheprovider", "-W", "ignore", "--rootdir", REPOSITORY]
        command = [*pytest, *plugins, f"--junitxml={report}", self.client.path]
        return _run(self.client, self._version(), command, report, self.root, url, REPOSITORY)

    def _version(self) -> str:
        package = re.split(r"[^\w.-]", self.client.requirements[0])[0]
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        return _output([self.python, "-c", code])


class NodeEnvironment:
    """A folder with the client in `node_modules` and the suite beside it, where imports look."""

    def __init__(self, client: Client, root: Path) -> None:
        self.client = client
        self.root = root
        self.folder = root / _folder_name(client)

    def install(self) -> None:
        """Install the client and copy the suite."""
        npm = shutil.which("npm")
        if npm is None:
            raise CannotInstall("npm is not here")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", self.folder, "--no-audit", "--no-fund"]
        _install([*command, *self.client.requirements], npm_config_cache=str(self.root / "npm"))

    def run(self, url: str) -> Result:
        """Run the suite with Node's own test runner."""
        suite = shutil.copy(self.client.path, self.folder)
        report = self.folder / "results.xml"
        reporters = ["spec", "--test-reporter-destination=stdout"]
        reporters += ["--test-reporter=junit", f"--test-reporter-destination={report}"]
        command = ["node", "--test", f"--test-reporter={reporters[0]}", *reporters[1:], suite]
        return _run(self.client, self._version(), command, report, self.root, url, self.folder)

    def _version(self) -> str:
        package = self.client.requirements[0].partition("@")[0]
        path = self.folder / "node_modules" / package / "package.json"
        return _output(["node", "-p", f"require({str(path)!r}).version"])


def _folder_name(client: Client) -> str:
    return re.sub(r"\W+", "-", client.name).strip("-")


def _install(command: Sequence[str | Path], **caches: str) -> None:
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
        raise CannotInstall((run.stderr.strip() or run.stdout.strip()).splitlines()[-1])


def _output(command: Sequence[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run(
    client: Client,
    version: str,
    command: Sequence[str | Path],
    report: Path,
    root: Path,
    url: str,
    cwd: Path,
) -> Result:
    report.unlink(missing_ok=True)
    told = {"PALMA_URL": url, "PALMA_API_KEY": API_KEY}
    try:
        subprocess.run(
            command,
            cwd=cwd,
            env={**environment(root / "home"), **told},
            timeout=SUITE_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{client.name}: not within {SUITE_PATIENCE_S} s")
    return read_junit(client.name, version, report)
