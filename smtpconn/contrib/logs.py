"""Pool events and audit events as records of the standard `logging` module. Needs no extra.

Knows how an event's fields are called in a record (users:LG3) and which events deserve a warning; knows no event in
particular, so an event that comes with a later version is a record, too. Its laws: no record above WARNING, and none
above DEBUG in normal use (LG6); nothing is formatted while the level is off (LG7); an event has no address, text or
secret in it, so a record has none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from smtpconn.pooling import events
from smtpconn.pooling.events import PoolEvent
from smtpconn.protocol.audit import AuditEvent, MailSettled
from smtpconn.protocol.errors import Delivery, summary

Event = PoolEvent | AuditEvent

# Where a field is called otherwise in a record. An AuditEvent's `seconds` is a reading of the clock, as `at` is.
_POOL_NAMES = {"pool": "smtp_pool", "connection_id": "smtp_connection"}
_AUDIT_NAMES = {"connection_id": "smtp_connection", "seconds": "smtp_at"}
_ALARMS = (events.BreakerOpened, events.Leaked, events.Limited)


class EventLog:
    """Makes one record of each event, on the logger `smtpconn.contrib.logs` unless another is given.

    For a pool: `ConnectionPool(..., on_event=log.on_event, audit=log)`, or one of both; for a connection: `audit=log`.
    The record's attributes are the event's fields with `smtp_` before their names, `smtp_event` its class. One object
    serves any number of pools and connections, in any thread.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any] | None = None) -> None:
        self._logger = logging.getLogger("smtpconn.contrib.logs") if logger is None else logger

    def on_event(self, event: Event) -> None:
        """Take one event. Raises what the logger's handlers raise, which the pool drops and counts."""
        level = level_of(event)
        if not self._logger.isEnabledFor(level):
            return
        attributes = attributes_of(event)
        shown = ", ".join(f"{name.removeprefix('smtp_')}={value}" for name, value in attributes.items() if _tells(name))
        about = attributes.get("smtp_pool") or attributes.get("smtp_endpoint") or "smtpconn"
        self._logger.log(level, "%s: %s", about, f"{type(event).__name__} {shown}".rstrip(), extra=attributes)


def level_of(event: Event) -> int:
    """WARNING for a leak, the credential breaker, a connection limit and a mail in doubt; DEBUG for all else."""
    doubt = isinstance(event, MailSettled) and event.unknown > 0
    return logging.WARNING if doubt or isinstance(event, _ALARMS) else logging.DEBUG


def attributes_of(event: Event) -> dict[str, object]:
    """The attributes of the event's record; those that do not apply are absent."""
    names: Mapping[str, str] = _POOL_NAMES if isinstance(event, PoolEvent) else _AUDIT_NAMES
    found: dict[str, object] = {"smtp_event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if value is None or (field.name in _ABSENT and not value):
            continue
        found[names.get(field.name, f"smtp_{field.name}")] = value
    if isinstance(event, MailSettled):
        counts = {
            Delivery.DELIVERED: event.delivered,
            Delivery.NOT_DELIVERED: event.not_delivered,
            Delivery.UNKNOWN: event.unknown,
        }
        found["smtp_recipients"] = sum(counts.values())
        found["smtp_delivery"] = summary([verdict for verdict, count in counts.items() for _ in range(count)]).value
    return found


_ABSENT = ("connection_id", "endpoint", "pool")  # empty or 0: does not apply


def _tells(name: str) -> bool:
    return name not in ("smtp_event", "smtp_pool", "smtp_at")


