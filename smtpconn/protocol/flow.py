"""The vocabulary of a conversation: a flow is a generator, and its one effect is a `Step`.

A flow yields "write these octets, then hand me that many replies" and is given the replies. It never sees an I/O error:
when one happens the driver poisons the connection, closes the flow and raises.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Sequence
from typing import TypeVar

from smtpconn.protocol.ledger import Entry, Kind
from smtpconn.protocol.reply import Reply

Result = TypeVar("Result")


class Pipelining(enum.IntEnum):
    """How far commands run ahead of their replies, in rising order.

    `OFF`: one command at a time. `GROUPED` (default): MAIL, RCPT and DATA in one flight where the server offers
    PIPELINING (RFC 2920). `PREFETCH`: `send_many` puts the next envelope behind the end of data. `BURST`: whole BDAT
    transactions in one flight. The last two are for a server that the caller knows; see the documentation before
    choosing them.
    """

    OFF = 0
    GROUPED = 1
    PREFETCH = 2
    BURST = 3

    def __repr__(self) -> str:
        return f"Pipelining.{self.name}"


class Step:
    """Write `octets` (may be empty), then hand back the replies that are owed.

    `expects`: the replies that these octets call for; the driver enters them in the ledger before it writes. `doing`:
    the stage that an error of the writing names. `replies`: how many to await, all that are owed by default.
    `droppable`: the driver may refuse the whole Step for want of time (D4) and leave the connection usable, because
    nothing was begun. `ahead`: a run-ahead flight; what is still said after a fault decides verdicts (AN4, LO2).
    """

    __slots__ = ("ahead", "doing", "droppable", "expects", "octets", "replies")

    def __init__(
        self,
        octets: bytes | memoryview,
        expects: Sequence[Entry],
        doing: str,
        *,
        replies: int | None = None,
        droppable: bool = False,
        ahead: bool = False,
    ) -> None:
        self.octets = octets
        self.expects = expects
        self.doing = doing
        self.replies = replies
        self.droppable = droppable
        self.ahead = ahead

    def __repr__(self) -> str:
        return f"<Step {self.doing}: {len(self.octets)} octets, {len(self.expects)} replies>"


Flow = Generator[Step, Sequence[Reply], Result]


def exchange(line: bytes, kind: Kind) -> Flow[Reply]:
    """One command line, one reply."""
    replies = yield Step(line, (Entry(kind),), kind.stage)
    return replies[0]


def groups(lines: Sequence[bytes], entries: Sequence[Entry], limit: int) -> list[tuple[bytes, Sequence[Entry]]]:
    """Whole lines in groups of at most `limit` octets; a line is never split, and goes alone where it is longer."""
    whole = b"".join(lines)
    if len(whole) <= limit:
        return [(whole, entries)]
    found: list[tuple[bytes, Sequence[Entry]]] = []
    begin = size = 0
    for place, line in enumerate(lines):
        if place > begin and size + len(line) > limit:
            found.append((b"".join(lines[begin:place]), entries[begin:place]))
            begin, size = place, 0
        size += len(line)
    return [*found, (b"".join(lines[begin:]), entries[begin:])]
