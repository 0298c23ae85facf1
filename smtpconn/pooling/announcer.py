"""What a pool tells the world: events to its hook, records to the logger `smtpconn.pool`.

Knows no lock of the pool, and is never called while one is held. Its laws: without a hook no event is made; the hook
is called by one thread at a time, in the order in which things happened, and may call the pool; what it raises is
logged and counted and changes nothing; a record costs nothing while its level is off, and carries no address, no
secret and no content.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from smtpconn.pooling import events
from smtpconn.pooling.events import EventHook, PoolEvent

_log = logging.getLogger("smtpconn.pool")


class Announcer:
    """The voice of one pool. `count_fault` is told of each exception of the hook."""

    def __init__(self, name: str, hook: EventHook | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.hook = hook
        self.count_fault: Callable[[], object] = int
        self._clock = clock
        self._outbox: deque[PoolEvent] = deque()
        self._publishing = threading.Lock()

    def post(self, kind: type[PoolEvent], *, of: Any = None, endpoint: str = "", **fields: Any) -> None:
        """Give the hook an event; `of` is the connection it is about. Call only where `hook` is not None."""
        number = of.connection_id if of is not None else 0
        self._outbox.append(kind(pool=self.name, endpoint=endpoint, connection_id=number, at=self._clock(), **fields))
        self.publish()

    def publish(self) -> None:
        """Hand over what is in the box, unless somebody is doing so: he will see it, also from inside the hook."""
        while self._outbox and self._publishing.acquire(blocking=False):
            try:
                while self._outbox:
                    self._tell(self._outbox.popleft())
            finally:
                self._publishing.release()

    def _tell(self, event: PoolEvent) -> None:
        hook = self.hook
        if hook is None:
            return
        try:
            hook(event)
        except Exception:
            self.count_fault()
            self._record(logging.WARNING, "the hook of %s failed", self.name or "a pool", exc_info=True)

    # ---- records

    def opened(self, connection: Any, endpoint: str, seconds: float) -> None:
        """A connection is ready."""
        if self.hook is not None:
            self.post(events.ConnectionOpened, of=connection, endpoint=endpoint, seconds=seconds)
        if _log.isEnabledFor(logging.DEBUG):
            extra = self._extra(connection, endpoint, smtp_seconds=seconds)
            number = connection.connection_id
            self._record(
                logging.DEBUG, "connection %d to %s opened in %.3f s", number, endpoint, seconds, extra=extra
            )

    def closed(self, connection: Any, endpoint: str, reason: str, uses: int, age: float) -> None:
        """A connection is gone."""
        reply = connection.closing_reply
        code = None if reply is None else reply.code
        if self.hook is not None:
            self.post(
                events.ConnectionClosed, of=connection, endpoint=endpoint, reason=reason, code=code, uses=uses, age=age
            )
        if _log.isEnabledFor(logging.DEBUG):
            extra = self._extra(connection, endpoint, **({} if code is None else {"smtp_code": code}))
            number = connection.connection_id
            text = "connection %d to %s closed: %s, %d uses"
            self._record(logging.DEBUG, text, number, endpoint, reason, uses, extra=extra)

    def retried(self, connection: Any, endpoint: str, error: BaseException, uses: int) -> None:
        """A stale connection: the same goes again over a fresh one."""
        if self.hook is not None:
            self.post(events.Retried, of=connection, endpoint=endpoint, error=type(error).__name__)
        if _log.isEnabledFor(logging.DEBUG):
            extra = self._extra(connection, endpoint)
            number, kind = connection.connection_id, type(error).__name__
            text = "connection %d to %s was stale after %d uses (%s): retried"
            self._record(logging.DEBUG, text, number, endpoint, uses, kind, extra=extra)

    def limited(self, endpoint: str, limit: int, code: int | None) -> None:
        """The endpoint takes fewer connections than the pool would have (BO8)."""
        self.warning(endpoint, "%s takes %d connections for now", endpoint, limit)
        if self.hook is not None:
            self.post(events.Limited, endpoint=endpoint, limit=limit, code=code)

    def leaked(self, connection: Any, endpoint: str, thread: str, stack: str | None) -> None:
        """A lease was dropped (LE4). Raises what a filter makes of the `ResourceWarning`."""
        if self.hook is not None:
            self.post(events.Leaked, of=connection, endpoint=endpoint, holder=thread)
        where = f"\n{stack}" if stack else ""
        self.warning(endpoint, "a lease taken by thread %s was dropped, not returned%s", thread, where)
        text = f"a lease of {self.name} taken by thread {thread} was dropped, not returned: use `with`{where}"
        warnings.warn(text, ResourceWarning, stacklevel=3)

    def warning(self, endpoint: str, text: str, *values: object) -> None:
        """A limit, the breaker, a fail-over, a leak."""
        self._record(logging.WARNING, f"pool %s: {text}", self.name, *values, extra=self._extra(None, endpoint))

    def suppressed(self, doing: str) -> None:
        """An exception of our own housekeeping, which must not replace a caller's result (I21)."""
        self._record(logging.WARNING, "pool %s: %s failed", self.name, doing, exc_info=True)

    def _record(
        self,
        level: int,
        text: str,
        *values: object,
        exc_info: bool = False,
        extra: dict[str, object] | None = None,
    ) -> None:
        """A handler that raises costs no slot and changes no outcome (LG5, NN16)."""
        with contextlib.suppress(Exception):
            _log.log(level, text, *values, exc_info=exc_info, extra=extra or self._extra(None, ""))

    def _extra(self, connection: Any, endpoint: str, **more: object) -> dict[str, object]:
        extra: dict[str, object] = {"smtp_pool": self.name, **more}
        if endpoint:
            extra["smtp_endpoint"] = endpoint
        if connection is not None:
            extra["smtp_connection"] = connection.connection_id
            extra["smtp_use"] = connection.mails
        return extra
