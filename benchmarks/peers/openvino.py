"""OpenVINO GenAI: `openvino_server.py` in a virtual environment that has its packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Precision, beside, convert, environment
from benchmarks.server_process import Server, start

SERVER = Path(__file__).with_name("openvino_server.py")


@dataclass(frozen=True, slots=True)
class OpenVino:
    """`ContinuousBatchingPipeline` behind a small HTTP server of ours: it has none of its own."""

    ready_path: str = "/v1/models"
    needs_done: bool = True
    how_to_install: str = (
        "python -m venv PEERS/openvino && "
        'PEERS/openvino/bin/pip install openvino-genai "optimum-intel[openvino]" starlette uvicorn'
    )

    def is_installed(self, peers_dir: Path) -> bool:
        """Whether its virtual environment has the converter."""
        return (peers_dir / "openvino" / "bin" / "optimum-cli").exists()

    def model_name(self, model_dir: Path, precision: Precision) -> str:
        """Return the name that our server gives the model."""
        return "openvino"

    def prepare(self, model_dir: Path, precision: Precision, peers_dir: Path) -> None:
        """Export with optimum-intel; int8 compresses weights only, as OpenVINO does by default."""
        folder = beside(model_dir, f"openvino-{precision}")
        command = [str(peers_dir / "openvino" / "bin" / "optimum-cli"), "export", "openvino"]
        command += ["--model", str(model_dir), "--task", "text-generation-with-past"]
        command += ["--weight-format", precision, str(folder)]
        convert(command, folder / "openvino_model.xml")

    def start(
        self, model_dir: Path, port: int, precision: Precision, peers_dir: Path, log: Path
    ) -> Server:
        """Start our HTTP server around it."""
        folder = beside(model_dir, f"openvino-{precision}")
        python = peers_dir / "openvino" / "bin" / "python"
        # -P: a file beside the script has the name of its package.
        return start([str(python), "-P", str(SERVER), str(folder), str(port)], environment(), log)
