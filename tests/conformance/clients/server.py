"""`palma serve` in a process of its own: an API key, a free port, an empty home folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.live_server import url_when_ready

REPOSITORY = Path(__file__).parents[3]

API_KEY = "conformance"

START_PATIENCE_S = 180.0


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment with another home folder, where caches are too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    own = {"HOME": str(home), "HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else its import asks GitHub
    return {**kept, **own, **quiet}


@contextlib.contextmanager
def serving(home: Path, **settings: str) -> Iterator[str]:
    """Start the server, yield its URL when it is ready, and stop it at the end.

    Args:
        home: Its home folder, where its log is too.
        settings: As the environment names them; unless they say otherwise it has palmita.

    Raises:
        RuntimeError: It did not become ready; the message is its log.
    """
    own = {"API_KEY": API_KEY, "MODEL_ID": "", "RESPONSES_DATABASE_URL": "sqlite://"}
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    with log.open("w") as log_file:
        server = subprocess.Popen(
            [sys.executable, "-m", "palma", "serve", "--port", "0"],
            cwd=home,
            env={**environment(home), **own, **settings},
            stderr=log_file,
        )
    try:
        yield url_when_ready(server, log, START_PATIENCE_S)
    finally:
        server.terminate()
        server.wait()
