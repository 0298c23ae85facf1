"""Seconds become a `Deadline` once, at the public door; below it everything asks what is left.

Knows the monotonic clock and the phases of RFC 5321 section 4.5.3.2; refuses to know sockets. A wall-clock step changes
nothing.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from smtpconn.protocol.errors import InvalidInputError, numeral

Clock = Callable[[], float]

_DAY = 86_400.0
_LONGEST = 1e9  # seconds; what the platform's clock and locks surely take
_UNSET_FINAL_REPLY = 600.0  # RFC 5321 section 4.5.3.2.6
_GUARD = 60.0  # D4: the reserve for the final reply where none was asked for


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """The value as seconds, or an error that names the argument: a finite number above 0 (or 0 where it is a try)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number) or number < 0 or (number == 0 and not zero) or number > _LONGEST:
        raise InvalidInputError(f"{name} must be a finite number of seconds above 0: {numeral(value)}")
    if number > _DAY:
        warnings.warn(f"{name} is {number:g} seconds, more than one day: is the unit right?", stacklevel=4)
    return number


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """A limit in seconds for each phase of a conversation, and maybe a total; defaults of RFC 5321 section 4.5.3.2.

    A phase's limit runs from the moment its command was written (or the previous reply of the flight was complete) to
    the last octet of its reply. `final_reply=None` means 600 s where there is no total; given, it is also what must be
    left of a total before the end of data is written (D4).
    """

    total: float | None = None
    connect: float = 30.0
    tls: float = 30.0
    greeting: float = 300.0
    ehlo: float = 300.0
    auth: float = 300.0
    command: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    body: float = 180.0
    final_reply: float | None = None
    rset: float = 20.0
    noop: float = 300.0
    probe: float = 2.0
    quit: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, seconds(f"Timeouts.{field.name}", value))

    def replace(self, **limits: float | None) -> Timeouts:
        """A copy with other limits."""
        return Timeouts(**{**self.to_dict(), **limits})  # type: ignore[arg-type]  # only two fields may be None: checked at birth

    def to_dict(self) -> dict[str, float | None]:
        """The fields in JSON types."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Timeouts:
        """The inverse of `to_dict`."""
        return cls(**data)


class Deadline:
    """A moment on the monotonic clock, or never. `clock` is injected in tests."""

    __slots__ = ("at", "clock")

    def __init__(self, at: float | None, clock: Clock = time.monotonic) -> None:
        self.at = at
        self.clock = clock

    @classmethod
    def after(cls, limit: float | None, clock: Clock = time.monotonic) -> Deadline:
        """The moment `limit` seconds from now; None is never."""
        return cls(None if limit is None else clock() + limit, clock)

    def remaining(self) -> float | None:
        """Seconds left, at least 0.0; None if there is no limit."""
        if self.at is None:
            return None
        left = self.at - self.clock()
        return left if left > 0.0 else 0.0

    @property
    def expired(self) -> bool:
        """True once the moment has passed."""
        return self.at is not None and self.clock() >= self.at

    def within(self, limit: float | None) -> Deadline:
        """The earlier of this moment and `limit` seconds from now."""
        if limit is None:
            return self
        at = self.clock() + limit
        return self if self.at is not None and self.at <= at else Deadline(at, self.clock)


class Budget:
    """What one call may spend: its total as a `Deadline`, and the limits of its phases.

    A float is a total alone: inside it no phase has a limit of its own but `probe` and `quit`. A `Timeouts` gives each
    phase its limit, and the smaller of phase limit and rest of the total counts.
    """

    __slots__ = ("phases", "reserve", "total")

    def __init__(self, total: Deadline, phases: Timeouts | None, reserve: float) -> None:
        self.total = total
        self.phases = phases
        self.reserve = reserve  # seconds that must be left of the total before the end of data (D4)

    @classmethod
    def of(cls, timeout: float | Timeouts, clock: Clock = time.monotonic, *, name: str = "timeout") -> Budget:
        """The budget that a `timeout` argument means, starting now. Raises TypeError or `InvalidInputError`."""
        if isinstance(timeout, Timeouts):
            total, asked = timeout.total, timeout.final_reply
            phases: Timeouts | None = timeout
        elif timeout is None:
            raise TypeError(f"{name} is required: seconds for the whole call, or a Timeouts")
        else:
            usual = type(timeout) is float and 0.0 < timeout <= _DAY
            total, asked, phases = timeout if usual else seconds(name, timeout), None, None
        if total is None:
            return cls(Deadline(None, clock), phases, 0.0)
        reserve = asked if asked is not None and asked < total else min(_GUARD, total / 4)
        return cls(Deadline(clock() + total, clock), phases, reserve)

    def phase(self, name: str) -> Deadline:
        """The deadline of a phase that begins now. `name` is a field of `Timeouts`."""
        if self.phases is None:
            return self.total.within(_DEFAULTS[name]) if name in ("probe", "quit") else self.total
        limit: float | None = getattr(self.phases, name)
        if limit is None:
            limit = _UNSET_FINAL_REPLY if self.total.at is None else None
        return self.total.within(limit)

    def shifted(self, pause: float) -> Budget:
        """The same budget as if `pause` seconds had not passed."""
        total = self.total
        at = None if total.at is None else total.at + pause
        return Budget(Deadline(at, total.clock), self.phases, self.reserve)

    def leaves_reserve(self) -> bool:
        """D4: True if enough is left for the final reply, so that the end of data may be written."""
        left = self.total.remaining()
        return left is None or left >= self.reserve


_DEFAULTS = {"probe": 2.0, "quit": 2.0}
