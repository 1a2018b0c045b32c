"""Models that must not be served, on a real server: probes, requests and exit status say so."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.server_process import palma_command
from tests.live_server import (
    LiveServer,
    counting_neighbour,
    running_server,
    unharmed_neighbour,
    user,
    wait_until,
)

from .fake_hub import BAD_TOKEN, GATED, RATE_LIMITED, Refusal, running_hub

WEIGHTS = "model.safetensors"
SECRET = "hf_thisIsTheSecretOfTheOperator"

REFUSALS: dict[str, tuple[Refusal, tuple[str, ...]]] = {
    "org/gated": (GATED, ("gated", "accept its licence", "hf auth login", "HF_TOKEN")),
    "org/unauthorized": (BAD_TOKEN, ("(401)", "hf auth login", "HF_TOKEN")),
    "org/busy": (RATE_LIMITED, ("429", "try again in 7 s")),
}
"""What the Hub answers for a model, and words that the operator is to read."""


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])


def ask_for_another_layer(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)


def pickle_the_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def bring_code(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModelForCausalLM": "evil.Evil"})


def change_config(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, f"{WEIGHTS} is broken"),
        (ask_for_another_layer, "missing model.layers.2"),
        (pickle_the_weights, "ALLOW_PICKLE"),
        (bring_code, "TRUST_REMOTE_CODE"),
    ],
)
def test_a_model_that_is_refused_is_said_to_all_and_harms_no_server_beside(
    spoil: Callable[[Path], None], words: str, checkpoint: Path, mock_server: LiveServer
) -> None:
    """Faults 116, 117, 119 and 120."""
    spoil(checkpoint)

    with unharmed_neighbour(mock_server):
        check_is_unhealthy(str(checkpoint), words)


def test_an_unknown_model_offline_is_said_to_all(mock_server: LiveServer) -> None:
    """Fault 124."""
    with unharmed_neighbour(mock_server):
        check_is_unhealthy("org/no-such-model", "model_not_cached")


def check_is_unhealthy(model_id: str, words: str) -> None:
    """Serve a model that cannot be loaded; probe and requests must say why."""
    with running_server(
        wait_ready=False, engine="threads", device="cpu", model_id=model_id
    ) as server:

        def has_failed() -> bool:
            return bool(server.get("/readyz").json()["status"] == "unhealthy")

        wait_until(has_failed, "loading fails")
        assert words in server.get("/readyz").json()["reason"]
        assert server.get("/v1/models").json()["data"] == []
        for path, fields in (("/v0.1.0/inference", {}), ("/v1/chat/completions", {"stream": True})):
            body = {"messages": user("hi"), "model": model_id, **fields}
            assert server.post(path, body).status_code == 503


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ([], 1, f"palma: tiny: {WEIGHTS} is broken"),
        (["--device", "mps" if sys.platform != "darwin" else "cuda"], 2, "palma: DEVICE="),
    ],
    ids=["a broken model", "a device that is not there"],
)
def test_palma_serve_ends_when_the_model_cannot_be_loaded(
    flags: list[str], status: int, words: str, checkpoint: Path
) -> None:
    truncate(checkpoint)
    command = [sys.executable, "-m", "palma", "serve", "--port", "0", "--model-id"]

    ended = subprocess.run(
        [*command, str(checkpoint), *flags], capture_output=True, text=True, timeout=45
    )

    assert ended.returncode == status, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(words)
    assert "Traceback" not in ended.stderr


def test_palma_serve_ends_with_the_remedy_when_the_hub_refuses(
    checkpoint: Path, tmp_path: Path, mock_server: LiveServer
) -> None:
    """Fault 125: three processes at the same time; none prints the token."""
    with (
        unharmed_neighbour(mock_server, counting_neighbour(100)),
        running_hub() as hub,
        contextlib.ExitStack() as stack,
    ):
        hub.folders = dict.fromkeys(REFUSALS, checkpoint)
        hub.refusals = {model_id: refusal for model_id, (refusal, _) in REFUSALS.items()}
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": SECRET,
        }
        processes = {
            model_id: stack.enter_context(serve_from_hub(model_id, environment))
            for model_id in REFUSALS
        }
        for model_id, (_, words) in REFUSALS.items():
            stdout, stderr = processes[model_id].communicate(timeout=45)
            last = stderr.splitlines()[-1]

            assert processes[model_id].returncode == 1, stderr
            assert last.startswith(f"palma: {model_id}: ")
            assert [word for word in words if word not in last] == []
            assert SECRET not in stdout + stderr
            assert "Traceback" not in stderr

        assert f"Bearer {SECRET}" in hub.tokens, "there was no token to print: this proves nothing"


def serve_from_hub(model_id: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start `palma serve` without waiting for it."""
    return subprocess.Popen(
        [*palma_command(0), "--engine", "threads", "--device", "cpu", "--model-id", model_id],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
