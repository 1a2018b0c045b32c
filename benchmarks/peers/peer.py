"""What every server to be measured can do: say whether it is installed, and start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.server_process import Server

Precision = Literal["bf16", "fp16", "int8", "int4", "q8_0", "q4_0"]

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "0"}


class Peer(Protocol):
    """A server with an OpenAI-compatible API.

    Attributes:
        ready_path: A route that answers 200 when the model can be used.
        needs_done: Whether its streams end with `[DONE]`.
        how_to_install: A command, with PEERS for the folder of their virtual environments.
    """

    @property
    def ready_path(self) -> str: ...
    @property
    def needs_done(self) -> bool: ...
    @property
    def how_to_install(self) -> str: ...

    def is_installed(self, peers_dir: Path) -> bool:
        """Whether `start` can be tried."""

    def model_name(self, model_dir: Path, precision: Precision) -> str:
        """Return the model that requests have to name."""

    def prepare(self, model_dir: Path, precision: Precision, peers_dir: Path) -> None:
        """Convert the checkpoint to the peer's format, once."""

    def start(
        self, model_dir: Path, port: int, precision: Precision, peers_dir: Path, log: Path
    ) -> Server:
        """Start the server on 127.0.0.1; returns at once."""


def environment() -> dict[str, str]:
    """Return this process's environment with every library kept off the network."""
    return os.environ | OFFLINE


def convert(command: list[str], result: Path) -> None:
    """Run a converter, unless its result exists.

    Raises:
        RuntimeError: It failed; the message ends with what it said last.
    """
    if result.exists():
        return
    done = subprocess.run(command, check=False, env=environment(), capture_output=True, text=True)
    if done.returncode != 0 or not result.exists():
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-300:]}")


def beside(model_dir: Path, suffix: str) -> Path:
    """Return a path next to the checkpoint for a converted one."""
    return model_dir.with_name(f"{model_dir.name}-{suffix}")
