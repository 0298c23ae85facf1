"""The numbers of a pool, validated at birth: how many connections, how long each may live, how long a caller waits.

Knows ranges; opens nothing and asks no clock. Durations are seconds; None means no limit where it is allowed
(DF1-DF18).
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpconn.deadline import Timeouts, seconds
from smtpconn.pooling.events import EventHook
from smtpconn.protocol.errors import InvalidInputError, numeral

NOOP_BUDGET = 5  # DF11; Exim refuses the 11th NOOP of a session, Sendmail slows down after 20
NONMAIL_BUDGET = 8  # DF11


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """What a `ConnectionPool` was configured with, its endpoints and `Opening` apart."""

    timeout: float | Timeouts = Timeouts()  # noqa: RUF009  # frozen
    max_size: int = 4
    min_size: int = 0
    max_waiting: int | None = None
    max_connecting: int = 2
    acquire_timeout: float = 30.0
    max_idle: float | None = 45.0
    max_age: float | None = 300.0
    max_messages: int | None = 100
    probe_after: float | None = 15.0
    on_event: EventHook | None = None
    track_leases: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.timeout, Timeouts):
            object.__setattr__(self, "timeout", seconds("timeout", self.timeout))
        check_sizes(self.max_size, self.min_size)
        whole("max_connecting", self.max_connecting, 1)
        if self.max_waiting is not None:
            whole("max_waiting", self.max_waiting, 0)
        if self.max_messages is not None:
            whole("max_messages", self.max_messages, 1)
        object.__setattr__(self, "acquire_timeout", seconds("acquire_timeout", self.acquire_timeout))
        for field in ("max_idle", "max_age", "probe_after"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, seconds(field, value, zero=field == "probe_after"))
        if self.on_event is not None and not callable(self.on_event):
            raise TypeError(f"on_event must be callable, not {type(self.on_event).__name__}")
        if not isinstance(self.track_leases, bool):
            raise TypeError(f"track_leases must be a bool, not {type(self.track_leases).__name__}")
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {type(self.name).__name__}")

    @property
    def phases(self) -> Timeouts | None:
        """The limits of the phases, or None where the pool's timeout is one total."""
        return self.timeout if isinstance(self.timeout, Timeouts) else None


def check_sizes(max_size: object, min_size: object) -> tuple[int, int]:
    """Both, if they fit together. Raises TypeError or `InvalidInputError`."""
    most, least = whole("max_size", max_size, 1), whole("min_size", min_size, 0)
    if least > most:
        raise InvalidInputError(f"min_size must not be above max_size: {numeral(least)} > {numeral(most)}")
    return most, least


def whole(name: str, value: object, least: int) -> int:
    """The value as a whole number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise InvalidInputError(f"{name} must be at least {least}: {numeral(value)}")
    return value
