"""Spans and metrics of a pool for OpenTelemetry. Needs the extra `opentelemetry`: the API; the SDK is the caller's.

Knows where a pool acquires, opens and sends, and what that is called in a trace (users:OV3, OV4). Its laws: each span
is begun and ended in the thread that does the work, so its parent is what that thread's context says, also in the
workers of `send_many`, who have the context of their caller; no attribute has an e-mail address, a subject, a body, a
credential or a text of the server's; an exporter that raises changes no outcome and costs no connection (OV6).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar, cast

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    text = "smtpconn.contrib.opentelemetry needs opentelemetry-api: pip install smtpconn[opentelemetry]"
    raise ImportError(text) from error

from smtpconn.attempts import attempt_of
from smtpconn.opening import Endpoint
from smtpconn.pool import ConnectionPool
from smtpconn.pooling.claims import Claim
from smtpconn.pooling.lease import Lease
from smtpconn.pooling.stats import PoolStats
from smtpconn.protocol.errors import Delivery, SmtpError, UsageError
from smtpconn.protocol.result import SendResult

T = TypeVar("T")

_log = logging.getLogger("smtpconn.contrib.opentelemetry")
_SCOPE = "smtpconn"
# verbs of a lease
_SENDING = frozenset({"send", "send_bdat", "send_lmtp", "send_lmtp_bdat", "send_message", "_send", "_send_in_chain"})
_sending: contextvars.ContextVar[Span | None] = contextvars.ContextVar("smtpconn.sending", default=None)


def instrument(
    pool: ConnectionPool,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Trace and measure this pool from now on; in forked children, too. Without a provider: the global one.

    Spans: `smtp.send` for each mail of `send`, `send_bdat`, `send_message`, `send_many` and of a lease; `smtp.acquire`
    for each wait for a connection; `smtp.connect` for each connection opened. The time in them is in the histograms
    `smtpconn.send.duration`, `smtpconn.acquire.duration` and `smtpconn.connect.duration`, in seconds.
    Raises `UsageError` if the pool has been used, closed or instrumented already: do it first.
    """
    stats = pool.stats()
    if stats.closed or stats.opened or stats.open_errors or stats.opening or stats.waiting or stats.acquired:
        raise UsageError(f"the pool {stats.name} has been used already: instrument it before its first call")
    if "_begin" in vars(pool):
        raise UsageError(f"the pool {stats.name} is instrumented already")
    tracing = _Tracing(stats.name, tracer_provider, meter_provider)
    tracing.watch(pool)
    _observe(pool, meter_provider)


def _guarded(call: Callable[[], T], instead: T) -> T:
    """What the call returns; `instead` if it raises: the trace of a mail is worth less than the mail (OV6)."""
    try:
        return call()
    except Exception:
        with contextlib.suppress(Exception):  # a handler that raises, too: there is nobody left to tell
            _log.warning("OpenTelemetry failed", exc_info=True)
        return instead


