"""The message of `smtpconn send`: octets from a file or standard input, and what their header says of the envelope.

Knows where a header ends and which of its fields are for the sender's eyes only. Refuses to compose or to repair: the
octets are sent as they are, but for Bcc under `-t`, and for line ends.
"""

from __future__ import annotations

import email.parser
import email.policy
import re
import sys
from pathlib import Path

from smtpconn import InvalidInputError, Mail
from smtpconn.cli.exits import EX_DATAERR, EX_NOINPUT, CommandError
from smtpconn.message import addressed

_HIDDEN = re.compile(rb"(?:resent-)?bcc[ \t]*:", re.IGNORECASE)
_END = re.compile(rb"(?:\A|\n)\r?\n")


def read(path: str | None) -> bytes:
    """The octets of the message; None or `-` is standard input. Raises `CommandError` if they cannot be read."""
    if path not in (None, "-"):
        try:
            return Path(str(path)).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise CommandError(EX_NOINPUT, f"--file: cannot be read: {reason}") from None
    if sys.stdin is None:
        raise CommandError(EX_NOINPUT, "there is no standard input: give --file PATH")
    if sys.stdin.isatty():
        print("smtpconn send: the message, please; its end is Ctrl-D on a line of its own", file=sys.stderr)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise CommandError(EX_NOINPUT, f"standard input cannot be read: {error.strerror}") from None


def _header(octets: bytes) -> bytes:
    """The octets up to and with the empty line behind the header."""
    found = _END.search(octets)
    return octets if found is None else octets[: found.end()]


def without_bcc(octets: bytes) -> bytes:
    """The message without the fields that name hidden recipients, continuation lines included."""
    header = _header(octets)
    kept, hidden = [], False
    for line in _lines(header):
        hidden = hidden if line[:1] in (b" ", b"\t") else _HIDDEN.match(line) is not None
        if not hidden:
            kept.append(line)
    return b"".join(kept) + octets[len(header) :]


def _lines(octets: bytes) -> list[bytes]:
    """Lines by LF alone: a bare CR ends no line in a mail, and will be refused."""
    return re.findall(rb"[^\n]*\n|[^\n]+", octets)


class Envelope:
    """What the header of a message says of its sender and its recipients (users MS2-MS5)."""

    def __init__(self, octets: bytes) -> None:
        parser = email.parser.BytesHeaderParser(policy=email.policy.compat32)
        self._message = parser.parsebytes(_header(octets))

    @property
    def sender(self) -> str:
        """The address of Sender or From. Raises `CommandError` if there is no such one."""
        mail = self._addressed(Mail.from_message(self._message, recipients=["postmaster@localhost"]), "-f ADDRESS")
        assert mail.sender is not None
        return mail.sender.address

    @property
    def recipients(self) -> list[str]:
        """The addresses of To, Cc and Bcc. Raises `CommandError` if there are none."""
        mail = self._addressed(Mail.from_message(self._message, sender=""), "them as arguments, without -t")
        assert mail.recipients is not None
        return [recipient.address for recipient in mail.recipients]

    @staticmethod
    def _addressed(mail: Mail, remedy: str) -> Mail:
        try:
            return addressed(mail)
        except InvalidInputError as error:
            raise CommandError(EX_DATAERR, f"{error} (on the command line: {remedy})") from None
