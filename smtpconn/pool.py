"""`ConnectionPool`: mails and commands over connections that are opened, checked, shared and closed by themselves.

Knows timeouts, the safe retry of D7 and the public verbs. Refuses to know how connections are found (`supply`) and
who is next (`slots`). Its laws: arguments are checked before anything is acquired; one deadline per call; a
connection is returned before its result reaches the caller; the pool has no thread of its own (D14).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, ClassVar, NoReturn

from smtpconn import discovery
from smtpconn import message as email_messages
from smtpconn.connection import Message, Recipients, open_connection
from smtpconn.deadline import Timeouts, seconds
from smtpconn.finding.domain import DomainSearch
from smtpconn.opening import CredentialsSource, Dial, Opening, concealed, credentials_of, endpoints_of
from smtpconn.outcomes import MailOutcomes, mail_of_call
from smtpconn.pooling import events, process
from smtpconn.pooling.announcer import Announcer
from smtpconn.pooling.batch import Batch
from smtpconn.pooling.calls import Calls, Result, Verb
from smtpconn.pooling.claims import IDLE, sleep_on
from smtpconn.pooling.events import EventHook
from smtpconn.pooling.lease import Lease
from smtpconn.pooling.pooled import System
from smtpconn.pooling.settings import PoolSettings, check_sizes
from smtpconn.pooling.stats import PoolStats, snapshot
from smtpconn.pooling.stock import Stock
from smtpconn.pooling.supply import Supply
from smtpconn.protocol import commands
from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.audit import AuditSink
from smtpconn.protocol.envelope import refuse_local_recipients
from smtpconn.protocol.errors import PoolClosedError, SmtpError
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.params import MailParams
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.session import ProtocolName
from smtpconn.tls import TlsConfig, TlsMode
from smtpconn.url import known, read_url

Hosts = str | Sequence["str | tuple[str, int]"]

_EXIT_PATIENCE = 0.1  # seconds that the exit of the interpreter waits for a lock


class ConnectionPool:
    """At most `max_size` connections to one service, shared by all threads.

    `host`: a name, or a sequence of names or `(name, port)` in order of preference. `timeout`: seconds for a whole
    call, or a `Timeouts`; the default of every verb. Durations are seconds; None for `max_idle`, `max_age`,
    `max_messages`, `max_waiting` and `probe_after` is no limit. Nothing is opened and no DNS is asked before the
    first verb.
    """

    _system: ClassVar[System] = System(open_connection, time.monotonic, sleep_on)

    def __init__(
        self,
        host: Hosts | DomainSearch | None = None,
        port: int | None = None,
        tls_mode: TlsMode | None = None,
        *,
        protocol: ProtocolName = "smtp",
        unix_socket: str | os.PathLike[str] | None = None,
        credentials: CredentialsSource | None = None,
        tls_config: TlsConfig | None = None,
        timeout: float | Timeouts = Timeouts(),  # noqa: B008  # frozen
        max_size: int = 4,
        min_size: int = 0,
        max_waiting: int | None = None,
        max_connecting: int = 2,
        acquire_timeout: float = 30.0,
        max_idle: float | None = 45.0,
        max_age: float | None = 300.0,
        max_messages: int | None = 100,
        probe_after: float | None = 15.0,
        pipelining: Pipelining = Pipelining.GROUPED,
        ehlo_domain: str | None = None,
        source_address: tuple[str, int] | None = None,
        dial: Dial | None = None,
        policy: SendPolicy | None = None,
        audit: AuditSink | None = None,
        allow_plaintext_auth: bool = False,
        on_event: EventHook | None = None,
        track_leases: bool = False,
        name: str | None = None,
    ) -> None:
        hidden = concealed(credentials)
        del credentials  # SEC2
        endpoints = endpoints_of(host, port, unix_socket, protocol=protocol)
        if tls_mode is None:
            if unix_socket is None:
                raise TypeError("tls_mode is required: TlsMode.IMPLICIT, STARTTLS or NONE")
            tls_mode = TlsMode.NONE
        self._opening = Opening(
            protocol=protocol,
            tls_mode=tls_mode,
            tls_config=tls_config,
            credentials=credentials_of(hidden),
            ehlo_domain=ehlo_domain,
            source_address=source_address,
            dial=dial,
            pipelining=pipelining,
            policy=policy,
            audit=audit,
            allow_plaintext_auth=allow_plaintext_auth,
        )
        discovery.check_opening(self._opening, endpoints[0])
        self._settings = PoolSettings(
            timeout=timeout,
            max_size=max_size,
            min_size=min_size,
            max_waiting=max_waiting,
            max_connecting=max_connecting,
            acquire_timeout=acquire_timeout,
            max_idle=max_idle,
            max_age=max_age,
            max_messages=max_messages,
            probe_after=probe_after,
            on_event=on_event,
            track_leases=track_leases,
            name=endpoints[0].name if name is None else name,
        )
        self._endpoints = endpoints
        self._begin(self._settings)
        process.register(self)

    @classmethod
    def from_url(cls, url: str, **keywords: Any) -> ConnectionPool:
        """The pool that a URL describes, for example `submission://user:secret@mail.example.com?max_size=8`.

        Several hosts, separated by commas, are endpoints in order of preference. `keywords`: those of the
        constructor; they win over the URL's query. Raises `InvalidInputError`, which never shows the URL.
        """
        keywords["credentials"] = concealed(keywords.get("credentials"))
        found, url = read_url(url, credentials_given=keywords["credentials"] is not None), ""  # SEC2
        parsed = known(found)
        if parsed.credentials is not None:
            keywords["credentials"] = parsed.credentials
        options = {**parsed.options, **parsed.pool_options, **keywords}
        return cls(**parsed.place, protocol=parsed.protocol, tls_mode=parsed.tls_mode, **options)

    @classmethod
    def from_domain(cls, domain: str, **keywords: Any) -> ConnectionPool:
        """A pool of connections to the servers of a mail domain, found by DNS whenever one is opened.

        `keywords`: `service`, `expected`, `dane`, `resolver`, `validating`, `tls_mode`, `port` and `own_names` as for
        `SmtpConnection.from_domain`, and those of the constructor. The servers are one endpoint to the pool.
        """
        credentials = concealed(keywords.pop("credentials", None))
        search, options = discovery.search_of(domain, keywords)
        return cls(search, tls_mode=search.least_tls, credentials=credentials, **options)

    def _begin(self, settings: PoolSettings, *, closed: bool = False) -> None:
        """An empty pool in this process."""
        system = self._system
        voice = Announcer(settings.name, settings.on_event, system.clock)
        self._batches: set[weakref.ref[Batch]] = set()
        self._min_size = settings.min_size
        self._closer: int | None = None
        self._finished = threading.Event()
        self._supply = Supply(Stock(settings, self._opening, self._endpoints, system, voice))
        self._calls = Calls(self._supply)
        if closed:
            self._supply.slots.closed = True
            self._finished.set()
        self._pid = process.pid()

    def _here(self) -> Supply:
        """The supply of this process: a raw clone runs no hooks (LE6)."""
        if self._pid != process.pid():
            self._after_fork()
        return self._supply

    def _perform(self, timeout: float | Timeouts | None, verb: Verb[Result], mail: Mail | None = None) -> Result:
        if self._pid != process.pid():
            self._after_fork()
        return self._calls.perform(timeout, verb, mail)

    # ---- mails

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: float | Timeouts | None = None,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """Send one mail by DATA, over a connection of the pool. Arguments and result as for `SmtpConnection.send`.

        A connection that proves dead before the server has said a word about the mail is replaced once, within the same
        deadline (D7). Raises what `SmtpConnection.send` and `connect` raise, and `PoolTimeoutError`, `PoolClosedError`,
        `PoolOverloadedError`.
        """
        mail = mail_of_call(sender, recipients, message, params=params, newlines=newlines, size=size)
        return self._send_mail(mail, timeout)

    def send_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: float | Timeouts | None = None,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """Send one mail by BDAT (RFC 3030); otherwise as `send`."""
        mail = mail_of_call(sender, recipients, message, params=params, newlines=newlines, size=size, chunking=True)
        return self._send_mail(mail, timeout)

    def send_message(
        self,
        email_message: Any,
        *,
        timeout: float | Timeouts | None = None,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        params: MailParams | None = None,
    ) -> SendResult:
        """Send an `EmailMessage`; what is not given comes from its headers. Otherwise as `send`."""
        mail = email_messages.mail_of(email_message, sender=sender, recipients=recipients, params=params)
        return self._send_mail(mail, timeout)

    def _send_mail(self, mail: Mail, timeout: float | Timeouts | None) -> SendResult:
        if self._opening.protocol == "smtp":
            refuse_local_recipients(mail.recipients or ())
        return self._perform(timeout, lambda connection, budget: connection.send_mail(mail, budget), mail)

    def send_many(
        self,
        mails: Iterable[Mail],
        *,
        concurrency: int | None = None,
        timeout: float | Timeouts | None = None,
        ordered: bool = True,
    ) -> MailOutcomes:
        """Send mails over several connections, lazily: one `MailOutcome` for each mail taken from `mails`.

        `concurrency`: connections at most, `max_size` by default; with 1 everything runs in the thread that asks for
        the outcomes. `timeout` is per mail. `ordered=False` yields outcomes as they come. `mails` is iterated in the
        asking thread, at most four times `concurrency` mails ahead. Mails may be delivered in any order unless
        `concurrency` is 1.
        """
        self._here()
        self._calls.budget(timeout)  # a wrong timeout is refused now, not with the first mail
        run = Batch(self._calls, mails, concurrency, timeout, ordered=ordered)
        self._batches.add(weakref.ref(run, self._batches.discard))
        outcomes = run.outcomes()
        return MailOutcomes(outcomes, f"{self._settings.name}.send_many()", lambda: run.close(outcomes))

    # ---- commands

    def vrfy(self, address: str, *, timeout: float | Timeouts | None = None) -> Reply:
        """VRFY: the reply, whatever its code. RFC 5321 section 3.5."""
        text = commands.free_text("VRFY", address)
        return self._perform(timeout, lambda connection, budget: connection.command("VRFY", text, budget))

    def expn(self, name: str, *, timeout: float | Timeouts | None = None) -> Reply:
        """EXPN: the reply, whatever its code. RFC 5321 section 3.5."""
        text = commands.free_text("EXPN", name)
        return self._perform(timeout, lambda connection, budget: connection.command("EXPN", text, budget))

    def help(self, topic: str | None = None, *, timeout: float | Timeouts | None = None) -> Reply:
        """HELP: the reply, whatever its code. RFC 5321 section 4.1.1.8."""
        text = None if topic is None else commands.free_text("HELP", topic)
        return self._perform(timeout, lambda connection, budget: connection.command("HELP", text, budget))

    def noop(self, *, timeout: float | Timeouts | None = None) -> Reply:
        """NOOP: on an empty pool a check of the whole configuration, because it opens a connection for it."""
        return self._perform(timeout, lambda connection, budget: connection.command("NOOP", None, budget))

    def connection(self, timeout: float | None = None) -> Lease:
        """A connection for a `with` block. `timeout`: seconds to acquire it in; 0: only one that is idle now."""
        settings = self._settings
        limit = settings.acquire_timeout if timeout is None else seconds("timeout", timeout, zero=True)
        return Lease(self._here, limit, settings.timeout)

    # ---- the pool as a whole

    def stats(self) -> PoolStats:
        """One consistent picture."""
        supply = self._here()
        supply.sweep_leaks()
        now = self._system.clock()
        return supply.slots.locked(
            snapshot, supply.slots, supply.endpoints, self._settings, self._min_size, self._opening.pipelining, now
        )

    def invalidate(self) -> None:
        """Retire every connection: idle ones now, leased ones when they come back.

        Forgets back-offs, limits, the credential breaker and what was learnt, too. For rotated credentials, changed
        DNS, a new version of the server. Raises `PoolClosedError`.
        """
        supply = self._open_here()
        supply.slots.locked(supply.endpoints.clear)
        generation = supply.slots.renew()
        if supply.voice.hook is not None:
            supply.voice.post(events.Invalidated, generation=generation)
        supply.withdraw("generation", wait=1.0)

    def resize(self, *, max_size: int | None = None, min_size: int | None = None) -> None:
        """Change the bounds. Surplus connections are closed when they are idle; no holder is disturbed."""
        supply = self._open_here()
        most, least = check_sizes(
            supply.slots.size if max_size is None else max_size, self._min_size if min_size is None else min_size
        )
        self._min_size = least
        supply.resize(most)
        if supply.voice.hook is not None:
            supply.voice.post(events.Resized, max_size=most, min_size=least)

    def maintain(self, *, timeout: float | None = None) -> None:
        """For an application with a timer: close what has expired or died, open up to `min_size`. Never sends a NOOP.

        `timeout`, seconds, bounds the opening. Raises nothing for the network's sake.
        """
        supply = self._open_here()
        limit = self._settings.acquire_timeout if timeout is None else seconds("timeout", timeout)
        until = self._system.clock() + limit
        supply.sweep()
        supply.inspect()
        try:
            supply.fill(self._min_size, until)
        except SmtpError:  # counted, and told to the hook, where it happened
            return

    def close(self, *, timeout: float = 5.0) -> None:
        """Close the pool: waiters are refused now, idle connections closed, leases waited for and then cut off.

        `timeout`, seconds, is for the leases; 0 cuts them off at once. Idempotent; a second thread waits for the first.
        """
        limit = seconds("timeout", timeout, zero=True)
        supply = self._here()
        until = self._system.clock() + limit
        try:
            self._close(supply, until)
        except BaseException:  # I24: whatever line it struck, the pool is closed, nothing is idle, leases end on return
            supply.close()
            self._finished.set()
            raise

    def _close(self, supply: Supply, until: float) -> None:
        if not supply.slots.locked(self._claim_closing):
            if self._closer != threading.get_ident():
                self._finished.wait(max(0.0, until - self._system.clock()))
            return
        try:
            supply.close()
        finally:
            for reference in list(self._batches):
                run = reference()
                if run is not None:
                    run.stop()
        if supply.voice.hook is not None:
            supply.voice.post(events.PoolClosed)
        if not supply.slots.drained(until):
            for slot in supply.slots.leased():
                held = slot.connection
                if held is not None:
                    held.abort()
        self._finished.set()

    def _claim_closing(self) -> bool:
        """True for the first who closes. Caller holds the lock."""
        if self._closer is not None or self._supply.slots.closed:
            return False
        self._closer = threading.get_ident()
        return True

    def _open_here(self) -> Supply:
        supply = self._here()
        if supply.slots.closed:
            raise PoolClosedError(f"the pool {self._settings.name} is closed")
        return supply

    def __enter__(self) -> ConnectionPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- fork and exit

    def _after_fork(self) -> None:
        """In a forked child: an empty pool of our own, and the parent's descriptors closed without a word."""
        slots = self._supply.slots
        inherited = [slot.connection for slot in slots.each()]
        settings = self._settings
        self._begin(settings, closed=slots.closed)
        for connection in inherited:
            if connection is not None:
                connection.abandon()

    def _at_exit(self) -> None:
        """At the interpreter's exit: QUIT to what is idle, without a wait; leases are left alone."""
        if self._pid != process.pid():
            return
        lock = self._supply.slots.lock
        if not lock.acquire(timeout=_EXIT_PATIENCE):
            return
        try:
            idle = [slot.connection for slot in self._supply.slots.each() if slot.state is IDLE]
            self._supply.slots.closed = True
        finally:
            lock.release()
        for connection in idle:
            connection.leave(None)

    def __repr__(self) -> str:
        supply = getattr(self, "_supply", None)
        if supply is None:
            return "<ConnectionPool that could not be made>"
        slots = supply.slots
        states = [slot.state for slot in list(slots.each())]
        closed = ", closed" if slots.closed else ""
        counts = ", ".join(f"{states.count(state)} {state.value}" for state in dict.fromkeys(states))
        return f"<ConnectionPool {self._settings.name}: {counts} of {slots.size}, {slots.waiting} waiting{closed}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ConnectionPool cannot be pickled or copied")
