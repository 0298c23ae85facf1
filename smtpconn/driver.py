"""Runs flows over a transport before a budget; poisons the connection when an exchange is not exact (D5).

Knows octets, replies and time; refuses to know what a command means. Its laws: before each write made while nothing is
owed the socket is looked at (BR1); octets are counted as the transport takes them, because the count separates
NOT_DELIVERED from UNKNOWN (BR14); a fault closes the socket and writes nothing more; after a failed write it still
listens (BR16).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NoReturn

from smtpconn.deadline import Budget, Deadline
from smtpconn.journal import Journal
from smtpconn.protocol.body import SLICE
from smtpconn.protocol.errors import (
    ConnectionLostError,
    PermanentReplyError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.protocol.flow import Flow, Result, Step
from smtpconn.protocol.ledger import LMTP_END, QUIT, Entry, Kind
from smtpconn.protocol.reply import MalformedReplyError, Reply, safe_octets
from smtpconn.protocol.session import Session, SessionState
from smtpconn.transport import Transport

RECEIVE = 65_536  # octets asked for at a time
LISTEN = 0.25  # seconds of reading after a write that failed (LM14)
_REPLIES, _PER_REPLY = 65_536, 512  # octets of all replies to one flight of a mail, and more for each (CN6)
BODY = Kind("body", "body")  # nothing is owed while a body is written

Observer = Callable[[Entry], None]


class Driver:
    """One transport and one session.

    `observe` is told of each entry as it is settled. `fault` says after a failed exchange what failed, in no words of
    the server's.
    """

    __slots__ = ("_heard", "_spared", "fault", "journal", "observe", "session", "transport")

    def __init__(
        self, transport: Transport, session: Session, observe: Observer | None = None, journal: Journal | None = None
    ) -> None:
        self.transport = transport
        self.session = session
        self.observe = observe
        self.journal = journal if journal is not None else Journal(session)
        self.fault: str | None = None
        self._heard: list[tuple[str, Reply]] | None = None  # what the wire log still has to say of a flight
        self._spared: SmtpError | None = None  # a time-out raised before anything of its step was written

    def run(self, flow: Flow[Result], budget: Budget) -> Result:
        """Run the flow to its end and give what it returns.

        What the flow itself raises passes, and leaves the connection usable unless the session is condemned or closing.
        Whatever happens in an exchange poisons: `SmtpTimeoutError`, `ConnectionLostError`, `ProtocolError`,
        `ServiceUnavailableError`, and any other exception, which passes unchanged.
        """
        session = self.session
        if session.ledger.owed:  # a second interrupt cut off the handling of a fault
            self.poison("an earlier exchange was cut off")
            raise ConnectionLostError(f"this connection is dead: {session.condemned}", stage="input")
        self._heard = [] if self.journal.is_wired() else None
        exchanging = False
        try:
            step = next(flow)
            while True:
                exchanging = True
                replies = self._perform(step, budget)
                exchanging = False
                step = flow.send(replies)
        except StopIteration as stop:
            result: Result = stop.value
        except BaseException as error:
            flow.close()
            source_error, session.source_error = session.source_error, None  # held on to, they would hold the message
            spared, self._spared = self._spared, None
            deliberate = isinstance(error, SmtpError) or error is source_error
            if error is spared:
                session.state = SessionState.MAIL_FROM
                self._close_if_due()
            elif exchanging or not deliberate:
                session.lost = isinstance(error, ConnectionLostError)
                self.fault = type(error).__name__
                if isinstance(error, SmtpError):
                    self.fault += f" ({error.stage})"
                self.poison(str(error) if deliberate else f"{type(error).__name__} in the conversation")
            else:
                self._close_if_due()
            raise
        self._close_if_due()
        return result

    def _close_if_due(self) -> None:
        if self.session.condemned or self.session.closing:
            self.poison(self.session.condemned or "the server is closing the connection")

    def poison(self, reason: str) -> None:
        """Close at once. Nothing more is written, and the session can never be used again."""
        self.session.condemn(reason)
        self.session.state = SessionState.CLOSED
        self.transport.close()

    def _perform(self, step: Step, budget: Budget) -> Sequence[Reply]:
        if step.droppable and not budget.leaves_reserve():
            self._spared = _no_time_left()
            raise self._spared
        if self._heard is None:
            return self._exchange(step, budget)
        try:
            return self._exchange(step, budget)
        finally:
            # Not before all of the flight is settled: a handler that blocks must not use up the time of a final reply.
            heard, self._heard = self._heard, []
            self.journal.heard(heard)

    def _exchange(self, step: Step, budget: Budget) -> Sequence[Reply]:
        self._write(step, budget)
        owed = self.session.ledger.owed
        count = len(owed) if step.replies is None else step.replies
        commits = bool(count) and owed[-1].offset is not None
        room = _REPLIES + _PER_REPLY * count
        replies: list[Reply] = []
        for _ in range(count):
            reply = self._settle(budget, room if count > 1 else None)
            room -= len(reply.raw)
            replies.append(reply)
        if commits:
            with contextlib.suppress(OSError):  # what ends the connection now changes no verdict
                self._take_in()  # OS, LS: a surplus that is there already belongs to this end of data (AN1)
        return replies

    # --- writing ---

    def _write(self, step: Step, budget: Budget) -> None:
        """Write the octets of a step in slices, counting what is taken."""
        ledger, expects = self.session.ledger, step.expects
        total = len(step.octets)
        kind = expects[0].kind if expects and step.doing != BODY.stage else BODY
        if total and not self._awaits_reply():
            self._look(kind)
        if self._heard is not None:
            self.journal.writing(step)
        for entry in expects:
            ledger.enter(entry)
        commit = ledger.owed[-1].end if ledger.owed else None
        view, sent = memoryview(step.octets), 0
        while sent < total:
            end = min(sent + SLICE, total)
            deadline = budget.phase(BODY.phase if commit is not None else kind.phase)
            while sent < end:
                if sent and not self._awaits_reply():
                    self._look(BODY)
                if commit is not None and ledger.taken + end - sent >= commit and not budget.leaves_reserve():
                    raise _no_time_left()
                sent += self._send(view[sent:end], step, deadline)

    def _awaits_reply(self) -> bool:
        """True if what comes in can be the reply at the head of the ledger: an end of data is not answered half-way."""
        ledger = self.session.ledger
        if not ledger.owed:
            return False
        end = ledger.owed[0].end
        return end is None or ledger.taken >= end

    def _send(self, part: memoryview, step: Step, deadline: Deadline) -> int:
        ledger = self.session.ledger
        left = deadline.remaining()
        if left is not None and left <= 0.0:
            raise _timed_out(step.doing)
        ledger.handed = ledger.taken + len(part)  # BR22: from here on an interrupt cannot know
        try:
            taken = self.transport.send(part, left)
        except OSError as error:
            ledger.handed = ledger.taken
            self._write_failed(step, error, deadline)
        ledger.taken += taken
        ledger.handed = ledger.taken
        return taken

    def _write_failed(self, step: Step, error: OSError, deadline: Deadline) -> NoReturn:
        """BR16: the peer may have said why before it closed. One short read, attached to the error."""
        session = self.session
        kind = session.ledger.owed[0].kind if session.ledger.owed else BODY
        reply: Reply | None = None
        try:
            left = deadline.within(LISTEN).remaining()
            session.parser.feed(self.transport.recv(RECEIVE, left))
            reply = self._next_reply(kind)
        except (OSError, MalformedReplyError):
            pass  # nothing more is to be learnt: the failed write is the error
        if reply is not None and reply.code in (421, 221):
            self._says_goodbye(kind, reply, error)
        if _is_ours(error):
            raise _timed_out(step.doing, reply) from error
        lost = ConnectionLostError(
            f"{step.doing}: connection lost while writing: {error}", stage=step.doing, reply=reply
        )
        lost._unanswered = kind.opens and reply is None and not session.parser.pending
        raise lost from error

    # --- reading ---

    def _settle(self, budget: Budget, room: int | None) -> Reply:
        """Read the reply to the entry at the head, within the limit of its phase and of `room` octets."""
        ledger = self.session.ledger
        kind = ledger.owed[0].kind
        reply = self._parsed(kind)
        if reply is None:
            deadline = budget.phase(kind.phase)
            while reply is None:
                self._receive(kind, deadline)
                reply = self._parsed(kind)
        if room is not None and len(reply.raw) > room:
            raise ProtocolError(f"{kind.stage}: more octets of replies to one flight than allowed", stage=kind.stage)
        if reply.code in (421, 221) and kind is not QUIT:
            self.session.closing = reply
            self._enter_reply(reply)
            if kind is not LMTP_END:  # L1: over LMTP it speaks of one recipient, the other final replies are read on
                self._says_goodbye(kind, reply, None)
        elif kind.permits(reply.code):
            self._enter_reply(reply)
        else:
            raise ProtocolError(
                f"{kind.stage} answered {reply}, which cannot be said here", stage=kind.stage, reply=reply
            )
        return reply

    def _enter_reply(self, reply: Reply) -> None:
        entry = self.session.ledger.settle(reply)
        if self.observe is not None:
            self.observe(entry)

    def _says_goodbye(self, kind: Kind, reply: Reply, cause: BaseException | None) -> NoReturn:
        """421, or 221 outside QUIT (BR2): the server closes the connection."""
        self.session.closing = reply
        error = ServiceUnavailableError(
            f"{kind.stage}: the server closes the connection: {reply}", stage=kind.stage, reply=reply
        )
        error._unanswered = kind.opens
        raise error from cause

    def _parsed(self, kind: Kind) -> Reply | None:
        try:
            return self._next_reply(kind)
        except MalformedReplyError as error:
            text = f"{kind.stage}: {error.reason}: {safe_octets(error.octets)!r}"
            raise ProtocolError(text, stage=kind.stage, offset=error.offset) from error

    def _next_reply(self, kind: Kind) -> Reply | None:
        reply = self.session.parser.next_reply()
        if reply is not None and self._heard is not None:
            self._heard.append((kind.stage, reply))
        return reply

    def _receive(self, kind: Kind, deadline: Deadline) -> None:
        """One read into the parser."""
        left = deadline.remaining()
        if left is not None and left <= 0.0:
            raise _timed_out(kind.stage)
        try:
            octets = self.transport.recv(RECEIVE, left)
        except OSError as error:
            if _is_ours(error):
                raise _timed_out(kind.stage) from error
            raise self._lost(kind, f"connection lost: {error}") from error
        if not octets:
            raise self._lost(kind, "the server closed the connection")
        self.session.parser.feed(octets)

    def _lost(self, kind: Kind, what: str) -> ConnectionLostError:
        in_reply = self.session.parser.pending
        where = " inside a reply" if in_reply else ""
        error = ConnectionLostError(f"{kind.stage}: {what}{where}", stage=kind.stage)
        error._unanswered = kind.opens and not in_reply
        return error

    # --- the look ---

    def is_quiet(self) -> bool:
        """True if no octet, no end and no error waits: nothing answers no command. Costs no round trip."""
        return not self.session.parser.pending and not self.transport.readable()

    def hear_goodbye(self) -> None:
        """After a failed look: the first reply that waits is kept if it is a 421 or 221, and answers nothing (VA1)."""
        session = self.session
        try:
            self._take_in()
            reply = session.parser.next_reply()
        except (OSError, MalformedReplyError):
            return
        if reply is not None and reply.code in (421, 221) and session.closing is None:
            session.closing = reply

    def _look(self, kind: Kind) -> None:
        """BR1: before a write made while nothing is owed the line must be silent; what is there answers no command."""
        if self.is_quiet():
            return
        parser = self.session.parser
        lost: OSError | None = None
        try:
            ended = self._take_in()
        except OSError as error:
            if _is_ours(error) and not parser.pending:
                return  # a false alarm: the socket is silent
            ended, lost = not _is_ours(error), error
        reply = self._parsed(kind)
        if reply is None and ended:
            raise self._lost(kind, f"connection lost: {lost}" if lost else "the server closed the connection") from lost
        if reply is None or parser.pending:
            raise ProtocolError(f"{kind.stage}: octets that answer no command", stage=kind.stage, reply=reply)
        if reply.code in (421, 221):
            self._says_goodbye(kind, reply, None)
        if kind is BODY and reply.code >= 400:
            cls = TransientReplyError if reply.is_transient else PermanentReplyError
            raise cls(f"refused before the end of data: {reply}", stage=kind.stage, reply=reply)
        raise ProtocolError(f"{kind.stage}: a reply that answers no command: {reply}", stage=kind.stage, reply=reply)

    def _take_in(self) -> bool:
        """Give the parser what is there already; True at the end of the stream."""
        parser, transport = self.session.parser, self.transport
        while parser.pending < RECEIVE and transport.readable():
            octets = transport.recv(RECEIVE, 0.0)
            if not octets:
                return True
            parser.feed(octets)
        return False


def _is_ours(error: OSError) -> bool:
    """True for the time-out of our own deadline; the kernel's ETIMEDOUT has a number and is a lost connection."""
    return isinstance(error, TimeoutError) and error.errno is None


def _timed_out(stage: str, reply: Reply | None = None) -> SmtpTimeoutError:
    return SmtpTimeoutError(f"{stage}: the deadline has passed", stage=stage, reply=reply)


def _no_time_left() -> SmtpTimeoutError:
    """D4: better not sent than in doubt."""
    text = "not enough time left for the final reply: stopped before the end of data was written"
    return SmtpTimeoutError(text, stage=BODY.stage)
