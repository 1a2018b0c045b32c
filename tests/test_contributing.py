"""CONTRIBUTING's annotated tree is that of the repository: it is made from the docstrings.

`python -m tests.test_contributing` writes it anew.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

from palma.core.config import Settings

ROOT = Path(__file__).parent.parent
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TREE_BEGIN = "<!-- tree: written by `python -m tests.test_contributing` -->\n```text\n"
TREE_END = "```\n<!-- end of tree -->"
COLUMN = 28

NOTES = {
    "README.md": "For users",
    "CONTRIBUTING.md": "For maintainers: this file",
    "CHANGELOG.md": "What changed for users, version by version",
    "LICENSE": "Apache 2.0",
    ".env.example": "The settings, to be copied to `.env`",
    "pyproject.toml": "Dependencies, and the rules of pytest, ruff, mypy and import-linter",
    ".ci/": "`run`: what must be green before a change lands",
    ".gitignore": "What git leaves alone",
    "img/": "The pictures, their sources, and the script that draws them again",
    "scripts/": "`setup.sh` makes an environment; `use.py` is a sample client",
    "benchmarks/": "Measurements, each a `python -m benchmarks.NAME`",
    "server.py": None,
    "palma/": None,
    "tests/": "One folder for each room of palma/",
    "tests/conformance/": "Each dialect field by field, and every client: `pytest -m conformance`",
    "tests/api/": "HTTP on a real server with the mock engine",
    "tests/core/": "",
    "tests/engine/": "Engines under the protocol's promises",
    "tests/faults/": "What goes wrong, each with the answer it must get",
    "tests/models/": "Loading, downloading (from a fake Hub), devices, the bundled model",
    "tests/serving/": "",
    "palma/models/bundled/palmita/": "The bundled model's weights, tokenizer and model card",
}
"""Top-level entries in the order of the tree, and what has no docstring of its own."""

EXPANDED = ("palma/", "tests/")


def tree() -> str:
    """Return the annotated tree: every module of palma/, and what lies at the top."""
    top = [name for name in NOTES if "/" not in name.rstrip("/")]
    return "".join(line + "\n" for name in top for line in _lines(name))


def _lines(name: str) -> Iterator[str]:
    indent = "  " * name.rstrip("/").count("/")
    shown = indent + name.rstrip("/").rsplit("/", 1)[-1] + ("/" if name.endswith("/") else "")
    yield f"{shown:{COLUMN}}  {_note(name)}".rstrip()
    if name.startswith(EXPANDED) and name.endswith("/"):
        for child in _children(name):
            yield from _lines(child)


def _children(folder: str) -> list[str]:
    """Return the modules of a folder, then its folders; of tests/ those at its top only."""
    paths = sorted((ROOT / folder).iterdir())
    modules = [f"{folder}{p.name}" for p in paths if p.suffix == ".py" and p.name != "__init__.py"]
    folders = [f"{folder}{p.name}/" for p in paths if p.is_dir() and p.name != "__pycache__"]
    is_inner_test = folder.startswith("tests/") and folder != "tests/"
    return [] if is_inner_test else [*modules, *folders]


def _note(name: str) -> str:
    """Return the first sentence of the docstring, unless NOTES says something."""
    note = NOTES.get(name)
    if note is not None:
        return note
    path = ROOT / name / "__init__.py" if name.endswith("/") else ROOT / name
    if not path.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"\.\s", docstring.partition("\n")[0])[0].rstrip(".:")


def test_tree_is_that_of_the_repository() -> None:
    shown = CONTRIBUTING.read_text(encoding="utf-8").partition(TREE_BEGIN)[2].partition(TREE_END)[0]

    assert shown == tree(), "run `python -m tests.test_contributing` to write the tree anew"


def test_every_top_level_entry_has_a_note_or_is_ignored() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    patterns = [".*", *(pattern.rstrip("/") for pattern in ignored)]
    known = {name.rstrip("/") for name in NOTES}
    names = {path.name for path in ROOT.iterdir()} - known

    unknown = {name for name in names if not any(fnmatch.fnmatch(name, p) for p in patterns)}

    assert unknown == set(), (
        "say in NOTES what they are, and run `python -m tests.test_contributing`"
    )


def test_every_note_is_about_something_that_exists() -> None:
    assert [name for name in NOTES if not (ROOT / name).exists()] == []


def test_every_link_leads_to_a_file_that_exists() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    files = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]

    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_every_name_in_code_type_with_a_path_exists() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:palma|tests|img|benchmarks)/[\w./]+)`", text)

    assert paths
    assert [path for path in paths if not (ROOT / path).exists() and "NAME" not in path] == []


def test_every_name_of_the_code_is_still_in_the_code() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    modules = [*(ROOT / "palma").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    code = "\n".join(m.read_text(encoding="utf-8") for m in modules if m != Path(__file__))
    words = {*re.findall(r"\w+", code), *(name.upper() for name in Settings.model_fields)}
    names = re.findall(r"`(\w+(?:\.\w+)*)(?:\(\.\.\.\))?`", text)
    parts = {part for name in names if re.search(r"_|[a-z][A-Z]", name) for part in name.split(".")}

    assert {"GenerationService", "start", "call_soon_threadsafe"} <= parts
    assert parts - words - {"py"} == set()


def test_the_five_checks_are_those_of_ci() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    contributing = CONTRIBUTING.read_text(encoding="utf-8")

    for check in ("ruff format --check .", "ruff check .", "mypy", "lint-imports"):
        assert f"step {check}\n" in ci
        assert f"\n{check}\n" in contributing


def write_tree() -> None:
    """Put the tree of the repository into CONTRIBUTING.md."""
    before, _, rest = CONTRIBUTING.read_text(encoding="utf-8").partition(TREE_BEGIN)
    after = rest.partition(TREE_END)[2]
    text = f"{before}{TREE_BEGIN}{tree()}{TREE_END}{after}"
    CONTRIBUTING.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_tree()
