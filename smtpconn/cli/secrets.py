"""Where a password comes from: the environment, a file, standard input, or a person at the terminal.

Never the arguments, which everybody on the machine can read: a password that stands there is refused. The law: no
text that this module makes has a secret in it.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from smtpconn.cli.exits import EX_CONFIG, EX_USAGE, CommandError
from smtpconn.protocol.reply import safe_text
from smtpconn.protocol.sasl import Secret

URL_VARIABLE = "EMAIL_URL"
PASSWORD_VARIABLE = "SMTPCONN_PASSWORD"  # noqa: S105  # a name, no password

REMEDY = (
    f"set {PASSWORD_VARIABLE}, or a URL with the password as {URL_VARIABLE}, or give --password-file PATH or "
    "--password-stdin; on a terminal you are asked"
)
_IN_ARGUMENTS = f"a password in the arguments can be read by everybody on this machine (ps): {REMEDY}"
_MISTAKEN = ("--password", "--pass", "--passwd", "--secret", "--token")


class _Refuse(argparse.Action):
    """Ends the command for an option whose value would be a secret, and does not quote it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(_IN_ARGUMENTS)


def add_to(group: Any) -> None:
    """Add the options that say where the password is."""
    sources = group.add_mutually_exclusive_group()
    sources.add_argument("--password-file", metavar="PATH", help="the password is the first line of this file")
    sources.add_argument("--password-stdin", action="store_true", help="the password is the first line of stdin")
    group.add_argument(*_MISTAKEN, action=_Refuse, nargs="?", help=argparse.SUPPRESS)


def refuse_in_url(userinfo: str) -> None:
    """Raise `CommandError` for a URL of the arguments that has a password."""
    if ":" in userinfo:
        raise CommandError(EX_USAGE, f"--url: {_IN_ARGUMENTS}")


def is_given(arguments: argparse.Namespace) -> bool:
    """True if an option says where the password is."""
    return arguments.password_file is not None or arguments.password_stdin


def password_of(arguments: argparse.Namespace, user: str) -> Secret:
    """The password of this user (or the token, for a bearer mechanism). Raises `CommandError` where there is none."""
    if arguments.password_file is not None:
        return _first_line("--password-file", _file(arguments.password_file))
    if arguments.password_stdin:
        stdin = sys.stdin
        return _first_line("--password-stdin", stdin.buffer.readline() if stdin is not None else b"")
    if os.environ.get(PASSWORD_VARIABLE):
        return Secret(os.environ[PASSWORD_VARIABLE], "password")
    if not _has_terminal():
        raise CommandError(EX_CONFIG, f"a user without a password: {REMEDY}")
    try:
        return Secret(getpass.getpass(f"Password of {safe_text(user)}: "), "password")
    except EOFError:
        raise CommandError(EX_CONFIG, "no password was given") from None


def _file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.readline()
    except (OSError, ValueError) as error:
        raise CommandError(EX_CONFIG, f"--password-file: cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _first_line(option: str, line: bytes) -> Secret:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise CommandError(EX_CONFIG, f"{option}: the password is not UTF-8") from None
    if not text:
        raise CommandError(EX_CONFIG, f"{option}: there is no password in the first line")
    return Secret(text, "password")


def _has_terminal() -> bool:
    """Whether there is somebody to ask: `getpass` would otherwise read the message as a password."""
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    if os.name == "nt":
        return sys.stdin is not None and sys.stdin.isatty()
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
