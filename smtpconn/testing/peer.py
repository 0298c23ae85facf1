"""The far side of a scripted transport: when it says what.

It knows conversations, and the octets that a client wrote. It refuses to know reads, time-outs and delivery.

Laws: what it says lands in `inbox` in order; it says nothing before the client did what the conversation expects; the
first difference is remembered, so that a client that swallows the exception cannot hide it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from .conversation import (
    TLS,
    AnyContent,
    AnyLine,
    AnyOctets,
    Close,
    Expectation,
    Said,
    ScriptMismatch,
    Step,
    Wait,
)

__all__ = ["FlightPeer", "LinePeer", "Peer", "Turn", "said_turns"]

Turn = Said | str | tuple[Said | str, ...]
_BDAT = re.compile(rb"BDAT ([0-9]{1,18})(?: LAST)?\r\n", re.IGNORECASE)


class Peer:
    """The other side of a script."""

    def __init__(self, steps: Iterable[Step], rtt: float) -> None:
        self.inbox: deque[Said] = deque()
        self._steps: deque[Step] = deque(steps)
        self._rtt = rtt
        self._failure: ScriptMismatch | None = None
        self.answered = True
        self.flights = 0
        self.closed = False
        self._advance()

    def _advance(self) -> None:
        """Release what the peer says up to the next expectation."""
        while self._steps:
            step = self._steps[0]
            if isinstance(step, Expectation):
                return
            self._steps.popleft()
            self.say(step)

    def say(self, said: Said) -> None:
        """Put something into the inbox, after the round-trip time if there is one."""
        if self._rtt and not self.inbox:
            self.inbox.append(Wait(self._rtt))
        self.inbox.append(said)

    def hear(self, octets: bytes) -> None:
        """Compare what the client wrote."""
        while octets:
            if not self._steps:
                raise self.fail(f"the script is over, the client wrote {octets[:200]!r}")
            step = self._steps[0]
            assert isinstance(step, Expectation)
            if any(isinstance(item, bytes) for item in self.inbox):
                raise self.fail(f"{step}: the client did not wait for {self._unread()!r}")
            try:
                taken, complete = step.feed(octets)
            except ScriptMismatch as mismatch:
                raise self.fail(str(mismatch)) from None
            octets = octets[taken:]
            if complete:
                self._steps.popleft()
                self._advance()

    def hear_event(self, kind: type[Expectation]) -> None:
        """The client did something that is no octet."""
        if not self._steps or not isinstance(self._steps[0], kind):
            raise self.fail(f"the client started TLS; {self.due()}")
        self._steps.popleft()
        self._advance()

    def hear_close(self) -> None:
        """The client closed."""
        if self._steps and isinstance(self._steps[0], Close):
            self._steps.popleft()

    def about_to_read(self) -> None:
        """The client reads."""

    def due(self) -> str:
        """Say what comes next."""
        step = self._steps[0] if self._steps else None
        return f"next is {step.where}" if isinstance(step, Expectation) else "the script is over"

    def fail(self, message: str) -> ScriptMismatch:
        """Remember a difference, so that nobody swallows it; returns it to be raised."""
        mismatch = ScriptMismatch(message)
        if self._failure is None:
            self._failure = mismatch
        return mismatch

    def assert_finished(self) -> None:
        """See `ScriptedTransport.assert_finished`."""
        if self._failure is not None:
            raise self._failure
        if self._steps:
            raise ScriptMismatch(f"the script is not at its end: {self.due()}")
        if any(isinstance(item, bytes) for item in self.inbox):
            raise ScriptMismatch(f"the client left unread {self._unread()!r}")

    def _unread(self) -> bytes:
        return b"".join(item for item in self.inbox if isinstance(item, bytes))[:200]


class FlightPeer(Peer):
    """Says the next item when the client reads after having written."""

    def __init__(self, said: list[tuple[Said, ...]], rtt: float) -> None:
        self._wrote = True  # nobody need write for the greeting
        super().__init__((), rtt)
        self._items = deque(said)
        self.about_to_read()

    def hear(self, octets: bytes) -> None:
        """Anything is an occasion to answer."""
        self._wrote = True

    def hear_event(self, kind: type[Expectation]) -> None:
        """TLS may start at its mark, or anywhere if there is none."""
        if self._items and self._items[0] == (TLS,):
            self._items.popleft()

    def about_to_read(self) -> None:
        """Say the next item if the client has written since the last."""
        if self.inbox or not self._wrote or not self._items or self._items[0] == (TLS,):
            return
        self._wrote = False
        for said in self._items.popleft():
            self.say(said)

    def due(self) -> str:
        """Say what comes next."""
        return f"next is {self._items[0]!r}, when it has written" if self._items else "the conversation is over"

    def assert_finished(self) -> None:
        """See `ScriptedTransport.assert_finished`."""
        super().assert_finished()
        if self._items:
            raise ScriptMismatch(f"the conversation is not at its end: {self.due()}")


class LinePeer(FlightPeer):
    """Says the next item as soon as the client has written one command, content or chunk."""

    def __init__(self, said: list[tuple[Said, ...]], rtt: float) -> None:
        self._unit: Expectation | None = None
        self._line = b""
        super().__init__(said, rtt)

    def hear(self, octets: bytes) -> None:
        """Split into commands, contents and chunks."""
        while octets:
            unit = self._unit or AnyLine("a command")
            taken, complete = unit.feed(octets)
            if isinstance(unit, AnyLine):
                self._line += octets[:taken]
            octets = octets[taken:]
            self._unit = None if complete else unit
            if complete:
                self._complete()

    def about_to_read(self) -> None:
        """Only the greeting waits for a read."""
        if self._wrote:
            super().about_to_read()

    def _complete(self) -> None:
        line, self._line = self._line, b""
        chunk = _BDAT.fullmatch(line)
        if chunk and int(chunk[1]):
            self._unit = AnyOctets("a chunk", int(chunk[1]))
            return
        if not self._items or self._items[0] == (TLS,):
            return
        item = self._items.popleft()
        for said in item:
            self.say(said)
        last_line = (item[-1] if isinstance(item[-1], bytes) else b"").splitlines()[-1:]
        if last_line and last_line[0].startswith(b"354"):
            self._unit = AnyContent("content")


def said_turns(conversation: Iterable[Turn]) -> Iterable[tuple[Said, ...]]:
    """Bring items into one form: tuples of what is said together, text as octets."""
    for turn in conversation:
        items = turn if isinstance(turn, tuple) else (turn,)
        yield tuple(item.encode() if isinstance(item, str) else item for item in items)
