"""The cell report: what `faults.tsv` asks for, how many runs its cells have, and how many were played and failed.

A test plays a cell inside `CELLS.run(stage, fault)`; the end of the test run shows the sums by stage (`conftest`).
"""

from __future__ import annotations

import contextlib
import csv
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TSV = Path(__file__).with_name("faults.tsv")


def cells() -> list[tuple[str, str, str]]:
    """(stage, fault, code) of every cell; the stage as the table spells it."""
    with TSV.open(encoding="utf-8") as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return [(row["stage"], row["fault"], row["code"]) for row in rows]


class CellReport:
    """Runs and failures by stage and fault."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.runs: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def run(self, stage: str, fault: str) -> Iterator[None]:
        """One run of a cell. `stage`: its id, `B5`."""
        cell = stage.split(" ")[0], fault
        with self._lock:
            self.runs[cell] += 1
        try:
            yield
        except BaseException:
            with self._lock:
                self.failures[cell] += 1
            raise

    def lines(self) -> list[str]:
        """The report: a line for each stage that was played, and the sum."""
        names = dict.fromkeys(stage for stage, _, _ in cells())
        found = [f"{'stage':36} {'cells':>5} {'played':>6} {'runs':>6} {'failed':>6}"]
        total = Counter[str]()
        for name in names:
            stage = name.split(" ")[0]
            runs = sum(count for (of, _), count in self.runs.items() if of == stage)
            if not runs:
                continue
            faults = [fault for of, fault, _ in cells() if of == name]
            row = Counter(
                cells=len(faults),
                played=sum(1 for fault in faults if self.runs[stage, fault]),
                runs=runs,
                failed=sum(count for (of, _), count in self.failures.items() if of == stage),
            )
            total += row
            found.append(_line(name, row))
        return [*found, _line("all", total)]


def _line(name: str, row: Counter[str]) -> str:
    return f"{name:36} {row['cells']:5} {row['played']:6} {row['runs']:6} {row['failed']:6}"


CELLS = CellReport()
