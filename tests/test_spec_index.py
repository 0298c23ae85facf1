"""Every row of the feature list is cited by a test, consists of rows that are, or says why not. See `spec_index`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .spec_index import GROUPS, LOOK_ALIKES, NOT_YET, citations, citations_of, listed, missing, page

ROWS = listed()
CITED = citations()


def test_every_row_is_proved_or_says_why_not() -> None:
    unproved = {name: missing(name, ROWS, CITED) for name in ROWS if name not in NOT_YET}
    assert {name: parts for name, parts in unproved.items() if parts} == {}


def test_no_row_that_is_proved_is_excused() -> None:
    assert [name for name in NOT_YET if not missing(name, ROWS, CITED)] == []


def test_every_excuse_belongs_to_a_row_and_gives_a_reason() -> None:
    assert set(NOT_YET) <= set(ROWS)
    assert all(NOT_YET.values())


def test_no_test_cites_a_row_that_is_not_listed() -> None:
    assert {name: tests for name, tests in CITED.items() if name not in ROWS} == {}


def test_a_row_consists_of_other_rows_that_are_listed() -> None:
    for name, row in ROWS.items():
        assert name not in row.parts
        assert set(row.parts) <= set(ROWS), name


def test_look_alikes_are_tests_that_exist() -> None:
    everything = {
        f"{module}::{test}": ids
        for module in {where.split("::")[0] for where in LOOK_ALIKES}
        for test, ids in citations_of((Path(__file__).parent / module).read_text(encoding="utf-8"))
    }
    for where, ids in LOOK_ALIKES.items():
        assert ids <= everything[where], where


def test_the_page_has_a_line_for_each_row() -> None:
    lines = page().splitlines()
    assert [line for line in lines if line in GROUPS.values()] == list(GROUPS.values())
    assert {line.removeprefix("   * - ") for line in lines if line.startswith("   * - ")} == {"id", *ROWS}


@pytest.mark.parametrize(
    ("source", "cited"),
    [
        ("def test_a_E160_e161(): ...", {"E160", "E161"}),
        ("def test_a_F105b_f98A(): ...", {"F105b", "F98a"}),
        ("def test_mp1_to_mp3(): ...", {"MP1", "MP2", "MP3"}),
        ("def test_both_agree_SY0_2(): ...", {"SY0.2"}),
        ("def test_a_E4b(): ...", {"E4"}),
        ("def test_e2e_rfc6533_c14n_E(): ...", set()),
        ("def other_E1():\n    'features:E2'", set()),
        ("def test_a():\n    'D12, features:E20, F9a; faults:B4/E5, IN2.'", {"E20", "F9a"}),
        ("def test_a():\n    'features:KM1-KM3'", {"KM1", "KM2", "KM3"}),
        ("def test_a():\n    'e20 =C3=B6 a+C3 %C3 XE1 E1_'", set()),
        ("'E1'\ndef test_a():\n    x = 'E2'  # E3", set()),
        ("@p('a', ['E1', param(1, id='E2 x'), f(3)])\ndef test_a(): ...", {"E2"}),
        ("@p('a', T, ids=['E1', 'C2'])\ndef test_a(): ...", {"E1", "C2"}),
        ("@p('a', T, ids=['E1-E3-x'])\ndef test_a(): ...", {"E1", "E3"}),
        ("I = ['E1']\n@p('a', T, ids=I)\ndef test_a(): ...", {"E1"}),
        ("T = [Row('DT1-E8-x', 'E9')]\n@p('a', T)\ndef test_a(): ...", {"E8"}),
        ("T = [('E8', 'E9')]\n@p('a', [param(*r[1:], id=r[0]) for r in T])\ndef test_a(): ...", {"E8"}),
        ("T = [f'E7 {x}']\n@p('a', [param(x, id=f'E7 {x}')])\ndef test_a(): ...", {"E7"}),
        ("U = param(1, id='E6')\n@p('a', [*T])\ndef test_a(): ...\nT = [U]", {"E6"}),
    ],
)
def test_what_a_citation_is(source: str, cited: set[str]) -> None:
    found = [ids for _, ids in citations_of(source)]
    assert (found or [set()])[0] == cited