class _Tracing:
    """The spans and histograms of one pool."""

    def __init__(
        self, name: str, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
    ) -> None:
        self._pool = {"smtpconn.pool.name": name}
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._sends = meter.create_histogram("smtpconn.send.duration", "s", "Time that a mail took")
        self._acquires = meter.create_histogram("smtpconn.acquire.duration", "s", "Time that a connection took to get")
        self._connects = meter.create_histogram("smtpconn.connect.duration", "s", "Time that a connection took to open")

    def watch(self, pool: ConnectionPool) -> None:
        """Put the spans where the pool acquires, opens and sends, now and after each fork."""
        kind = type("TracedLease", (_TracedLease,), {"__slots__": (), "_tracing": self})
        system = pool._system._replace(connector=self._connector(pool._system.connector))
        known, owner = weakref.ref(pool), type(pool)  # no cycle: a dropped pool is gone at once

        def begin(*arguments: Any, **keywords: Any) -> None:
            pool = known()
            assert pool is not None
            owner._begin(pool, *arguments, **keywords)
            _put(pool._supply, "acquire", self._acquire(pool._supply.acquire))
            pool._calls.around = self.send

        def connection(timeout: float | None = None) -> Lease:
            pool = known()
            assert pool is not None
            lease = owner.connection(pool, timeout)
            lease.__class__ = kind
            return lease

        _put(pool, "_system", system)
        _put(pool, "_begin", begin)
        _put(pool, "connection", connection)
        pool._begin(pool._settings)

    def _acquire(self, acquire: Callable[..., Any]) -> Callable[..., Any]:
        def traced(claim: Claim, *arguments: Any, **keywords: Any) -> Any:
            def finish(span: Span, connection: object, error: BaseException | None, seconds: float) -> None:
                slot = claim.slot
                if error is None and slot is not None:
                    found = {**_server(slot.endpoint.endpoint), "smtpconn.connection.reused": claim.reused}
                    for each in (span, _sending.get()):
                        _set(each, found)
                self._acquires.record(seconds, {**self._pool, **_error_type(error)})

            return self._span(
                "smtp.acquire", SpanKind.INTERNAL, lambda: acquire(claim, *arguments, **keywords), finish
            )

        return traced

    def _connector(self, connector: Callable[..., Any]) -> Callable[..., Any]:
        def traced(opening: object, endpoint: Endpoint, *arguments: Any) -> Any:
            def finish(span: Span, connection: object, error: BaseException | None, seconds: float) -> None:
                server = _server(endpoint)
                for each in (span, _sending.get()):
                    _set(each, server)
                self._connects.record(seconds, {**self._pool, **server, **_error_type(error)})

            return self._span("smtp.connect", SpanKind.CLIENT, lambda: connector(opening, endpoint, *arguments), finish)

        return traced

    def send(self, work: Callable[[], T], claim: Claim | None = None) -> T:
        """Do the work, which sends a mail, in a span; `claim`: the lease that it is sent over, if there is one."""

        def finish(span: Span, result: object, error: BaseException | None, seconds: float) -> None:
            slot = claim.slot if claim is not None else None
            if claim is not None and slot is not None and slot.endpoint is not None:
                _set(span, {**_server(slot.endpoint.endpoint), "smtpconn.connection.reused": claim.reused})
            outcome = _outcome(result, error)
            _set(span, outcome)
            delivery = {key: value for key, value in outcome.items() if key == "smtpconn.delivery"}
            self._sends.record(seconds, {**self._pool, **delivery, **_error_type(error)})

        def within(span: Span) -> T:
            token = _sending.set(span)
            try:
                return work()
            finally:
                _sending.reset(token)

        return self._span("smtp.send", SpanKind.CLIENT, within, finish, with_span=True)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        work: Callable[..., T],
        finish: Callable[[Span, Any, BaseException | None, float], None],
        *,
        with_span: bool = False,
    ) -> T:
        """Do the work in a span. `finish` gets the span, the result or the error, and the seconds."""
        begun = time.monotonic()
        span = _guarded(
            lambda: self._tracer.start_span(name, kind=kind, attributes=self._pool), cast(Span, trace.INVALID_SPAN)
        )
        token = context.attach(trace.set_span_in_context(span))
        result = failure = None
        try:
            result = work(span) if with_span else work()
            return result
        except BaseException as error:
            failure = error
            raise
        finally:
            context.detach(token)
            _guarded(lambda: _fail(span, failure), None)
            _guarded(lambda: finish(span, result, failure, time.monotonic() - begun), None)
            _guarded(span.end, None)
            failure = None  # it knows this frame


