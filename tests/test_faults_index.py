"""Every rule, attack, process fault, obligation and limit of the fault specification is cited by a test, or excused.

`fault_ids.txt` lists them: AK attacks, NN process faults, SEC secrets, OB obligations, BR rules, IN bad input, LM
limits, TC certificates, ST STARTTLS. The cells (`faults:B5/RST`) have a report of their own. A citation is an id in the
name, the docstring or the labels of a test, anywhere; `TC1-TC42` is a range. Where labels are found is what
`citations` knows. An attack needs a test that is named after it.
"""

from __future__ import annotations

import functools

import pytest

from .citations import TESTS, Citations

pytestmark = pytest.mark.once  # it reads all tests

FAULTS = Citations("AK|NN|SEC|OB|BR|IN|LM|TC|ST", "fault_ids.txt")
NOT_YET: dict[str, str] = {}


@functools.lru_cache(maxsize=1)
def cited() -> dict[str, set[str]]:
    return FAULTS.by_tests(module for module in TESTS.rglob("test_*.py") if module.name != "test_faults_index.py")


def test_every_fault_is_proved_or_says_why_not() -> None:
    found = cited()
    assert [name for name in FAULTS.listed() if name not in found and name not in NOT_YET] == []


def test_every_attack_has_a_test_that_is_named_after_it() -> None:
    names = [test.split("::")[1] for tests in cited().values() for test in tests]
    attacks = [name for name in FAULTS.listed() if name.startswith("AK")]
    assert len(attacks) == 23
    assert [name for name in attacks if not any(f"_{name}_" in test for test in names)] == []


def test_no_fault_that_is_proved_is_excused_and_no_citation_is_of_nothing() -> None:
    found, ids = cited(), set(FAULTS.listed())
    assert sorted(set(NOT_YET) & set(found)) == []
    assert set(NOT_YET) <= ids
    assert all(NOT_YET.values())
    assert {name: tests for name, tests in found.items() if name not in ids} == {}


def test_what_a_citation_is() -> None:
    assert list(FAULTS.within("test AK6 BS11 faults:NN4, TC1-TC3; BR15")) == ["AK6", "NN4", "TC1", "TC2", "TC3", "BR15"]
    assert list(FAULTS.within("XAK6, AK6x, AK, users:LG1, G-B-1")) == []
