"""What the server remembers: mails, sessions, and the ledger of what it took responsibility for.

It knows the facts that a test asserts on. It refuses to know how they came about: no socket, no parsing of commands.

Laws: a mail is recorded together with its booking in the ledger, before a reply to it is written; the ledger never
forgets unless it is told to, however few mails are kept.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from typing import Literal

__all__ = ["Books", "CapturedMail", "Ledger", "LedgerEntry", "SessionRecord", "TlsRecord"]

_ID_FIELD = re.compile(rb"^(X-Id|Message-ID):[ \t]*(?:\r\n[ \t]+)?([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class TlsRecord:
    """The TLS of a session as the server saw it."""

    version: str
    cipher: str
    server_name: str | None
    client_certificate: bytes | None
    """The client's certificate in DER, or None."""


@dataclass(eq=False)
class SessionRecord:
    """One connection.

    Attributes:
        index: 1 for the first connection that the server accepted.
        commands: verbs in order, in upper case.
        lines: whole command lines in order; what follows the mechanism of AUTH is masked.
        ehlo_domain: the argument of the last EHLO, LHLO or HELO.
        user: who authenticated, or None.
        tls: None in clear.
        transactions: MAIL commands accepted.
        closed_by: None while open, "QUIT", "client" (it closed or reset), "server".
        flights: flights of the client (pipelining 1), counted here: octets that arrive after octets were sent. Exact if
            the client writes a flight at once, or with `rtt`; otherwise count through a `Relay` with a delay.
        mail_flights: those of them that carried anything of a mail transaction: RSET, MAIL, RCPT, DATA, BDAT, content.
        octets: octets received, those inside TLS counted in clear.
        violations: what a strict server objects to, one sentence each; empty for a correct client.
    """

    index: int
    peer: object = None
    commands: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    ehlo_domain: str | None = None
    user: str | None = None
    tls: TlsRecord | None = None
    transactions: int = 0
    closed_by: Literal["QUIT", "client", "server"] | None = None
    flights: int = 0
    mail_flights: int = 0
    octets: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(eq=False)
class CapturedMail:
    """A message that the server took responsibility for.

    Attributes:
        sender: the reverse-path without brackets; "" is the null path.
        recipients: the forward-paths that were accepted, at RCPT and at the end of data, in order.
        mail_params: parameters of MAIL, keywords in upper case, values as written (None: no value).
        rcpt_params: the same for each of `recipients`.
        content: the octets received, dot-stuffing and chunk framing removed.
        verb: "DATA" or "BDAT".
        session: the connection it came by.
        queue_id: unique in this server; the final reply names it.
        at: seconds since the epoch.
        decisions: each recipient accepted at RCPT with the final reply meant for it (LMTP: one each).
    """

    sender: str
    recipients: list[str]
    mail_params: dict[str, str | None]
    rcpt_params: list[dict[str, str | None]]
    content: bytes
    verb: str
    session: SessionRecord = field(repr=False)
    queue_id: str
    decisions: list[tuple[str, str]]
    at: float = field(default_factory=time.time)

    @cached_property
    def message(self) -> EmailMessage:
        """The content, parsed by the standard library's `email` with its default policy; line ends stay CRLF."""
        return message_from_bytes(self.content, policy=policy.default)


@dataclass(frozen=True)
class LedgerEntry:
    """One acceptance: which message, and what was decided for each of its recipients (address, final reply)."""

    id: str
    queue_id: str
    sender: str
    decisions: tuple[tuple[str, str], ...]


class Ledger:
    """What the server took responsibility for, by message id.

    The id is the value of the header field `X-Id`, else of `Message-ID` (its angle brackets kept), else the queue id.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._entries: dict[str, list[LedgerEntry]] = {}

    def book(self, entry: LedgerEntry) -> None:
        """Enter one acceptance."""
        with self._lock:
            self._entries.setdefault(entry.id, []).append(entry)
            for recipient, reply in entry.decisions:
                if reply.startswith("2"):
                    self._counts[entry.id, recipient] += 1

    def count(self, message_id: str, recipient: str) -> int:
        """How often the server took responsibility for this message and recipient; more than 1 is a duplicate."""
        with self._lock:
            return self._counts[message_id, recipient]

    def entries(self, message_id: str) -> list[LedgerEntry]:
        """Every acceptance of this message, oldest first."""
        with self._lock:
            return list(self._entries.get(message_id, ()))

    def counts(self) -> dict[tuple[str, str], int]:
        """A copy of all counts, by (id, recipient)."""
        with self._lock:
            return dict(self._counts)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._counts.clear()
            self._entries.clear()

    def __contains__(self, message_id: object) -> bool:
        with self._lock:
            return message_id in self._entries

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._entries))

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)


class Books:
    """Mails, sessions, counters and the ledger of one server."""

    def __init__(self, keep: bool | int) -> None:
        limit = None if keep is True else int(keep)
        self.changed = threading.Condition()
        self.mails: deque[CapturedMail] = deque(maxlen=limit)
        self.sessions: deque[SessionRecord] = deque(maxlen=limit if limit is None else max(limit, 100))
        self.ledger = Ledger()
        self.received = 0
        self.connections_now = 0
        self.connections_peak = 0
        self.connections_total = 0

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is ever dropped."""
        return self.mails.maxlen is None

    def open_session(self, peer: object, hung_up: Callable[[], int]) -> SessionRecord:
        """Count one more connection.

        The peak counts those that the client has open: one that it has closed, and whose session has not noticed yet,
        is none (`hung_up` tells how many).
        """
        with self.changed:
            self.connections_total += 1
            self.connections_now += 1
            if self.connections_now > self.connections_peak:
                self.connections_peak = max(self.connections_peak, self.connections_now - hung_up())
            record = SessionRecord(self.connections_total, peer)
            self.sessions.append(record)
            self.changed.notify_all()
        return record

    def close_session(self) -> None:
        """Count one connection less."""
        with self.changed:
            self.connections_now -= 1
            self.changed.notify_all()

    def book(self, mail: CapturedMail) -> None:
        """Take responsibility: the ledger first, so that whoever waits for the mail finds it there."""
        entry = LedgerEntry(_message_id(mail), mail.queue_id, mail.sender, tuple(mail.decisions))
        self.ledger.book(entry)
        with self.changed:
            self.received += 1
            self.mails.append(mail)
            self.changed.notify_all()

    def wait_for(self, count: int, timeout: float) -> list[CapturedMail]:
        """Wait until `count` mails have come since the last `clear`."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.received >= count, timeout):
                raise TimeoutError(f"{self.received} of {count} mails came within {timeout} s")
            return list(self.mails)

    def clear(self) -> None:
        """Forget mails, closed sessions and the ledger."""
        with self.changed:
            self.received = 0
            self.mails.clear()
            open_sessions = [record for record in self.sessions if record.closed_by is None]
            self.sessions.clear()
            self.sessions.extend(open_sessions)
        self.ledger.clear()


def _message_id(mail: CapturedMail) -> str:
    end = mail.content.find(b"\r\n\r\n")
    head = mail.content if end < 0 else mail.content[:end]
    found = {name.lower(): value for name, value in reversed(_ID_FIELD.findall(head))}
    value = found.get(b"x-id") or found.get(b"message-id")
    return value.decode("utf-8", "replace") if value else mail.queue_id
