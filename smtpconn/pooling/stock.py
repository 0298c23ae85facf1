"""What the parts of a pool share: its settings, slots, endpoints and voice."""

from __future__ import annotations

import math

from smtpconn.opening import Endpoint, Opening
from smtpconn.pooling import process
from smtpconn.pooling.announcer import Announcer
from smtpconn.pooling.claims import Slot
from smtpconn.pooling.endpoints import Endpoints
from smtpconn.pooling.logins import Logins
from smtpconn.pooling.pooled import PooledConnection, System
from smtpconn.pooling.settings import PoolSettings
from smtpconn.pooling.stats import smallest
from smtpconn.slots import Slots


class Stock:
    """The state of one pool in one process."""

    def __init__(
        self,
        settings: PoolSettings,
        opening: Opening,
        endpoints: tuple[Endpoint, ...],
        system: System,
        announcer: Announcer,
    ) -> None:
        self.pid = process.pid()
        self.settings = settings
        self.opening = opening
        self.logins = Logins(opening.credentials)
        self.clock = system.clock
        self.connector = system.connector
        self.voice = announcer
        self.endpoints = Endpoints(endpoints, size=settings.max_size, max_connecting=settings.max_connecting)
        self.slots = Slots(
            settings.max_size,
            self.endpoints,
            max_waiting=settings.max_waiting,
            clock=system.clock,
            sleep=system.sleep,
        )
        announcer.count_fault = lambda: self.count("hook_errors")

    def count(self, name: str, by: float = 1) -> None:
        """Add to a counter."""
        self.slots.locked(self.slots.count, name, by)

    def note_limits(self, slot: Slot, connection: PooledConnection) -> None:
        """What the connection may carry, by the settings and its last EHLO (LI2, LI4)."""
        limits = connection.capabilities.limits
        least = smallest(self.settings.max_messages, limits.get("MAILMAX"))
        slot.most_mails = math.inf if least is None else least
        slot.counts_domains = "RCPTDOMAINMAX" in limits
