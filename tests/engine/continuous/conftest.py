"""One compiled kernel for all tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from palma.engine.continuous.cpu_kernel import DecodeKernel, build, load_kernel


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where the one kernel is built, by whichever test process needs it first."""
    if sys.platform != "linux" or not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("there is no C++ compiler, or this is not Linux")
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "kernel"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def kernel(cache_folder: Path) -> DecodeKernel:
    """The kernel of this computer."""
    return load_kernel(cache_folder)
