"""What an endpoint has shown about flights that run ahead (pipelining FB1-FB3).

Knows how such flights ended and the clock's readings that it is given; refuses to know threads and I/O: the methods
are called under the lock of the slots, `allows` and `admit` but for a look. Its laws: one mark per endpoint, for
PREFETCH and BURST alike; what is out of step marks for good; what is lost marks for a time, and then one flight is let
through to see.
"""

from __future__ import annotations

import math

HOLD = 600.0  # seconds (FB3)
_IN_A_ROW = 2


class Mark:
    """The mark of one endpoint. `reason` is one safe line, or None where there is no mark."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything (GN1)."""
        self.reason: str | None = None
        self._until = -math.inf
        self._lost = 0  # flights running that were lost or met silence
        self._trial = False

    @property
    def is_clean(self) -> bool:
        """True where there is nothing that an aligned flight would change; a look."""
        return self.reason is None and not self._lost

    def allows(self, now: float) -> bool:
        """True unless it is marked and the time of the mark is not over."""
        return self.reason is None or now >= self._until

    def admit(self, now: float) -> bool:
        """Asked just before a flight. Of a mark that is over it lets one through, then none for HOLD."""
        if self.reason is None:
            return True
        if now < self._until:
            return False
        self._until = now + HOLD
        self._trial = True
        return True

    def aligned(self) -> None:
        """A flight was answered in step; a mark that is on trial goes."""
        self._lost = 0
        if self._trial:
            self.clear()

    def lost(self, now: float, error: str) -> bool:
        """A flight was lost or met silence; True if that marks the endpoint."""
        self._lost += 1
        if self.reason is not None:
            self._until = max(self._until, now + HOLD)
            self._trial = False
            return False
        if self._lost < _IN_A_ROW:
            return False
        self.reason = f"{_IN_A_ROW} flights running were lost: {error}"
        self._until = now + HOLD
        return True

    def misbehaved(self, reason: str) -> bool:
        """A flight was out of step, or refused for running ahead; True if that is new."""
        if self.reason is not None and self._until == math.inf:
            return False
        self.reason = reason
        self._until = math.inf
        self._trial = False
        return True

    def __repr__(self) -> str:
        return f"<Mark {self.reason!r}>"
