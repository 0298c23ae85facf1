"""The replies that are still owed, in order, and how much of the output the transport took.

A pure object. One complete reply settles the entry at the head; neither code nor text chooses the entry (RFC 2920
section 3.1: match by counting). What a loss leaves in doubt follows from two numbers: the offset of a commit point, and
the octets taken.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence

from smtpconn.protocol.reply import Reply


@functools.cache
def _permitted(classes: tuple[int, ...], exact: tuple[int, ...]) -> frozenset[int]:
    codes = [code for code in range(200, 600) if code // 100 in classes]
    return frozenset(code for code in codes if not exact or code >= 400 or code in exact)


class Kind:
    """What a reply answers.

    The stage that errors name, the field of `Timeouts` that limits it, and the codes it may have.
    """

    __slots__ = ("codes", "opens", "phase", "stage")

    def __init__(
        self,
        stage: str,
        phase: str,
        *,
        classes: tuple[int, ...] = (2, 4, 5),
        exact: tuple[int, ...] = (),
        opens: bool = False,
    ) -> None:
        self.stage = stage
        self.phase = phase
        # The codes permitted (LG3); `exact` are the positive ones, where the first digit does not decide (BR2).
        self.codes = _permitted(classes, exact)
        self.opens = opens  # nothing of a transaction is settled while this is owed: repeating is harmless (BR6)

    def permits(self, code: int) -> bool:
        """True if a reply with this code can stand here (LG3)."""
        return code in self.codes

    def __repr__(self) -> str:
        return f"<Kind {self.stage}>"


GREETING = Kind("greeting", "greeting", exact=(220,))
EHLO = Kind("EHLO", "ehlo", exact=(250,), opens=True)
LHLO = Kind("LHLO", "ehlo", exact=(250,), opens=True)
HELO = Kind("HELO", "ehlo", exact=(250,))
STARTTLS = Kind(
    "STARTTLS", "command", classes=(2, 3, 4, 5)
)  # anything but 220 is a refusal (F13), not a misunderstanding
RSET = Kind("RSET", "rset", opens=True)
NOOP = Kind("NOOP", "noop", opens=True)
VRFY = Kind("VRFY", "command", opens=True)
EXPN = Kind("EXPN", "command", opens=True)
HELP = Kind("HELP", "command", opens=True)
QUIT = Kind("QUIT", "quit", classes=(2, 3, 4, 5))
MAIL = Kind("MAIL", "mail", opens=True)
RCPT = Kind("RCPT", "rcpt")
DATA = Kind("DATA", "data", classes=(3, 4, 5))
CHUNK = Kind("BDAT", "body")
END = Kind("end of data", "final_reply")
LMTP_END = Kind(
    "end of data", "final_reply"
)  # 421 here speaks of one recipient; the replies behind it are read on (L1)
DOT = Kind("end of data", "final_reply")  # the lone dot of a transaction without recipients
BODY = Kind("body", "body")  # nothing is owed while a body is written


def auth_kind(mechanism: str) -> Kind:
    """The kind of every reply in an AUTH exchange (RFC 4954); the exchange itself says what 235 and 334 are worth."""
    return Kind(f"AUTH {mechanism}", "auth", classes=(2, 3, 4, 5))


class Entry:
    """One reply owed. `offset`: where its commit point ends in the octets of its Step, or None if it has none.

    `announced`: it belongs to an envelope that was written behind another mail's end of data. `more`: asked once the
    entry is at the head, gives those that stand beside it (LG4).
    """

    __slots__ = ("announced", "end", "kind", "more", "offset", "reply")

    def __init__(self, kind: Kind, offset: int | None = None, *, announced: bool = False) -> None:
        self.kind = kind
        self.offset = offset
        self.announced = announced
        self.more: Callable[[], Sequence[Entry]] | None = None
        self.end: int | None = None  # the offset in the whole output, once entered
        self.reply: Reply | None = None

    def __repr__(self) -> str:
        return f"<Entry {self.kind.stage}: {self.reply or 'owed'}>"


class Ledger:
    """The entries owed, and the octets handed to and taken by the transport since the connection began."""

    __slots__ = ("farewell", "garbled", "handed", "last", "owed", "surplus", "taken")

    def __init__(self) -> None:
        self.owed: deque[Entry] = deque()
        self.surplus: list[Reply] = []  # read in a flight that is out of step, from the reply that showed it (AN4)
        self.garbled = False  # octets behind these are no reply: how many there were is not known (PF6)
        self.last: Reply | None = None  # the last one settled
        self.farewell = False  # the last reply in step was 421 or 221, and the end followed directly (LO4)
        self.taken = 0
        self.handed = 0  # beyond `taken` while a write is under way: the kernel may have them (BR22)

    def enter(self, *entries: Entry) -> None:
        """Append the entries of a Step, before its octets are written."""
        for entry in entries:
            if entry.offset is not None:
                entry.end = self.taken + entry.offset
        self.owed.extend(entries)

    def settle(self, reply: Reply) -> Entry:
        """Give the reply to the entry at the head."""
        entry = self.owed.popleft()
        entry.reply = self.last = reply
        return entry

    def settle_alike(self, reply: Reply, count: int) -> None:
        """Give the reply that was settled last to so many more entries at the head."""
        for _ in range(count):
            self.owed.popleft().reply = reply

    def head(self) -> Entry:
        """The entry that the next reply settles."""
        entry = self.owed[0]
        if entry.more is not None:
            others, entry.more = entry.more(), None
            for place, other in enumerate(others, 1):
                other.end = entry.end
                self.owed.insert(place, other)
        return entry

    @property
    def in_doubt(self) -> bool:
        """True while a mail is committed and its reply is owed."""
        return any(self.committed(entry) for entry in self.owed)

    def committed(self, entry: Entry) -> bool:
        """True if the octet that commits this entry's mail may have left."""
        return entry.end is not None and self.handed >= entry.end
