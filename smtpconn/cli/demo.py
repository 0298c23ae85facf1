"""`smtpconn demo`: thousands of messages from several threads through one pool, and what became of each of them.

Without `--server` it brings its own server, in a process of its own, and compares the verdicts that the pool gave with
what that server says it took responsibility for. Refuses to judge leniently: the exit status is 0 only if every message
was delivered and the two books agree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smtpconn import (
    ConnectionPool,
    Delivery,
    PoolStats,
    RecipientResult,
    SmtpConnection,
    SmtpError,
    Timeouts,
    TlsMode,
)
from smtpconn.cli import render, shapes, values
from smtpconn.cli.exits import EX_OK, INTERRUPTED, NOT_ALL_DELIVERED
from smtpconn.cli.flights import Flights
from smtpconn.cli.load import Load, Outcome, send_all

if TYPE_CHECKING:
    from smtpconn.testing.process import ServerProcess

_FULL = "full@example.com"
_LMTP_RECIPIENTS = ("anna@example.com", _FULL, "zoe@example.com")
_LMTP_TIMEOUT = 10.0  # seconds
_SMALLEST = 256  # octets; room for the header


def _octets(text: str) -> int:
    number = int(text)
    if number < _SMALLEST:
        raise argparse.ArgumentTypeError(f"at least {_SMALLEST} octets")
    return number


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "demo",
        help="send messages from several threads through one pool and account for every one",
        description="Send messages from several threads through one pool and account for every one. "
        "Exit status 0 only if every message was delivered and the server's own ledger agrees.",
    )

    def option(name: str, kind: Callable[[str], object], metavar: str, default: object, text: str = "") -> None:
        parser.add_argument(
            name, type=kind, metavar=metavar, default=default, help=f"{text} (default: %(default)s)".lstrip()
        )

    parser.add_argument(
        "--server", type=values.server, metavar="HOST:PORT", help="your SMTP server, without TLS (default: our own)"
    )
    option("--sender", values.sender, "ADDRESS", "sender@example.com")
    option("--recipient", values.recipient, "ADDRESS", "recipient@example.com")
    option("--messages", values.positive, "N", 5000)
    option("--threads", values.positive, "N", 8)
    option("--max-size", values.positive, "N", 4, "connections of the pool")
    option("--size", _octets, "OCTETS", 2048, "of each message")
    option("--timeout", values.seconds, "SECONDS", 30.0, "for each message, in all")
    option("--seed", int, "N", 1, "of the text of the messages")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing if all is well")
    parser.set_defaults(run=run)


@dataclass(frozen=True, kw_only=True)
class _Report:
    """All that is shown: the load, what became of it, and what both sides counted."""

    load: Load
    outcome: Outcome
    stats: PoolStats
    flights: int
    ledger: str | None  # None: no ledger to compare with; empty: it agrees; else what differs
    lmtp: tuple[RecipientResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every message was delivered and nothing contradicts it."""
        return self.outcome.count(Delivery.DELIVERED) == self.load.messages and not self.ledger and self.lmtp_ok

    @property
    def lmtp_ok(self) -> bool:
        """Whether exactly the refused recipient was not delivered to."""
        return all((r.delivery is Delivery.DELIVERED) is (r.address != _FULL) for r in self.lmtp)

    @property
    def status(self) -> int:
        """The exit status."""
        if self.outcome.interrupted:
            return INTERRUPTED
        return EX_OK if self.ok else NOT_ALL_DELIVERED

    @property
    def rate(self) -> float:
        """Messages per second."""
        return len(self.outcome.verdicts) / self.outcome.seconds if self.outcome.seconds else 0.0

    @property
    def flights_per_message(self) -> float | None:
        """Round trips per message, those of opening and closing connections included."""
        attempted = len(self.outcome.verdicts)
        return self.flights / attempted if attempted else None


@contextlib.contextmanager
def _own_server() -> Iterator[ServerProcess]:
    """Our own server, which an interrupt from the terminal does not reach: it must live to show its ledger."""
    from smtpconn.testing import ServerProcess

    server = ServerProcess(keep=False)
    if hasattr(signal, "pthread_sigmask"):  # the child inherits the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with server:
        yield server


def _compare(told: dict[str, Any], load: Load, outcome: Outcome) -> str:
    """What the server's report and the verdicts disagree about, or nothing."""
    booked = {(message, recipient): count for message, recipient, count in told["ledger"]}
    possible = {Delivery.DELIVERED: {1}, Delivery.NOT_DELIVERED: {0}, Delivery.UNKNOWN: {0, 1}}
    wrong = [
        index
        for index, verdict in outcome.verdicts.items()
        if booked.pop((load.key(index), load.recipient), 0) not in possible[verdict]
    ]
    found = []
    if wrong:
        found.append(f"{len(wrong):,} verdicts, the first for message {min(wrong)}")
    if booked:
        found.append(f"{len(booked):,} messages that were never sent")
    if told["violations"]:
        found.append(f"the server objects: {told['violations'][0]}")
    return "; ".join(found)


