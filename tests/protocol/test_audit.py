"""Audit events: what they carry, what they cannot carry, and the ready-made sinks."""

from __future__ import annotations

import dataclasses
import inspect
import threading

import pytest

from smtpconn.protocol import audit
from smtpconn.protocol.audit import AuditEvent, ListAuditSink, MailSettled, NoopAuditSink, QuitCompleted

from .dialogue import revived

BASE = {"connection_id": int, "endpoint": str, "seconds": float}
FIELDS: dict[str, dict[str, type]] = {
    "Connected": {},
    "GreetingReceived": {"code": int},
    "EhloCompleted": {},
    "TlsUpgraded": {},
    "AuthCompleted": {"mechanism": str},
    "MailFromAccepted": {"code": int},
    "RecipientAccepted": {"code": int},
    "RecipientRejected": {"code": int},
    "MessageAccepted": {"code": int},
    "MailSettled": {"delivered": int, "not_delivered": int, "unknown": int},
    "QuitCompleted": {},
    "SessionAborted": {},
}
SAMPLE = {int: 7, str: "x", float: 1.5}


def events() -> list[AuditEvent]:
    """One of each."""
    return [
        getattr(audit, name)(**{field: SAMPLE[kind] for field, kind in fields.items()})
        for name, fields in FIELDS.items()
    ]


def test_the_table_names_every_event_F101() -> None:
    classes = {
        name
        for name, cls in inspect.getmembers(audit, inspect.isclass)
        if issubclass(cls, AuditEvent) and cls is not AuditEvent
    }
    assert classes == set(FIELDS)


@pytest.mark.parametrize("event", events(), ids=lambda event: type(event).__name__)
def test_an_event_has_these_fields_and_no_room_for_more_E100(event: AuditEvent) -> None:
    fields = {field.name for field in dataclasses.fields(event)}
    assert fields == set(BASE) | set(FIELDS[type(event).__name__])
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.seconds = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        AuditEvent(7)  # type: ignore[call-arg]
    for copy in revived(event):
        assert copy == event
        assert hash(copy) == hash(event)


def test_the_shell_fills_in_whence_and_when_by_replacing() -> None:
    event = MailSettled(delivered=1, not_delivered=2, unknown=3)
    assert (event.connection_id, event.endpoint, event.seconds) == (0, "", 0.0)
    placed = dataclasses.replace(event, connection_id=4, endpoint="mx:25", seconds=1.5)
    assert (placed.delivered, placed.connection_id, placed.endpoint, placed.seconds) == (1, 4, "mx:25", 1.5)


def test_a_list_keeps_events_in_order_F103() -> None:
    sink = ListAuditSink()
    assert not sink
    for event in events():
        sink.on_event(event)
    assert sink.events == list(sink) == events()
    assert (len(sink), bool(sink)) == (12, True)
    sink.events.clear()
    assert len(sink) == 12, "the property gives a copy"
    sink.clear()
    assert (sink.events, len(sink), bool(sink)) == ([], 0, False)


def test_a_list_is_safe_for_threads_F103() -> None:
    sink = ListAuditSink()
    failures: list[Exception] = []
    start = threading.Barrier(5)

    def write() -> None:
        start.wait(10)
        for _ in range(2_000):
            sink.on_event(QuitCompleted())

    def read() -> None:
        start.wait(10)
        try:
            while len(sink.events) < 8_000:
                assert all(isinstance(event, QuitCompleted) for event in sink)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=each) for each in (write, write, write, write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert len(sink) == 8_000


def test_a_sink_that_drops_everything() -> None:
    sink = NoopAuditSink()
    for event in events():
        sink.on_event(event)
    assert vars(sink) == {}
