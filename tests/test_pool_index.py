"""Every rule and invariant of the pool's specification is cited by a test, or says why not.

`pool_ids.txt` lists them. A citation is an id in the name, the docstring or the labels of a test of the pool
(`tests/pool`, `tests/bench`, the pool's tests here, in `tests/interop` and in `tests/property`), or in the docstring of
a module of state machines, which are tests without a function; `CS2-CS22` is a range. Where labels are found is what
`citations` knows.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .citations import TESTS, Citations

pytestmark = pytest.mark.once  # it reads all tests

POOL = Citations("DF|TM|I|AQ|RN|VA|CS|BO|GN|LE|CL|EP|SN|SM|PG|PO", "pool_ids.txt")
MODULES = (
    "pool/test_*.py", "bench/test_pool*.py", "test_pool_*.py", "interop/test_*pool*.py", "property/test_pool_*.py",
    "soak/test_pool_*.py",
)  # fmt: skip

NOT_YET: dict[str, str] = {}


def machines_of(tree: ast.Module) -> Iterator[str]:
    """The state machines of hypothesis that pytest runs: `TestX = Machine.TestCase`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "TestCase":
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def machines(modules: list[Path]) -> Iterator[tuple[str, str]]:
    """(id, `module.py::TestX`) for every id that the docstring of a module of state machines cites."""
    for module in modules:
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for machine in machines_of(tree):
            yield from ((name, f"{module.name}::{machine}") for name in POOL.within(ast.get_docstring(tree) or ""))


@functools.lru_cache(maxsize=1)
def cited() -> dict[str, set[str]]:
    modules = [module for pattern in MODULES for module in TESTS.glob(pattern) if module.name != "test_pool_index.py"]
    found = POOL.by_tests(modules)
    for name, machine in machines(modules):
        found.setdefault(name, set()).add(machine)
    return found


def test_every_rule_of_the_pool_is_proved_or_says_why_not() -> None:
    found = cited()
    assert [name for name in POOL.listed() if name not in found and name not in NOT_YET] == []


def test_every_invariant_has_a_test_that_is_named_after_it() -> None:
    names = {test.split("::")[1] for tests in cited().values() for test in tests}
    invariants = [name for name in POOL.listed() if re.fullmatch(r"I\d+", name)]
    assert len(invariants) == 36
    assert [name for name in invariants if not any(f"_{name}_" in test for test in names)] == []


def test_no_rule_that_is_proved_is_excused_and_no_citation_is_of_nothing() -> None:
    found, ids = cited(), set(POOL.listed())
    assert sorted(set(NOT_YET) & set(found)) == []
    assert set(NOT_YET) <= ids
    assert {name: tests for name, tests in found.items() if name not in ids} == {}


def test_what_a_citation_is() -> None:
    assert list(machines_of(ast.parse("TestSlots = SlotsMachine.TestCase\nOTHER = Slots.limit"))) == ["TestSlots"]
    assert list(POOL.within("test I24 PO3 whatever, pool:CS2-CS4; DF15")) == ["I24", "PO3", "CS2", "CS3", "CS4", "DF15"]
    assert list(POOL.within("RFC 5321, XI24, I24x, PO, I123")) == []
