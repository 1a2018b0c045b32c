"""`palma bench` as a user runs it, against a real server with the mock engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palma.bench import plot
from palma.bench.load import parse_levels
from palma.cli import app
from palma.core.errors import PalmaError, SettingsError, Unavailable
from tests.live_server import LiveServer, running_server


def bench(server: LiveServer, *flags: str) -> str:
    result = CliRunner().invoke(
        app, ["bench", "--url", server.url, "--output-tokens", "6", *flags], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_closed_loop_counts_every_request_and_token(
    mock_server: LiveServer, tmp_path: Path
) -> None:
    saved = tmp_path / "results.json"

    output = bench(
        mock_server, "--concurrency", "1,4", "--requests", "12", "--prompt-tokens", "200",
        "--json", str(saved),
    )  # fmt: skip

    assert "counted by the server" in output
    body = read(saved)
    assert [level["concurrency"] for level in body["levels"]] == [1, 4]
    for level in body["levels"]:
        assert (level["num_ok"], level["num_requests"], level["errors"]) == (12, 12, {})
        assert level["mean_completion_tokens"] == 6
        assert level["mean_prompt_tokens"] == pytest.approx(200, rel=0.15)
        assert level["output_tokens_per_s"] * level["duration_s"] == pytest.approx(72)
        assert len(level["requests"]) == 12
        assert level["ttft_s"]["p50"] <= level["e2e_s"]["p50"]


def test_an_open_loop_starts_requests_at_their_times(
    mock_server: LiveServer, tmp_path: Path
) -> None:
    saved = tmp_path / "results.json"

    bench(mock_server, "--rate", "40", "--requests", "20", "--json", str(saved))

    (level,) = read(saved)["levels"]
    assert (level["rate"], level["concurrency"], level["num_ok"]) == (40, None, 20)
    starts = [request["start_s"] for request in level["requests"]]
    assert starts == sorted(starts)
    assert 0.15 < starts[-1] < 1.5


def test_seconds_bound_when_requests_start(mock_server: LiveServer, tmp_path: Path) -> None:
    saved = tmp_path / "results.json"

    bench(mock_server, "--concurrency", "2", "--seconds", "0.3", "--json", str(saved))

    (level,) = read(saved)["levels"]
    assert level["num_ok"] == level["num_requests"] > 2
    assert all(request["start_s"] < 0.35 for request in level["requests"])


def test_refused_requests_are_no_success(tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    with running_server(threads_max_workers=1, max_waiting_requests=0) as server:
        output = bench(
            server, "--concurrency", "8", "--requests", "40", "--warmup", "0", "--json", str(saved)
        )

    (level,) = read(saved)["levels"]
    assert level["errors"].keys() == {"http_429"}
    assert level["num_ok"] + level["errors"]["http_429"] == 40
    assert f"{level['errors']['http_429']} http_429" in output


def test_a_picture_shows_throughput_and_latency(mock_server: LiveServer, tmp_path: Path) -> None:
    picture = tmp_path / "results.png"

    bench(mock_server, "--concurrency", "1,8", "--requests", "8", "--plot", str(picture))

    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(SettingsError, match=r"palma\[bench\]"):
        plot.require_matplotlib()


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        CliRunner().invoke(app, ["bench", "--url", "http://127.0.0.1:1"], catch_exceptions=False)


def test_a_model_that_is_not_served_ends_the_command(mock_server: LiveServer) -> None:
    with pytest.raises(PalmaError, match="http_404"):
        bench(mock_server, "--model", "absent")


@pytest.mark.parametrize("flag", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    flag: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="absent"):
        CliRunner().invoke(
            app, ["bench", flag, str(tmp_path / "absent" / "file")], catch_exceptions=False
        )


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="--url"):
        CliRunner().invoke(app, ["bench", "--url", "http://[::"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("concurrency", "rate"), [("0", None), ("x", None), (None, "-1"), (None, "nan"), ("1", "1")]
)
def test_a_wrong_load_is_refused(concurrency: str | None, rate: str | None) -> None:
    with pytest.raises(SettingsError):
        parse_levels(concurrency, rate)


def test_showing_the_help_loads_none_of_it() -> None:
    code = (
        "import sys, palma.cli\n"
        "late = {'httpx', 'matplotlib', 'palma.bench.benchmark', 'numpy', 'torch'}\n"
        "sys.exit(str(late & sys.modules.keys()) if late & sys.modules.keys() else 0)"
    )

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
