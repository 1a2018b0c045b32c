"""`palma serve -id`, `palma check`, `palma download` and `palma list`, as an operator runs them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from palma.cli import main
from palma.core.config import Settings
from palma.models.bundled import bundled_model_path
from tests.faults.server_process import server_process
from tests.live_server import user
from tests.test_imports import modules_after


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    output: str
    errors: str


Palma = Callable[..., Ended]


@pytest.fixture
def palma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Palma:
    """Run `palma` with some words in an empty home, without a `.env`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["palma", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


def test_importing_the_command_reads_no_catalogue_and_loads_no_room() -> None:
    loaded = modules_after("import palma.cli")

    assert loaded.isdisjoint({"yaml", "palma.serving", "palma.models", "palma.model_reports"})


# --- serve ---------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `palma serve` would serve with."""
    settings: list[Settings] = []
    monkeypatch.setattr("palma.api.server.serve", settings.append)
    return settings


def test_each_id_is_a_model(palma: Palma, served: list[Settings]) -> None:
    words = ("-id", "model_id=a max_seq_len=64", "--id", "model_id='b c'", "--models", "model_id=d")

    ended = palma("serve", *words)

    assert ended.status == 0
    assert served[0].models == "model_id=a max_seq_len=64; model_id='b c'; model_id=d"


def test_without_id_the_environment_says_which_models(
    palma: Palma, served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", "model_id=e")
    palma("serve")
    palma("serve", "-id", "model_id=f")

    assert [settings.models for settings in served] == ["model_id=e", "model_id=f"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("gpus=20,15", ["gpus", "DEVICE", "'auto'"]),
        ("cache_quant=Q8", ["cache_quant", "precision"]),
        ("draft_model_id=qwen2-1.5B", ["draft_model_id", "speculative"]),
        ("cache_size=32768 backend=threads", ["cache_size", "backend=continuous"]),
        ("backend=exllama", ["backend", "'transformers'"]),
    ],
)
def test_what_a_key_asks_and_cannot_be_done_stops_the_start(
    keys: str, words: list[str], palma: Palma
) -> None:
    ended = palma("serve", "-id", f"model_id=mistral {keys}")

    assert ended.status == 2
    (line,) = ended.errors.splitlines()
    assert [word for word in words if word not in line] == []


def test_the_founding_command_serves_the_models_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with server_process("uvicorn server:app", MODELS="model_id=a; model_id=org/b") as server:
        served = [model["id"] for model in server.get("/v1/models").json()["data"]]
        assert served == ["a", "org/b"]
        for model in ("a", "b", None):
            body = {"messages": user("count to 3"), **({"model": model} if model else {})}
            assert server.post("/v0.1.0/inference", body).json() == {"data": "1 2 3 "}


# --- check ---------------------------------------------------------------------------------------


def test_check_says_what_would_run_a_model_and_why(palma: Palma) -> None:
    ended = palma("check", "--device", "cpu")

    assert (ended.status, ended.errors) == (0, "")
    name, *lines = ended.output.splitlines()
    said = {line.split()[0]: line for line in lines}
    assert name == "palmita"
    assert said.keys() == {"files", "device", "engine", "weights", "memory"}
    assert "cpu, float32: The CPU was asked for" in said["device"]
    assert "continuous: it computes layers of these kinds" in said["engine"]
    assert "0.02 GB for the weights" in said["memory"]
    assert "they fit" in said["memory"]


def test_check_takes_several_models_and_says_which_engine_each_would_get(palma: Palma) -> None:
    ended = palma(
        "check",
        *("--device", "cpu"),
        *("-id", "model_id=palmita backend=continuous"),
        *("-id", "model_id=palmita model_name=other"),
    )

    assert ended.status == 0
    assert "  engine    continuous: " in ended.output
    assert "\nother\n" in ended.output


def test_check_foresees_the_fall_back_of_the_continuous_engine(
    palma: Palma, tmp_path: Path
) -> None:
    folder = copy_of_palmita(tmp_path)
    config = folder / "config.json"
    text = config.read_text()
    changed = text.replace('"rope_type": "default"', '"rope_type": "dynamic", "factor": 2.0')
    assert changed != text
    config.write_text(changed)

    ended = palma("check", "--device", "cpu", "--engine", "continuous", "--model-id", str(folder))

    assert ended.status == 0, ended.errors
    assert "threads: not continuous because rope type dynamic" in ended.output


def test_check_ends_with_3_when_the_weights_do_not_fit(
    palma: Palma, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palma.models.memory_need.available_bytes", lambda _: 20_000_000)

    alone = palma("check", "--device", "cpu")
    twice = palma("check", "--device", "cpu", *("-id", "model_id=palmita") * 2)

    assert alone.status == 0
    assert "0.02 GB for the weights, 0.02 GB are free: they fit" in alone.output
    assert twice.status == 3
    assert twice.output.endswith("0.03 GB for the weights, 0.02 GB are free: THEY DO NOT FIT\n")


def test_check_ends_with_1_when_a_model_cannot_be_loaded(palma: Palma, tmp_path: Path) -> None:
    folder = copy_of_palmita(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])

    ended = palma("check", "--device", "cpu", "--model-id", str(folder))

    assert ended.status == 1
    assert ended.errors.startswith("palma: palmita: model.safetensors is broken")


def test_check_ends_with_2_when_a_setting_is_wrong(palma: Palma) -> None:
    ended = palma("check", "-id", "model_id=palmita cache_quant=Q8")

    assert ended.status == 2
    assert "cache_quant" in ended.errors


def test_check_of_a_model_out_of_reach_says_so(palma: Palma) -> None:
    ended = palma("check", "-id", "model_id=mistral")

    assert ended.status == 1
    assert "mistralai/Mistral-7B-Instruct-v0.3: " in ended.errors
    assert "model_not_cached" in ended.errors


def test_the_mock_needs_no_check(palma: Palma) -> None:
    ended = palma("check", "--engine", "mock")

    assert ended.status == 0
    assert "needs no model" in ended.output


def copy_of_palmita(folder: Path) -> Path:
    return Path(shutil.copytree(bundled_model_path(), folder / "palmita"))


# --- download and list ---------------------------------------------------------------------------


def test_download_says_where_a_model_is(palma: Palma, tmp_path: Path) -> None:
    ended = palma("download", "palmita")

    assert ended.status == 0
    assert ended.output == f"palmita is at {bundled_model_path()}\n"
    assert (tmp_path / ".palma" / "models.yaml").is_file()


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("mistral:4.0", 2, "leave ':4.0' out"),
        ("mistral", 1, "model_not_cached"),
        ("../x", 2, "neither a Hub name"),
        ("/no/where", 2, "no such folder"),
    ],
)
def test_what_cannot_be_downloaded_is_said_in_one_line(
    name: str, status: int, words: str, palma: Palma
) -> None:
    ended = palma("download", name)

    assert ended.status == status
    (line,) = ended.errors.splitlines()
    assert words in line


