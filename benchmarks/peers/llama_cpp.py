"""llama.cpp: `llama-server` where there is one, else the server of llama-cpp-python."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.peer import Precision, beside, convert, environment
from benchmarks.server_process import Server, start

CONVERTER = Path(__file__).with_name("llama_gguf.py")
CONTEXT_TOKENS = "40960"
NUM_SLOTS = "32"


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """The first of `llama-server` on PATH, in PEERS/llama_cpp/bin, `python -m llama_cpp.server`."""

    ready_path: str = "/v1/models"
    needs_done: bool = True
    how_to_install: str = (
        "python -m venv PEERS/llama_cpp && PEERS/llama_cpp/bin/pip install gguf, and llama-server "
        "on PATH (benchmarks/README.md builds it from llama-cpp-python's source package), or "
        'PEERS/llama_cpp/bin/pip install "llama-cpp-python[server]"'
    )

    def is_installed(self, peers_dir: Path) -> bool:
        """Whether there is a server, and the package that writes its files."""
        can_serve = _llama_server(peers_dir) or any(_packages(peers_dir).glob("llama_cpp"))
        return bool(can_serve) and any(_packages(peers_dir).glob("gguf"))

    def model_name(self, model_dir: Path, precision: Precision) -> str:
        """Return the first that the server names."""
        return ""

    def prepare(self, model_dir: Path, precision: Precision, peers_dir: Path) -> None:
        """Write a GGUF file from the checkpoint."""
        result = beside(model_dir, f"{precision}.gguf")
        python = str(peers_dir / "llama_cpp" / "bin" / "python")
        convert([python, str(CONVERTER), str(model_dir), precision, str(result)], result)

    def start(
        self, model_dir: Path, port: int, precision: Precision, peers_dir: Path, log: Path
    ) -> Server:
        """Start it with a thread a core and 32 slots; the Python server has one slot."""
        gguf = str(beside(model_dir, f"{precision}.gguf"))
        where = ["--host", "127.0.0.1", "--port", str(port)]
        num_threads = str(psutil.cpu_count(logical=False) or 1)
        if server := _llama_server(peers_dir):
            command = [server, "-m", gguf, "-t", num_threads, "-np", NUM_SLOTS]
            command += ["-c", CONTEXT_TOKENS, "--jinja"]
        else:
            command = [str(peers_dir / "llama_cpp" / "bin" / "python"), "-m", "llama_cpp.server"]
            command += ["--model", gguf, "--n_threads", num_threads, "--n_ctx", "2048"]
        return start([*command, *where], environment(), log)


def _packages(peers_dir: Path) -> Path:
    return next((peers_dir / "llama_cpp").glob("lib/python3*/site-packages"), peers_dir / "absent")


def _llama_server(peers_dir: Path) -> str | None:
    own = peers_dir / "llama_cpp" / "bin" / "llama-server"
    return shutil.which("llama-server") or (str(own) if own.exists() else None)
