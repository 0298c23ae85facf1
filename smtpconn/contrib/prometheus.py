"""A collector of `prometheus_client` over pools. Needs the extra `prometheus`.

Knows what a `PoolStats` and the pool's events are called in Prometheus; refuses to know a registry: who wants the
numbers registers the collector. Its laws: gauges and counters are read from one picture of each pool when they are
scraped, so they agree with each other; a scrape waits for no server and no caller; a pool that was closed or dropped is
in no later scrape; no label has an address, a text or a secret in it.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

try:
    from prometheus_client import Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    text = "smtpconn.contrib.prometheus needs prometheus_client: pip install smtpconn[prometheus]"
    raise ImportError(text) from error

from smtpconn.pool import ConnectionPool
from smtpconn.pooling.events import Acquired, ConnectionOpened, Returned
from smtpconn.pooling.stats import PoolStats
from smtpconn.protocol.errors import InvalidInputError

# Seconds: a hand-over takes microseconds, a mail milliseconds on a local network, and up to ten minutes by RFC 5321.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)


class PoolCollector(Collector):
    """The metrics of the pools that it watches; every sample has the label `pool`, the pool's name.

    Nothing is registered by itself: `registry.register(collector)`. `watch(pool)` adds a pool; of one made with
    `ConnectionPool(..., on_event=collector.on_event)` there are also the times of waiting, leases and opens, as
    histograms with the bounds `buckets`, in seconds. Safe for threads. Pools are held weakly.
    """

    def __init__(self, *, buckets: Sequence[float] = BUCKETS) -> None:
        self._pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._waits = _histogram("wait", "Time that callers queued for a connection that they got", buckets)
        self._leases = _histogram("lease", "Time from the taking of a connection to its return", buckets)
        self._opens = _histogram("open", "Time that opening a connection took, TLS and login included", buckets)

    def watch(self, pool: ConnectionPool) -> None:
        """Scrape this pool from now on, until it is closed.

        Raises `InvalidInputError` if another watched pool has the same name: their samples could not be told apart.
        """
        name = pool.stats().name
        with self._lock:
            if any(other is not pool and stats.name == name for other, stats in self._open()):
                raise InvalidInputError(f"another pool is called {name!r}: give each ConnectionPool a name of its own")
            self._pools.add(pool)

    def on_event(self, event: object) -> None:
        """The hook of a pool, or of several; events that say nothing about time are ignored."""
        if isinstance(event, Acquired):
            self._waits.labels(event.pool).observe(event.waited)
        elif isinstance(event, Returned):
            self._leases.labels(event.pool).observe(event.seconds)
        elif isinstance(event, ConnectionOpened):
            self._opens.labels(event.pool).observe(event.seconds)

    def collect(self) -> Iterator[Metric]:
        """One picture of each pool, as metrics."""
        with self._lock:
            pictures = [stats for _, stats in self._open()]
        yield from _metrics(pictures)
        names = {stats.name for stats in pictures}
        for histogram in (self._waits, self._leases, self._opens):
            yield from _of_pools(histogram, names)

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering the collector takes no picture."""
        yield from _metrics(())
        for histogram in (self._waits, self._leases, self._opens):
            yield from histogram.describe()

    def _open(self) -> list[tuple[ConnectionPool, PoolStats]]:
        """The pools that are not closed, with their pictures; closed ones are forgotten. Caller holds the lock."""
        found = [(pool, pool.stats()) for pool in self._pools]
        for pool, stats in found:
            if stats.closed:
                self._pools.discard(pool)
        return [(pool, stats) for pool, stats in found if not stats.closed]


def _metrics(pictures: Iterable[PoolStats]) -> Iterator[Metric]:
    for kind, name, text, labels, samples in _FAMILIES:
        metric = kind(name, text, labels=("pool", *labels))
        for stats in pictures:
            for values, number in samples(stats):
                metric.add_metric((stats.name, *values), number)
        yield metric


def _histogram(what: str, text: str, buckets: Sequence[float]) -> Histogram:
    return Histogram(f"smtpconn_pool_{what}_seconds", text, ("pool",), buckets=buckets, registry=None)


def _of_pools(histogram: Histogram, names: set[str]) -> Iterator[Metric]:
    """The histogram of these pools; what it has of others is forgotten."""
    for metric in histogram.collect():
        strangers = {sample.labels["pool"] for sample in metric.samples} - names
        metric.samples = [sample for sample in metric.samples if sample.labels["pool"] in names]
        yield metric
        for name in strangers:
            with contextlib.suppress(KeyError):  # another scrape was faster
                histogram.remove(name)


