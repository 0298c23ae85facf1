"""Turns the figures of `compare.py` into tables and plots for the documentation: `page.py RESULTS.json DIRECTORY`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cases import CASES, MOST_IMPORT, MOST_MEMORY, Case

ROW, LEFT, WIDTH, RIGHT = 24, 250, 360, 110  # pixels of a plot
OURS, OTHERS = "#2b6cb0", "#a0aec0"

Runs = list[dict[str, float]]


def median(runs: Runs, key: str) -> float:
    return statistics.median(run[key] for run in runs)


def short(value: float) -> str:
    """Three figures that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plot(case: Case, found: dict[str, Runs]) -> str:
    """Bars of the rates, ours in colour."""
    rates = {name: median(runs, "rate") for name, runs in found.items()}
    most = max(rates.values())
    height = ROW * len(rates) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}"',
        f' font-family="sans-serif" font-size="12"><title>{escape(case.title)}</title>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="18" font-weight="bold">{escape(case.title)}: mails per second</text>',
    ]
    for place, (name, rate) in enumerate(rates.items()):
        top = 30 + ROW * place
        length = max(1.0, WIDTH * rate / most)
        colour = OURS if name.startswith("smtpconn") else OTHERS
        parts.append(f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top + 2}" width="{length:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{top + 14}">{short(rate)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [f"   {'*' if not place else ' '} - {cell}" for place, cell in enumerate(row)]
    return "\n".join([*lines, ""])


def section(case: Case, found: dict[str, Runs], goals: list[dict[str, Any]]) -> str:
    rows = [
        (name, short(median(runs, "rate")), short(median(runs, "cpu") * 1e6), short(median(runs, "peak") / 1024))
        for name, runs in found.items()
    ]
    image = f".. image:: /benchmarks/{case.key}.svg\n   :alt: {case.title}\n"
    parts = [case.title, "~" * len(case.title), "", image]
    parts.append(table(("", "mails per second", "CPU, µs per mail", "peak memory, MiB"), rows))
    wanted = [
        (f"{goal['ours']} by {goal['other']}", goal["measure"], f"{goal['value']:.2f}", *judged(goal))
        for goal in goals
        if goal["case"] == case.key
    ]
    if wanted:
        parts.append(table(("ratio within a round, median", "of", "found", "wanted", "reached"), wanted))
    return "\n".join(parts)


def judged(goal: dict[str, Any]) -> tuple[str, str]:
    is_most = goal["measure"] != "rate"
    reached = goal["value"] <= goal["bound"] if is_most else goal["value"] >= goal["bound"]
    return f"{'≤' if is_most else '≥'} {goal['bound']:g}", "yes" if reached else "no"


def import_section(results: dict[str, Any]) -> str:
    seconds = {name: statistics.median(each) for name, each in results["imports"].items()}
    rows = []
    for name, value in seconds.items():
        most = MOST_IMPORT.get(name)
        ratio = statistics.median(
            mine / other for mine, other in zip(results["imports"][name], results["imports"]["smtplib"], strict=True)
        )
        reached = "" if most is None else "yes" if ratio <= most else "no"
        rows.append((name, f"{value * 1e3:.1f}", f"{ratio:.2f}", "" if most is None else f"≤ {most:g}", reached))
    return "\n".join(["Import", "~~~~~~", "", table(("module", "ms", "by smtplib", "wanted", "reached"), rows)])


def memory_section(results: dict[str, Any]) -> str:
    rows = []
    for name, runs in results["cases"].get("stream", {}).items():
        above = median(runs, "peak") - results["bare_peak"]
        rows.append((name, short(above / 1024), f"< {MOST_MEMORY / 1024:g}", "yes" if above < MOST_MEMORY else "no"))
    title = "Memory while 1 GiB is streamed"
    header = ("", "MiB above a bare interpreter", "wanted", "reached")
    return "\n".join([title, "~" * len(title), "", table(header, rows)])


def main(source: str, target: str) -> None:
    results = json.loads(Path(source).read_text(encoding="utf-8"))
    directory = Path(target)
    directory.mkdir(parents=True, exist_ok=True)
    where = results["machine"]
    parts = [
        ".. Written by tests/bench/page.py; `tox -e bench` writes it anew.",
        "",
        f"Measured on {where['day']} in {results['rounds']} rounds: {where['python']}, {where['system']},",
        f"{where['processors']}; the load of the machine before the first round was {where['load']}.",
        f"The versions: {', '.join(f'{name} {version}' for name, version in results['versions'].items())}.",
        "",
    ]
    for case in CASES:
        found = results["cases"].get(case.key)
        if found and case.key != "stream":
            (directory / f"{case.key}.svg").write_text(plot(case, found), encoding="utf-8")
            parts.append(section(case, found, results["goals"]))
    parts += [memory_section(results), import_section(results)]
    (directory / "figures.inc").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
