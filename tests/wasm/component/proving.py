"""The component that the tests build: the mailer, the core's tables, and the rows that need a socket."""

from __future__ import annotations

import importlib.util
import sys
import traceback

import rows
import streams
import tables
import wit_world
from componentize_py_types import Err
from mailer import Submission  # noqa: F401  # the tool looks for it in this module
from wit_world import Report, Tables


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def collected(self) -> Tables:
        """The tests that pytest collected when the component was built."""
        broken = [Report(name, "error", detail, 0.0) for name, detail in tables.RECORDER.broken]
        return Tables([item.nodeid for item in tables.SESSION.items], broken)

    def run_tables(self) -> list[Report]:
        """Run them."""
        return [Report(name, *rest) for name, rest in tables.run().items()]

    def check(self, row: str, port: int) -> str:
        """One row of `rows`."""
        try:
            return str(rows.ROWS[row](port))
        except BaseException:  # whatever it was, the test wants to see it
            raise Err(traceback.format_exc()) from None

    def check_stream(self, row: str, port: int, roots: bytes) -> str:
        """One row of `streams`."""
        try:
            return str(streams.ROWS[row](port, roots))
        except BaseException:  # as above
            raise Err(traceback.format_exc()) from None

    def python(self, modules: list[str]) -> tuple[str, list[str]]:
        """The version, and which of these modules cannot be imported."""
        return sys.version, [name for name in modules if not _is_there(name)]


def _is_there(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None
