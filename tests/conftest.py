"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch: the tests run side by side, and share the processors already.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before anything imports Triton: without a GPU its interpreter runs the kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from palma.core.config import Settings
from tests.live_server import LiveServer, running_server

SETTING_NAMES = [name.upper() for name in Settings.model_fields]


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Run every test without the settings that this shell happens to have, and offline."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SETTING_NAMES:
            patch.delenv(name, raising=False)
        patch.setenv("RESPONSES_DATABASE_URL", "sqlite://")  # else in the home folder
        patch.setenv("HF_HUB_OFFLINE", "1")  # for processes that tests start
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it is read at import
        yield


@pytest.fixture(scope="session")
def mock_server() -> Iterator[LiveServer]:
    """A server with the mock engine and default settings."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def palmita_server() -> Iterator[LiveServer]:
    """A server with the bundled model on the threads engine."""
    with running_server(engine="threads", device="cpu") as server:
        yield server
