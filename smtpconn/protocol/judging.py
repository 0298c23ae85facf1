"""What a reply means where it stands, and what ends a connection: one judgement for all who run flows.

Knows the ledger and the parser of a session; refuses to know how octets come and go, and time. Its laws are D5 and D6:
what is not exactly the reply that was owed is an error, and the class of an error decides the connection's fate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from smtpconn.protocol.errors import (
    ConnectionLostError,
    PermanentReplyError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    TransientReplyError,
)
from smtpconn.protocol.flow import Step
from smtpconn.protocol.ledger import BODY, LMTP_END, QUIT, Entry, Kind
from smtpconn.protocol.reply import MalformedReplyError, Reply, safe_octets
from smtpconn.protocol.session import Session

_REPLIES, _PER_REPLY = 65_536, 512  # octets of all replies to one flight of a mail, and more for each (CN6)

_FAREWELLS = frozenset({421, 221})

Observer = Callable[[Entry], None]


def owed_to(session: Session, step: Step) -> int:
    """How many replies the step waits for once it is written."""
    return len(session.ledger.owed) if step.replies is None else step.replies


def room_for(count: int) -> int:
    """The octets that this many replies to one flight may have."""
    return _REPLIES + _PER_REPLY * count


def awaits_reply(session: Session) -> bool:
    """True if what comes in can be the reply at the head of the ledger: an end of data is not answered half-way."""
    ledger = session.ledger
    if not ledger.owed:
        return False
    end = ledger.owed[0].end
    return end is None or ledger.taken >= end


def writing_kind(step: Step) -> Kind:
    """What the octets of a step are, where errors of the writing and limits of time name it."""
    return step.expects[0].kind if step.expects and step.doing != BODY.stage else BODY


def settle(session: Session, entry: Entry, reply: Reply, room: int | None, observe: Observer | None) -> None:
    """Give the reply to the entry, which is at the head, if it can be said there and has at most `room` octets.

    Raises `ServiceUnavailableError` for a goodbye (BR2), `ProtocolError` for what cannot stand here.
    """
    kind, code = entry.kind, reply.code
    if room is not None and len(reply.raw) > room:
        raise too_much(kind)
    leaves = code in _FAREWELLS and kind is not QUIT
    if leaves:
        session.closing = reply
    elif code not in kind.codes:
        raise ProtocolError(f"{kind.stage} answered {reply}, which cannot be said here", stage=kind.stage, reply=reply)
    session.ledger.settle(reply)
    if observe is not None:
        observe(entry)
    if leaves and kind is not LMTP_END:  # L1: over LMTP it speaks of one recipient, the other final replies are read on
        raise goodbye(session, kind, reply)


def settle_alike(session: Session, kind: Kind, reply: Reply, most: int) -> int:
    """Settle at most so many more entries by the same reply, without a second judgement; how many.

    These are the entries of the kind that was just settled by this reply, for each of which it stands there again,
    octet for octet: a group of RCPTs has the same answer many times.
    """
    kinds = [entry.more is None and entry.kind for entry in itertools.islice(session.ledger.owed, most)]
    run = kinds.count(kind)
    if run < len(kinds):
        run = next(place for place, each in enumerate(kinds) if each is not kind)
    count = session.parser.next_alike(reply, run)
    session.ledger.settle_alike(reply, count)
    return count


def malformed(kind: Kind, error: MalformedReplyError) -> ProtocolError:
    """Octets that are no reply, where one was awaited."""
    text = f"{kind.stage}: {error.reason}: {safe_octets(error.octets)!r}"
    return ProtocolError(text, stage=kind.stage, offset=error.offset)


def too_much(kind: Kind) -> ProtocolError:
    """More octets than the replies to one flight may have."""
    return ProtocolError(f"{kind.stage}: more octets of replies to one flight than allowed", stage=kind.stage)


def goodbye(session: Session, kind: Kind, reply: Reply) -> ServiceUnavailableError:
    """421, or 221 outside QUIT (BR2): the server closes the connection."""
    session.closing = reply
    text = f"{kind.stage}: the server closes the connection: {reply}"
    error = ServiceUnavailableError(text, stage=kind.stage, reply=reply)
    error._unanswered = kind.opens
    return error


def lost(session: Session, kind: Kind, what: str) -> ConnectionLostError:
    """The stream ended where a reply was awaited."""
    in_reply, ledger = session.parser.pending, session.ledger
    ledger.farewell = not in_reply and ledger.last is not None and ledger.last.code in (421, 221)
    where = " inside a reply" if in_reply else ""
    error = ConnectionLostError(f"{kind.stage}: {what}{where}", stage=kind.stage)
    error._unanswered = kind.opens and not in_reply
    return error


def lost_in_writing(session: Session, kind: Kind, stage: str, reason: object, reply: Reply | None) -> SmtpError:
    """BR16: a write failed; `reply` is what the server had said before, if anything."""
    if reply is not None and reply.code in (421, 221):
        return goodbye(session, kind, reply)
    error = ConnectionLostError(f"{stage}: connection lost while writing: {reason}", stage=stage, reply=reply)
    error._unanswered = kind.opens and reply is None and not session.parser.pending
    return error


def unasked(session: Session, kind: Kind, reply: Reply | None, ended: str | None) -> SmtpError:
    """BR1: before a write made while nothing is owed the line must be silent; what is there answers no command.

    `reply`: the first reply that is there. `ended`: how the stream has ended, or None while it has not.
    """
    pending = session.parser.pending
    if reply is None and ended is not None:
        return lost(session, kind, ended)
    if reply is None or pending:
        return ProtocolError(f"{kind.stage}: octets that answer no command", stage=kind.stage, reply=reply)
    if reply.code in (421, 221):
        return goodbye(session, kind, reply)
    if kind is BODY and reply.code >= 400:
        cls = TransientReplyError if reply.is_transient else PermanentReplyError
        return cls(f"refused before the end of data: {reply}", stage=kind.stage, reply=reply)
    return ProtocolError(f"{kind.stage}: a reply that answers no command: {reply}", stage=kind.stage, reply=reply)


def fatal(session: Session, error: BaseException, *, exchanging: bool) -> str | None:
    """Why this error ends the connection for ever, or None if the flow that raised it left the session usable (D5).

    `exchanging`: it came from an exchange, not from the flow itself.
    """
    source_error, session.source_error = session.source_error, None  # held on to, they would hold the message
    deliberate = isinstance(error, SmtpError) or error is source_error
    if not exchanging and deliberate:
        return None
    session.lost = isinstance(error, ConnectionLostError)
    return str(error) if deliberate else f"{type(error).__name__} in the conversation"
