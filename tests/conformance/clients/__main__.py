"""Run them: `python -m tests.conformance.clients [--venvs FOLDER] [--only CLIENT]`.

It starts two servers with an API key, one with palmita and one with the mock engine, makes an
environment for each client (kept in FOLDER for the next time, else temporary), runs the client's
suite and prints a table. Settings of the first server come from the environment:
`ENGINE=continuous python -m ...`. A client that cannot be installed is skipped. The exit status is
0 if every suite that ran passed, and at least one ran.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.conformance.clients.catalogue import CLIENTS, Client
from tests.conformance.clients.environments import CannotInstall, environment_of, run_suite
from tests.conformance.clients.results import Result, exit_status, print_table
from tests.conformance.clients.server import serving


def main() -> int:
    """Run the suites and return the exit status."""
    arguments = _parser().parse_args()
    clients = [client for client in CLIENTS if client.name in (arguments.only or _names())]
    kept = nullcontext(arguments.venvs) if arguments.venvs else None
    with kept or tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        with serving(root / "home") as url, serving(root / "mock", ENGINE="mock") as mock_url:
            urls = {"PALMA_URL": url, "PALMA_MOCK_URL": mock_url}
            results = [_result_of(client, root, urls) for client in clients]
    print_table(results)
    return exit_status(results)


def _result_of(client: Client, root: Path, urls: dict[str, str]) -> Result:
    environment = environment_of(client, root)
    print(f"-- {client.name}", flush=True)
    try:
        environment.install()
    except CannotInstall as error:
        return Result(client.name, skipped=str(error))
    return run_suite(environment, urls, root / "home")


def _names() -> list[str]:
    return [client.name for client in CLIENTS]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.clients")
    parser.add_argument("--venvs", type=Path, help="where environments are kept")
    parser.add_argument("--only", action="append", choices=_names(), help="may stand several times")
    return parser


if __name__ == "__main__":
    sys.exit(main())
