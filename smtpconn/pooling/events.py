"""What happens in a pool, as frozen values for `ConnectionPool(on_event=...)`.

An event carries the name of its pool and a reading of the monotonic clock; where they apply the endpoint and the
connection's number. `error` is the name of a class, `code` a reply code: no text, no address and no secret is in any
of them, so that they may go wherever an `AuditSink` writes to. The set is open: a hook ignores what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PoolEvent:
    """Base of the events. `at`: a reading of the monotonic clock; `connection_id`: 0 where there is no connection."""

    pool: str
    endpoint: str = ""
    connection_id: int = 0
    at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ConnectionOpened(PoolEvent):
    """A connection is ready, logged in where credentials were given; `seconds`: what opening it took."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class ConnectionFailed(PoolEvent):
    """An open failed."""

    error: str
    code: int | None = None


@dataclass(frozen=True, kw_only=True)
class ConnectionClosed(PoolEvent):
    """A connection is gone; `reason` is a key of `PoolStats.retired`, `uses` its leases, `age` its seconds."""

    reason: str
    code: int | None = None
    uses: int = 0
    age: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AcquireStarted(PoolEvent):
    """A caller asks for a connection."""


@dataclass(frozen=True, kw_only=True)
class Acquired(PoolEvent):
    """He has one: after `waited` seconds in the queue; `reused`: it had served before."""

    waited: float
    reused: bool


@dataclass(frozen=True, kw_only=True)
class AcquireFailed(PoolEvent):
    """He has none."""

    error: str


@dataclass(frozen=True, kw_only=True)
class Returned(PoolEvent):
    """A lease has ended, `seconds` after its connection was taken or opened."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class ClosingSeen(PoolEvent):
    """The server ended a connection by this reply, or by end of file (`code` is None); its siblings are looked at."""

    code: int | None = None


@dataclass(frozen=True, kw_only=True)
class Limited(PoolEvent):
    """The endpoint takes only so many connections for a while."""

    limit: int
    code: int | None = None


@dataclass(frozen=True, kw_only=True)
class BackedOff(PoolEvent):
    """No open to the endpoint for `delay` seconds."""

    delay: float
    error: str


@dataclass(frozen=True, kw_only=True)
class BreakerOpened(PoolEvent):
    """The credentials were refused: no login for `delay` seconds."""

    delay: float


@dataclass(frozen=True, kw_only=True)
class BreakerClosed(PoolEvent):
    """Logins are tried again."""


@dataclass(frozen=True, kw_only=True)
class Retried(PoolEvent):
    """A mail or command goes again over a fresh connection, because the reused one had died before."""

    error: str


@dataclass(frozen=True, kw_only=True)
class Invalidated(PoolEvent):
    """`invalidate()` began this generation."""

    generation: int


@dataclass(frozen=True, kw_only=True)
class Resized(PoolEvent):
    """`resize()` has set these bounds."""

    max_size: int
    min_size: int


@dataclass(frozen=True, kw_only=True)
class Leaked(PoolEvent):
    """A lease was dropped without being returned; `holder` is the name of the thread that took it."""

    holder: str


@dataclass(frozen=True, kw_only=True)
class PoolClosed(PoolEvent):
    """`close()` was called."""


EventHook = Callable[[PoolEvent], object]
