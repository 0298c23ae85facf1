"""TLS 1.3 sessions that can be resumed (RFC 8446 section 2.2): the tickets of one context, and their rules.

Knows for whom a ticket is good and for how long; refuses to know sockets and what a context trusts. Its laws: a ticket
is offered to the server that gave it, under the name that was verified then, and once; within an hour of a full
handshake everything is verified anew; nothing that fails because of a ticket fails twice. TLS 1.3 only: there each
session has a key exchange of its own (psk_dhe_ke), whereas the key of a TLS 1.2 ticket opens all that it resumed. Early
data is never sent. The module imports where `ssl` is missing.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

Key = tuple[str, str]  # the name that was verified, and the peer that was dialled

LONGEST = 3_600.0  # seconds: a certificate that expired or was revoked is noticed then
TICKETS_KEPT = 4  # for one key: as many connections as a growing pool opens at once
SERVERS_KEPT = 32  # a ticket may have 64 KiB and comes with a certificate: that bounds what hostile servers can fill
_WASTED = 8  # in a row; a server that restarted has made the tickets worthless that it gave before


def _clock() -> Callable[[], float]:
    """A monotonic clock that goes on while the machine sleeps, where the system has one: a certificate does expire."""
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # Linux; macOS, where time.monotonic() stands still meanwhile
        number = getattr(time, name, None)
        if number is not None:
            with contextlib.suppress(OSError):
                time.clock_gettime(number)
                return functools.partial(time.clock_gettime, number)
    return time.monotonic


class _Ticket(NamedTuple):
    session: Any  # an ssl.SSLSession: opaque, it shows no secret and cannot be pickled
    verified: float  # the moment of the full handshake that it goes back to
    end: float


class _Shelf:
    """What is kept for one key."""

    __slots__ = ("barred_until", "tickets", "wasted")

    def __init__(self) -> None:
        self.tickets: list[_Ticket] = []
        self.barred_until = 0.0
        self.wasted = 0

    def bar(self, now: float) -> None:
        self.tickets.clear()
        self.barred_until = now + LONGEST
        self.wasted = 0


class TlsSessions:
    """The tickets of one context; safe for threads, empty in a forked child."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or _clock()
        self.renew()

    def renew(self) -> None:
        """Forget everything, the lock included. In a child: a ticket of the parent is not used twice."""
        self._lock = threading.Lock()
        self._shelves: OrderedDict[Key, _Shelf] = OrderedDict()
        self._barred: deque[tuple[Key, float]] = deque(maxlen=SERVERS_KEPT)  # not yet told to the shelves

    def begin(self, sock: Any, key: Key) -> Resumption:
        """The part of a connection whose handshake begins now: a ticket is offered if there is one."""
        return Resumption(self, sock, key)

    def take(self, key: Key) -> _Ticket | None:
        """The newest ticket, which nobody else gets (RFC 8446 appendix C.4)."""
        now = self.clock()
        with self._lock:
            self._settle()
            shelf = self._shelves.get(key)
            while shelf is not None and shelf.tickets:
                ticket = shelf.tickets.pop()
                if now < ticket.end:
                    self._shelves.move_to_end(key)
                    return ticket
        return None

    def wants(self, key: Key) -> bool:
        """False if there are enough, or if none are to be kept: copying one takes OpenSSL 3.0 a third of a ms."""
        now = self.clock()
        with self._lock:
            self._settle()
            shelf = self._shelves.get(key)
            if shelf is None:
                return True
            shelf.tickets = [each for each in shelf.tickets if now < each.end]
            return len(shelf.tickets) < TICKETS_KEPT and now >= shelf.barred_until

    def put(self, key: Key, session: Any, verified: float) -> None:
        """Keep a session for as long as it says itself, and never longer than `LONGEST` behind its full handshake."""
        now = self.clock()
        end = min(verified + LONGEST, now + session.ticket_lifetime_hint)
        with self._lock:
            self._settle()
            shelf = self._shelf(key)
            if now < end and now >= shelf.barred_until:
                shelf.tickets.append(_Ticket(session, verified, end))
                del shelf.tickets[:-TICKETS_KEPT]

    def bar(self, key: Key) -> None:
        """Forget the tickets of this key and keep none for a while.

        Without the lock: a finaliser closes a connection, and it may run in the thread that holds it.
        """
        self._barred.append((key, self.clock()))

    def told(self, key: Key, *, useful: bool) -> None:
        """Whether it was worth while: a server that gives no tickets, or takes none back, is asked less often."""
        now = self.clock()
        with self._lock:
            self._settle()
            shelf = self._shelf(key)
            shelf.wasted = 0 if useful else shelf.wasted + 1
            if shelf.wasted >= _WASTED:
                shelf.bar(now)

    def _settle(self) -> None:
        """The caller holds the lock."""
        while self._barred:
            key, now = self._barred.popleft()
            self._shelf(key).bar(now)

    def _shelf(self, key: Key) -> _Shelf:
        """The caller holds the lock."""
        shelf = self._shelves.setdefault(key, _Shelf())
        self._shelves.move_to_end(key)
        while len(self._shelves) > SERVERS_KEPT:
            self._shelves.popitem(last=False)
        return shelf


class Resumption:
    """One connection's part: it offers a ticket, and leaves one for the next. Used by one thread at a time.

    `resumed`: the server took the ticket. `heard`: octets of the server were read, and with them its new tickets.
    """

    __slots__ = ("_key", "_offered", "_sessions", "_verified", "heard", "resumed")

    def __init__(self, sessions: TlsSessions, sock: Any, key: Key) -> None:
        self._sessions = sessions
        self._key = key
        self._offered = sessions.take(key)
        self._verified = sessions.clock()
        self.resumed = self.heard = False
        if self._offered is not None:
            with contextlib.suppress(ValueError):  # a session of another context, says ssl: a full handshake then
                sock.session = self._offered.session

    def agreed(self, sock: Any) -> bool:
        """The handshake is over: False if nothing can be kept, because the version is below 1.3."""
        self.resumed = bool(sock.session_reused)
        if self._offered is not None:
            self._sessions.told(self._key, useful=self.resumed)
            if self.resumed:
                # Resuming what was resumed for ever would put off the next look at the certificate for ever.
                self._verified = self._offered.verified
        return bool(sock.version() == "TLSv1.3")

    def failed(self) -> None:
        """The handshake, or the first read behind it, came to nothing.

        A server that stumbles over tickets, or something on the way, would fail every second time: it gets no more of
        them for as long as a ticket lives.
        """
        if self._offered is not None and not self.heard:
            self._sessions.bar(self._key)

    def keep(self, sock: Any) -> None:
        """Leave the ticket that the server sent; asked once, when octets were read and the server is busy."""
        if not self._sessions.wants(self._key):
            return
        session = None
        with contextlib.suppress(OSError, ValueError):
            session = sock.session
        if session is None or not session.has_ticket:
            self._sessions.told(self._key, useful=False)
            return
        self._sessions.put(self._key, session, self._verified)

    def forgo(self) -> None:
        """No resumption with this server: see `TlsTransport.forgo_resumption`."""
        self._sessions.bar(self._key)
