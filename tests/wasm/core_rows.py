"""The edge cases that the specification marks C: they hold in every runtime of the core. And who proves them.

Most are tables of tests/protocol. The others speak of verbs of a connection and are proved over a scripted transport,
which needs neither socket nor thread.
"""

from __future__ import annotations

import re

from ..spec_index import citations

_MARKED = """
    E1-E23 E25-E27 E32-E100 E103-E107 E110-E112 E116-E127 E131-E142 E144-E150 E152-E156 E158-E164 E166-E186 E196-E204
    E206-E215
"""
SCRIPTED = ("test_feature_rows.py", "test_scripted_rows.py")
"""Test modules beside tests/protocol some of whose tests need no socket."""
ELSEWHERE = {
    "E203": "which modules are missing is seen in the runtime itself: test_interpreter.py for Pyodide",
    "E204": "the one call that connects, sends and says QUIT needs a socket: tests of the shell and of the component",
}


def rows() -> list[str]:
    """The ids, in order."""
    found = []
    for first, last in re.findall(r"E(\d+)(?:-E(\d+))?", _MARKED):
        found += [f"E{number}" for number in range(int(first), int(last or first) + 1)]
    return found


def proofs() -> dict[str, list[str]]:
    """Each row -> the tests that prove it without a socket, as pytest names them behind `tests/`."""
    cited = citations()
    proved: dict[str, list[str]] = {}
    for row in rows():
        if row in ELSEWHERE:
            continue
        tables = [test for test in cited.get(row, []) if test.startswith("protocol/")]
        scripted = [test for test in cited.get(row, []) if test.startswith(SCRIPTED)]
        proved[row] = tables or scripted
    return proved


def scripted() -> list[str]:
    """The tests outside tests/protocol that prove a row which no table does."""
    return sorted({test for tests in proofs().values() for test in tests if not test.startswith("protocol/")})
