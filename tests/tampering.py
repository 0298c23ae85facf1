"""What a server cannot do to a client is done at its transport: writes that fail, and interrupts.

A `Plan` says when and how; the transports of a pool made by `tampered_pool` follow it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from smtpconn import ConnectionPool, SmtpConnection, TlsConfig
from smtpconn.connection import _established
from smtpconn.deadline import Budget
from smtpconn.opening import Endpoint, Opening, transports
from smtpconn.pooling.claims import sleep_on
from smtpconn.pooling.pooled import System
from smtpconn.transport import Transport

_PATIENCE = 10.0  # seconds that the server may take to say what it is to say


class Plan:
    """What the transports of one pool do: nothing, until it is armed and the point is reached, and then only once."""

    def __init__(self, limit: int | None, failure: BaseException | Literal["stall"] | None, waits_for: bool) -> None:
        self.limit = limit
        self.failure = failure
        self.waits_for_octets = waits_for
        self.taken = 0
        self.armed = self.struck = False

    def strikes(self) -> None:
        self.armed, self.struck = False, True


class Tampered:
    """A transport over a socket whose writes fail, or whose reader is interrupted, as a plan says."""

    def __init__(self, inner: Any, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan
        self.close_notify = getattr(inner, "close_notify", lambda: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        plan = self._plan
        if not plan.armed or plan.limit is None:
            return int(self._inner.send(octets, timeout))
        left = plan.limit - plan.taken
        if left > 0:
            taken = int(self._inner.send(octets[:left], timeout))
            plan.taken += taken
            return taken
        if plan.waits_for_octets:
            self._inner.send(octets[:1], timeout)  # the octet that makes the server speak
            until = time.monotonic() + _PATIENCE
            while not self._inner.readable() and time.monotonic() < until:
                time.sleep(0.001)
        plan.strikes()
        if plan.failure == "stall":
            time.sleep(timeout or 0.0)
            raise TimeoutError
        assert isinstance(plan.failure, BaseException)
        raise plan.failure

    def recv(self, limit: int, timeout: float | None) -> bytes:
        plan = self._plan
        interrupted = plan.armed and plan.limit is None
        try:
            octets = bytes(self._inner.recv(limit, timeout))
        except TimeoutError:
            raise
        except OSError:
            if not interrupted:
                raise
            octets = b""
        if interrupted and not octets:
            plan.strikes()
            assert isinstance(plan.failure, BaseException)
            raise plan.failure
        return octets

    def start_tls(self, config: TlsConfig, timeout: float | None) -> Transport:
        return type(self)(self._inner.start_tls(config, timeout), self._plan)


def _connector(plan: Plan, wrapping: type[Tampered]) -> Callable[[Opening, Endpoint, Budget], SmtpConnection]:
    def connect(opening: Opening, endpoint: Endpoint, budget: Budget) -> SmtpConnection:
        transport = next(transports(opening, endpoint, budget, []))
        return _established(wrapping(transport, plan), opening, endpoint, budget, SmtpConnection)

    return connect


def tampered_pool(plan: Plan, wrapping: type[Tampered] = Tampered) -> type[ConnectionPool]:
    """A kind of pool whose connections follow the plan."""

    class TamperedPool(ConnectionPool):
        _system = System(_connector(plan, wrapping), time.monotonic, sleep_on)

    return TamperedPool
