"""The core's tables of edge cases in the component: pytest itself, which collects at build time and runs when asked.

A component has no files at run time: the test modules, and pytest's rewriting of their assertions, are a part of its
memory. `pytest.ini` and `wanted.txt` beside them are written by `build`.
"""

from __future__ import annotations

import doctest  # noqa: F401  # pytest imports these while it runs
import pathlib
import pdb  # noqa: F401

import _pytest.config
import pytest

HERE = pathlib.Path(__file__).parent
# What needs files or descriptors, or only writes; no table uses any of it.
WITHOUT = ("cacheprovider", "capture", "debugging", "faulthandler", "junitxml", "logging", "pastebin", "terminal")


class Recorder:
    """What pytest found and what became of it."""

    def __init__(self) -> None:
        self.broken: list[tuple[str, str]] = []
        self.reports: dict[str, tuple[str, str, float]] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append((report.nodeid, str(report.longrepr)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before, detail, seconds = self.reports.get(report.nodeid, ("passed", "", 0.0))
        if not report.passed and before == "passed":
            before = "error" if report.failed and report.when != "call" else report.outcome
            detail = str(report.longrepr)
        self.reports[report.nodeid] = (before, detail, seconds + report.duration)


def _collected() -> pytest.Session:
    """The session, collected. pytest has no public way to stop here and to go on later, in another process."""
    wanted = (HERE / "wanted.txt").read_text(encoding="utf-8").splitlines()
    arguments = ["-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE), *(f"{HERE}/tests/{name}" for name in wanted)]
    for plugin in WITHOUT:
        arguments += ["-p", f"no:{plugin}"]
    config = _pytest.config._prepareconfig(arguments, plugins=[RECORDER])
    session = pytest.Session.from_config(config)
    config._do_configure()
    config.hook.pytest_sessionstart(session=session)
    config.hook.pytest_collection(session=session)
    return session


RECORDER = Recorder()
SESSION = _collected()


def run() -> dict[str, tuple[str, str, float]]:
    """Run everything that was collected: outcome, detail and seconds of each test."""
    SESSION.testsfailed = 0  # what could not be collected is told by `RECORDER.broken`, and does not stop the rest
    SESSION.config.hook.pytest_runtestloop(session=SESSION)
    return RECORDER.reports
