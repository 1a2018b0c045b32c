"""Schemathesis over /openapi.json on a live server: `python -m tests.conformance.run_schemathesis`.

It makes a virtual environment of its own for Schemathesis, starts a server with the mock engine
and an API key, and runs every check. Arguments go to `schemathesis run`, for example
`--max-examples 200 --include-path /v1/messages`. The exit status is that of Schemathesis.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.live_server import running_server

REQUIREMENT = "schemathesis>=4.32,<5"

API_KEY = "conformance"

HERE = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Run Schemathesis and return its exit status."""
    folder = Path(os.environ.get("SCHEMATHESIS_VENV", HERE.parents[1] / ".venv-schemathesis"))
    command = installed(folder)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(api_key=API_KEY, engine="mock") as server,
    ):
        return subprocess.run(
            [
                str(command),
                f"--config-file={HERE / 'schemathesis.toml'}",
                "run",
                f"{server.url}/openapi.json",
                f"--header=Authorization: Bearer {API_KEY}",
                *arguments,
            ],
            cwd=scratch,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
            check=False,
        ).returncode


def installed(folder: Path) -> Path:
    """Return the command of a virtual environment, which is made if it is not there."""
    command = folder / "bin" / "schemathesis"
    if not command.exists():
        venv.create(folder, with_pip=True)
        python = str(folder / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", REQUIREMENT]
        subprocess.run(pip, check=True)
    return command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
