"""`smtpconn bulk` killed by SIGKILL: nothing is sent twice, and nothing is lost outside UNKNOWN.

The judge is the ledger of a server in a process of its own. `SMTPCONN_BULK` says how many mails (400).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpconn.testing import ServerProcess

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a run is forked, to be killed cheaply")

MAILS = int(os.environ.get("SMTPCONN_BULK", "400"))
SECOND = "second@example.net"
LATER = "later@example.net"
CONNECTIONS = 4
WINDOW = 4 * CONNECTIONS  # mails that send_many has in hand at most

# Starts runs of the command by fork: the interpreter and the library are loaded once. Each line of stdin is a list:
# arguments, the moment to die at, and how many of those pass before it. The answer is the status, -9 for a kill.
RUNNER = """
import json, os, signal, sys, time
from smtpconn.cli import main
from smtpconn.transport import SocketTransport

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(moment, left):
    kind, _, place = moment.partition(" ")
    really_write, really_send = os.write, SocketTransport.send

    def counted():
        nonlocal left
        left -= 1
        return left < 0

    def write(file, octets):
        if not octets.startswith(b'{"%s"' % kind.encode()) or not counted():
            return really_write(file, octets)
        if place == "torn":
            really_write(file, octets[: len(octets) // 2])
        elif place == "after":
            really_write(file, octets)
        die()

    def send(self, octets, timeout):
        if b"\\r\\n.\\r\\n" not in bytes(octets) or not counted():
            return really_send(self, octets, timeout)
        if place == "after":
            really_send(self, octets, timeout)
        die()

    if kind == "end":
        SocketTransport.send = send
    else:
        os.write = write

for line in sys.stdin:
    arguments, moment, left = json.loads(line)
    child = os.fork()
    if not child:
        out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if moment == "clock":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, left)
        elif moment:
            arm(moment, left)
        status = 70
        try:
            status = main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
"""


class Runner:
    """Runs of the command in children of one process."""

    def __init__(self, directory: Path) -> None:
        self.out = directory / "out"
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OUT": str(self.out)},
        )

    def run(self, arguments: list[str], moment: str = "", left: float = 0) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, moment, left]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=20)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    found = Runner(tmp_path)
    yield found
    found.close()


def recipients_of(number: int) -> list[str]:
    return [f"r{number}@example.net", *([SECOND] if number % 10 == 0 else []), *([LATER] if number % 50 == 7 else [])]


def mail_lines() -> Iterator[str]:
    for number in range(MAILS):
        message = f"X-Id: {number}\r\nSubject: mail {number}\r\n\r\nsecret content\r\n"
        yield json.dumps({"sender": "a@example.com", "recipients": recipients_of(number), "message": message})


def settled(server: ServerProcess) -> Counter[tuple[str, str]]:
    """The ledger, once the server has noticed that every client is gone."""
    until = time.monotonic() + 20
    while (told := server.report())["connections_now"]:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert told["violations"] == []
    return Counter({(mail, recipient): count for mail, recipient, count in told["ledger"]})


def check_nothing_is_twice(server: ServerProcess, journal: Path) -> None:
    ledger = settled(server)
    assert not [entry for entry, count in ledger.items() if count > 1]
    for number, recipient, state in verdicts(journal):
        if state == "delivered":
            assert ledger[number, recipient] == 1


def verdicts(journal: Path) -> Iterator[tuple[str, str, str]]:
    """Number of the mail, recipient and state of every whole VERDICT."""
    written = journal.read_bytes() if journal.exists() else b""  # killed before it was made
    for line in written.splitlines(keepends=True):
        if line.startswith(b'{"verdict"') and line.endswith(b"\n"):
            entry = json.loads(line)
            for each in entry["to"]:
                yield str(int(entry["name"].split()[1]) - 1), each["recipient"], each["state"]


INTERESTING = [
    "intent before", "intent torn", "intent after", "end before", "end after", "verdict before", "verdict torn",
    "verdict after",
]  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("level", ["grouped", "prefetch"])
def test_killed_at_every_interesting_and_many_random_moments_nothing_is_sent_twice_or_lost(
    runner: Runner, tmp_path: Path, level: str
) -> None:
    chance = random.Random(f"{level}, 1")  # noqa: S311  # moments to die at, the same in every run
    source, journal = tmp_path / "mails.jsonl", tmp_path / "mails.jsonl.journal"
    source.write_text("\n".join(mail_lines()))
    with ServerProcess(keep=False) as server:
        server.call("refuse", LATER, "450 4.7.1 later")
        call = ["bulk", str(source), "--host", server.host, "--port", str(server.port), "--tls", "none"]
        call += ["--max-size", str(CONNECTIONS), "--pipelining", level]
        moments: list[tuple[str, float]] = [(moment, chance.randrange(MAILS // 20)) for moment in INTERESTING]
        moments += [("clock", chance.uniform(0.01, 0.15)) for _ in range(4)]
        chance.shuffle(moments)
        kills = 0
        for moment, left in moments:
            status = runner.run(call, moment, left)
            assert status in (-signal.SIGKILL, -signal.SIGALRM, 1, 74), runner.out.read_text()
            kills += status < 0
            check_nothing_is_twice(server, journal)
        assert kills >= len(INTERESTING)
        server.call("clear_rules")
        status = runner.run([*call, "--json"])
        report: dict[str, Any] = json.loads(runner.out.read_text().partition("\nsmtpconn bulk:")[0])
        assert (report["exit"], report["mails"], report["left"]) == (status, MAILS, 0)
        unknown = {(mail["mail"], mail["recipient"]) for mail in report["missing"]}
        assert {mail["delivery"] for mail in report["missing"]} <= {"unknown"}
        assert status == (74 if unknown else 0)
        assert len(unknown) == report["recipients"]["unknown"] <= 2 * kills * WINDOW
        ledger = settled(server)
        for number in range(MAILS):
            for recipient in recipients_of(number):
                possible = {0, 1} if (f"line {number + 1}", recipient) in unknown else {1}
                assert ledger.pop((str(number), recipient), 0) in possible
        assert not ledger
    assert b"secret content" not in journal.read_bytes()
