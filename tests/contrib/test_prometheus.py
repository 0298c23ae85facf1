"""`smtpconn.contrib.prometheus`: the text that a real registry exposes, parsed back (users:OV1, OV2, OV5)."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from smtpconn import ConnectionPool, InvalidInputError, PoolTimeoutError, RecipientsRefusedError, TlsMode
from smtpconn.contrib.prometheus import PoolCollector
from smtpconn.testing import LoopbackServer

from .conftest import MakePool

SENDER, RECIPIENT = "anna@example.com", "ben@example.net"
MESSAGE = b"Subject: confidential\r\n\r\nthe content\r\n"

Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(registry: CollectorRegistry) -> Scrape:
    """Every sample of the exposition: (name, labels) -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def value(found: Scrape, name: str, pool: str = "mail", **labels: str) -> float:
    return found[(f"smtpconn_pool_{name}", tuple(sorted({"pool": pool, **labels}.items())))]


@pytest.fixture
def collector() -> PoolCollector:
    return PoolCollector()


@pytest.fixture
def registry(collector: PoolCollector) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(collector)
    return made


def test_a_scrape_says_what_the_pool_has_and_has_done(
    make_pool: MakePool, server: LoopbackServer, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    pool = make_pool(name="mail", max_size=2, on_event=collector.on_event)
    collector.watch(pool)
    server.refuse("nobody@example.net", "550 5.1.1 no such user")
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    pool.send(SENDER, [RECIPIENT, "nobody@example.net"], MESSAGE)
    with pytest.raises(RecipientsRefusedError):
        pool.send(SENDER, ["nobody@example.net"], MESSAGE)
    with pool.connection():
        found = scraped(registry)
        states = ("idle", "leased", "opening", "closing")
        assert [value(found, "connections", state=state) for state in states] == [0, 1, 0, 0]
    found = scraped(registry)
    assert value(found, "connections", state="idle") == 1
    assert (value(found, "connections_max"), value(found, "connections_limit")) == (2, 2)
    assert (value(found, "waiting"), value(found, "breaker_open")) == (0, 0)
    assert value(found, "endpoint_connections", endpoint=f"{server.host}:{server.port}") == 1
    assert value(found, "endpoint_backoff_seconds", endpoint=f"{server.host}:{server.port}") == 0
    assert (value(found, "acquired_total"), value(found, "reused_total")) == (4, 3)
    assert (value(found, "opened_total"), value(found, "messages_total")) == (1, 3)
    assert value(found, "recipients_total", delivery="delivered") == 2
    assert value(found, "recipients_total", delivery="not_delivered") == 2
    assert value(found, "recipients_total", delivery="unknown") == 0
    assert value(found, "retired_total", reason="age") == 0
    pool.invalidate()
    assert value(scraped(registry), "retired_total", reason="generation") == 1


def test_times_of_waiting_leases_and_opens_are_histograms_in_seconds(
    make_pool: MakePool, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    pool = make_pool(name="mail", max_size=1, on_event=collector.on_event)
    collector.watch(pool)
    with pool.connection():
        waiter = threading.Thread(target=pool.send, args=(SENDER, [RECIPIENT], MESSAGE))
        waiter.start()
        while not pool.stats().waiting:
            pass
        with pytest.raises(PoolTimeoutError):
            pool.send(SENDER, [RECIPIENT], MESSAGE, timeout=0.05)
    waiter.join(10)
    found = scraped(registry)
    assert value(found, "wait_seconds_count") == value(found, "lease_seconds_count") == 2
    assert 0.05 <= value(found, "wait_seconds_sum") == pytest.approx(pool.stats().wait_seconds)
    assert value(found, "wait_seconds_bucket", le="0.001") == 1  # who did not wait
    assert value(found, "wait_seconds_bucket", le="600.0") == value(found, "wait_seconds_bucket", le="+Inf") == 2
    assert value(found, "lease_seconds_sum") > 0.05
    assert value(found, "open_seconds_count") == 1
    assert 0 < value(found, "open_seconds_sum") < 10
    assert value(found, "acquire_timeouts_total") == 1


def test_two_pools_are_told_apart_by_name_and_a_closed_one_disappears(
    make_pool: MakePool, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    first, second = (make_pool(name=name, on_event=collector.on_event) for name in ("first", "second"))
    collector.watch(first)
    collector.watch(second)
    collector.watch(second)
    first.send(SENDER, [RECIPIENT], MESSAGE)
    for _ in range(2):
        second.send(SENDER, [RECIPIENT], MESSAGE)
    found = scraped(registry)
    assert (value(found, "messages_total", "first"), value(found, "messages_total", "second")) == (1, 2)
    assert (value(found, "lease_seconds_count", "first"), value(found, "lease_seconds_count", "second")) == (1, 2)
    with pytest.raises(InvalidInputError, match="another pool is called 'first'"):
        collector.watch(make_pool(name="first"))
    first.close()
    assert {dict(labels)["pool"] for _, labels in scraped(registry)} == {"second"}
    again = make_pool(name="first", on_event=collector.on_event)
    collector.watch(again)
    again.send(SENDER, [RECIPIENT], MESSAGE)
    found = scraped(registry)
    assert value(found, "messages_total", "first") == value(found, "lease_seconds_count", "first") == 1


def test_a_dropped_pool_disappears_and_is_not_kept_alive(
    server: LoopbackServer, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    pool = ConnectionPool(server.host, server.port, TlsMode.NONE, on_event=collector.on_event)
    collector.watch(pool)
    assert scraped(registry)
    del pool
    gc.collect()
    assert scraped(registry) == {}


def test_a_pool_that_never_opened_is_there_with_zeros_and_nothing_is_opened_by_a_scrape(
    make_pool: MakePool, server: LoopbackServer, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    collector.watch(make_pool(name="mail"))
    assert value(scraped(registry), "opened_total") == 0
    assert server.connections_peak == 0


def test_names_and_units_are_by_the_conventions_and_openmetrics_parses_them(
    make_pool: MakePool, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    pool = make_pool(name="mail", on_event=collector.on_event)
    collector.watch(pool)
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    text = openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]  # the library's
    families = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]  # the library's
    assert len(families) == len({family.name for family in families}) > 30
    for family in families:
        assert re.fullmatch(r"smtpconn_pool_[a-z_]+", family.name)
        assert family.documentation
        assert ("seconds" in family.name) == bool(re.search("^Time |^Time that", family.documentation))
        if family.type == "counter":
            assert {sample.name for sample in family.samples} == {f"{family.name}_total"}


def test_every_counter_of_the_statistics_is_exported(make_pool: MakePool, collector: PoolCollector) -> None:
    pool = make_pool(name="mail")
    collector.watch(pool)
    pool.send(SENDER, [RECIPIENT], MESSAGE)
    read: set[str] = set()

    class Watching:
        def __init__(self, stats: object) -> None:
            self._stats = stats

        def __getattr__(self, name: str) -> object:
            read.add(name)
            return getattr(self._stats, name)

    stats = pool.stats()
    pool.stats = lambda: Watching(stats)  # type: ignore[method-assign, assignment, return-value]  # which fields are read
    assert list(collector.collect())
    unread = set(type(stats).__dataclass_fields__) - read
    assert unread == {"min_size", "generation", "holders", "longest_wait"}
    del pool.stats


def test_no_label_has_an_address_a_text_or_a_secret_in_it(
    make_pool: MakePool, server: LoopbackServer, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    pool = make_pool(name="mail", on_event=collector.on_event)
    collector.watch(pool)
    server.refuse(RECIPIENT, f"550 5.1.1 <{RECIPIENT}> telltale")
    with pytest.raises(RecipientsRefusedError):
        pool.send(SENDER, [RECIPIENT], MESSAGE)
    text = generate_latest(registry).decode()
    assert "smtpconn_pool_messages_total" in text
    for secret in ("@", "anna", "telltale", "confidential"):
        assert secret not in text


def test_threads_may_scrape_and_send_at_the_same_time(
    make_pool: MakePool, collector: PoolCollector, registry: CollectorRegistry
) -> None:
    pool = make_pool(name="mail", max_size=2, on_event=collector.on_event)
    collector.watch(pool)

    def work() -> None:
        for _ in range(10):
            pool.send(SENDER, [RECIPIENT], MESSAGE)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = scraped(registry)
        assert value(found, "reused_total") <= value(found, "acquired_total")
    for thread in threads:
        thread.join()
    assert value(scraped(registry), "lease_seconds_count") == 40


def test_import_smtpconn_loads_no_bridge_and_a_missing_library_names_the_extra() -> None:
    code = (
        "import sys, smtpconn, smtpconn.pool\n"
        "assert not [name for name in sys.modules if 'contrib' in name or 'prometheus' in name]\n"
        "sys.modules['prometheus_client'] = None\n"
        "try:\n    import smtpconn.contrib.prometheus\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "smtpconn.contrib.prometheus needs prometheus_client: pip install smtpconn[prometheus]\n", (
        done.stderr
    )
