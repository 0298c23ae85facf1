"""Every rule, attack, process fault, obligation and limit of the fault specification is cited by a test, or excused.

`fault_ids.txt` lists them: AK attacks, NN process faults, SEC secrets, OB obligations, BR rules, IN bad input, LM
limits, TC certificates, ST STARTTLS. The cells (`faults:B5/RST`) have a report of their own. A citation is an id in the
name, the docstring or the labels of a test, anywhere; `TC1-TC42` is a range. Where labels are found is what
`spec_index` knows. An attack needs a test that is named after it.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from .spec_index import _globals, _labels

TESTS = Path(__file__).parent

NOT_YET: dict[str, str] = {}

_GROUPS = "AK|NN|SEC|OB|BR|IN|LM|TC|ST"
_CITATION = re.compile(rf"(?<![A-Za-z0-9/=+%-])((?:{_GROUPS})\d{{1,2}})(?:-((?:{_GROUPS})\d{{1,2}}))?(?![A-Za-z0-9])")
_WORD = re.compile(rf"(?i)(?<=_)(?:{_GROUPS})\d{{1,2}}(?=_|$)")


def listed() -> list[str]:
    lines = (TESTS / "fault_ids.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines]


def cited_in(text: str) -> Iterator[str]:
    for first, last in _CITATION.findall(text):
        group = first.rstrip("0123456789")
        begin, end = int(first[len(group) :]), int((last or first)[len(group) :])
        yield from (f"{group}{number}" for number in range(begin, end + 1))


@functools.lru_cache(maxsize=1)
def cited() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module in sorted(TESTS.rglob("test_*.py")):
        if module.name == Path(__file__).name:
            continue
        tree = ast.parse(module.read_text(encoding="utf-8"))
        named = _globals(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                name = _WORD.sub(lambda word: word[0].upper(), node.name).replace("_", " ")
                labels = " ".join(_labels(node.decorator_list, named))
                for cited_id in cited_in(f"{name} {ast.get_docstring(node) or ''} {labels}"):
                    found.setdefault(cited_id, set()).add(f"{module.relative_to(TESTS).as_posix()}::{node.name}")
    return found


def test_every_fault_is_proved_or_says_why_not() -> None:
    found = cited()
    assert [name for name in listed() if name not in found and name not in NOT_YET] == []


def test_every_attack_has_a_test_that_is_named_after_it() -> None:
    names = [test.split("::")[1] for tests in cited().values() for test in tests]
    attacks = [name for name in listed() if name.startswith("AK")]
    assert len(attacks) == 23
    assert [name for name in attacks if not any(f"_{name}_" in test for test in names)] == []


def test_no_fault_that_is_proved_is_excused_and_no_citation_is_of_nothing() -> None:
    found, ids = cited(), set(listed())
    assert sorted(set(NOT_YET) & set(found)) == []
    assert set(NOT_YET) <= ids
    assert all(NOT_YET.values())
    assert {name: tests for name, tests in found.items() if name not in ids} == {}


def test_what_a_citation_is() -> None:
    assert list(cited_in("test AK6 BS11 faults:NN4, TC1-TC3; BR15")) == ["AK6", "NN4", "TC1", "TC2", "TC3", "BR15"]
    assert list(cited_in("XAK6, AK6x, AK, users:LG1, G-B-1")) == []
