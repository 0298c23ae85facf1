"""A transaction flow against a list of replies: no driver, no socket, no clock.

`converse` does what the driver promises a flow: it enters the expected replies in the ledger, counts the octets, and
feeds replies through the session's parser, so that what stands behind the last one is surplus. It judges nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from smtpconn.protocol.envelope import Outgoing
from smtpconn.protocol.errors import Delivery, SmtpError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.protocol.session import ProtocolName, Session, SessionState
from smtpconn.protocol.transaction import Attempt

OFFERED = ("PIPELINING", "CHUNKING")
SENDER = "s@client.test"
BODY = b"Subject: x\r\n\r\ntext\r\n"
ALL = ("a@x.test", "b@x.test", "c@x.test")

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN


def session_of(
    *lines: str, protocol: ProtocolName = "smtp", rset_owed: bool = False, state: SessionState = SessionState.MAIL_FROM
) -> Session:
    """A session after EHLO; with `rset_owed` one that had a transaction without success."""
    session = Session(protocol, "client.test")
    session.capabilities = ServerCapabilities("server.test", lines or OFFERED, is_esmtp=True)
    session.parser.wants_enhanced = session.capabilities.supports_enhanced_status
    session.state = state
    if rset_owed:
        session.rset_owed, session.mails = True, 1
    return session


def mail_of(
    count: int = 1,
    message: Any = BODY,
    *,
    chunking: bool = False,
    recipients: Iterable[Any] | None = None,
    **options: Any,
) -> Mail:
    """A mail to the first `count` of ALL, or to `recipients`."""
    return Mail(SENDER, recipients or ALL[:count], message, chunking=chunking, **options)


def said(*replies: str | bytes) -> bytes:
    """The octets of these replies: `"250"` becomes a whole line, bytes stay as they are."""
    lines = [text if isinstance(text, bytes) else f"{text} said\r\n".encode() for text in replies]
    return b"".join(lines)


@dataclass
class Talk:
    """What came of a conversation."""

    attempt: Attempt
    flights: list[bytes] = field(default_factory=list)
    result: SendResult | None = None
    error: BaseException | None = None

    @property
    def recipients(self) -> tuple[RecipientResult, ...]:
        """The verdicts, wherever they are."""
        if self.result is not None:
            return self.result.recipients
        if isinstance(self.error, SmtpError):
            return self.attempt.explained(self.error).recipients
        return self.attempt.results()

    @property
    def verdicts(self) -> list[Delivery]:
        return [entry.delivery for entry in self.recipients]

    @property
    def codes(self) -> list[int | None]:
        """The code that decided each recipient."""
        return [entry.reply.code if entry.reply is not None else None for entry in self.recipients]


class OutOfRepliesError(Exception):
    """The flow awaits a reply that the table does not give: the loss of the connection."""


def converse(
    session: Session,
    mail: Mail,
    replies: Sequence[str | bytes],
    *,
    level: Pipelining = Pipelining.GROUPED,
    surplus: bytes = b"",
    policy: Any = None,
) -> Talk:
    """Run the transaction: each reply settles the entry at the head; `surplus` waits behind the last one."""
    attempt = Attempt(Outgoing(mail, session, policy), session)
    talk = Talk(attempt)
    flow = attempt.flow(level)
    script = deque(replies)
    answered = True
    ledger, parser = session.ledger, session.parser
    try:
        step = next(flow)
        while True:
            for entry in step.expects:
                ledger.enter(entry)
            octets = bytes(step.octets)
            if answered:
                talk.flights.append(b"")
            talk.flights[-1] += octets
            ledger.taken += len(octets)
            ledger.handed = ledger.taken
            got: list[Reply] = []
            for _ in range(len(ledger.owed) if step.replies is None else step.replies):
                if not script:
                    flow.close()
                    raise OutOfRepliesError(ledger.owed[0].kind.stage)
                head = ledger.owed[0]
                parser.feed(said(script.popleft()))
                if not script and len(ledger.owed) == 1:
                    parser.feed(surplus)
                reply = parser.next_reply()
                assert reply is not None
                assert head.kind.permits(reply.code) or reply.code in (221, 421), f"{reply} to {head}"
                ledger.settle(reply)
                got.append(reply)
            answered = bool(got)
            step = flow.send(got)
    except StopIteration as stop:
        talk.result = stop.value
    except BaseException as error:
        talk.error = error
    assert not script, f"replies that nobody awaited: {script}"
    return talk
