"""One connection to one server: its lock, its driver, its life from the dial to the close.

Knows how a session is opened (greeting, EHLO, STARTTLS, AUTH), who may use it when, and how it ends; the public verbs
are in `connection`. Its laws: one lock, held for the whole conversation of a verb; a thread never waits for itself; a
connection that is poisoned, closed or inherited by a forked child writes nothing; every attempt at a mail ends with its
verdicts published once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable, Set
from typing import Any

from smtpconn import handshake
from smtpconn.deadline import Budget, Deadline, Timeouts
from smtpconn.driver import Driver
from smtpconn.journal import Journal
from smtpconn.opening import Opening, ehlo_domain
from smtpconn.protocol import audit, commands, ledger
from smtpconn.protocol.errors import (
    ConnectionLostError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    UsageError,
)
from smtpconn.protocol.flow import Flow, Pipelining, Result, Step
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.session import Session, SessionState
from smtpconn.transport import Transport

_ids = itertools.count(1)


class Conversation:
    """A connection without its public verbs: what the pool and `SmtpConnection` build on."""

    def __init__(self, transport: Transport, opening: Opening, endpoint: str) -> None:
        self.connection_id = next(_ids)
        self._opening = opening
        self._endpoint = endpoint
        self._pid = os.getpid()
        self._lock = threading.RLock()  # never taken twice; it knows its owner, where an interrupt kept us from noting
        self._batch_lock = threading.Lock()  # held while a batch has the connection, whichever thread goes on with it
        self._batch: object | None = None
        self._batch_of: int | None = None  # the ident of the thread that began it
        self._turn: object | None = None  # the call that holds the lock
        self._holder: int | None = None  # and the ident of its thread
        self._closed_by_owner = False
        self._cut_short = False  # by `abort`: what becomes of the call is not the server's doing
        self.clock = time.monotonic
        self._active = self.clock()  # when the last call ended
        self.fallen: SmtpError | None = None  # what ended the last flight behind the final replies in it
        self._parting = False  # QUIT was written, its answer may come
        self._ended = False  # by QUIT, or SessionAborted was published: no event may follow
        local = getattr(transport, "local_address", None)
        session = Session(opening.protocol, ehlo_domain(opening.ehlo_domain, local))
        session.secure = bool(getattr(transport, "secure", False))  # a caller's own transport may not say
        self._session = session
        observe = self._observe if opening.audit is not None else None
        self._journal = Journal(session, self.connection_id, endpoint)
        self._driver = Driver(transport, session, observe, self._journal)

    def _establish(self, budget: Budget) -> None:
        """Greeting, EHLO, STARTTLS and AUTH over a transport that is up; leaves nothing open if it raises."""
        try:
            handshake.establish(self._driver, self._opening, budget, self._publish)
            self._opening = self._opening.without_credentials
        except Exception:
            self._end(budget)
            raise
        except BaseException:
            self.close()
            raise

    # --- turns ---

    def _take_turn(self, turn: object, budget: Budget, batch: object = None) -> None:
        """Wait for the lock within the budget, and for the end of a batch that is not `batch`.

        Raises `UsageError` where waiting would be for ever.
        """
        if os.getpid() != self._pid:
            self.abandon()
            raise UsageError("this connection belongs to the parent process: a forked child must open its own")
        me = threading.get_ident()
        if self._holder == me:
            raise UsageError(
                "this thread is in the middle of another call on this connection (from a body iterator or a hook?)"
            )
        self._wait_for(self._lock, budget)
        while self._batch is not None and self._batch is not batch:
            self._lock.release()
            if self._batch_of == me:
                raise UsageError("send_many of this thread is not at its end: exhaust its iterator, or close it")
            self._wait_for(self._batch_lock, budget)
            self._batch_lock.release()
            self._wait_for(self._lock, budget)
        self._turn, self._holder = turn, me

    @staticmethod
    def _wait_for(lock: threading.Lock | threading.RLock, budget: Budget) -> None:
        if lock.acquire(blocking=False):
            return
        left = budget.total.remaining()
        limit = -1.0 if left is None else min(left, threading.TIMEOUT_MAX)
        if not lock.acquire(timeout=limit):
            raise SmtpTimeoutError("another thread had the connection until the deadline", stage="lock")

    def _begin_batch(self, batch: object) -> None:
        """LV8: from here on nobody but this batch gets a turn; the caller has one."""
        self._batch, self._batch_of = batch, threading.get_ident()
        self._batch_lock.acquire(blocking=False)

    def _end_batch(self, batch: object) -> None:
        """Whoever drops the iterator of a batch ends it: that may be another thread than the one that began it."""
        if self._batch is batch:
            self._batch = self._batch_of = None
            with contextlib.suppress(RuntimeError):  # an interrupt came before it was taken
                self._batch_lock.release()
        with contextlib.suppress(SmtpError):
            self._in_turn(Budget(Deadline.after(0.0), None, 0.0), _nothing)  # ending a turn, it closes what is dead

    def _end_turn(self, turn: object) -> None:
        """Give the turn back, if this call has it."""
        if self._turn is not turn:
            if self._turn is None:
                with contextlib.suppress(RuntimeError):  # the lock is not ours
                    self._lock.release()  # taken, and an interrupt came before that was noted
            return
        if self._opening.pipelining is Pipelining.BURST:
            self._active = self.clock()
        try:
            if self._closed_by_owner or self._session.condemned or self._session.closing:
                self._shut()
        finally:  # also where the caller's sink or log handler is interrupted
            self._turn = self._holder = None
            self._lock.release()

    def _in_turn(self, budget: Budget, call: Callable[[], Result], batch: object = None) -> Result:
        """Wait for the turn, make the call, give the turn back: an interrupt at no point leaves it taken (F93)."""
        turn = object()
        try:
            self._take_turn(turn, budget, batch)
            return call()
        finally:
            try:
                self._end_turn(turn)
            except BaseException:
                self._end_turn(turn)  # the interrupt may have come before anything was done
                raise

    def _require_alive(self) -> None:
        """F93a: what a verb on a dead connection raises, at once and without an octet."""
        session = self._session
        if self._closed_by_owner:
            error = UsageError("the connection is closed")
            error._closed = True
            raise error
        if session.closing is not None:
            raise ServiceUnavailableError(
                f"the server has closed this connection: {session.closing}", reply=session.closing
            )
        if session.condemned is not None or session.state is SessionState.CLOSED:
            raise ConnectionLostError(f"this connection is dead: {session.condemned}", stage="input")

    def _run(self, flow_of: Callable[[], Flow[Result]], budget: Budget) -> Result:
        """One verb: wait for the turn, run its flow, end the turn."""

        def call() -> Result:
            self._require_alive()
            return self._driver.run(flow_of(), budget)

        return self._in_turn(budget, call)

    def converse(self, talk: Callable[[Any, Budget], Result], *, timeout: float | Timeouts) -> Result:
        """For adapters with verbs of their own: `talk(connection, budget)`, in one turn."""
        budget = Budget.of(timeout)

        def call() -> Result:
            self._require_alive()
            return talk(self, budget)

        return self._in_turn(budget, call)

    # --- the end ---

    def _end(self, budget: Budget) -> bool:
        """QUIT where the session allows it, then close in every case; True if 221 was read (caller holds the lock)."""
        session = self._session
        said = False
        try:
            if self._parting or (session.may_quit and self._driver.is_quiet()):
                flow = session.quit(written=self._parting)
                said = self._driver.run(flow, Budget(budget.phase("quit"), budget.phases, 0.0))
                if said:
                    self._publish(audit.QuitCompleted)
                self._ended = True
        except SmtpError:
            pass  # how the server says goodbye changes nothing any more
        except BaseException:
            self._shut()
            raise
        if session.condemned is None:
            with contextlib.suppress(OSError):
                getattr(self._driver.transport, "close_notify", _nothing)()
        session.condemn("closed after QUIT")
        self._shut()
        return said

    def _shut(self) -> None:
        """Close the transport and publish the end of the session, once; nothing is written."""
        reason = self._reason()
        self._session.state = SessionState.CLOSED
        self._driver.transport.close()
        if not self._ended:
            self._ended = True
            self._publish(audit.SessionAborted, last=True)
        self._journal.closed(reason)

    def _reason(self) -> str:
        """Why the connection is closed, in no words of the server's: they may quote an address (users:LG4)."""
        session, fault = self._session, self._driver.fault
        if self._ended:
            return "QUIT"
        if session.closing is not None:
            return f"the server said {session.closing.code}"
        if self._closed_by_owner:
            return f"by its owner, {fault}" if fault else "by its owner"
        return fault or session.condemned or "by its owner"

    def leave(self, budget: Budget | None) -> None:
        """QUIT and close. Without a budget QUIT is written and its reply is not awaited.

        Never raises for the server's sake.
        """
        if os.getpid() != self._pid:
            self.abandon()
            return
        entered: list[bool] = []

        def call() -> None:
            entered.append(True)
            self._closed_by_owner = True
            if budget is None:
                self._drop_a_line()
                self._ended = self._ended or self._parting
                self._shut()
            else:
                self._end(budget)

        try:
            self._in_turn(Budget(Deadline.after(0.0), None, 0.0), call)
        except SmtpError:
            if entered:
                raise
            self.close()  # somebody is in the middle of a call

    def part(self) -> None:
        """Write QUIT and wait for nothing: `leave` reads the answer, so that many may part together (pool CL2)."""
        with contextlib.suppress(SmtpError):  # somebody is in the middle of a call
            self._in_turn(Budget(Deadline.after(0.0), None, 0.0), self._drop_a_line)

    def _drop_a_line(self) -> None:
        """QUIT without waiting: RFC 5321 section 4.1.1.10 asks for the command, nobody here has time for its answer."""
        session = self._session
        try:
            if not self._parting and session.may_quit and self._driver.is_quiet():
                step = Step(commands.quit_(), (ledger.Entry(ledger.QUIT),), ledger.QUIT.stage)
                if self._journal.is_wired():
                    self._journal.writing(step)
                self._driver.transport.send(step.octets, 0.0)
                self._parting = True
        except OSError:
            pass

    def close(self) -> None:
        """Close without QUIT; silent and idempotent.

        While another thread is in the middle of a call, that call is cut off and ends as a lost connection.
        """
        if os.getpid() != self._pid:
            self.abandon()
            return
        self._closed_by_owner = True
        me = threading.get_ident()
        if self._holder == me or (self._holder is None and self._batch_of == me):
            self._session.condemn("closed by its owner")
            self._driver.transport.close()
            return
        try:
            self._in_turn(Budget(Deadline.after(0.0), None, 0.0), _nothing)  # ending a turn, it closes
        except SmtpTimeoutError:
            self.abort()

    def abort(self) -> None:
        """From another thread: wake a call that is blocked; it ends as a lost connection."""
        self._cut_short = True
        getattr(self._driver.transport, "abort", _nothing)()

    def abandon(self) -> None:
        """In a forked child: close our copy of the descriptor; nothing is written or shut down."""
        self._closed_by_owner = self._ended = True
        self._session.state = SessionState.CLOSED
        self._driver.transport.close()

    def __del__(self) -> None:
        transport = getattr(getattr(self, "_driver", None), "transport", None)
        if transport is None or self._session.state is SessionState.CLOSED:
            return
        warnings.warn(f"unclosed connection to {self._endpoint}", ResourceWarning, source=self, stacklevel=2)
        transport.close()

    # --- what the pool asks ---

    @property
    def usable(self) -> bool:
        """True if a further verb may be tried: not poisoned, not closed, not closing."""
        return self.wear is not None

    @property
    def is_shutting_down(self) -> bool:
        """True once the server has said or shown that it closes: 421, 221, EOF, "session used up" (D6)."""
        return self._session.closing is not None or self._session.lost

    @property
    def closing_reply(self) -> Reply | None:
        """The reply by which the server said so, or None."""
        return self._session.closing

    @property
    def wear(self) -> tuple[int, int] | None:
        """`mails` and `nonmail`, or None where it is not `usable`: all that a pool asks when it comes back."""
        session = self._session
        ended = session.condemned is not None or session.closing is not None or session.retiring
        return None if ended or self._closed_by_owner else (session.mails, session.nonmail)

    @property
    def mails(self) -> int:
        """MAIL commands written."""
        return self._session.mails

    @property
    def nonmail(self) -> int:
        """Commands that some servers count against a session (pool VA4)."""
        return self._session.nonmail

    @property
    def noops(self) -> int:
        """NOOP commands written."""
        return self._session.noops

    @property
    def domains(self) -> Set[bytes]:
        """The domains of recipients so far; empty where the server does not limit them (RFC 9422, LI4)."""
        return self._session.domains

    @property
    def rset_alone(self) -> bool:
        """True if RSET is awaited before the next MAIL, because this endpoint cannot take both in one flight (D8)."""
        return self._session.rset_alone

    @rset_alone.setter
    def rset_alone(self, value: bool) -> None:
        self._session.rset_alone = value

    def is_quiet(self) -> bool:
        """The free check (pool VA1): no octet, end or error waits. Costs no round trip."""
        return self._driver.is_quiet()

    def hear_goodbye(self) -> None:
        """After `is_quiet` was False: keep a 421 that waits as `closing_reply` (pool VA1)."""
        self._driver.hear_goodbye()

    def probe(self, budget: Budget) -> int:
        """NOOP within the `probe` limit: the code of its reply, 0 without a clean one. All but 250 closes."""
        limit = Budget(budget.phase("probe"), None, 0.0)
        code = 0
        try:
            code = self._run(self._session.noop, limit).code
            if not self._driver.is_quiet():
                code = 0  # a surplus: it would be taken for an answer to MAIL
        except SmtpError as error:  # whatever it was: dead, and replaced (pool VA3)
            code = error.reply.code if error.reply is not None else 0
        finally:
            if code != 250:
                self.close()
        return code

    def command(self, verb: str, argument: str | None, budget: Budget) -> Reply:
        """VRFY, EXPN, HELP or NOOP: the reply. NOOP raises for 4yz and 5yz."""
        session = self._session
        flows: dict[str, Callable[[], Flow[Reply]]] = {
            "VRFY": lambda: session.vrfy(argument or ""),
            "EXPN": lambda: session.expn(argument or ""),
            "HELP": lambda: session.help(argument),
            "NOOP": session.noop,
        }
        return self._run(flows[verb], budget)

    # --- audit ---

    def _observe(self, entry: ledger.Entry) -> None:
        """A reply was settled: publish what it settles."""
        reply, kind = entry.reply, entry.kind
        if reply is None:
            return
        accepted = reply.is_positive and reply.code != 221  # that one is a farewell, as 421 is (BR2)
        if kind is ledger.GREETING:
            self._publish(audit.GreetingReceived, code=reply.code)
        elif kind is ledger.MAIL and accepted:
            self._publish(audit.MailFromAccepted, code=reply.code)
        elif kind is ledger.RCPT:
            self._publish(audit.RecipientAccepted if accepted else audit.RecipientRejected, code=reply.code)
        elif kind is ledger.END or kind is ledger.LMTP_END:
            if accepted:
                self._publish(audit.MessageAccepted, code=reply.code)
            elif kind is ledger.LMTP_END:
                self._publish(audit.RecipientRejected, code=reply.code)

    def _publish(self, event: Callable[..., audit.AuditEvent], *, last: bool = False, **fields: Any) -> None:
        sink = self._opening.audit
        if sink is None or (self._ended and not last):
            return
        made = event(connection_id=self.connection_id, endpoint=self._endpoint, seconds=time.monotonic(), **fields)
        try:
            sink.on_event(made)
        except Exception:
            self._journal.hook_failed()


def _nothing() -> None:
    """What a transport without close_notify does at its end, and what `close` does with its turn."""
