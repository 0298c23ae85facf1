"""`smtpconn.contrib.opentelemetry` with the SDK's in-memory exporters (users:OV2-OV4, OV6)."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from smtpconn import (
    ConnectionPool,
    DeliveryUnknownError,
    Mail,
    Pipelining,
    PlainAuth,
    PoolTimeoutError,
    RecipientsRefusedError,
    ServiceUnavailableError,
    TlsMode,
    UsageError,
)
from smtpconn.contrib.opentelemetry import instrument
from smtpconn.testing import LoopbackServer

from .conftest import MakePool

SENDER, RECIPIENT = "anna@example.com", "ben@example.net"
MESSAGE = b"Subject: confidential\r\n\r\nthe content\r\n"


class Telemetry:
    """Providers of our own, and what they were told."""

    def __init__(self) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])

    def instrument(self, pool: ConnectionPool) -> ConnectionPool:
        instrument(pool, tracer_provider=self.tracers, meter_provider=self.meters)
        return pool

    def spans(self, name: str | None = None) -> Sequence[ReadableSpan]:
        """Ended spans, in the order of their beginnings."""
        found = [span for span in self._spans.get_finished_spans() if name in (None, span.name)]
        return sorted(found, key=lambda span: span.start_time or 0)

    def points(self) -> dict[tuple[str, frozenset[tuple[str, Any]]], Any]:
        """(metric, attributes without the pool's name) -> its data point."""
        data = self._reader.get_metrics_data()
        return {
            (metric.name, frozenset((dict(point.attributes or {}) | {"unit": metric.unit}).items())): point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def point(self, name: str, **attributes: Any) -> Any:
        wanted = {("smtpconn." + key, value) for key, value in attributes.items()}
        (found,) = (point for (metric, has), point in self.points().items() if metric == name and wanted <= has)
        return found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


def parent_of(span: ReadableSpan, among: Sequence[ReadableSpan]) -> str | None:
    return next((each.name for each in among if span.parent and each.context.span_id == span.parent.span_id), None)


def tree(spans: Sequence[ReadableSpan]) -> list[tuple[str, str | None]]:
    return [(span.name, parent_of(span, spans)) for span in spans]


def test_OV3_a_mail_is_a_span_with_its_wait_and_its_connection_as_children(
    make_pool: MakePool, server: LoopbackServer, telemetry: Telemetry
) -> None:
    pool = telemetry.instrument(make_pool(name="mail"))
    tracer = telemetry.tracers.get_tracer("test")
    with tracer.start_as_current_span("request"):
        pool.send(SENDER, [RECIPIENT, "carla@example.net"], MESSAGE)
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    spans = telemetry.spans()
    assert tree(spans) == [
        ("request", None), ("smtp.send", "request"), ("smtp.acquire", "smtp.send"), ("smtp.connect", "smtp.acquire"),
        ("smtp.send", None), ("smtp.acquire", "smtp.send"),
    ]  # fmt: skip
    _, send, acquire, connect, second, _ = spans
    where: dict[str, Any] = {"server.address": server.host, "server.port": server.port, "network.transport": "tcp"}
    assert dict(send.attributes or {}) == {
        "smtpconn.pool.name": "mail", **where, "smtpconn.delivery": "delivered", "smtpconn.recipients": 2,
        "smtpconn.reply.code": 250, "smtpconn.connection.reused": False,
    }  # fmt: skip
    where["smtpconn.pool.name"] = "mail"
    assert dict(acquire.attributes or {}) == {**where, "smtpconn.connection.reused": False}
    assert dict(connect.attributes or {}) == where
    assert (second.attributes or {})["smtpconn.connection.reused"] is True
    assert [span.kind for span in (send, acquire, connect)] == [SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.CLIENT]
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert all(span.instrumentation_scope and span.instrumentation_scope.name == "smtpconn" for span in spans[1:])


def test_parents_are_right_across_threads(make_pool: MakePool, telemetry: Telemetry) -> None:
    pool = telemetry.instrument(make_pool(max_size=2))
    tracer = telemetry.tracers.get_tracer("test")

    def request(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            for _ in range(5):
                pool.send(SENDER, [RECIPIENT], MESSAGE)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(request, range(8)))
    spans = telemetry.spans()
    for number in range(8):
        (root,) = (span for span in spans if span.name == f"request {number}")
        own = [span for span in spans if span.context.trace_id == root.context.trace_id]
        assert [parent_of(span, own) for span in own if span.name == "smtp.send"] == [root.name] * 5
        assert [parent_of(span, own) for span in own if span.name == "smtp.acquire"] == ["smtp.send"] * 5
    assert len(telemetry.spans("smtp.send")) == 40
    for acquire in telemetry.spans("smtp.acquire"):
        (send,) = (each for each in telemetry.spans("smtp.send") if each.context.span_id == acquire.parent.span_id)  # type: ignore[union-attr]  # asserted above
        assert send.start_time <= acquire.start_time <= acquire.end_time <= send.end_time  # type: ignore[operator]  # ended


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_workers_of_send_many_have_the_context_of_their_caller(
    make_pool: MakePool, telemetry: Telemetry, concurrency: int
) -> None:
    pool = telemetry.instrument(make_pool(max_size=3))
    mails = [Mail(SENDER, [RECIPIENT], MESSAGE) for _ in range(9)]
    with telemetry.tracers.get_tracer("test").start_as_current_span("batch"):
        outcomes = list(pool.send_many(mails, concurrency=concurrency))
    assert all(outcome.error is None for outcome in outcomes)
    spans = telemetry.spans()
    assert [parent for name, parent in tree(spans) if name == "smtp.send"] == ["batch"] * 9
    waits = [parent for name, parent in tree(spans) if name == "smtp.acquire"]
    if concurrency == 1:
        assert waits == ["smtp.send"] * 9
    else:  # a worker keeps its connection from mail to mail
        assert set(waits) == {"batch"}


def test_a_lease_is_a_wait_and_a_span_for_each_of_its_mails(make_pool: MakePool, telemetry: Telemetry) -> None:
    pool = telemetry.instrument(make_pool())
    with telemetry.tracers.get_tracer("test").start_as_current_span("request"), pool.connection() as lease:
        lease.send(SENDER, [RECIPIENT], MESSAGE)
        lease.noop()
        assert [outcome.error for outcome in lease.send_many([Mail(SENDER, [RECIPIENT], MESSAGE)])] == [None]
    spans = telemetry.spans()
    assert tree(spans) == [
        ("request", None), ("smtp.acquire", "request"), ("smtp.connect", "smtp.acquire"),
        ("smtp.send", "request"), ("smtp.send", "request"),
    ]  # fmt: skip
    for send in spans[3:]:
        assert (send.attributes or {})["smtpconn.delivery"] == "delivered"
        assert (send.attributes or {})["smtpconn.connection.reused"] is False
        assert "server.address" in (send.attributes or {})
    assert repr(lease).startswith("<Lease of ")


def test_mails_of_a_lease_that_run_ahead_have_a_span_each(make_pool: MakePool, telemetry: Telemetry) -> None:
    pool = telemetry.instrument(make_pool(pipelining=Pipelining.PREFETCH))
    with pool.connection() as lease:
        mails = [Mail(SENDER, [RECIPIENT], MESSAGE) for _ in range(3)]
        assert [outcome.error for outcome in lease.send_many(mails)] == [None] * 3
    assert [span.name for span in telemetry.spans()].count("smtp.send") == 3


def test_what_failed_has_class_stage_and_code_but_no_word_of_the_server(
    make_pool: MakePool, server: LoopbackServer, telemetry: Telemetry
) -> None:
    server.refuse(RECIPIENT, f"550 5.1.1 <{RECIPIENT}> telltale")
    pool = telemetry.instrument(make_pool(max_size=1))
    with pytest.raises(RecipientsRefusedError):
        pool.send(SENDER, [RECIPIENT], MESSAGE)
    server.fault("end of data", "EOF")
    with pytest.raises(DeliveryUnknownError):
        pool.send(SENDER, ["carla@example.net"], MESSAGE)
    with pool.connection(), pytest.raises(PoolTimeoutError):
        pool.send(SENDER, ["carla@example.net"], MESSAGE, timeout=0.05)
    refused, unknown, waited = telemetry.spans("smtp.send")
    for span, kind, stage, code, delivery in (
        (refused, "RecipientsRefusedError", "RCPT", 550, "not delivered"),
        (unknown, "DeliveryUnknownError", "end of data", None, "unknown"),
        (waited, "PoolTimeoutError", "pool", None, "not delivered"),
    ):
        has = dict(span.attributes or {})
        assert (has["error.type"], has["smtpconn.stage"], has.get("smtpconn.reply.code")) == (kind, stage, code)
        assert (has["smtpconn.delivery"], has["smtpconn.recipients"]) == (delivery, 1)
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    failed = telemetry.spans("smtp.acquire")[-1]
    assert (failed.attributes or {})["error.type"] == "PoolTimeoutError"
    assert failed.status.status_code is StatusCode.ERROR


def test_no_attribute_event_or_metric_has_an_address_content_or_a_credential(
    server: LoopbackServer, make_pool: MakePool, telemetry: Telemetry
) -> None:
    with LoopbackServer(auth={"user": "pass-word"}, extensions=("AUTH PLAIN", "PIPELINING")) as guarded:
        guarded.refuse("nobody@example.net", "550 5.1.1 <nobody@example.net> telltale")
        login: dict[str, Any] = {"credentials": PlainAuth("user", "pass-word"), "allow_plaintext_auth": True}
        pool = telemetry.instrument(make_pool(port=guarded.port, name="x", **login))
        pool.send(SENDER, [RECIPIENT, "nobody@example.net"], MESSAGE)
        with pytest.raises(RecipientsRefusedError):
            pool.send(SENDER, ["nobody@example.net"], MESSAGE)
        pool.close()
        told = "".join(span.to_json() for span in telemetry.spans()) + repr(telemetry.points())
        assert told.count("smtp.send") == 2
    for secret in ("@", "anna", "telltale", "confidential", "content", "pass-word", "cGFzcy13b3Jk"):
        assert secret not in told
    assert not any(span.events for span in telemetry.spans())


def test_a_refused_connection_is_a_failed_span(
    make_pool: MakePool, server: LoopbackServer, telemetry: Telemetry
) -> None:
    server.reply("greeting", "421 4.3.2 telltale")
    pool = telemetry.instrument(make_pool())
    with pytest.raises(ServiceUnavailableError):
        pool.send(SENDER, [RECIPIENT], MESSAGE)
    (connect,) = telemetry.spans("smtp.connect")
    has = dict(connect.attributes or {})
    assert (has["error.type"], has["smtpconn.stage"], has["smtpconn.reply.code"]) == (
        "ServiceUnavailableError",
        "greeting",
        421,
    )
    assert has["server.port"] == server.port


def test_OV4_times_are_histograms_and_the_rest_is_read_from_the_statistics(
    make_pool: MakePool, server: LoopbackServer, telemetry: Telemetry
) -> None:
    pool = telemetry.instrument(make_pool(name="mail"))
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    server.refuse("nobody@example.net", "550 5.1.1 no")
    with pytest.raises(RecipientsRefusedError):
        pool.send(SENDER, ["nobody@example.net"], MESSAGE)
    pool.invalidate()
    with pool.connection():
        assert telemetry.point("smtpconn.pool.connections", state="leased").value == 1
    delivered = telemetry.point("smtpconn.send.duration", delivery="delivered")
    assert delivered.count == 1
    assert 0 < delivered.sum < 10
    assert telemetry.point("smtpconn.send.duration", delivery="not delivered").count == 1
    assert telemetry.point("smtpconn.acquire.duration").count == 3
    assert telemetry.point("smtpconn.connect.duration").count == 2
    assert telemetry.point("smtpconn.pool.connections", state="idle").value == 1
    assert telemetry.point("smtpconn.pool.waiting").value == 0
    assert telemetry.point("smtpconn.retries").value == 0
    assert telemetry.point("smtpconn.closing_signals").value == 0
    assert telemetry.point("smtpconn.retired", reason="generation").value == 1
    assert telemetry.point("smtpconn.recipients", delivery="delivered").value == 1
    assert telemetry.point("smtpconn.recipients", delivery="unknown").value == 0
    units = {name: dict(has)["unit"] for name, has in telemetry.points()}
    assert {name for name, unit in units.items() if unit == "s"} == {
        "smtpconn.send.duration", "smtpconn.acquire.duration", "smtpconn.connect.duration",
    }  # fmt: skip


def test_several_pools_of_one_provider_are_all_measured_until_they_are_closed_or_dropped(
    make_pool: MakePool, server: LoopbackServer, telemetry: Telemetry
) -> None:
    def names() -> set[str]:
        return {
            dict(has)["smtpconn.pool.name"] for name, has in telemetry.points() if name == "smtpconn.pool.waiting"
        }

    first, _ = (telemetry.instrument(make_pool(name=name)) for name in ("first", "second"))
    third = telemetry.instrument(ConnectionPool(server.host, server.port, TlsMode.NONE, name="third"))
    assert names() == {"first", "second", "third"}
    first.close()
    assert names() == {"second", "third"}
    del third
    assert names() == {"second"}


def test_the_retry_of_a_stale_connection_is_a_second_connection_under_the_same_mail(
    make_pool: MakePool, server: LoopbackServer, telemetry: Telemetry
) -> None:
    pool = telemetry.instrument(make_pool())
    server.fault("MAIL", "EOF", nth=2)
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    assert tree(telemetry.spans())[3:] == [
        ("smtp.send", None), ("smtp.acquire", "smtp.send"), ("smtp.connect", "smtp.send"),
    ]  # fmt: skip
    assert telemetry.point("smtpconn.retries").value == 1
    assert telemetry.point("smtpconn.closing_signals").value == 1


def test_OV6_a_processor_that_raises_changes_no_outcome_and_costs_no_connection(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise OSError("full")

        def on_end(self, span: ReadableSpan) -> None:
            raise OSError("full")

    tracers = TracerProvider()
    tracers.add_span_processor(Broken())
    pool = make_pool(max_size=1)
    instrument(pool, tracer_provider=tracers)
    for _ in range(3):
        assert pool.send(SENDER, [RECIPIENT], MESSAGE).all_delivered
    stats = pool.stats()
    assert (stats.idle, stats.opened, stats.messages) == (1, 1, 3)
    assert any("OpenTelemetry failed" in record.message for record in caplog.records)
    tracers.shutdown()


def test_a_pool_is_instrumented_once_and_before_its_first_call(make_pool: MakePool, telemetry: Telemetry) -> None:
    pool = telemetry.instrument(make_pool(name="mail"))
    with pytest.raises(UsageError, match="the pool mail is instrumented already"):
        instrument(pool)
    used = make_pool(name="used")
    used.send(SENDER, [RECIPIENT], MESSAGE)
    with pytest.raises(UsageError, match="the pool used has been used already"):
        instrument(used)
    assert used.send(SENDER, [RECIPIENT], MESSAGE).all_delivered
    closed = make_pool(name="closed")
    closed.close()
    with pytest.raises(UsageError, match="the pool closed has been used already"):
        instrument(closed)


def test_without_an_sdk_nothing_happens_but_the_mail(make_pool: MakePool) -> None:
    pool = make_pool()
    instrument(pool)
    assert pool.send(SENDER, [RECIPIENT], MESSAGE).all_delivered
    pool.close()


def test_an_error_keeps_no_frame_alive(make_pool: MakePool, telemetry: Telemetry) -> None:
    """pool:RN7: no cycle of exception and frame, so what the caller drops is gone without the collector."""
    pool = telemetry.instrument(make_pool(max_size=1))
    with pool.connection():
        gc.collect()
        gc.disable()
        kept = [each for each in gc.get_objects() if type(each) is PoolTimeoutError]  # in the tables of other tests
        try:
            with contextlib.suppress(PoolTimeoutError):
                pool.send(SENDER, [RECIPIENT], MESSAGE, timeout=0.05)
            assert len([each for each in gc.get_objects() if type(each) is PoolTimeoutError]) == len(kept)
        finally:
            gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_instrumented_too(make_pool: MakePool, telemetry: Telemetry) -> None:
    pool = telemetry.instrument(make_pool())
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            pool.send(SENDER, [RECIPIENT], MESSAGE)
            status = 0 if [span.name for span in telemetry.spans()].count("smtp.connect") == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_missing_library_names_the_extra_and_import_smtpconn_loads_none() -> None:
    code = (
        "import sys, smtpconn, smtpconn.pool\n"
        "assert not [name for name in sys.modules if 'contrib' in name or 'opentelemetry' in name]\n"
        "sys.modules['opentelemetry'] = None\n"
        "try:\n    import smtpconn.contrib.opentelemetry\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    expected = "smtpconn.contrib.opentelemetry needs opentelemetry-api: pip install smtpconn[opentelemetry]\n"
    assert done.stdout == expected, done.stderr


def test_threads_and_a_reader_at_the_same_time(make_pool: MakePool, telemetry: Telemetry) -> None:
    pool = telemetry.instrument(make_pool(max_size=2))
    threads = [
        threading.Thread(target=lambda: [pool.send(SENDER, [RECIPIENT], MESSAGE) for _ in range(10)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        telemetry.points()
    for thread in threads:
        thread.join()
    assert telemetry.point("smtpconn.send.duration", delivery="delivered").count == 40
