"""The core's tables of edge cases inside the component: pytest itself, with the tests that CPython runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ..core_rows import ELSEWHERE, proofs, rows
from .build import WANTED

# The component is built, compiled and runs four thousand tests, several times slower than CPython does.
pytestmark = pytest.mark.timeout(400)

TESTS = Path(__file__).parent.parent.parent

# Tests that cannot succeed in a component: the reason, and what they must say when they try. One that succeeds after
# all has to leave this table.
CANNOT = {
    r"test_audit\.py::test_a_list_is_safe_for_threads_F103": ("starts threads", "can't start new thread"),
    r"test_mail\.py::test_a_(binary|mapped|text)_file_is_.*_f59.*": (
        "writes a file",
        "[Nn]o such file|No usable temporary",
    ),
    r"test_mechanisms\.py::.*\[(.*-)?hashlib(-.*)?\]": ("hashlib has no pbkdf2_hmac there", "pbkdf2_hmac"),
    r"test_mechanisms\.py::test_both_pbkdf2_agree_SY0_2\[.*\]": ("hashlib has no pbkdf2_hmac there", "pbkdf2_hmac"),
    r"test_mechanisms\.py::test_the_pure_one_is_taken_where_hashlib_has_none_SY0_2": (
        "imports a module again, at run time",
        "No such file|FileNotFoundError",
    ),
}


@pytest.fixture(scope="module")
def found(compiled: tuple[Any, Any]) -> tuple[list[str], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """What pytest collected in the component, what it could not collect, and the reports of the run."""
    from .host import Host, plain

    host = Host(*compiled)
    tables = plain(host.call("collected"))
    reports = plain(host.call("run-tables"))
    return tables["collected"], tables["broken"], {report["name"]: report for report in reports}


def _in(table: dict[str, Any], name: str) -> Any:
    return next((value for pattern, value in table.items() if re.fullmatch(f"tests/protocol/{pattern}", name)), None)


def test_SY0_5_the_component_collects_every_test_of_the_core(found: Any) -> None:
    collected, broken, _ = found
    assert broken == []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "not once", *WANTED],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    here = [line for line in done.stdout.splitlines() if "::" in line]
    # Without the labels: some show values as this version of Python writes them.
    count = Counter(line.partition("[")[0].removeprefix("tests/") for line in here)
    assert len(here) > 4_000
    assert Counter(name.partition("[")[0].removeprefix("tests/") for name in collected) == count


def test_SY9_SY0_5_every_table_of_the_core_passes_in_the_component(found: Any) -> None:
    """features:SY19, E44, E159: the vectors of RFC 7677 and RFC 7914 by the PBKDF2 in pure Python."""
    collected, _, reports = found
    assert sorted(reports) == sorted(collected)
    unexpected = [
        f"{report['outcome']} {name}: {report['detail'][-1500:]}"
        for name, report in reports.items()
        if report["outcome"] != "passed" and _in(CANNOT, name) is None
    ]
    assert not unexpected, "\n\n".join(unexpected)
    for row in ("E44_E45[pure-", "RFC_7914_section_11_E159[", "believe_each_other[pure-"):
        assert any(row in name and report["outcome"] == "passed" for name, report in reports.items()), row


def test_what_cannot_run_there_is_named_with_its_reason_and_still_tried(found: Any) -> None:
    collected, _, reports = found
    excused = {name: _in(CANNOT, name) for name in collected if _in(CANNOT, name) is not None}
    for name, (_reason, words) in excused.items():
        report = reports[name]
        assert report["outcome"] in ("failed", "error"), f"{name} succeeds in a component: no excuse is needed"
        assert re.search(words, report["detail"]), report["detail"][-800:]
    assert not [name for name, report in reports.items() if report["outcome"] == "skipped"]
    for pattern in CANNOT:
        assert any(re.fullmatch(f"tests/protocol/{pattern}", name) for name in collected), pattern


def test_SY9_every_row_marked_C_is_proved_in_the_component_by_a_test_that_passed_there(found: Any) -> None:
    _, _, reports = found
    passed = {
        name.partition("[")[0].removeprefix("tests/")
        for name, report in reports.items()
        if report["outcome"] == "passed"
    }
    assert [row for row, tests in proofs().items() if not passed.intersection(tests)] == []
    assert len(proofs()) == len(rows()) - len(ELSEWHERE)
