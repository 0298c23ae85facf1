"""Runs flows over a transport before a budget; poisons the connection when an exchange is not exact (D5).

Knows octets, replies and time; refuses to know what a command means. Its laws: before each write made while nothing is
owed the socket is looked at (BR1); octets are counted as the transport takes them, because the count separates
NOT_DELIVERED from UNKNOWN (BR14); a fault closes the socket and writes nothing more; after a failed write it still
listens (BR16).
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Sequence
from typing import NoReturn

from smtpconn.deadline import Budget, Deadline
from smtpconn.journal import Journal
from smtpconn.protocol import judging
from smtpconn.protocol.body import LONG_SLICE, SLICE
from smtpconn.protocol.errors import (
    ConnectionLostError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
)
from smtpconn.protocol.flow import Flow, Result, Step
from smtpconn.protocol.judging import Observer
from smtpconn.protocol.ledger import BODY, Entry, Kind
from smtpconn.protocol.reply import MalformedReplyError, Reply
from smtpconn.protocol.session import Session, SessionState
from smtpconn.transport import Transport

RECEIVE = 65_536  # octets asked for at a time
LISTEN = 0.25  # seconds of reading after a write that failed (LM14)
_SURPLUS = 64  # replies read behind a flight that is out of step


class Driver:
    """One transport and one session.

    `observe` is told of each entry as it is settled. `fault` says after a failed exchange what failed, in no words of
    the server's.
    """

    __slots__ = ("_ahead", "_heard", "_spared", "ahead", "fault", "journal", "observe", "session", "transport")

    def __init__(
        self, transport: Transport, session: Session, observe: Observer | None = None, journal: Journal | None = None
    ) -> None:
        self.transport = transport
        self.session = session
        self.observe = observe
        self.journal = journal if journal is not None else Journal(session)
        self.ahead: Callable[[], Budget] | None = None  # makes the budget of a mail that is announced (EN12)
        self._ahead: tuple[Budget, Deadline] | None = None  # and the limit of the wait for what was announced
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
        self._ahead = None
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
            spared, self._spared = self._spared, None
            reason = judging.fatal(session, error, exchanging=exchanging and error is not spared)
            if error is spared:
                session.state = SessionState.MAIL_FROM
            if reason is not None:
                self.fault = type(error).__name__
                if isinstance(error, SmtpError):
                    self.fault += f" ({error.stage})"
                self.poison(reason)
            else:
                self.close_if_due()
            raise
        self.close_if_due()
        return result

    def close_if_due(self) -> None:
        """Close where the session is condemned, or the server closes."""
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
        if step.ahead:
            return self._exchange_ahead(step, budget)
        self._write(step, budget)
        return self._read(step, budget)

    def _exchange_ahead(self, step: Step, budget: Budget) -> Sequence[Reply]:
        try:
            self._write(step, budget)
        except SmtpError:
            self._read_on(budget)
            raise
        try:
            return self._read(step, budget)
        except ServiceUnavailableError:
            self._read_on(budget)
            raise
        except ProtocolError as error:
            self._read_surplus(error, budget)
            raise

    def _read(self, step: Step, budget: Budget) -> Sequence[Reply]:
        session, observe = self.session, self.observe
        ledger, next_reply = session.ledger, session.parser.next_reply
        owed = ledger.owed
        count = judging.owed_to(session, step)
        commits = count == len(owed) and [entry for entry in owed if entry.end is not None]
        room = judging.room_for(count) if count > 1 else None
        replies: list[Reply] = []
        while len(replies) < count:
            entry = owed[0] if owed[0].more is None else ledger.head()
            try:
                reply = next_reply()
            except MalformedReplyError as error:
                raise judging.malformed(entry.kind, error) from error
            if reply is None:
                reply = self._awaited(entry, budget)
            elif self._heard is not None:
                self._heard.append((entry.kind.stage, reply))
            judging.settle(session, entry, reply, room, observe)
            replies.append(reply)
            if room is None:
                continue
            room -= len(reply.raw)
            if owed and owed[0].kind is entry.kind and observe is None and self._heard is None:
                most = min(count - len(replies), room // len(reply.raw))
                alike = judging.settle_alike(session, entry.kind, reply, most)
                room -= alike * len(reply.raw)
                replies += [reply] * alike
        if commits:
            try:  # noqa: SIM105  # once for each mail, and suppress() costs as much as the look
                self._take_in()  # OS, LS: a surplus that is there already belongs to this end of data (AN1)
            except OSError:
                pass  # what ends the connection now changes no verdict
        return replies

    # --- writing ---

    def _write(self, step: Step, budget: Budget) -> None:
        """Write the octets of a step in slices, counting what is taken."""
        session, octets = self.session, step.octets
        ledger, total = session.ledger, len(octets)
        kind = judging.writing_kind(step)
        if total and not (ledger.owed and judging.awaits_reply(session)) and not self.is_quiet():
            self._look(kind)
        if self._heard is not None:
            self.journal.writing(step)
        ledger.enter(*step.expects)
        if not total:
            return
        commits = [entry.end for entry in ledger.owed if entry.end is not None]
        phase = BODY.phase if commits else kind.phase
        view, sent = octets if total <= SLICE else memoryview(octets), 0
        while sent < total:
            end = min(sent + SLICE, total)
            deadline = budget.phase(phase)
            while sent < end:
                if sent:
                    self._look_between(step)
                reach = end
                if end < total and not self._would_commit(commits, LONG_SLICE):
                    reach = min(sent + LONG_SLICE, total)
                elif commits and not budget.leaves_reserve() and self._would_commit(commits, end - sent):
                    raise _no_time_left()
                sent += self._send(view[sent:reach], step, deadline)

    def _look_between(self, step: Step) -> None:
        """The look in front of each further slice."""
        if not judging.awaits_reply(self.session):
            if not self.is_quiet():
                self._look(BODY)
        elif step.ahead:
            self._take_in()  # EN3: a server that cannot write does not read

    def _would_commit(self, commits: Sequence[int], octets: int) -> bool:
        """True if the next so many octets hold a commit point."""
        taken = self.session.ledger.taken
        place = bisect.bisect_right(commits, taken)
        return place < len(commits) and commits[place] <= taken + octets

    def _send(self, part: bytes | memoryview, step: Step, deadline: Deadline) -> int:
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
        """BR16: the peer may have said why before it closed. One short read, its last word attached to the error."""
        session = self.session
        kinds = [entry.kind for entry in session.ledger.owed] or [BODY]
        kind, reply = kinds[0], None
        if not session.ledger.in_doubt:  # otherwise what comes is the final reply of a mail, and is read as such
            with contextlib.suppress(OSError, ProtocolError):  # the failed write is the error
                left = deadline.within(LISTEN).remaining()
                session.parser.feed(self.transport.recv(RECEIVE, left))
                for answered in kinds:  # in a group, the replies in front of the last one say nothing of the end
                    following = self._parsed(answered)
                    if following is None:
                        break
                    kind, reply = answered, following
        if _is_ours(error) and not (reply is not None and reply.code in (421, 221)):
            raise _timed_out(step.doing, reply) from error
        raise judging.lost_in_writing(session, kind, step.doing, error, reply) from error

    # --- reading ---

    def _awaited(self, entry: Entry, budget: Budget) -> Reply:
        """The reply to the entry at the head, which is not all there yet, within the limit of its phase."""
        kind, parser, transport = entry.kind, self.session.parser, self.transport
        deadline = budget.phase(kind.phase) if not entry.announced else self._ahead_until(kind)
        while True:
            left = deadline.remaining()
            if left is not None and left <= 0.0:
                raise _timed_out(kind.stage)
            try:
                octets = transport.recv(RECEIVE, left)
            except OSError as error:
                if _is_ours(error):
                    raise _timed_out(kind.stage) from error
                raise judging.lost(self.session, kind, f"connection lost: {error}") from error
            if not octets:
                raise judging.lost(self.session, kind, "the server closed the connection")
            parser.feed(octets)
            del octets  # SEC2: it may be an echo of our secret, and what is parsed may raise
            reply = self._parsed(kind)
            if reply is not None:
                return reply

    def _ahead_until(self, kind: Kind) -> Deadline:
        """EN12: what is announced has a budget of its own, from the final reply in front of it on.

        A server that swallows it does not hold back that mail's verdict for longer than the limit of RSET.
        """
        if self._ahead is None:
            assert self.ahead is not None
            budget = self.ahead()
            self._ahead = budget, budget.phase("rset")
        budget, limit = self._ahead
        deadline = budget.phase(kind.phase)
        return limit if deadline.at is None or (limit.at is not None and limit.at < deadline.at) else deadline

    def budget_ahead(self) -> Budget | None:
        """The budget of the mail that was announced, once it has begun to run; asked for once."""
        ahead, self._ahead = self._ahead, None
        return ahead[0] if ahead is not None else None

    def _read_on(self, budget: Budget) -> None:
        """LO2, LO4: while a committed mail has no reply, read what is still to be had, in step."""
        try:
            while self.session.ledger.in_doubt:
                entry = self.session.ledger.head()
                reply = self._parsed(entry.kind) or self._awaited(entry, budget)
                judging.settle(self.session, entry, reply, None, self.observe)
        except ServiceUnavailableError:
            self._read_on(budget)  # servers exist that go on after a 421; it was settled, so this ends
        except SmtpError:
            pass  # the fault that ended the flight is the one to be told
        else:
            if not self.session.ledger.owed:
                self._read_surplus(None, budget)  # it may have been one reply too many

    def _read_surplus(self, error: ProtocolError | None, budget: Budget) -> None:
        """AN4: the flight is out of step. What else is said tells by how much (PF6)."""
        session = self.session
        surplus = session.ledger.surplus
        if error is not None and error.reply is not None:
            surplus.append(error.reply)
        elif error is not None:
            session.ledger.garbled = True
        limit = budget.total.within(LISTEN)
        try:
            while len(surplus) < _SURPLUS:
                reply = session.parser.next_reply()
                if reply is not None:
                    surplus.append(reply)
                    continue
                octets = self.transport.recv(RECEIVE, limit.remaining())
                if not octets:
                    break
                session.parser.feed(octets)
        except (OSError, MalformedReplyError):
            pass
        session.ledger.garbled = session.ledger.garbled or bool(session.parser.pending)

    def _parsed(self, kind: Kind) -> Reply | None:
        try:
            reply = self.session.parser.next_reply()
        except MalformedReplyError as error:
            raise judging.malformed(kind, error) from error
        if reply is not None and self._heard is not None:
            self._heard.append((kind.stage, reply))
        return reply

    # --- the look ---

    def is_quiet(self) -> bool:
        """True if no octet, no end and no error waits: nothing answers no command. Costs no round trip."""
        if self.session.parser.pending:
            return False
        try:
            return not self.transport.readable()
        except OSError:
            return False  # a transport of the caller's that cannot even look (BR12): the read behind it says why

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
        """BR1: the line is not silent before a write made while nothing is owed: what is there answers no command."""
        cause: OSError | None = None
        ended: str | None = None
        try:
            if self._take_in():
                ended = "the server closed the connection"
        except OSError as error:
            cause = error
            if not _is_ours(error):
                ended = f"connection lost: {error}"
        if ended is None and not self.session.parser.pending:
            return  # a false alarm: the look found something, the read did not
        raise judging.unasked(self.session, kind, self._parsed(kind), ended) from cause

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
