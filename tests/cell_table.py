"""The cell report of the documentation: cells by stage, and how many runs each suite has of them.

`python -m tests.cell_table`, at the root of the checkout, writes it again; `test_runs_of_the_cells` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from . import test_faults_ahead, test_faults_burst, test_faults_opening, test_faults_wire_session
from .cell_report import cells
from .single_faults import cases
from .wire_faults import WireCase, wire_cases

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "fault-cells.rst"
FAILURES = 0  # what the page says of a whole run, and `test_runs_of_the_cells` asserts of one
_BEGIN, _END = ".. the table begins\n", ".. the table ends\n"


def planned(
    wires: Iterable[WireCase], sessions: Iterable[tuple[str, str]]
) -> tuple[Counter[str], Counter[str]]:
    """Runs by stage id: without a socket, and over sockets if these mails and sessions are played."""
    memory = Counter(case.stage for case in cases())
    memory += Counter(case.stage for case in test_faults_ahead.cases())
    memory += Counter(case.stage for case in test_faults_burst.cases())
    memory += Counter(stage.split(" ")[0] for stage, _ in test_faults_opening.planned())
    sockets = Counter(wire.case.stage for wire in wires)
    sockets += Counter(stage for stage, _ in sessions)
    return memory, sockets


def table() -> str:
    """The table, reStructuredText."""
    memory, sockets = planned(wire_cases(), test_faults_wire_session.planned(whole=True))
    heads = ("stage", "cells", "runs in memory", "runs over sockets", "failures")
    rows = []
    for stage, count in Counter(stage for stage, _, _ in cells()).items():
        name = stage.split(" ")[0]
        rows.append((stage, str(count), str(memory[name]), str(sockets[name]), str(FAILURES)))
    sums = (str(sum(Counter(stage for stage, _, _ in cells()).values())), str(memory.total()), str(sockets.total()))
    rows.append(("all", *sums, str(FAILURES)))
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (heads, *rows):
        lines += [f"   {'*' if place == 0 else ' '} - {cell}" for place, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def renewed(page: str) -> str:
    """The page with the table of now."""
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return f"{head}{_BEGIN}\n{table()}\n{_END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
