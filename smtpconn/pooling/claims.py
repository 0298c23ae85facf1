"""The vocabulary of slots: what owns what, who waits, and what a caller is told to do next.

Knows names and states; decides nothing. Connections and endpoints are opaque here.
"""

from __future__ import annotations

import enum
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from smtpconn.protocol.mail import Recipient

Clock = Callable[[], float]
Sleep = Callable[[threading.Lock, float], object]


class SlotState(enum.Enum):
    """Where a slot is in its life. Every state but `EMPTY` counts against the maximum."""

    EMPTY = "empty"
    OPENING = "opening"
    IDLE = "idle"
    HANDED = "handed"
    LEASED = "leased"  # and checking: the owner alone knows whether his check is over (`Claim.checked`)
    CLOSING = "closing"


class TicketState(enum.Enum):
    """Where a waiter is."""

    WAITING = "waiting"
    GRANTED = "granted"
    ABANDONED = "abandoned"
    CLOSED = "closed"


class Outcome(enum.Enum):
    """What a caller has to do next."""

    CHECK = "check the connection that you own now"
    OPEN = "open a connection in the slot that you own now"
    QUEUED = "wait"
    DOOMED = "close what you were given to close, then come again"
    BUSY = "nothing is there at once"
    OVERLOADED = "too many wait already"
    HOPELESS = "no wait could succeed before the deadline"
    EXPIRED = "the deadline has passed"
    CLOSED = "the pool is closed"
    OUTDATED = "the connection came too late for its generation or size: close it, then start over"
    LEASED = "it is yours"


class _Here(threading.local):
    """The thread that asks: `current_thread` is three calls."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()


_here = _Here()

EMPTY, OPENING, IDLE, HANDED, LEASED, CLOSING = SlotState


class Slot:
    """Room for one connection, and what is known of it. Times are readings of the clock."""

    __slots__ = (
        "born",
        "connection",
        "counts_domains",
        "culprit",
        "endpoint",
        "ends",
        "expires",
        "generation",
        "heard",
        "mails",
        "most_mails",
        "opened",
        "reason",
        "replacing",
        "returned",
        "since",
        "state",
        "suspect",
        "uses",
        "watch",
    )

    def __init__(self) -> None:
        self.state = EMPTY
        self.watch: Watch | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the connection."""
        self.connection: Any = None
        self.endpoint: Any = None
        self.generation = 0
        self.opened = False  # its connection was counted as opened
        self.replacing = False  # opening in place of a connection that died under its owner
        self.born = self.returned = self.heard = self.since = 0.0
        self.ends = self.expires = math.inf
        self.uses = 0  # claims that have ended on it
        self.mails = 0  # MAILs written on it, noted by its owner when he closes it
        self.most_mails = math.inf  # MAILs that it may carry, by the settings and its MAILMAX
        self.counts_domains = False  # the server said RCPTDOMAINMAX
        self.suspect = False
        self.reason = ""  # why it is closing
        self.culprit: Watch | None = None  # whose claim was dropped

    def __repr__(self) -> str:
        return f"<Slot {self.state.value}, {self.uses} uses>"


class Watch(weakref.ref["Claim"]):
    """The finaliser of a claim: when the claim is dropped, the watch itself lands in the leak queue, by C code."""

    __slots__ = ("stack", "thread")

    thread: threading.Thread
    stack: str  # only if leases are tracked


class LeakQueue(Protocol):
    """Where the watches of dropped claims go."""

    forget: Callable[[Watch], None]


class Claim:
    """One caller's right to a slot: it exists before any slot is reserved, so no moment is without an owner.

    `checked`: the connection was found good, the claim is a lease. `reused`: it had served before. `touched`: something
    was written or read before that. `waited`: seconds in the queue, or None. `watch` is None once the claim has ended.
    `recipients`: of the mail that it is for. `party`: the batch that it belongs to.
    """

    # Defaults of the class: a claim is made for each mail, and most of them are never written.
    slot: Slot | None = None
    ticket: Ticket | None = None
    number = 0
    checked = granted = probed = reused = touched = False
    waited: float | None = None
    party: object = None
    recipients: tuple[Recipient, ...] = ()
    verdicts: list[int] | None = None
    watch: Watch | None

    def __init__(self, slots: LeakQueue) -> None:
        watch = Watch(self, slots.forget)
        watch.thread = _here.thread
        self.watch = watch


class Ticket:
    """A waiter: its number, its deadline, the lock that it sleeps on. Its state changes only under the slots' lock.

    `nap`: seconds that it may sleep before it looks for the first time; 0: it has to look at once.
    """

    __slots__ = ("nap", "number", "party", "queued", "state", "until", "wake", "watch")

    def __init__(self, number: int, until: float, queued: float, watch: Watch | None, party: object) -> None:
        self.party = party
        self.number = number
        self.until = until
        self.queued = queued
        self.watch = watch
        self.nap = 0.0
        self.state = TicketState.WAITING
        self.wake = threading.Lock()
        self.wake.acquire()


class Gate(Protocol):
    """Says when an open may begin. All of it is called under the lock of the slots, and must not block."""

    limited: bool  # some endpoint takes less than the whole size: `surplus` is worth asking

    def opens_at(self, now: float, slots: Sequence[Slot]) -> float:
        """The moment from which an open into an empty slot is allowed; inf: some event must come first."""

    def refuses(self, now: float) -> bool:
        """True if, with nothing live, nobody shall wait for an open at all (the credential breaker)."""

    def reserve(self, slot: Slot, now: float, slots: Sequence[Slot]) -> None:
        """An open begins in this slot: write its endpoint."""

    def left(self, slot: Slot, now: float) -> None:
        """The connection of this slot is closed."""

    def may_replace(self, slot: Slot, now: float, slots: Sequence[Slot]) -> bool:
        """True if a connection that died may be replaced in its own slot."""

    def surplus(self, slot: Slot, now: float, slots: Sequence[Slot]) -> bool:
        """True if the connection is one more than its endpoint is believed to take."""


def sleep_on(lock: threading.Lock, timeout: float) -> bool:
    """Sleep until another thread releases the lock, at most `timeout` seconds."""
    return lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


def last_return(slot: Slot) -> float:
    """The order of the stack of idle connections."""
    return slot.returned
