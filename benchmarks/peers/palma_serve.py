"""Palma itself, from this checkout. Its threads engine is `generate` in one thread a request."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Precision, environment
from benchmarks.server_process import Server, start

DTYPES: dict[Precision, str] = {"bf16": "bfloat16", "int8": "bfloat16", "int4": "bfloat16"}
MAX_RUNNING = "32"


@dataclass(frozen=True, slots=True)
class PalmaServe:
    """`palma serve` with further flags."""

    flags: tuple[str, ...] = ()
    ready_path: str = "/readyz"
    needs_done: bool = True
    how_to_install: str = "pip install ."

    def is_installed(self, peers_dir: Path) -> bool:
        """Whether `start` can be tried: always, it is this checkout."""
        return True

    def model_name(self, model_dir: Path, precision: Precision) -> str:
        """Return the name that Palma gives the model."""
        return ""

    def prepare(self, model_dir: Path, precision: Precision, peers_dir: Path) -> None:
        """Convert nothing."""

    def start(
        self, model_dir: Path, port: int, precision: Precision, peers_dir: Path, log: Path
    ) -> Server:
        """Start it with 32 requests at once, the most that is measured."""
        command = [sys.executable, "-m", "palma", "serve", "--device", "cpu"]
        command += ["--model-id", str(model_dir), "--port", str(port)]
        command += ["--torch-dtype", DTYPES[precision], "--threads-max-workers", MAX_RUNNING]
        return start([*command, *self.flags], environment(), log)
