"""Every rule and invariant of the pool's specification is cited by a test, or says why not.

`pool_ids.txt` lists them. A citation is an id in the name, the docstring or the labels of a test of the pool
(`tests/pool`, `tests/bench`, the pool's tests here, in `tests/interop` and in `tests/property`), or in the docstring of
a module of state machines, which are tests without a function; `CS2-CS22` is a range. Where labels are found is what
`spec_index` knows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from .spec_index import _globals, _labels

TESTS = Path(__file__).parent
MODULES = (
    "pool/test_*.py", "bench/test_pool*.py", "test_pool_*.py", "interop/test_*pool*.py", "property/test_pool_*.py",
)  # fmt: skip

NOT_YET: dict[str, str] = {
}

_ID = r"(?:DF|TM|I|AQ|RN|VA|CS|BO|GN|LE|CL|EP|SN|SM|PG|PO)\d{1,2}"
_CITATION = re.compile(rf"(?<![A-Za-z0-9/=+%])({_ID})(?:-({_ID}))?(?![A-Za-z0-9])")


def listed() -> list[str]:
    lines = (TESTS / "pool_ids.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines]


def cited_in(text: str) -> Iterator[str]:
    for first, last in _CITATION.findall(text):
        group = first.rstrip("0123456789")
        begin, end = int(first[len(group) :]), int((last or first).lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        yield from (f"{group}{number}" for number in range(begin, end + 1))


def machines_of(tree: ast.Module) -> Iterator[str]:
    """The state machines of hypothesis that pytest runs: `TestX = Machine.TestCase`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "TestCase":
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def cited() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module in sorted({path for pattern in MODULES for path in TESTS.glob(pattern)}):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        named = _globals(tree)
        for machine in machines_of(tree):
            for name in cited_in(ast.get_docstring(tree) or ""):
                found.setdefault(name, set()).add(f"{module.name}::{machine}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                labels = " ".join(_labels(node.decorator_list, named))
                text = f"{node.name.replace('_', ' ')} {ast.get_docstring(node) or ''} {labels}"
                for name in cited_in(text):
                    found.setdefault(name, set()).add(f"{module.name}::{node.name}")
    return found


def test_every_rule_of_the_pool_is_proved_or_says_why_not() -> None:
    found = cited()
    assert [name for name in listed() if name not in found and name not in NOT_YET] == []


def test_every_invariant_has_a_test_that_is_named_after_it() -> None:
    names = {test.split("::")[1] for tests in cited().values() for test in tests}
    invariants = [name for name in listed() if re.fullmatch(r"I\d+", name)]
    assert len(invariants) == 36
    assert [name for name in invariants if not any(f"_{name}_" in test for test in names)] == []


def test_no_rule_that_is_proved_is_excused_and_no_citation_is_of_nothing() -> None:
    found, ids = cited(), set(listed())
    assert sorted(set(NOT_YET) & set(found)) == []
    assert set(NOT_YET) <= ids
    assert {name: tests for name, tests in found.items() if name not in ids} == {}


def test_what_a_citation_is() -> None:
    assert list(machines_of(ast.parse("TestSlots = SlotsMachine.TestCase\nOTHER = Slots.limit"))) == ["TestSlots"]
    assert list(cited_in("test I24 PO3 whatever, pool:CS2-CS4; DF15")) == ["I24", "PO3", "CS2", "CS3", "CS4", "DF15"]
    assert list(cited_in("RFC 5321, XI24, I24x, PO, I123")) == []
