"""`python -m tests.conformance.clients`: how it reads reports, and when all is well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.clients.results import Result, exit_status, read_junit

PYTEST = """<testsuites><testsuite tests="4">
<testcase name="a"/><testcase name="b"><failure message="x">y</failure></testcase>
<testcase name="c"><error message="x">y</error></testcase><testcase name="d"><skipped/></testcase>
</testsuite></testsuites>"""

NODE = """<testsuites><testcase name="a"/><testcase name="b"/>
<testcase name="c"><failure type="testCodeFailure">x</failure></testcase></testsuites>"""


@pytest.mark.parametrize(
    ("text", "passed", "failed"),
    [(PYTEST, 1, 2), (NODE, 2, 1), ("<testsuites/>", 0, 1), ("<testsuites>", 0, 1)],
)
def test_a_report_is_counted(tmp_path: Path, text: str, passed: int, failed: int) -> None:
    report = tmp_path / "results.xml"
    report.write_text(text)

    result = read_junit("client", "1.0", report)

    assert (result.num_passed, result.num_failed) == (passed, failed)


def test_a_suite_without_a_report_has_failed(tmp_path: Path) -> None:
    assert read_junit("client", "1.0", tmp_path / "nowhere.xml").num_failed == 1


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([Result("a", num_passed=1), Result("b", skipped="no npm")], 0),
        ([Result("a", num_passed=1), Result("b", num_passed=9, num_failed=1)], 1),
        ([Result("b", skipped="no npm")], 1),
    ],
)
def test_all_is_well_if_something_ran_and_nothing_failed(
    results: list[Result], status: int
) -> None:
    assert exit_status(results) == status
