"""`Sender`: what connection, lease and pool have in common; something to annotate and to fake."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from smtpconn.deadline import Timeouts
from smtpconn.protocol.address import ForwardPath, ReversePath
from smtpconn.protocol.mail import BinaryFile, Recipient
from smtpconn.protocol.params import MailParams
from smtpconn.protocol.result import SendResult


class Sender(Protocol):
    """Whatever sends a mail with a `timeout` and gives a `SendResult`."""

    def send(
        self,
        sender: str | ReversePath,
        recipients: Iterable[str | ForwardPath | Recipient],
        message: bytes | bytearray | memoryview | BinaryFile | Iterable[bytes],
        *,
        timeout: float | Timeouts,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """Send octets; see `SmtpConnection.send`."""

    def send_message(
        self,
        email_message: Any,
        *,
        timeout: float | Timeouts,
        sender: str | ReversePath | None = None,
        recipients: Iterable[str | ForwardPath | Recipient] | None = None,
        params: MailParams | None = None,
    ) -> SendResult:
        """Send an `EmailMessage`; see `SmtpConnection.send_message`."""
