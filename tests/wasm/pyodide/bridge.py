"""What JavaScript asks of smtpconn's core. Runs in Pyodide; every import stands at the top, and nothing here blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from smtpconn.protocol.errors import SmtpError
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.pump import Pump
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.protocol.sasl import PasswordAuth, PlainAuth
from smtpconn.protocol.session import Session


class Conversation:
    """One session with one server. The methods of the first group begin a flow, `pump` says when it is finished."""

    def __init__(self, protocol: Literal["smtp", "lmtp"], domain: str) -> None:
        self.session = Session(protocol, domain)
        self.pump = Pump(self.session)

    def greet(self) -> None:
        self.pump.start(self.session.greet())

    def hello(self, demands: str | None) -> None:
        """EHLO or LHLO; `demands` is "STARTTLS" or "AUTH" where one of them must be offered."""
        self.pump.start(self.session.hello(demands=demands, fallback=False))

    def starttls(self) -> None:
        self.pump.start(self.session.starttls())

    def auth(self, user: str, password: str, *, plain: bool = False) -> None:
        self.pump.start_auth(PlainAuth(user, password) if plain else PasswordAuth(user, password))

    def send(self, sender: str, recipients: Sequence[str], message: Any, *, chunking: bool, pieces: int = 0) -> None:
        """One mail; `message` is a JavaScript Uint8Array, handed on in pieces of so many octets, or as a whole."""
        octets: bytes = message.to_bytes()
        source = _cut(octets, pieces) if pieces else octets
        self.pump.start_mail(Mail(sender, recipients, source, chunking=chunking))

    def quit(self) -> None:
        self.pump.start(self.session.quit())

    # --- the stream

    def received(self, octets: Any) -> None:
        """A Uint8Array from the socket."""
        self.pump.received(octets.to_bytes())

    def secured(self) -> None:
        """The socket was inside TLS from the first octet on."""
        self.session.secure = True

    # --- the outcome

    def outcome(self) -> str:
        """What became of the flow that is finished, as JSON."""
        error = self.pump.error
        if error is not None:
            stage = error.stage if isinstance(error, SmtpError) else None
            recipients = error.recipients if isinstance(error, SmtpError) else ()
            failed = {"error": type(error).__name__, "message": str(error), "stage": stage}
            return json.dumps(failed | {"recipients": _verdicts(recipients)})
        result = self.pump.result()
        return json.dumps({"recipients": _verdicts(result.recipients) if isinstance(result, SendResult) else []})


def _verdicts(recipients: Sequence[RecipientResult]) -> list[dict[str, Any]]:
    return [
        {
            "address": entry.address,
            "delivery": entry.delivery.value,
            "reply": str(entry.reply) if entry.reply is not None else None,
        }
        for entry in recipients
    ]


def _cut(octets: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(octets), size):
        yield octets[start : start + size]
