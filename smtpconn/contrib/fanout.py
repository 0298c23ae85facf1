"""Several hooks in the place of one. Needs no extra.

Its law: an event reaches every hook, in the order given, whatever the others raise; the first exception goes on to
who called, so that it is counted (`PoolStats.hook_errors`) and logged as that of a single hook would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from smtpconn.pooling.events import PoolEvent
from smtpconn.protocol.audit import AuditEvent


class Listener(Protocol):
    """Something with the `on_event` of an `AuditSink`."""

    def on_event(self, event: Any) -> object:
        """Take one event."""


class FanOut:
    """Hands each event to every one of `hooks`: callables, or objects with an `on_event`.

    `ConnectionPool(..., on_event=hooks.on_event, audit=hooks)`. Raises TypeError for what is neither.
    """

    def __init__(self, *hooks: Callable[[Any], object] | Listener) -> None:
        self._hooks = tuple(_callable(hook) for hook in hooks)

    def on_event(self, event: PoolEvent | AuditEvent) -> None:
        """Take one event. Raises the first of the exceptions that hooks raised, after all have had the event."""
        first: Exception | None = None
        for hook in self._hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: PERF203  # each hook has its own
                first = first or error
        if first is not None:
            raise first


def _callable(hook: Any) -> Callable[[Any], object]:
    found = getattr(hook, "on_event", hook)
    if not callable(found):
        raise TypeError(f"a hook must be callable or have an on_event, not be a {type(hook).__name__}")
    call: Callable[[Any], object] = found
    return call
