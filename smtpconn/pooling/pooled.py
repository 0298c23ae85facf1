"""What a pool takes from outside: connections, a way to make them, a clock, a way to sleep."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import NamedTuple, Protocol

from smtpconn.chain import Chain
from smtpconn.deadline import Budget, Clock, Timeouts
from smtpconn.opening import Endpoint, Opening
from smtpconn.pooling.claims import Sleep
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import SendResult
from smtpconn.sending import Flights


class PooledConnection(Protocol):
    """A connection, as far as the pool knows it: `smtpconn.connection.SmtpConnection` is one."""

    connection_id: int
    rset_alone: bool  # RSET is awaited before the next MAIL (D8)
    held_back: bool  # what is sent now was sent before, and does not run ahead (pipelining FB8)
    flights: Flights | None  # is asked before a flight that runs ahead, and told how it ended

    @property
    def usable(self) -> bool:
        """Not poisoned, not closed, not closing."""
        ...

    @property
    def wear(self) -> tuple[int, int] | None:
        """`mails` and `nonmail`, or None where it is not `usable`."""
        ...

    @property
    def is_shutting_down(self) -> bool:
        """The server has said or shown that it closes the connection (D6)."""
        ...

    @property
    def closing_reply(self) -> Reply | None:
        """The reply by which it said so."""
        ...

    @property
    def mails(self) -> int:
        """MAIL commands written."""
        ...

    @property
    def nonmail(self) -> int:
        """Commands that some servers count against a session (VA4)."""
        ...

    @property
    def noops(self) -> int:
        """NOOP commands written."""
        ...

    @property
    def domains(self) -> Set[bytes]:
        """The domains of recipients so far, where the server limits them."""
        ...

    @property
    def capabilities(self) -> ServerCapabilities:
        """What the last EHLO offered."""
        ...

    def is_quiet(self) -> bool:
        """VA1: no octet, end or error waits; no round trip."""
        ...

    def hear_goodbye(self) -> None:
        """After `is_quiet` was False: keep a 421 that waits as `closing_reply`."""
        ...

    def probe(self, budget: Budget) -> int:
        """NOOP: the code of its reply, 0 without one; anything but 250 leaves the connection closed."""
        ...

    def send_mail(self, mail: Mail, budget: Budget) -> SendResult:
        """Send one mail."""
        ...

    def chain(self, timeout: float | Timeouts, clock: Clock) -> Chain:
        """For mails of one batch that may share flights; `timeout` is per mail."""
        ...

    def command(self, verb: str, argument: str | None, budget: Budget) -> Reply:
        """VRFY, EXPN, HELP or NOOP."""
        ...

    def part(self) -> None:
        """Write QUIT; `leave` reads the answer."""
        ...

    def leave(self, budget: Budget | None) -> None:
        """QUIT, if it was not written, and close; without a budget nothing is awaited."""
        ...

    def close(self) -> None:
        """Close without QUIT; silent, idempotent."""
        ...

    def abort(self) -> None:
        """From another thread: its verb ends as a lost connection."""
        ...

    def abandon(self) -> None:
        """In a forked child: close the descriptor, write nothing."""
        ...


Connector = Callable[[Opening, Endpoint, Budget], PooledConnection]


class System(NamedTuple):
    """What a pool takes from outside; other things in tests."""

    connector: Connector
    clock: Clock
    sleep: Sleep
