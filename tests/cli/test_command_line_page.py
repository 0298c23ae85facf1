"""What the documentation shows of a shell, run by one against loopback servers; and the lists of the reference."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from smtpconn.cli import exits, main
from smtpconn.testing import LoopbackServer, TestAuthority

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "reference/command-line.rst").read_text(encoding="utf-8")
BLOCKS = [
    "\n".join(line[3:] for line in block.splitlines())
    for text in (TEXT, (DOCS / "howto/shell.rst").read_text(encoding="utf-8"))
    for block in re.findall(r"^\.\. code-block:: console\n\n((?:   [^\n]*\n|\n(?=   ))+)", text, re.MULTILINE)
]
BLOCKS = [block for block in BLOCKS if any(not line.startswith("$ export ") for line in block.splitlines())]
MESSAGE = b"From: anna@example.com\nTo: ben@example.net\nSubject: Hello\n\nHello Ben.\n"
END_OF_OUTPUT = "\001"


def examples(block: str) -> list[tuple[str, str]]:
    """Each command of a block and what it prints."""
    found = re.findall(r"^\$ ([^\n]*)\n?((?:(?!\$ )[^\n]*\n?)*)", block, re.MULTILINE)
    return [(command, output) for command, output in found if not command.startswith("export ")]


def run(block: str, directory: Path, servers: dict[str, str]) -> list[str]:
    """What the commands of a block print, stderr included, in one shell."""
    commands = [command for command, _ in examples(block)]
    script = "\n".join(f"{command}; s=$?; printf '\\001'; (exit $s)" for command in commands)
    for told, real in servers.items():
        script = script.replace(told, real)
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    for name, arguments in {"smtpconn": "-m smtpconn", "python3": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "EMAIL_URL": servers["EMAIL_URL"]}
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )
    return done.stdout.split(END_OF_OUTPUT)[:-1]


def test_the_pages_have_examples() -> None:
    assert len(BLOCKS) >= 9
    assert sum(len(examples(block)) for block in BLOCKS) >= 13


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("block", BLOCKS, ids=[examples(block)[0][0][:40] for block in BLOCKS])
def test_each_example_prints_what_the_page_shows(authority: TestAuthority, tmp_path: Path, block: str) -> None:
    (tmp_path / "hello.eml").write_bytes(MESSAGE)
    (tmp_path / "crlf.eml").write_bytes(MESSAGE.replace(b"\n", b"\r\n"))
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox/hello.eml").write_bytes(MESSAGE)
    with (
        LoopbackServer(tls="starttls", ca=authority, auth={"anna": "secret"}) as server,
        LoopbackServer(protocol="lmtp", unix_socket=True) as lmtp,
    ):
        server.refuse("nobody@example.net", "550 5.1.1 No such user")
        lmtp.refuse("full@example.net", "452 4.2.2 mailbox full", when="data")
        printed = run(block, tmp_path, {"EMAIL_URL": server.url, "/run/dovecot/lmtp": str(lmtp.unix_socket)})
    assert [text.split() for text in printed] == [output.split() for _, output in examples(block)]


@pytest.mark.parametrize("command", ["send", "bulk", "probe", "demo", "serve"])
def test_the_page_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][a-z0-9-]*)", capsys.readouterr().out.partition("\n\n")[2]))
    assert options - {"-h", "--help", "--verbose", "--quiet"} <= set(re.findall(r"--?[a-zA-Z][a-z0-9-]*", TEXT))


def test_the_page_names_every_exit_status() -> None:
    rows = dict(re.findall(r"^(\d+)  *(EX_\w+)?", TEXT.partition("Exit status\n")[2], re.MULTILINE))
    assert rows == {
        **{str(value): name for name, value in vars(exits).items() if name.startswith("EX_")},
        str(exits.NOT_ALL_DELIVERED): "",
        str(exits.INTERRUPTED): "",
    }