def test_list_shows_the_catalogue_and_what_is_here(
    palma: Palma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palma.models.preview.cached_names", lambda: {"org/cached", "org/named"})
    (tmp_path / ".palma").mkdir()
    (tmp_path / ".palma" / "models.yaml").write_text(
        f"named: {{model_id: org/named}}\n"
        f"mine: {{model_id: {tmp_path}}}\n"
        f"gone: {{model_id: /no/where}}\n"
        f"away: {{model_id: org/away}}\n"
        f"palmita: {{model_id: palmita}}\n"
    )

    ended = palma("list")

    assert ended.status == 0
    assert [tuple(line.split()) for line in ended.output.splitlines()] == [
        ("named", "here", "org/named"),
        ("mine", "here", str(tmp_path)),
        ("gone", "-", "/no/where"),
        ("away", "-", "org/away"),
        ("palmita", "here", "palmita"),
        ("org/cached", "here", "org/cached"),
    ]


def test_a_broken_catalogue_is_named(palma: Palma, tmp_path: Path) -> None:
    (tmp_path / ".palma").mkdir()
    (tmp_path / ".palma" / "models.yaml").write_text("a: {")

    for command in (["list"], ["download", "a"], ["serve", "-id", "model_id=a"]):
        ended = palma(*command)

        assert ended.status == 2
        assert "~/.palma/models.yaml is not valid YAML" in ended.errors
