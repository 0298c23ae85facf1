"""How the connections of a pool tell what became of their run-ahead flights, and ask whether one more may go.

Knows one endpoint's mark; refuses to know mails. It is called in the middle of a connection's call, so it takes the
lock of the slots for bookkeeping only, and logs outside it.
"""

from __future__ import annotations

from smtpconn.pooling.endpoints import Health
from smtpconn.pooling.stock import Stock


class EndpointFlights:
    """The run-ahead flights to one endpoint: what `smtpconn.sending.Flights` describes."""

    def __init__(self, stock: Stock, health: Health) -> None:
        self._stock = stock
        self._health = health
        self._mark = health.mark

    def allows(self) -> bool:
        """A look, without the lock: it may be stale."""
        return self._mark.reason is None or self._mark.allows(self._stock.clock())

    def admit(self) -> bool:
        """The last question before a flight."""
        return self._mark.reason is None or self._stock.slots.locked(self._mark.admit, self._stock.clock())

    def aligned(self) -> None:
        """One was answered in step."""
        if self._mark.is_clean:
            return
        self._stock.slots.locked(self._mark.aligned)

    def lost(self, error: str) -> None:
        """One was lost, or met silence."""
        if self._stock.slots.locked(self._mark.lost, self._stock.clock(), error):
            self._warn()

    def misbehaved(self, reason: str) -> None:
        """One was out of step, or refused for being one."""
        if self._stock.slots.locked(self._mark.misbehaved, reason):
            self._warn()

    def _warn(self) -> None:
        name, reason = self._health.name, self._mark.reason
        self._stock.voice.warning(name, "%s is served with GROUPED from now on: %s", name, reason)
