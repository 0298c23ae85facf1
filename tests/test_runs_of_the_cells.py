"""The cell report (faults G-C-1): what was played is what the tables say, and so does the documentation.

Its name keeps it behind the modules whose runs it counts.
"""

from __future__ import annotations

from collections import Counter

import pytest

from . import cell_table, test_faults_wire_session
from .cell_report import CELLS, CellReport, cells
from .test_faults_wire import PLAYED
from .wire_faults import wire_cases

_MODULES = {"single", "ahead", "burst", "opening", "wire", "wire_session"}


def test_the_documentation_has_the_numbers_of_the_tables() -> None:
    page = cell_table.PAGE.read_text(encoding="utf-8")
    assert page == cell_table.renewed(page), "run: python -m tests.cell_table"


def test_G_C_1_there_are_enough_runs_and_every_cell_has_some() -> None:
    memory, sockets = cell_table.planned(wire_cases(), test_faults_wire_session.planned(whole=True))
    assert memory.total() + sockets.total() >= 8_000
    stages = {stage.split(" ")[0] for stage, _, _ in cells()}
    assert stages == set(memory + sockets)
    assert len(cells()) == 292 + 95 + 28


@pytest.mark.slow
def test_what_was_played_is_what_was_planned(request: pytest.FixtureRequest) -> None:
    modules = {item.path.stem for item in request.session.items}
    if not {f"test_faults_{name}" for name in _MODULES} <= modules or request.config.option.keyword:
        pytest.skip("the modules with the cells are not all part of this run")
    played = Counter(stage for stage, _ in CELLS.runs.elements())
    memory, sockets = cell_table.planned(PLAYED, test_faults_wire_session.planned())
    assert played == memory + sockets
    assert set(CELLS.runs) == {(stage.split(" ")[0], fault) for stage, fault, _ in cells()}
    assert CELLS.failures.total() == cell_table.FAILURES


def test_the_report_counts_runs_and_failures_by_stage() -> None:
    report = CellReport()
    for fault in ("RST", "EOF", "RST"):
        with report.run("B5 final dot (SMTP)", fault):
            pass
    with pytest.raises(KeyError), report.run("B5", "drip"):
        raise KeyError
    head, line, total = report.lines()
    assert head.split() == ["stage", "cells", "played", "runs", "failed"]
    assert line.split() == ["B5", "final", "dot", "(SMTP)", "14", "3", "4", "1"]
    assert total.split() == ["all", "14", "3", "4", "1"]
