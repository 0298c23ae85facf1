"""Every row of the users' specification that this directory stands for is cited by a test, or excused.

`users_ids.txt`, one directory up, lists them: SC the facade, DJ Django, FL Flask, CE Celery, URL, MG migrations. A
citation is an id in the name, the docstring or the labels of a test, anywhere in the tests; `URL1-URL5` is a range.
Where labels are found is what `spec_index` knows.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from ..spec_index import _globals, _labels

TESTS = Path(__file__).resolve().parent.parent

NOT_YET: dict[str, str] = {}

_GROUPS = "SC|DJ|FL|CE|URL|MG"
_CITATION = re.compile(rf"(?<![A-Za-z0-9/=+%-])((?:{_GROUPS})\d{{1,2}})(?:-((?:{_GROUPS})\d{{1,2}}))?(?![A-Za-z0-9])")


def listed() -> list[str]:
    lines = (TESTS / "users_ids.txt").read_text(encoding="utf-8").splitlines()
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
        text = module.read_text(encoding="utf-8")
        if not any(cited_in(text.replace("_", " "))):
            continue
        tree = ast.parse(text)
        named = _globals(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                labels = " ".join(_labels(node.decorator_list, named))
                text = f"{node.name.replace('_', ' ')} {ast.get_docstring(node) or ''} {labels}"
                for name in cited_in(text):
                    found.setdefault(name, set()).add(f"{module.relative_to(TESTS).as_posix()}::{node.name}")
    return found


def test_every_row_is_proved_or_says_why_not() -> None:
    found = cited()
    assert [name for name in listed() if name not in found and name not in NOT_YET] == []


def test_every_migration_has_a_test_at_a_real_server_that_is_named_after_it() -> None:
    """Those have the marker `interop`; the files that have no other tests say so for all of theirs."""
    marked = [module for module in TESTS.rglob("contrib/**/test_*.py") if "pytest.mark.interop" in module.read_text()]
    names = " ".join(test for tests in cited().values() for test in tests)
    within = {module.relative_to(TESTS).as_posix() for module in marked}
    delivered = [test for test in names.split() if test.split("::")[0] in within]
    assert [row for row in listed() if row.startswith("MG") and not any(f"_{row}_" in test for test in delivered)] == []


def test_no_row_that_is_proved_is_excused_and_no_citation_is_of_nothing() -> None:
    found, ids = cited(), set(listed())
    assert len(ids) == len(listed()) == 34 + 23 + 5 + 11 + 18 + 6
    assert sorted(set(NOT_YET) & set(found)) == []
    assert set(NOT_YET) <= ids
    assert all(NOT_YET.values())
    assert {name: tests for name, tests in found.items() if name not in ids} == {}


def test_what_a_citation_is() -> None:
    assert list(cited_in("test MG2 x users:DJ4, URL1-URL3; CE10")) == ["MG2", "DJ4", "URL1", "URL2", "URL3", "CE10"]
    assert list(cited_in("XDJ1, DJ1x, DJ, SCRAM, U14, CM5, G-DJ-1, FACE1")) == []
