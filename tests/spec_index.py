"""Which tests prove which row of the feature list: the citations in the tests, read from their text.

`spec_ids.txt` beside this module lists the rows, one `id<TAB>title` a line: SY systems, KM and WM methods, F features,
MP parameters, L limits, C settled conflicts, E edge cases, BS what goes further. Ids are never reused. A third column
names the rows of which a row consists: it needs no test of its own, it stands if they all do. `NOT_YET` says why a row
does not stand.

A test cites a row in three places. A comment, the docstring of a module, a string of data cite nothing.

* in its name, as a word between underscores, in any case: `test_..._E160_E161`, `..._f121`, `..._mp1_to_mp5` (a
  range); the id with a point has an underscore there: `..._SY0_2`;
* in its docstring, upper case: `features:E20, E28`, `D12, F35`, `KM1-KM4` (a range);
* in the label of a row of its parameters, upper case, in the decorators of the test or in what they name: `id=...`, an
  element of `ids=[...]`, the first string of each row where a table's labels are `id=row[0]`, or the first argument,
  where that is a string, of a function called by its bare name (`Row("E82", ...)`, `failing("E35 AP", ...)`).

A citation is a whole word: neither a letter, digit, `_`, `/`, `=`, `+` or `%` in front of it (`faults:B4/E5` is a cell
of another list, `=C3=B6` an octet), nor a letter, digit or `_` behind it. A small letter behind an E id means a case of
that row: `E4b`. Other lists have ids of the same shape; `LOOK_ALIKES` names the tests that mean those.

This module knows nothing but text: it imports no test, and the documentation reads it, too.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from .citations import tests_of

TESTS = Path(__file__).parent
GROUPS = {
    "SY": "Systems",
    "KM": "Methods of a connection",
    "WM": "Methods of a session",
    "F": "Features",
    "MP": "Parameters",
    "L": "Limits",
    "C": "Settled conflicts",
    "E": "Edge cases",
    "BS": "Further promises",
}

# Numbers below L7 are no rows of this list.
_ID = r"(?:SY0\.\d|(?:SY|KM|WM|MP|BS|E|F|C)\d{1,3}[a-d]?|L(?:[7-9]|1[0-3]))"
_CITATION = re.compile(rf"(?<![A-Za-z0-9_/=+%])({_ID})(?:-({_ID}))?(?![A-Za-z0-9_])")
_WORD = re.compile(_ID)
_PARTS = re.compile(r"([A-Z]+)([\d.]+)([a-z]?)")

LOOK_ALIKES = {
    "test_driver.py::test_E4_E5_PF2_a_reply_before_the_end_of_data_stops_the_sending": {"E4", "E5"},  # codes of faults
    "test_driver.py::test_C1_RSET_has_its_own_limit": {"C1"},  # a stage of faults
}

NOT_YET: dict[str, str] = {}


class Row(NamedTuple):
    """A row of the list: what it is, and the rows of which it consists."""

    title: str
    parts: tuple[str, ...] = ()


def listed() -> dict[str, Row]:
    """Every id and its row, in the order of the list."""
    rows: dict[str, Row] = {}
    for line in (TESTS / "spec_ids.txt").read_text(encoding="utf-8").splitlines():
        name, title, *parts = line.split("\t")
        if name in rows:
            raise ValueError(f"{name} is listed twice")
        rows[name] = Row(title, tuple(dict.fromkeys(part for text in parts for part in _cited(text))))
    return rows


def missing(name: str, rows: dict[str, Row], cited: Collection[str]) -> list[str]:
    """What keeps a row from standing: itself, or those of its parts that no test cites; empty if nothing does."""
    if name in cited:
        return []
    if not rows[name].parts:
        return [name]
    return [reason for part in rows[name].parts for reason in missing(part, rows, cited)]


@functools.lru_cache(maxsize=1)
def citations(tests: Path = TESTS) -> dict[str, list[str]]:
    """Every id that a test cites -> the tests that do, `module.py::test`, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in sorted(tests.rglob("test_*.py")):
        for test, ids in citations_of(module.read_text(encoding="utf-8")):
            where = f"{module.relative_to(tests).as_posix()}::{test}"
            for name in ids - LOOK_ALIKES.get(where, set()):
                found[name].add(where)
    return {name: sorted(found[name]) for name in sorted(found)}


def citations_of(source: str) -> Iterator[tuple[str, set[str]]]:
    """Each test of a module and the ids that it cites."""
    for test in tests_of(source):
        labels = test.labels.replace("-", " ")  # there it joins words
        yield test.name, {*_cited_in_name(test.name), *_cited(test.docstring), *_cited(labels)}


def _cited(text: str) -> Iterator[str]:
    for first, last in _CITATION.findall(text):
        yield from _range(first, last or first)


def _cited_in_name(name: str) -> Iterator[str]:
    words = re.sub(r"(?i)_SY0_(\d)(?=_|$)", r"_SY0.\1", name).split("_")
    for position, word in enumerate(words):
        if (cited := _of_name(word)) is None:
            continue
        before = _of_name(words[position - 2]) if position > 1 and words[position - 1] == "to" else None
        yield from _range(before or cited, cited)


def _of_name(word: str) -> str | None:
    """The word of a name as an id: its first letters are capitals, a case of a row is a small letter."""
    parts = re.match(r"[A-Za-z]*", word)
    assert parts is not None
    spelt = parts[0].upper() + word[parts.end() :].lower()
    return _row(spelt) if _WORD.fullmatch(spelt) else None


def _range(first: str, last: str) -> Iterator[str]:
    first, last = _row(first), _row(last)
    yield from {first: None, last: None}
    begin, end = _PARTS.fullmatch(first), _PARTS.fullmatch(last)
    assert begin is not None
    assert end is not None
    if first != last and begin[1] == end[1] and "." not in begin[2] + end[2]:
        yield from (f"{begin[1]}{number}" for number in range(int(begin[2]) + 1, int(end[2])))


def _row(cited: str) -> str:
    return cited.rstrip("abcdefghijklmnopqrstuvwxyz") if cited.startswith("E") else cited


def page() -> str:
    """The tables of the documentation's page, reStructuredText."""
    cited, rows = citations(), listed()
    lines: list[str] = []
    for group, heading in GROUPS.items():
        lines += [heading, "-" * len(heading), "", ".. list-table::", "   :header-rows: 1", "   :widths: 8 42 50", ""]
        lines += ["   * - id", "     - what", "     - tests"]
        for name, row in rows.items():
            if re.fullmatch(rf"{group}\d.*", name):
                lines += [f"   * - {name}", f"     - {_quoted(row.title)}", f"     - {_where(name, row, cited)}"]
        lines.append("")
    return "\n".join(lines)


def _where(name: str, row: Row, cited: dict[str, list[str]]) -> str:
    if name in NOT_YET:
        return f"*not yet: {_quoted(NOT_YET[name])}*"
    tests = [f"``{test}``" for test in cited.get(name, [])]
    return ", ".join(tests) or "by " + ", ".join(row.parts)


def _quoted(title: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", title)
