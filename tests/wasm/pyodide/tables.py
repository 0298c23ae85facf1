"""Runs pytest where it is imported, and gives what became of each test as JSON. For CPython and for Pyodide."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

# The options of pyproject.toml but for the time limits: Pyodide has neither signals nor threads to enforce them with.
# Who runs this limits all of it.
OPTIONS = ("-q", "--import-mode=importlib", "--strict-markers", "-p", "no:cacheprovider", "-W", "error")
QUICK = ("-m", "not once")


class Recorder:
    """What was collected, and the outcome of each test: passed, or the first phase that was not."""

    def __init__(self) -> None:
        self.collected: list[str] = []
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        if not config.pluginmanager.hasplugin("timeout"):
            config.addinivalue_line("markers", "timeout: enforced from outside")
        config.addinivalue_line("markers", "once: what takes long, and has nothing to do with the interpreter")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = [item.nodeid for item in session.items]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._note(report.nodeid, report.outcome, report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.outcome != "passed" or report.when == "call":
            self._note(report.nodeid, report.outcome, report.longreprtext)

    def _note(self, name: str, outcome: str, text: str) -> None:
        if self.outcomes.get(name, "passed") == "passed":
            self.outcomes[name] = outcome
        if text:
            self.reasons.setdefault(name, text[-2_000:])


def run(root: str, *arguments: str) -> str:
    """Run pytest with these arguments, of which those that are no options are paths below the root; report as JSON."""
    recorder = Recorder()
    arguments = tuple(one if one.startswith("-") else f"{root}/{one}" for one in arguments)
    status = pytest.main([f"--rootdir={root}", *OPTIONS, *QUICK, *arguments], plugins=[recorder])
    slowest = sorted(recorder.seconds.items(), key=lambda item: -item[1])[:20]
    report: dict[str, Any] = {"status": int(status), "python": sys.version, "platform": sys.platform}
    return json.dumps(report | vars(recorder) | {"seconds": dict(slowest)})


if __name__ == "__main__":
    sys.stderr.write(run(*sys.argv[1:]))