class _TracedLease(Lease):
    """A lease whose mails are spans."""

    __slots__ = ()
    _tracing: ClassVar[_Tracing]

    def _verb(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        verb = super()._verb
        if name not in _SENDING:
            return verb(name, *arguments, **keywords)
        return self._tracing.send(lambda: verb(name, *arguments, **keywords), self._claim)


def _put(thing: object, name: str, value: object) -> None:
    """Put something of ours in the place of a method, on this one object."""
    vars(thing)[name] = value


def _set(span: Span | None, attributes: dict[str, Any]) -> None:
    if span is not None:
        span.set_attributes(attributes)


def _fail(span: Span, error: BaseException | None) -> None:
    """The class and the codes of an error; never its text, which may be the server's and quote an address."""
    if error is None:
        return
    span.set_status(Status(StatusCode.ERROR))
    _set(span, _error_type(error))
    if isinstance(error, SmtpError):
        span.set_attribute("smtpconn.stage", error.stage)
        if error.reply is not None:
            span.set_attribute("smtpconn.reply.code", error.reply.code)


def _error_type(error: BaseException | None) -> dict[str, str]:
    return {} if error is None else {"error.type": type(error).__name__}


def _server(endpoint: Endpoint) -> dict[str, str | int]:
    if endpoint.search is not None:  # which of its servers it is changes from one connection to the next
        return {"server.address": endpoint.search.domain, "network.transport": "tcp"}
    if endpoint.host is None or endpoint.port is None:
        return {"server.address": endpoint.unix_socket or "", "network.transport": "unix"}
    return {"server.address": endpoint.host, "server.port": endpoint.port, "network.transport": "tcp"}


def _outcome(result: object, error: BaseException | None) -> dict[str, str | int]:
    """The verdict and the number of recipients; the code of the final reply where all went well."""
    if isinstance(result, SendResult):
        code = {} if result.reply is None else {"smtpconn.reply.code": result.reply.code}
        return {"smtpconn.delivery": result.delivery.value, "smtpconn.recipients": len(result.recipients), **code}
    verdict = error if isinstance(error, SmtpError) else None if error is None else attempt_of(error)
    if verdict is None:
        return {}
    return {"smtpconn.delivery": verdict.delivery.value, "smtpconn.recipients": len(verdict.recipients)}


# ---- what is read from the pools when somebody asks

_States = Iterable[tuple[float, dict[str, str]]]
_lock = threading.Lock()
_measured: weakref.WeakKeyDictionary[object, weakref.WeakSet[ConnectionPool]] = weakref.WeakKeyDictionary()


class _GlobalProvider:
    """Stands for the global meter provider, which may be set later than the first pool is instrumented."""


_GLOBAL = _GlobalProvider()


def _observe(pool: ConnectionPool, provider: MeterProvider | None) -> None:
    """Have the pool read with the others of its provider: a meter takes only the first callbacks of an instrument."""
    key = _GLOBAL if provider is None else provider
    with _lock:
        pools = _measured.get(key)
        if pools is None:
            pools = _measured[key] = weakref.WeakSet()
            _begin_observing(metrics.get_meter(_SCOPE, meter_provider=provider), pools)
        pools.add(pool)


def _begin_observing(meter: Meter, pools: weakref.WeakSet[ConnectionPool]) -> None:
    def reading(read: Callable[[PoolStats], _States]) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        def observations(options: CallbackOptions) -> Iterable[Observation]:
            for stats in [pool.stats() for pool in pools]:
                if not stats.closed:
                    for value, attributes in read(stats):
                        yield Observation(value, {"smtpconn.pool.name": stats.name, **attributes})

        return [observations]

    for name, read, unit, description in (
        ("smtpconn.pool.connections", _connections, "{connection}", "Connections by state"),
        ("smtpconn.pool.waiting", _waiting, "{caller}", "Callers that wait for a connection"),
    ):
        meter.create_observable_up_down_counter(name, reading(read), unit, description)
    for name, read, unit, description in (
        ("smtpconn.retries", _retries, "{retry}", "Automatic retries over a fresh connection"),
        ("smtpconn.retired", _retired, "{connection}", "Connections closed, by reason"),
        ("smtpconn.closing_signals", _closing_signals, "{connection}", "Connections that the server ended"),
        ("smtpconn.recipients", _recipients, "{recipient}", "Recipients by verdict"),
    ):
        meter.create_observable_counter(name, reading(read), unit, description)


def _connections(stats: PoolStats) -> _States:
    for state in ("idle", "leased", "opening", "closing"):
        yield getattr(stats, state), {"smtpconn.state": state}


def _waiting(stats: PoolStats) -> _States:
    yield stats.waiting, {}


def _retries(stats: PoolStats) -> _States:
    yield stats.stale_retries, {}


def _retired(stats: PoolStats) -> _States:
    for reason, number in stats.retired.items():
        yield number, {"smtpconn.reason": reason}


def _closing_signals(stats: PoolStats) -> _States:
    yield stats.closing_signals, {}


def _recipients(stats: PoolStats) -> _States:
    for number, verdict in (
        (stats.delivered, Delivery.DELIVERED),
        (stats.not_delivered, Delivery.NOT_DELIVERED),
        (stats.unknown, Delivery.UNKNOWN),
    ):
        yield number, {"smtpconn.delivery": verdict.value}
