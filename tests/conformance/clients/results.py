"""What came of suites: read from JUnit's XML, which pytest and Node write, and shown as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Result:
    """One client's.

    Attributes:
        client: Its name.
        version: The one that was installed.
        num_passed: Tests that passed.
        num_failed: Those that did not; a suite that could not begin is one.
        skipped: Why the suite was not run; None if it was.
    """

    client: str
    version: str = "-"
    num_passed: int = 0
    num_failed: int = 0
    skipped: str | None = None

    @property
    def has_run(self) -> bool:
        """Whether the client judged anything."""
        return self.skipped is None


def read_junit(client: str, version: str, report: Path) -> Result:
    """Return the counts of a report; without a whole one, the suite has failed."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (FileNotFoundError, ElementTree.ParseError):
        return Result(client, version, num_failed=1)
    kinds = [{part.tag for part in case} for case in cases]
    num_failed = sum(not kind.isdisjoint({"failure", "error"}) for kind in kinds)
    num_skipped = sum("skipped" in kind for kind in kinds)
    num_passed = len(cases) - num_failed - num_skipped
    return Result(client, version, num_passed, num_failed if cases else 1)


def exit_status(results: Sequence[Result]) -> int:
    """Return 0 if something ran and nothing failed, else 1."""
    has_run = any(result.has_run for result in results)
    has_failed = any(result.num_failed for result in results)
    return 0 if has_run and not has_failed else 1


def print_table(results: Sequence[Result]) -> None:
    """Print a line for each client."""
    print(f"\n{'client':20}{'version':12}{'passed':>8}{'failed':>8}")
    for result in results:
        counts = f"{result.num_passed:8}{result.num_failed:8}"
        said = counts if result.has_run else f"  skipped: {result.skipped}"
        print(f"{result.client:20}{result.version:12}{said}")
