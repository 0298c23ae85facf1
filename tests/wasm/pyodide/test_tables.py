"""The tables of the core, tests/protocol, run by pytest inside Pyodide: every one but those marked once, or why not.

And the rows marked C that no table proves, over a scripted transport.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ..core_rows import ELSEWHERE, SCRIPTED, proofs, rows, scripted
from ..node import Node

# All of tests/protocol, by an interpreter that is five times slower, perhaps beside other work.
pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
TABLES = "tests/protocol"
PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")

WANTED = (TABLES, *(f"tests/{test}" for test in scripted()))

_NO_PBKDF2 = "Pyodide's hashlib has no pbkdf2_hmac; the same rows run there with the core's own"
IMPOSSIBLE = {
    r"test_audit\.py::test_a_list_is_safe_for_threads_F103": "Pyodide cannot start a thread",
    r"test_mechanisms\.py::test_pbkdf2_gives_the_octets_of_RFC_7914_section_11_E159\[.*-hashlib\]": _NO_PBKDF2,
    r"test_mechanisms\.py::test_both_pbkdf2_agree_SY0_2\[.*\]": _NO_PBKDF2,
    r"test_mechanisms\.py::test_scram_gives_the_octets_of_RFC_7677_section_3_E44_E45\[hashlib-.*\]": _NO_PBKDF2,
    r"test_mechanisms\.py::test_scram_and_an_independent_server_believe_each_other\[hashlib-.*\]": _NO_PBKDF2,
}
"""What does not pass in Pyodide, and why. Regular expressions for whole names behind `tests/protocol/`."""


def nameable(names: Iterable[str]) -> list[str]:
    """The names in order, without the addresses that the repr of some parameters shows."""
    return [re.sub(r" at 0x[0-9a-f]+", " at 0x", name) for name in names]


def reason_of(name: str) -> str | None:
    """Why this test cannot pass in Pyodide, or None."""
    inside = name.removeprefix(TABLES + "/")
    return next((reason for pattern, reason in IMPOSSIBLE.items() if re.fullmatch(pattern, inside)), None)


@pytest.fixture(scope="module")
def collected() -> list[str]:
    """What pytest finds in tests/protocol, and of the scripted rows, here, on CPython."""
    command = [sys.executable, str(HERE / "tables.py"), str(TESTS.parent), *WANTED, "--collect-only"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2_000:]
    names: list[str] = json.loads(done.stderr.splitlines()[-1])["collected"]
    return names


@pytest.fixture(scope="module")
def report(node: Node, workshop: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same by Pyodide, run."""
    directory = tmp_path_factory.mktemp("tables")
    library, tests, written = directory / "pytest.zip", directory / "tests.zip", directory / "report.json"
    with zipfile.ZipFile(library, "w") as archive:
        for name in PYTEST:
            for file in importlib.metadata.files(name) or ():
                if file.suffix != ".pyc" and ".." not in file.parts:
                    archive.write(str(file.locate()), str(file))
    with zipfile.ZipFile(tests, "w") as archive:
        for module in sorted((TESTS / "protocol").rglob("*.py")):
            archive.write(module, Path(TABLES, module.relative_to(TESTS / "protocol")))
        for name in SCRIPTED:
            archive.write(TESTS / name, Path("tests", name))
    arguments = (written, wheel, library, tests, HERE / "tables.py", *WANTED)
    done = node.run(workshop / "tables.mjs", *map(str, arguments), timeout=840)
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    assert found["platform"] == "emscripten"
    assert found["python"].startswith("3.14")
    return found


def test_pyodide_finds_the_tests_that_CPython_finds(report: dict[str, Any], collected: list[str]) -> None:
    assert len(collected) > 4_000
    assert nameable(report["collected"]) == nameable(collected)


def test_every_table_of_the_core_passes_in_pyodide_or_says_why_it_cannot(
    report: dict[str, Any], collected: list[str], record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Among them the edge cases that the specification marks C."""
    outcomes, reasons = report["outcomes"], report["reasons"]
    assert sorted(nameable(outcomes)) == sorted(nameable(collected))
    failed = {name: reasons.get(name, "")[-300:] for name in outcomes if outcomes[name] != "passed"}
    assert {name: reason for name, reason in failed.items() if reason_of(name) is None} == {}
    passed = len(outcomes) - len(failed)
    record_testsuite_property("passed in Pyodide", passed)
    record_testsuite_property("impossible in Pyodide", len(failed))
    assert passed == len(collected) - sum(reason_of(name) is not None for name in collected)


def test_no_reason_outlives_the_test_that_it_excuses(report: dict[str, Any]) -> None:
    excused = {name: outcome for name, outcome in report["outcomes"].items() if reason_of(name) is not None}
    assert set(excused.values()) == {"failed"}
    for pattern in IMPOSSIBLE:
        assert any(re.fullmatch(f"{TABLES}/{pattern}", name) for name in excused), pattern


def test_every_row_marked_C_is_proved_in_pyodide_by_a_test_that_passed_there(report: dict[str, Any]) -> None:
    passed = {
        name.partition("[")[0].removeprefix("tests/")
        for name, outcome in report["outcomes"].items()
        if outcome == "passed"
    }
    unproved = [row for row, tests in proofs().items() if not passed.intersection(tests)]
    assert unproved == []
    assert len(proofs()) == len(rows()) - len(ELSEWHERE) == 184
