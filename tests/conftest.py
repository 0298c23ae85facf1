"""What more than one test module uses."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator

import pytest

from smtpconn.testing import LoopbackServer, TestAuthority

from .cell_report import CELLS

# A shell starts what it puts into the background with SIGINT ignored, and programs that tests start and interrupt would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def authority() -> TestAuthority:
    """A throw-away CA for the whole run."""
    return TestAuthority()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A loopback SMTP server with the default extensions; a violation of the protocol fails the test."""
    with LoopbackServer() as running:
        yield running
        assert running.violations == []


@pytest.fixture
def lmtp_server() -> Iterator[LoopbackServer]:
    """The same for LMTP."""
    with LoopbackServer(protocol="lmtp") as running:
        yield running
        assert running.violations == []


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """The test leaves no thread behind."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The cell report, where cells were played."""
    if CELLS.runs:
        terminalreporter.section("fault cells")
        for line in CELLS.lines():
            terminalreporter.write_line(line)
