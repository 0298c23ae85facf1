"""`smtpconn.contrib.logs` and `smtpconn.contrib.fanout` (users:LG1, LG3, LG5-LG7, faults:NN16)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from smtpconn import (
    ConnectionPool,
    DeliveryUnknownError,
    ListAuditSink,
    RecipientsRefusedError,
    ServiceUnavailableError,
)
from smtpconn.contrib.fanout import FanOut
from smtpconn.contrib.logs import EventLog, attributes_of, level_of
from smtpconn.pooling import events
from smtpconn.pooling.events import PoolEvent
from smtpconn.protocol import audit
from smtpconn.testing import LoopbackServer

from .conftest import MakePool

SENDER, RECIPIENT = "anna@example.com", "ben@example.net"
MESSAGE = b"Subject: confidential\r\n\r\nthe content\r\n"
LOGGER = "smtpconn.contrib.logs"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    logger, kept = logging.getLogger(LOGGER), Kept()
    logger.addHandler(kept)
    logger.setLevel(logging.DEBUG)
    yield kept.records
    logger.removeHandler(kept)
    logger.setLevel(logging.NOTSET)
    assert all(record.levelno <= logging.WARNING for record in kept.records)  # LG6


def named(records: list[logging.LogRecord]) -> list[str]:
    return [record.__dict__["smtp_event"] for record in records if record.name == LOGGER]


def the(records: list[logging.LogRecord], event: str) -> dict[str, Any]:
    (found,) = (record.__dict__ for record in records if record.__dict__.get("smtp_event") == event)
    return found


def test_a_mail_over_a_pool_is_a_series_of_records_with_structured_fields(
    make_pool: MakePool, server: LoopbackServer, records: list[logging.LogRecord]
) -> None:
    log = EventLog()
    pool = make_pool(name="mail", on_event=log.on_event, audit=log)
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    pool.close()
    assert named(records) == [
        "AcquireStarted", "Connected", "GreetingReceived", "EhloCompleted", "ConnectionOpened", "Acquired",
        "MailFromAccepted", "RecipientAccepted", "MessageAccepted", "MailSettled", "Returned", "QuitCompleted",
        "ConnectionClosed", "PoolClosed",
    ]  # fmt: skip
    assert {record.levelno for record in records} == {logging.DEBUG}
    number = the(records, "ConnectionOpened")["smtp_connection"]
    assert number > 0
    settled = the(records, "MailSettled")
    assert (settled["smtp_connection"], settled["smtp_endpoint"]) == (number, f"{server.host}:{server.port}")
    assert (settled["smtp_delivery"], settled["smtp_recipients"]) == ("delivered", 1)
    assert settled["message"] == (
        f"{server.host}:{server.port}: MailSettled connection={number}, endpoint={server.host}:{server.port}, "
        "delivered=1, not_delivered=0, unknown=0, recipients=1, delivery=delivered"
    )
    closed = the(records, "ConnectionClosed")
    assert (closed["smtp_pool"], closed["smtp_reason"], closed["smtp_uses"]) == ("mail", "closed", 1)
    assert "smtp_code" not in closed
    assert the(records, "Acquired")["smtp_reused"] is False
    assert the(records, "MessageAccepted")["smtp_code"] == 250
    for absent in ("smtp_connection", "smtp_endpoint"):
        assert absent not in the(records, "AcquireStarted")


def test_no_record_has_an_address_a_text_of_the_server_or_content(
    make_pool: MakePool, server: LoopbackServer, records: list[logging.LogRecord]
) -> None:
    log = EventLog()
    pool = make_pool(on_event=log.on_event, audit=log)
    server.refuse(RECIPIENT, f"550 5.1.1 <{RECIPIENT}> telltale")
    with pytest.raises(RecipientsRefusedError):
        pool.send(SENDER, [RECIPIENT], MESSAGE)
    shown = repr([vars(record) for record in records if record.name == LOGGER])
    assert "RecipientRejected" in shown
    for secret in ("@", "telltale", "confidential", "content"):
        assert secret not in shown


def test_LG6_a_mail_in_doubt_is_a_warning(
    make_pool: MakePool, server: LoopbackServer, records: list[logging.LogRecord]
) -> None:
    log = EventLog()
    server.fault("end of data", "EOF")
    with pytest.raises(DeliveryUnknownError):
        make_pool(audit=log).send(SENDER, [RECIPIENT], MESSAGE)
    warnings = [record for record in records if record.name == LOGGER and record.levelno == logging.WARNING]
    assert named(warnings) == ["MailSettled"]
    assert warnings[0].__dict__["smtp_delivery"] == "unknown"


KINDS = [*PoolEvent.__subclasses__(), *audit.AuditEvent.__subclasses__()]


def an_event(kind: type[Any], **more: Any) -> Any:
    """An event with a value of the right type in each field."""
    values: dict[str, Any] = {"str": "x", "int": 7, "float": 0.5, "bool": True, "int | None": 421}
    return kind(**{field.name: values[str(field.type)] for field in fields(kind)} | more)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_LG3_every_event_is_a_record_whose_attributes_collide_with_none_of_logging(
    kind: type[Any], records: list[logging.LogRecord]
) -> None:
    event = an_event(kind)
    EventLog().on_event(event)
    (record,) = records
    attributes = attributes_of(event)
    assert attributes.items() <= vars(record).items()
    assert all(name.startswith("smtp_") for name in attributes)
    assert {"smtp_event", "smtp_connection", "smtp_endpoint", "smtp_at"} <= set(attributes)
    assert kind.__name__ in record.getMessage()
    alarm = kind.__name__ in ("BreakerOpened", "Leaked", "Limited", "MailSettled")
    assert (record.levelno == level_of(event) == logging.WARNING) == alarm


def test_LG3_what_does_not_apply_is_absent() -> None:
    assert attributes_of(events.ConnectionFailed(pool="mail", error="ConnectError", at=3.0)) == {
        "smtp_event": "ConnectionFailed", "smtp_pool": "mail", "smtp_error": "ConnectError", "smtp_at": 3.0,
    }  # fmt: skip


def test_LG7_nothing_is_formatted_while_the_level_is_off(caplog: pytest.LogCaptureFixture) -> None:
    class Untouchable(PoolEvent):
        def __getattribute__(self, name: str) -> Any:
            if name in ("pool", "endpoint", "at"):
                raise AssertionError("it was read")
            return super().__getattribute__(name)

    event = Untouchable(pool="mail")
    caplog.set_level(logging.INFO, logger=LOGGER)
    EventLog().on_event(event)
    caplog.set_level(logging.DEBUG, logger=LOGGER)
    with pytest.raises(AssertionError, match="it was read"):
        EventLog().on_event(event)


def test_another_logger_or_an_adapter_may_be_given(caplog: pytest.LogCaptureFixture) -> None:
    mine = logging.getLogger("shop.mail")
    caplog.set_level(logging.DEBUG, logger="shop.mail")
    EventLog(mine).on_event(events.PoolClosed(pool="mail"))
    assert [(record.name, record.__dict__["smtp_event"]) for record in caplog.records] == [("shop.mail", "PoolClosed")]


def test_NN16_a_handler_that_raises_changes_no_outcome(make_pool: MakePool) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    logger = logging.getLogger("smtpconn.test.broken")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Broken())
    log = EventLog(logger)
    pool = make_pool(on_event=log.on_event, audit=log)
    assert pool.send(SENDER, [RECIPIENT], MESSAGE).all_delivered
    pool.close()
    assert pool.stats().hook_errors > 3


def test_FanOut_gives_each_event_to_every_hook_whatever_the_others_raise(make_pool: MakePool) -> None:
    seen: list[object] = []
    sink = ListAuditSink()

    def broken(event: object) -> None:
        raise OSError("no")

    hooks = FanOut(broken, seen.append, sink)
    pool = make_pool(on_event=hooks.on_event, audit=hooks)
    assert pool.send(SENDER, [RECIPIENT], MESSAGE).all_delivered
    pool.close()
    assert list(sink) == seen
    assert [type(event).__name__ for event in seen].count("MailSettled") == 1
    assert pool.stats().hook_errors == sum(isinstance(event, PoolEvent) for event in seen)


def test_FanOut_refuses_what_is_no_hook() -> None:
    with pytest.raises(TypeError, match="a hook must be callable or have an on_event, not be a str"):
        FanOut(print, "smtpconn")  # type: ignore[arg-type]  # that is what is tested


def test_the_bridges_serve_several_pools(make_pool: MakePool, records: list[logging.LogRecord]) -> None:
    log = EventLog()
    pools: list[ConnectionPool] = [make_pool(name=name, on_event=log.on_event) for name in ("first", "second")]
    for pool in pools:
        pool.send(SENDER, [RECIPIENT], MESSAGE)
    opened = [record.__dict__["smtp_pool"] for record in records if record.__dict__["smtp_event"] == "ConnectionOpened"]
    assert opened == ["first", "second"]


def test_a_refused_connection_names_class_and_code(
    make_pool: MakePool, server: LoopbackServer, records: list[logging.LogRecord]
) -> None:
    log = EventLog()
    server.reply("greeting", "421 4.3.2 telltale")
    with pytest.raises(ServiceUnavailableError):
        make_pool(name="mail", on_event=log.on_event).send(SENDER, [RECIPIENT], MESSAGE)
    failed = the(records, "ConnectionFailed")
    assert (failed["smtp_error"], failed["smtp_code"]) == ("ServiceUnavailableError", 421)
    assert the(records, "BackedOff")["smtp_delay"] > 0
