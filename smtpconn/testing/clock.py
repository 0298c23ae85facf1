"""Time that passes only when told to."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """A clock to be injected where `time.monotonic` would stand.

    Example::

        clock = FakeClock()
        clock.advance(2.5)
        assert clock() == 2.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Return the present in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; never backwards."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        self._now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self._now!r})"