_Samples = Iterable[tuple[tuple[str, ...], float]]


class _Family(NamedTuple):
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str  # of a counter without `_total`, which the exposition adds
    text: str
    labels: tuple[str, ...]
    samples: Callable[[PoolStats], _Samples]


def _gauge(name: str, text: str, value: Callable[[PoolStats], float]) -> _Family:
    return _Family(GaugeMetricFamily, f"smtpconn_pool_{name}", text, (), lambda stats: [((), value(stats))])


def _total(name: str, text: str, field: str) -> _Family:
    return _Family(
        CounterMetricFamily, f"smtpconn_pool_{name}", text, (), lambda stats: [((), float(getattr(stats, field)))]
    )


def _connections(stats: PoolStats) -> _Samples:
    states = {"idle": stats.idle, "leased": stats.leased, "opening": stats.opening, "closing": stats.closing}
    return [((state,), number) for state, number in states.items()]


def _recipients(stats: PoolStats) -> _Samples:
    verdicts = {"delivered": stats.delivered, "not_delivered": stats.not_delivered, "unknown": stats.unknown}
    return [((verdict,), number) for verdict, number in verdicts.items()]


_FAMILIES = (
    _Family(GaugeMetricFamily, "smtpconn_pool_connections", "Connections by state", ("state",), _connections),
    _gauge("connections_max", "Connections that the pool may have", lambda stats: stats.max_size),
    _gauge("connections_limit", "Connections that the endpoints are believed to take", lambda stats: stats.limit),
    _gauge("waiting", "Callers that wait for a connection", lambda stats: stats.waiting),
    _gauge("breaker_open", "1 while the credentials count as refused", lambda stats: stats.breaker is not None),
    _Family(
        GaugeMetricFamily,
        "smtpconn_pool_endpoint_connections",
        "Connections by endpoint",
        ("endpoint",),
        lambda stats: [((endpoint.name,), endpoint.live) for endpoint in stats.endpoints],
    ),
    _Family(
        GaugeMetricFamily,
        "smtpconn_pool_endpoint_backoff_seconds",
        "Time until an open may be tried again",
        ("endpoint",),
        lambda stats: [((endpoint.name,), endpoint.backoff) for endpoint in stats.endpoints],
    ),
    _Family(CounterMetricFamily, "smtpconn_pool_recipients", "Recipients by verdict", ("delivery",), _recipients),
    _Family(
        CounterMetricFamily,
        "smtpconn_pool_retired",
        "Connections closed, by reason",
        ("reason",),
        lambda stats: [((reason,), number) for reason, number in stats.retired.items()],
    ),
    _total("acquired", "Connections given to callers", "acquired"),
    _total("reused", "Of them connections that had served before", "reused"),
    _total("waited", "Of them connections given after queueing", "waited"),
    _total("queued_seconds", "Time that these callers queued", "wait_seconds"),
    _total("acquire_timeouts", "Callers whose deadline passed without a connection", "timeouts"),
    _total("overloads", "Callers refused because too many waited", "overloads"),
    _total("interrupted", "Callers interrupted while they acquired", "interrupted"),
    _total("opened", "Connections opened", "opened"),
    _total("opening_seconds", "Time that these opens took", "open_seconds"),
    _total("open_errors", "Connections that could not be opened", "open_errors"),
    _total("messages", "MAIL commands written", "messages"),
    _total("stale_retries", "Automatic retries over a fresh connection", "stale_retries"),
    _total("probes", "NOOPs sent before a reuse", "probes"),
    _total("probe_failures", "NOOPs that were not answered by 250", "probe_failures"),
    _total("checks_failed", "Idle connections found dead without a round trip", "checks_failed"),
    _total("closing_signals", "Connections that the server ended", "closing_signals"),
    _total("shrinks", "Times that an endpoint took fewer connections", "shrinks"),
    _total("backoffs", "Back-offs begun after a failed open", "backoffs"),
    _total("breaker_trips", "Times that the credentials were refused", "breaker_trips"),
    _total("protocol_errors", "Replies that are no SMTP", "protocol_errors"),
    _total("starttls_injections", "Octets injected in front of a TLS handshake", "starttls_injections"),
    _total("leaks", "Leases dropped without being returned", "leaks"),
    _total("hook_errors", "Exceptions of the pool's hook", "hook_errors"),
)
