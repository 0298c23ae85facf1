"""Audit events: what the replies settled, without an address, a text, a credential or a body (F101-F103).

Every event carries `connection_id`, `endpoint` and `seconds` (the clock's reading), filled in by the shell. The set is
open: a sink ignores what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """Base of the events. `seconds` is a reading of the monotonic clock."""

    connection_id: int = 0
    endpoint: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Connected(AuditEvent):
    """The transport is up, TLS included where it is implicit; nothing was read yet."""


@dataclass(frozen=True, kw_only=True)
class GreetingReceived(AuditEvent):
    """A greeting with this code, also a refusing one."""

    code: int


@dataclass(frozen=True, kw_only=True)
class EhloCompleted(AuditEvent):
    """An EHLO, LHLO or HELO succeeded."""


@dataclass(frozen=True, kw_only=True)
class TlsUpgraded(AuditEvent):
    """STARTTLS: the handshake and the certificate check are done."""


@dataclass(frozen=True, kw_only=True)
class AuthCompleted(AuditEvent):
    """235 was read; `mechanism` is the keyword that was on the wire."""

    mechanism: str


@dataclass(frozen=True, kw_only=True)
class MailFromAccepted(AuditEvent):
    """MAIL was answered 2yz."""

    code: int


@dataclass(frozen=True, kw_only=True)
class RecipientAccepted(AuditEvent):
    """A RCPT was answered 2yz."""

    code: int


@dataclass(frozen=True, kw_only=True)
class RecipientRejected(AuditEvent):
    """A RCPT was refused, or over LMTP a final reply refused a recipient."""

    code: int


@dataclass(frozen=True, kw_only=True)
class MessageAccepted(AuditEvent):
    """A final 2yz; over LMTP one for each accepted recipient."""

    code: int


@dataclass(frozen=True, kw_only=True)
class MailSettled(AuditEvent):
    """The verdicts of one attempt are final.

    Counts of the recipients given. Exactly one per attempt, whatever ended it.
    """

    delivered: int
    not_delivered: int
    unknown: int


@dataclass(frozen=True, kw_only=True)
class QuitCompleted(AuditEvent):
    """221 to QUIT."""


@dataclass(frozen=True, kw_only=True)
class SessionAborted(AuditEvent):
    """The session ended otherwise than by QUIT; at most once, and nothing comes after it."""


class AuditSink(Protocol):
    """Where events go, synchronously and in the order in which replies were settled.

    Its exceptions are logged and dropped.
    """

    def on_event(self, event: AuditEvent) -> None:
        """Take one event."""


class NoopAuditSink:
    """Drops every event."""

    def on_event(self, event: AuditEvent) -> None:
        """Drop it."""


class ListAuditSink:
    """Keeps every event in a list; safe for threads."""

    def __init__(self) -> None:
        self._events: list[AuditEvent] = []  # append, copy and clear are atomic on every build of CPython

    def on_event(self, event: AuditEvent) -> None:
        """Keep it."""
        self._events.append(event)

    @property
    def events(self) -> list[AuditEvent]:
        """A copy of what was kept, oldest first."""
        return self._events.copy()

    def clear(self) -> None:
        """Forget everything."""
        self._events.clear()

    def __iter__(self) -> Iterator[AuditEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self._events)

    def __bool__(self) -> bool:
        return bool(self._events)