def _lmtp(sender: str) -> tuple[RecipientResult, ...]:
    """One message for three recipients, one of whom the server refuses."""
    from smtpconn.testing import LoopbackServer

    with LoopbackServer(protocol="lmtp") as server:
        server.refuse(_FULL, "552 5.2.2 mailbox full", when="data")
        with SmtpConnection.connect_lmtp(server.host, server.port, TlsMode.NONE, timeout=_LMTP_TIMEOUT) as connection:
            message = b"Subject: one message, three verdicts\r\n\r\n"
            return connection.send(sender, _LMTP_RECIPIENTS, message, timeout=_LMTP_TIMEOUT).recipients


def _measure(arguments: argparse.Namespace, host: str, port: int, load: Load) -> tuple[Outcome, PoolStats, int]:
    flights = Flights()
    timeout = Timeouts(total=arguments.timeout)
    with ConnectionPool(
        host, port, TlsMode.NONE, timeout=timeout, max_size=arguments.max_size, dial=flights.dial, name="demo"
    ) as pool:
        with render.progress(load.messages, wanted=not (arguments.json or arguments.quiet)) as progress:
            outcome = send_all(load, pool, progress)
        stats = pool.stats()
    return outcome, stats, flights.count


def _report(arguments: argparse.Namespace) -> _Report:
    load = Load(
        sender=arguments.sender,
        recipient=arguments.recipient,
        messages=arguments.messages,
        threads=arguments.threads,
        size=arguments.size,
        seed=arguments.seed,
        timeout=arguments.timeout,
    )
    if arguments.server is not None:
        host, port = arguments.server
        outcome, stats, flights = _measure(arguments, host, port, load)
        return _Report(load=load, outcome=outcome, stats=stats, flights=flights, ledger=None, lmtp=())
    with _own_server() as server:
        outcome, stats, flights = _measure(arguments, server.host, server.port, load)
        ledger = _compare(server.report(), load, outcome)
    lmtp = () if outcome.interrupted else _lmtp(load.sender)
    return _Report(load=load, outcome=outcome, stats=stats, flights=flights, ledger=ledger, lmtp=lmtp)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _rows(report: _Report) -> Iterator[tuple[str, str]]:
    outcome, stats = report.outcome, report.stats
    yield "messages", f"{report.load.messages:,}"
    for verdict in Delivery:
        yield f"  {verdict.name}", f"{outcome.count(verdict):,}"
    yield "messages per second", f"{report.rate:,.0f}"
    yield "latency, median", _milliseconds(outcome.percentile(0.5))
    yield "latency, 99 of 100", _milliseconds(outcome.percentile(0.99))
    yield "connections opened", f"{stats.opened:,}"
    yield "connections reused", f"{stats.reused:,} times"
    yield "automatic retries", f"{stats.stale_retries:,}"
    yield "round trips per message", "-" if report.flights_per_message is None else f"{report.flights_per_message:.2f}"
    if report.ledger is not None:
        yield "the server's ledger", f"DISAGREES: {report.ledger}" if report.ledger else "agrees with every verdict"


def _show(report: _Report, max_size: int) -> None:
    load = report.load
    title = f"{load.messages:,} messages of {load.size:,} octets, {load.threads} threads, one pool of {max_size}"
    render.table(title, list(_rows(report)))
    if report.lmtp:
        rows = [(r.address, r.delivery.name, str(r.reply) if r.reply else "-") for r in report.lmtp]
        render.table("LMTP: one message, a verdict for each recipient", rows, header=("recipient", "verdict", "reply"))


def _json(report: _Report) -> dict[str, Any]:
    outcome, stats = report.outcome, report.stats
    return {
        "schema": shapes.SCHEMA,
        "command": "demo",
        "exit": report.status,
        "seed": report.load.seed,
        "messages": report.load.messages,
        "seconds": round(outcome.seconds, 3),
        "rate": round(report.rate, 1),
        "latency": {"p50": outcome.percentile(0.5), "p99": outcome.percentile(0.99)},
        "connections": stats.opened,
        "reuses": stats.reused,
        "retries": stats.stale_retries,
        "flights_per_message": report.flights_per_message,
        "verdicts": {verdict.value: outcome.count(verdict) for verdict in Delivery},
        "ledger_agrees": None if report.ledger is None else not report.ledger,
        "lmtp": [shapes.recipient(result) for result in report.lmtp],
        "errors": outcome.first_errors(),
    }


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration, show it, and return the exit status."""
    try:
        report = _report(arguments)
    except SmtpError as error:  # the LMTP part, or options that the library refuses
        print(f"smtpconn demo: {type(error).__name__}: {error}", file=sys.stderr)
        return NOT_ALL_DELIVERED
    outcome = report.outcome
    with render.writing("smtpconn demo"):
        if arguments.json:
            print(json.dumps(_json(report), indent=2))
        elif not (arguments.quiet and report.ok):
            _show(report, arguments.max_size)
    for line in outcome.first_errors():
        print(f"smtpconn demo: {line}", file=sys.stderr)
    if len(outcome.verdicts) < report.load.messages:
        why = "interrupted" if outcome.interrupted else "gave up"
        done = f"{why} after {len(outcome.verdicts):,} messages; the others were not sent"
        print(f"smtpconn demo: {done}", file=sys.stderr)
    return report.status
