"""Run them: `python -m tests.conformance.clients [--venvs FOLDER] [CLIENT ...]`.

It starts one server with palmita and an API key, makes an environment for each client (kept in
FOLDER for the next time, else temporary), runs the client's suite and prints a table. Settings of
the server come from the environment: `ENGINE=continuous python -m ...`. The exit status is 0 if
every suite that could be installed passed, and at least one could.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.conformance.clients.catalogue import CLIENTS, Client
from tests.conformance.clients.environments import CannotInstall, environment_of
from tests.conformance.clients.results import Result, print_table
from tests.conformance.clients.server import serving


def main() -> int:
    """Run the suites and return the exit status."""
    arguments = _parser().parse_args()
    clients = [client for client in CLIENTS if client.name in (arguments.clients or _names())]
    kept = arguments.venvs and nullcontext(arguments.venvs)
    with kept or tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / "home").mkdir(parents=True, exist_ok=True)
        with serving(root / "home") as url:
            results = [_run(client, root, url) for client in clients]
    print_table(results)
    return 0 if any(r.has_run for r in results) and not any(r.num_failed for r in results) else 1


def _run(client: Client, root: Path, url: str) -> Result:
    environment = environment_of(client, root)
    print(f"-- {client.name}", flush=True)
    try:
        environment.install()
    except CannotInstall as error:
        return Result(client.name, skipped=str(error))
    return environment.run(url)


def _names() -> list[str]:
    return [client.name for client in CLIENTS]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.clients")
    parser.add_argument("--venvs", type=Path, help="where environments are kept")
    parser.add_argument(
        "clients", nargs="*", choices=_names(), metavar="CLIENT", help="default all"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
