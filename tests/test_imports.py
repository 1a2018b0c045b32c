"""Importing is cheap and does nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers")


def modules_after(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import palma.api.app",
        "import palma.cli",
        "import palma.models.loader",
        "import palma.models.bundled",
        "import palma.engine.mock",
    ],
)
def test_these_rooms_are_imported_without_torch(statement: str) -> None:
    assert modules_after(statement).isdisjoint(HEAVY)


def test_importing_palma_imports_nothing_else_of_it() -> None:
    loaded = {name for name in modules_after("import palma") if name.startswith("palma")}

    assert loaded == {"palma", "palma.version"}


def test_a_server_with_the_mock_engine_never_imports_torch() -> None:
    statement = (
        "from tests.live_server import running_server, user\n"
        "with running_server() as server:\n"
        "    assert server.post('/v0.1.0/inference', {'messages': user('hi')}).status_code == 200\n"
    )

    assert modules_after(statement).isdisjoint(HEAVY)
