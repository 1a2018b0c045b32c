"""What `palma serve` does before it listens, and how soon it is ready."""

from __future__ import annotations

import subprocess
import sys
import time
from types import ModuleType

import pytest

from palma.api.server import OPEN_FILES_WANTED, bind, raise_file_limit
from palma.core.config import Settings
from palma.core.errors import SettingsError
from tests.faults.server_process import server_process

MANY, FEWER = OPEN_FILES_WANTED


@pytest.mark.parametrize("host", ["a..b", "a" * 80, "no host!"])
def test_what_cannot_be_the_name_of_a_host_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(SettingsError, match="HOST="):
        bind(host, 0)


@pytest.fixture
def resource() -> ModuleType:
    module: ModuleType = pytest.importorskip("resource", reason="Windows has no such limit")
    return module


@pytest.mark.parametrize(
    ("found", "most", "expected"),
    [
        ((1024, 524_288), 524_288, (MANY, 524_288)),
        ((1024, 4096), 4096, (4096, 4096)),
        ((1024, -1), MANY, (MANY, -1)),
        ((256, -1), FEWER, (FEWER, -1)),  # macOS
        ((256, -1), 256, (256, -1)),
        ((1024, 1024), 1024, (1024, 1024)),
        ((524_288, 524_288), 524_288, (524_288, 524_288)),
        ((-1, -1), 0, (-1, -1)),
    ],
)
def test_the_limit_on_open_files_is_raised_as_far_as_the_system_lets_us(
    found: tuple[int, int],
    most: int,
    expected: tuple[int, int],
    resource: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [found]

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > most:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(wanted)

    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: found)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)

    raise_file_limit()

    assert limits[-1] == expected


@pytest.mark.slow
def test_the_bundled_model_is_served_within_ten_seconds() -> None:
    engine = Settings.model_fields["engine"].default
    started = time.monotonic()

    with server_process("palma serve", ENGINE=engine, DEVICE="cpu"):
        assert time.monotonic() - started < 10


@pytest.mark.slow
def test_help_is_shown_within_half_a_second() -> None:
    """The best of five: what it costs on a machine that does nothing else."""

    def time_help() -> float:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "palma", "--help"], capture_output=True, check=True)
        return time.monotonic() - started

    assert min(time_help() for _ in range(5)) < 0.5
