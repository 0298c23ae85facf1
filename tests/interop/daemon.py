"""A daemon as a child of the tests: free loopback ports, start, wait until it answers, stop.

Knows processes and sockets; knows no mail. Its laws: the daemon runs in the foreground in a session of its own, so
that everything it forks can be found and ended; every wait is bounded; nothing outlives `Daemon.stop`, not even when
the tests are killed before it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HOST = "127.0.0.1"
POLL = 0.01
"""Seconds between two looks at something that cannot tell us when it changes."""

# Ends the daemon when its own standard input ends without a word, because the tests were killed and could not. (The
# kernel's signal at our death, PR_SET_PDEATHSIG, is forgotten by programs that change their user.)
_GUARD = 'read -r line || kill -TERM "$0"'


class DaemonError(Exception):
    """A daemon did not start, or not in time; the message holds what it logged."""


def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Ask `condition` until it is true, at most for `timeout` seconds; return its last answer."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on, below the range that Linux draws outgoing ports from."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            candidate = held.enter_context(socket.socket())
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                candidate.bind((HOST, random.randrange(15_000, 32_000)))  # noqa: S311 (a port, not a secret)
                ports.append(candidate.getsockname()[1])
    return ports


def accepts(address: int | str) -> bool:
    """Whether somebody accepts connections on a loopback port, or on a Unix socket's path."""
    if isinstance(address, int):
        with contextlib.suppress(OSError), socket.create_connection((HOST, address), 1):
            return True
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(address)
        return True
    return False


def greets(port: int) -> bool:
    """Whether a server on a loopback port soon sends a line that begins with 220."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 5) as client:
        return client.recv(512).startswith(b"220")
    return False


def _session_members(session: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # proc(5): the name in parentheses may hold anything; behind it state, ppid, pgrp, session.
            fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(int(entry.name))
    return members


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Daemon:
    """One program in the foreground, in its own session, with its output in a file."""

    def __init__(self, argv: Sequence[str], output: Path) -> None:
        self.argv = list(argv)
        self.output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the daemon's first process."""
        assert self._process is not None
        return self._process.pid

    def start(self, ready: Callable[[], bool], timeout: float = 20.0) -> None:
        """Start the program and return once `ready` is true.

        Raises:
            DaemonError: It ended, or was not ready within `timeout` seconds. Nothing of it is left.
        """
        with self.output.open("ab") as output:
            self._process = process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
        )
        answers = until(lambda: process.poll() is not None or ready(), timeout)
        code = process.poll()
        if code is not None or not answers:
            self.stop()
            what = "was not ready in time" if code is None else f"ended with code {code}"
            raise DaemonError(f"{self.argv[0]} {what}: {self.output.read_text(errors='replace')[-2000:]}")

    def stop(self, timeout: float = 5.0) -> None:
        """End the program and everything that it started; may be called twice."""
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if process is None:
            return
        if guard is not None:
            guard.communicate(b"stopped\n", timeout)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
        if not until(lambda: not _session_members(process.pid), 0.2):
            _signal_all(_session_members(process.pid), signal.SIGTERM)
        if not until(lambda: not _session_members(process.pid), 1.0):
            _signal_all(_session_members(process.pid), signal.SIGKILL)
        process.kill()
        process.wait(timeout)
        if not until(lambda: not _session_members(process.pid), timeout):
            raise DaemonError(f"{self.argv[0]} left processes behind: {_session_members(process.pid)}")
