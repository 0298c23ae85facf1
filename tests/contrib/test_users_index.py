"""Every row of the users' specification that this directory stands for is cited by a test, or excused.

`users_ids.txt`, one directory up, lists them: SC the facade, DJ Django, FL Flask, CE Celery, URL, MG migrations. A
citation is an id in the name, the docstring or the labels of a test, anywhere in the tests; `URL1-URL5` is a range.
Where labels are found is what `citations` knows.
"""

from __future__ import annotations

import functools

from ..citations import TESTS, Citations

USERS = Citations("SC|DJ|FL|CE|URL|MG", "users_ids.txt")
NOT_YET: dict[str, str] = {}


@functools.lru_cache(maxsize=1)
def cited() -> dict[str, set[str]]:
    return USERS.by_tests(module for module in TESTS.rglob("test_*.py") if module.name != "test_users_index.py")


def test_every_row_is_proved_or_says_why_not() -> None:
    found = cited()
    assert [name for name in USERS.listed() if name not in found and name not in NOT_YET] == []


def test_every_migration_has_a_test_at_a_real_server_that_is_named_after_it() -> None:
    """Those have the marker `interop`; the files that have no other tests say so for all of theirs."""
    marked = [module for module in TESTS.rglob("contrib/**/test_*.py") if "pytest.mark.interop" in module.read_text()]
    names = " ".join(test for tests in cited().values() for test in tests)
    within = {module.relative_to(TESTS).as_posix() for module in marked}
    delivered = [test for test in names.split() if test.split("::")[0] in within]
    migrations = [row for row in USERS.listed() if row.startswith("MG")]
    assert [row for row in migrations if not any(f"_{row}_" in test for test in delivered)] == []


def test_no_row_that_is_proved_is_excused_and_no_citation_is_of_nothing() -> None:
    found, ids = cited(), set(USERS.listed())
    assert len(ids) == len(USERS.listed()) == 34 + 23 + 5 + 11 + 18 + 6
    assert sorted(set(NOT_YET) & set(found)) == []
    assert set(NOT_YET) <= ids
    assert all(NOT_YET.values())
    assert {name: tests for name, tests in found.items() if name not in ids} == {}


def test_what_a_citation_is() -> None:
    assert list(USERS.within("test MG2 x users:DJ4, URL1-URL3; CE10")) == ["MG2", "DJ4", "URL1", "URL2", "URL3", "CE10"]
    assert list(USERS.within("XDJ1, DJ1x, DJ, SCRAM, U14, CM5, G-DJ-1, FACE1")) == []
