"""Marks what lies here for `pytest -m conformance`; of it, the default run replays exchanges."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

IN_EVERY_RUN = {"test_exchanges.py", "test_gallama_exchanges.py"}
"""They take seconds."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the other tests of this folder their marker, before the markers choose."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.name not in IN_EVERY_RUN:
            item.add_marker(pytest.mark.conformance)
