"""`transformers serve`, with or without its continuous batching."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Precision, environment
from benchmarks.server_process import Server, start

DTYPES: dict[Precision, str] = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, slots=True)
class TransformersServe:
    """Transformers' own server. Its streams end with a finish_reason, without `[DONE]`."""

    continuous_batching: bool = False
    ready_path: str = "/health"
    needs_done: bool = False
    how_to_install: str = (
        "python -m venv PEERS/transformers && "
        'PEERS/transformers/bin/pip install "transformers[serving]" torch'
    )

    def is_installed(self, peers_dir: Path) -> bool:
        """Whether its virtual environment has the command."""
        return _program(peers_dir).exists()

    def model_name(self, model_dir: Path, precision: Precision) -> str:
        """Return the folder: it serves whatever a request names."""
        return str(model_dir)

    def prepare(self, model_dir: Path, precision: Precision, peers_dir: Path) -> None:
        """Convert nothing."""

    def start(
        self, model_dir: Path, port: int, precision: Precision, peers_dir: Path, log: Path
    ) -> Server:
        """Start it with the model loaded."""
        command = [str(_program(peers_dir)), "serve", str(model_dir)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        command += ["--dtype", DTYPES[precision]]
        if self.continuous_batching:
            command.append("--continuous-batching")
        return start(command, environment(), log)


def _program(peers_dir: Path) -> Path:
    return peers_dir / "transformers" / "bin" / "transformers"
