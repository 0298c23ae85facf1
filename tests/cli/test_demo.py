"""`smtpconn demo` as users meet it: a process with a pipe."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn import Delivery
from smtpconn.cli import main
from smtpconn.cli.load import GIVE_UP, Load, send_all
from smtpconn.testing import LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL = ("--messages", "40", "--threads", "4", "--max-size", "2")
HAS_RICH = importlib.util.find_spec("rich") is not None
on_terminal = pytest.mark.skipif(not (HAS_RICH and hasattr(os, "openpty")), reason="needs rich and a POSIX terminal")
WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from smtpconn.cli import main; sys.exit(main())"


def smtpconn(*arguments: str, command: Sequence[str] = ("-m", "smtpconn")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, *arguments], capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL
    )


def to(server: LoopbackServer) -> tuple[str, str]:
    return "--server", f"{server.host}:{server.port}"


def cell(output: str, name: str) -> str:
    """What stands beside a name in a plain table."""
    return next(line.strip()[len(name) :].strip() for line in output.splitlines() if line.strip().startswith(name))


@pytest.mark.parametrize("command", [("-m", "smtpconn"), ("-c", WITHOUT_RICH)], ids=["with rich", "without rich"])
def test_every_message_is_delivered_and_the_ledger_agrees_in_80_plain_columns(command: Sequence[str]) -> None:
    """users:CLI14."""
    done = smtpconn("demo", *SMALL, command=command)
    assert (done.returncode, done.stderr) == (0, "")
    assert cell(done.stdout, "DELIVERED") == "40"
    assert cell(done.stdout, "NOT_DELIVERED") == cell(done.stdout, "UNKNOWN") == "0"
    assert cell(done.stdout, "the server's ledger") == "agrees with every verdict"
    assert cell(done.stdout, "full@example.com").split()[:2] == ["NOT_DELIVERED", "552"]


    # Plain in a pipe, and fit for 80 columns.
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_has_the_keys_of_its_schema_and_nothing_stands_beside_it() -> None:
    """users:JS1, and design:promise 4: a message costs two round trips and a connection two more, EHLO and QUIT."""
    done = smtpconn("demo", *SMALL, "--json", "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    flights = report["flights_per_message"] * 40
    assert 80 + report["connections"] <= flights <= 80 + 2 * report["connections"]
    keys = "schema command exit seed messages seconds rate latency connections reuses retries flights_per_message"
    assert list(report)[:14] == [*keys.split(), "verdicts", "ledger_agrees"]
    assert (report["schema"], report["command"], report["exit"], report["seed"]) == (1, "demo", 0, 7)
    assert report["verdicts"] == {"delivered": 40, "not delivered": 0, "unknown": 0}
    assert report["ledger_agrees"] is True
    assert report["connections"] + report["reuses"] == 40
    assert 1 <= report["connections"] <= 2
    assert [r["delivery"] for r in report["lmtp"]] == ["delivered", "not delivered", "delivered"]
    assert report["lmtp"][1] == {
        "recipient": "full@example.com",
        "delivery": "not delivered",
        "code": 552,
        "enhanced": "5.2.2",
        "text": "mailbox full",
    }


@pytest.mark.slow
def test_quiet_prints_nothing_if_all_is_well() -> None:
    done = smtpconn("demo", *SMALL, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_server_of_the_users_gets_the_messages() -> None:
    with LoopbackServer() as server:
        envelope = ("--sender", "a@b.test", "--recipient", "c@d.test")
        done = smtpconn("demo", *SMALL, "--json", *to(server), *envelope)
        mails = list(server.mails)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["ledger_agrees"], report["lmtp"]) == (None, [])
    assert Counter((mail.sender, *mail.recipients) for mail in mails) == {("a@b.test", "c@d.test"): 40}
    assert len({mail.content for mail in mails}) == 40


@pytest.mark.once
def test_a_server_that_refuses_makes_the_status_1_and_the_run_short() -> None:
    with LoopbackServer() as server:
        server.refuse("c@d.test", "550 5.1.1 \x1b[31mno such user")
        done = smtpconn("demo", "--messages", "5000", *to(server), "--recipient", "c@d.test")
    assert done.returncode == 1
    assert "RecipientsRefusedError" in done.stderr
    assert "gave up after" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert int(cell(done.stdout, "NOT_DELIVERED")) < 100


def test_no_server_makes_the_status_1() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        done = smtpconn("demo", "--server", address, "--timeout", "2", "--messages", "4")
    assert done.returncode == 1
    assert cell(done.stdout, "DELIVERED") == "0"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["frobnicate"], id="unknown command"),
        pytest.param(["demo", "--messages", "0"], id="no messages"),
        pytest.param(["demo", "--messages", "many"], id="not a number"),
        pytest.param(["demo", "--size", "10"], id="smaller than the header"),
        pytest.param(["demo", "--server", "mail.example.com"], id="no port"),
        pytest.param(["demo", "--server", "mail.example.com:0"], id="port 0"),
        pytest.param(["demo", "--server", "::1:25"], id="IPv6 without brackets"),
        pytest.param(["demo", "--timeout", "-1"], id="negative timeout"),
        pytest.param(["demo", "--timeout", "nan"], id="timeout that is no number"),
        pytest.param(["demo", "--sender", "no\r\naddress"], id="line end in the sender"),
        pytest.param(["demo", "--password", "secret"], id="a credential"),
    ],
)
def test_wrong_usage_ends_with_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    out, err = capsys.readouterr()
    assert exited.value.code == 64
    assert out == ""
    assert err.startswith("usage: smtpconn")


@pytest.mark.skipif(
    not [*importlib.metadata.distributions(name="smtpconn")], reason="the package is not installed, only importable"
)
def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out.startswith("smtpconn ")


def test_a_defect_ends_with_70_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("smtpconn.cli.demo._report", lambda arguments: 1 / 0)
    assert main(["demo"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize("command", [["demo", *SMALL], ["probe", "--json"], ["--version"]])
@pytest.mark.parametrize("is_full", [False, True], ids=["closed pipe", "full disk"])
def test_CLI4_what_cannot_be_shown_changes_no_status_and_makes_no_traceback(command: list[str], is_full: bool) -> None:
    """users:CLI4."""
    if is_full and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    if is_full:
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    with LoopbackServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "smtpconn", *command],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EMAIL_URL": server.url},
        )
        os.close(writer)
        _, err = process.communicate(timeout=50)
    assert process.returncode == 0
    assert re.fullmatch(r"smtpconn( \w+)?: stdout: No space left on device\n" if is_full else "", err)


def test_an_interrupt_says_what_became_of_the_messages_and_ends_with_130() -> None:
    """users:CLI4."""
    with LoopbackServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "smtpconn", "demo", "--messages", "1000000", "--json", *to(server)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.wait_for(20, 30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "interrupted after" in err
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["exit"] == 130
    assert report["verdicts"]["delivered"] >= 20
    assert report["verdicts"]["unknown"] == 0


class Terminal:
    """The demo on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.master, program = os.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smtpconn", "demo", *arguments],
            stdout=program,
            stderr=program,
            env=environment,
            start_new_session=True,
        )
        os.close(program)
        self.shown = b""

    def read(self) -> bool:
        """Read what was written; False at the end."""
        try:
            chunk = os.read(self.master, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as EIO
            chunk = b""
        self.shown += chunk
        return bool(chunk)

    def finish(self) -> int:
        """Read to the end; the exit status."""
        while self.read():
            pass
        os.close(self.master)
        return self.process.wait(timeout=50)


@pytest.mark.once
@on_terminal
def test_a_terminal_shows_a_progress_bar() -> None:
    terminal = Terminal(*SMALL)
    assert terminal.finish() == 0
    assert b"40/40" in terminal.shown
    assert b"agrees with every verdict" in terminal.shown
    assert b"full@example.com" in terminal.shown
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", terminal.shown).decode().split("\r")
    assert max(len(line.strip("\n")) for line in lines) <= 80


@on_terminal
def test_an_interrupt_from_the_terminal_leaves_the_ledger_in_agreement() -> None:
    """users:CLI4: the terminal sends the signal to the whole group, the demo's own server included."""
    terminal = Terminal("--messages", "1000000")
    while not re.search(rb"[1-9]\d*/1000000", terminal.shown) and terminal.read():
        pass
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert b"agrees with every verdict" in terminal.shown
    assert b"interrupted after" in terminal.shown
    assert b"Traceback" not in terminal.shown


class Recorder:
    """A sender that only writes down, or raises."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.messages: list[bytes] = []
        self.failure = failure

    def send(self, sender: str, recipients: list[str], message: bytes, *, timeout: float) -> Any:
        self.messages.append(message)
        if self.failure:
            raise self.failure
        return Sent()


class Sent:
    delivery = Delivery.DELIVERED


def load(**options: Any) -> Load:
    envelope = {"sender": "a@b.test", "recipient": "c@d.test"}
    return Load(**{**envelope, "messages": 30, "threads": 3, "size": 2048, "seed": 1, "timeout": 5.0, **options})


@pytest.mark.parametrize("size", range(256, 420))
def test_messages_have_their_size_and_only_whole_line_ends(size: int) -> None:
    message = load(size=size).message(5)
    assert len(message) == size
    assert message.replace(b"\r\n", b"").count(b"\r") == message.replace(b"\r\n", b"").count(b"\n") == 0
    assert message.endswith(b"\r\n")


def test_messages_are_the_same_for_the_same_seed_and_differ_by_index() -> None:
    assert load().message(1) == load().message(1) != load(seed=2).message(1)
    assert load().message(1) != load().message(2)
    assert b"\r\n." in load().message(1)


def test_each_message_is_sent_exactly_once() -> None:
    recorder = Recorder()
    outcome = send_all(load(), recorder, lambda done: None)  # type: ignore[arg-type]  # only what the load calls
    assert sorted(recorder.messages) == sorted(load().message(n) for n in range(30))
    assert outcome.count(Delivery.DELIVERED) == 30


def test_the_last_thing_that_is_shown_is_the_number_of_all() -> None:
    """Also where the last threads end while an earlier number is shown."""
    both, last = threading.Barrier(2), threading.Event()
    shown: list[int] = []

    class Slow(Recorder):
        def send(self, *envelope: Any, timeout: float) -> Any:
            both.wait(20)
            if threading.current_thread().name == "demo-1":
                assert last.wait(20)
            return Sent()

    def show(done: int) -> None:
        shown.append(done)
        running = {thread.name: thread for thread in threading.enumerate()}
        if "demo-0" not in running and "demo-1" in running:
            last.set()
            running["demo-1"].join(20)

    send_all(load(messages=2, threads=2), Slow(), show)  # type: ignore[arg-type]  # only what the load calls
    assert shown[-1] == 2


def test_a_defect_of_the_sender_ends_the_run_and_is_raised() -> None:
    recorder = Recorder(ZeroDivisionError("not SMTP's doing"))
    with pytest.raises(ZeroDivisionError):
        send_all(load(messages=100_000), recorder, lambda done: None)  # type: ignore[arg-type]  # only what the load calls
    assert len(recorder.messages) <= 3


def test_a_run_that_only_fails_gives_up() -> None:
    from smtpconn import ConnectError

    recorder = Recorder(ConnectError("nobody listens"))
    outcome = send_all(load(messages=100_000), recorder, lambda done: None)  # type: ignore[arg-type]  # only what the load calls
    assert GIVE_UP <= len(recorder.messages) <= GIVE_UP + 3
    assert outcome.count(Delivery.NOT_DELIVERED) == len(recorder.messages)
    assert outcome.first_errors() == [f"{len(recorder.messages)} x ConnectError: nobody listens"]
