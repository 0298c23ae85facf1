"""`smtpconn probe`: what a server offers, how TLS with it is, what each phase costs, and what follows for the user.

Connects, logs in where there are credentials, says NOOP three times and QUIT. Refuses to send mail: no MAIL is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from smtpconn import (
    ConnectError,
    PasswordAuth,
    ReplyError,
    ServerCapabilities,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    SocketTransport,
    Timeouts,
    TlsMode,
    Transport,
    discovery,
    racing,
)
from smtpconn.cli import logs, render, server, shapes
from smtpconn.cli.exits import EX_OK, INTERRUPTED, CommandError, status_of_error
from smtpconn.cli.watch import Watch, WatchedTransport
from smtpconn.deadline import Budget
from smtpconn.finding.domain import DomainSearch, find_servers, tlsa_of
from smtpconn.finding.tlsa import TlsaAnswer
from smtpconn.finding.trust import Demand
from smtpconn.protocol.sasl import Binding, choose
from smtpconn.resolve import SocketAddress, addresses, unix_address

_NOOPS = 3
_STARTTLS_PORTS = (25, 587)


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "probe",
        help="show what a server offers, its certificate, and what each phase costs",
        description="Connect, log in if there is a user, and say QUIT; no mail is sent. Shows what the server offers.",
    )
    server.add_to(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing if all is well")
    logs.add_to(group)
    parser.set_defaults(run=run, command="probe")


@dataclass(kw_only=True)
class _Findings:
    """All that was found out, as far as it went."""

    status: int = EX_OK
    endpoint: str | None = None
    domain: str | None = None
    servers: list[dict[str, Any]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    used: str | None = None
    watch: Watch = field(default_factory=Watch)
    capabilities: ServerCapabilities | None = None
    choice: str | None = None
    tls: dict[str, Any] | None = None
    rtt: float | None = None
    advice: list[str] = field(default_factory=list)
    error: SmtpError | None = None
    refused: CommandError | None = None

    def lines(self, number: int) -> list[str] | None:
        """What the server offered in its EHLO reply: the first one, or the one over TLS."""
        hellos = self.watch.hellos
        return list(hellos[number].lines[1:]) if number < len(hellos) else None

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        known = self.capabilities
        capabilities = known and {
            "extensions": {keyword: list(words) for keyword, words in known.extensions.items()},
            "size_limit": known.size_limit,
            "limits": dict(known.limits),
        }
        error = shapes.error(self.error) if self.error else shapes.refusal(str(self.refused)) if self.refused else None
        return {
            "schema": shapes.SCHEMA,
            "command": "probe",
            "exit": self.status,
            "endpoint": self.endpoint,
            "addresses": {"found": self.found, "used": self.used},
            "greeting": shapes.reply(self.watch.greeting),
            "ehlo": self.lines(0),
            "ehlo_tls": self.lines(1),
            "capabilities": capabilities,
            "auth": {"mechanisms": sorted(known.auth_mechanisms) if known else [], "choice": self.choice},
            "tls": self.tls,
            "timings": [
                {"phase": name, "seconds": round(took, 6), "round_trips": trips}
                for name, took, trips in self.watch.phases
            ],
            "rtt": None if self.rtt is None else round(self.rtt, 6),
            "advice": self.advice,
            "domain": self.domain and {"name": self.domain, "servers": self.servers},
            "error": error,
        }


def run(arguments: argparse.Namespace) -> int:
    """Probe the server, show what was found, and return the exit status."""
    findings = _Findings()
    with logs.shown(arguments):
        try:
            _probe(server.server_of(arguments), findings)
        except CommandError as error:
            findings.refused, findings.status = error, error.status
        except SmtpError as error:
            findings.error, findings.status = error, status_of_error(error)
        except KeyboardInterrupt:
            findings.status = INTERRUPTED
    with render.writing("smtpconn probe"):
        if arguments.json:
            print(json.dumps(findings.to_json(), indent=2))
        elif not (arguments.quiet and findings.status == EX_OK):
            _show(findings)
    if findings.refused is not None:
        print(f"smtpconn probe: {findings.refused}", file=sys.stderr)
    if findings.error is not None:
        print(f"smtpconn probe: {type(findings.error).__name__}: {findings.error}", file=sys.stderr)
    if findings.status == INTERRUPTED:
        print("smtpconn probe: interrupted", file=sys.stderr)
    return findings.status


# --- finding out ---


def _probe(target: server.Server, findings: _Findings) -> None:
    budget = Budget.of(target.timeouts)
    if target.endpoints[0].search is not None:
        findings.endpoint = target.endpoints[0].name
        target = _found(target, target.endpoints[0].search, findings, budget)
    endpoint, opening, watch = target.endpoints[0], target.opening, findings.watch
    findings.endpoint = endpoint.name
    tls = dataclasses.replace(opening.tls, server_name=opening.tls.server_name or endpoint.host)
    connection: SmtpConnection | None = None
    transport: Transport | None = None
    try:
        transport = WatchedTransport(_connected(target, findings, budget), watch)
        if opening.tls_mode is TlsMode.IMPLICIT:
            transport = transport.start_tls(tls, budget.phase("tls").remaining())
        connection = SmtpConnection.from_transport(
            transport,
            protocol=opening.protocol,
            tls_mode=opening.tls_mode,
            tls_config=None if opening.tls_mode is TlsMode.NONE else tls,
            credentials=opening.credentials,
            ehlo_domain=opening.ehlo_domain,
            audit=watch,
            allow_plaintext_auth=opening.allow_plaintext_auth,
            timeout=_rest(target, budget),
        )
        findings.tls = shapes.tls(connection.tls)
        _measure(connection, findings, target, budget)
    except BaseException:
        if watch.refused_certificate is not None:
            nothing = {"version": None, "cipher": None, "server_name": tls.server_name, "verified_by": None}
            findings.tls = {**nothing, **shapes.certificate(watch.refused_certificate)}
        raise
    finally:
        if watch.hellos:
            known = connection.capabilities if connection is not None else ServerCapabilities.parse(watch.hellos[-1])
            findings.capabilities = known
            findings.choice = _choice(known, clear=findings.tls is None)
        findings.advice = list(_advice(target, findings))
        if connection is not None:
            connection.close()
        elif transport is not None:
            transport.close()


def _found(target: server.Server, search: DomainSearch, findings: _Findings, budget: Budget) -> server.Server:
    """The domain's first server that can be used; what is known of the others, too, goes into the findings."""
    findings.domain = search.domain
    deadline, watch = budget.phase("connect"), findings.watch
    first: discovery.Candidate | None = None
    failed: SmtpError | None = None
    for each in watch.measure("DNS", lambda: find_servers(search, deadline)):
        known: TlsaAnswer | None = None
        demand: Demand | None = None
        why_not = None
        try:
            known = watch.measure("DNS", lambda: tlsa_of(each, search, deadline))  # noqa: B023  # called at once
            candidate = discovery.candidate_of(each, known, search, target.opening)
            demand = candidate.demand
            first = first or candidate
        except SmtpError as error:
            failed, why_not = error, str(error)
        findings.servers.append({**shapes.found_server(each, known, demand), "error": why_not})
    if first is None:
        assert failed is not None  # there is at least one server, and none of them can be used
        raise failed
    return dataclasses.replace(target, endpoints=[first.endpoint], opening=first.opening)


def _rest(target: server.Server, budget: Budget) -> Timeouts:
    """The limits of the call with what is left of its total; a total that has passed ends the next phase at once."""
    left = budget.total.remaining()
    return target.timeouts if left is None else target.timeouts.replace(total=max(left, 0.001))


def _connected(target: server.Server, findings: _Findings, budget: Budget) -> SocketTransport:
    """A transport to the first address that takes a connection; each of them gets its share of the time."""
    endpoint, watch = target.endpoints[0], findings.watch
    deadline = budget.phase("connect")
    if endpoint.host is None or endpoint.port is None:
        candidates = [unix_address(endpoint.unix_socket or "")]
    else:
        host, port = endpoint.host, endpoint.port
        candidates = list(watch.measure("resolve", lambda: addresses(host, port, deadline)))
    findings.found = [str(each.ip or each) for each in candidates]
    failures: list[str] = []
    errors: list[OSError] = []

    def failed(address: SocketAddress, error: OSError) -> None:
        failures.append(f"{address}: {error.strerror or 'timed out'}")
        errors.append(error)

    tried = racing.connected(candidates, deadline, failed, source_address=target.opening.source_address)
    transport = watch.measure("connect", lambda: next(tried, None))
    if isinstance(transport, SocketTransport):
        findings.used = next(str(each.ip or each) for each in candidates if str(each) == transport.peer)
        return transport
    text = f"connect to {endpoint.name} failed: {'; '.join(failures)}"
    if isinstance(errors[-1], TimeoutError):
        raise SmtpTimeoutError(text, stage="connect") from errors[-1]
    raise ConnectError(text) from errors[-1]


def _measure(connection: SmtpConnection, findings: _Findings, target: server.Server, budget: Budget) -> None:
    """Round trips of three NOOPs, and QUIT."""
    times = []
    try:
        for _ in range(_NOOPS):
            began = time.monotonic()
            connection.noop(timeout=_rest(target, budget))
            times.append(time.monotonic() - began)
    except ReplyError:
        if connection.is_shutting_down:
            raise
    else:
        findings.rtt = statistics.median(times)
    findings.watch.begin()
    connection.quit(timeout=_rest(target, budget))
    findings.watch.end("QUIT")


def _choice(known: ServerCapabilities, *, clear: bool) -> str | None:
    """The mechanism that a user with a password would get, or None."""
    try:
        return choose(PasswordAuth("user", "password"), known.auth_mechanisms, clear=clear, binding=Binding())
    except SmtpError:
        return None


def _advice(target: server.Server, findings: _Findings) -> Iterator[str]:
    """What follows for the user."""
    mode, known = target.opening.tls_mode, findings.capabilities
    port = target.endpoints[0].port
    if mode is TlsMode.IMPLICIT and known is None and port in _STARTTLS_PORTS:
        yield f"implicit TLS on port {port} is rare: STARTTLS is submission://, or --tls starttls"
    if known is None:
        return
    if known.supports_pipelining:
        yield "a message costs 2 round trips (PIPELINING)"
    else:
        yield "a message costs 3 round trips and one per recipient: the server does not offer PIPELINING"
    usable = [name for name in ("CHUNKING", "DSN", "SMTPUTF8", "8BITMIME", "REQUIRETLS") if known.supports(name)]
    yield f"usable: {', '.join(usable) or 'no further extension'}"
    if mode is TlsMode.NONE and known.supports_starttls:
        yield "the server offers STARTTLS and this call did not ask for it: submission://, or --tls starttls"
    if known.auth_mechanisms and findings.choice is None:
        yield "no mechanism of AUTH is usable with a password" + (" without TLS" if findings.tls is None else "")


# --- showing ---

_VOUCHERS = {
    "given": "it is the domain",
    "dnssec": "DNSSEC",
    "caller": "--expect",
    "nobody": "nobody: its name is not believed",
}


def _show(findings: _Findings) -> None:
    render.table(f"probe of {findings.endpoint or 'nothing'}", list(_rows(findings)), wrap=True)
    if findings.watch.phases:
        rows = [
            (name, f"{took * 1000:.1f} ms", "-" if trips is None else str(trips))
            for name, took, trips in findings.watch.phases
        ]
        render.table("what each phase took", rows, header=("phase", "time", "round trips"))


def _rows(findings: _Findings) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(findings.servers, 1):
        yield f"server {number}", f"{each['host']}:{each['port']}"
        yield "vouched for by", _VOUCHERS[each["vouched_by"]]
        yield "TLSA", "; ".join([f"{each['tlsa'] or 'nobody could say'} ({each['tlsa_name']})", *each["tlsa_records"]])
        trusted = f"{each['trust']}, for the name {each['verified_name']}" if each["verified_name"] else each["trust"]
        yield "would be trusted", str(each["error"] or trusted)
    yield "addresses", ", ".join(findings.found) or "-"
    yield "connected to", findings.used or "-"
    yield "greeting", str(findings.watch.greeting or "-")
    before, after = findings.lines(0), findings.lines(1)
    yield "EHLO", "; ".join(before or ()) or "-"
    if before is not None and after is not None:
        gone, come = [x for x in before if x not in after], [x for x in after if x not in before]
        yield "only before TLS", "; ".join(gone) or "-"
        yield "only over TLS", "; ".join(come) or "-"
    known = findings.capabilities
    if known is not None:
        yield "AUTH", ", ".join(sorted(known.auth_mechanisms)) or "-"
        yield "AUTH with a password", findings.choice or "-"
        size = f"{known.size_limit:,} octets" if known.size_limit else "no limit named"
        yield "SIZE", size if known.supports_size else "-"
        yield "LIMITS", ", ".join(f"{name}={number}" for name, number in known.limits.items()) or "-"
    for name, value in (findings.tls or {}).items():
        shown = ", ".join(value) if isinstance(value, list) else value
        yield f"TLS {name.replace('_', ' ')}", str(shown or "-")
    if findings.rtt is not None:
        yield "round trip", f"{findings.rtt * 1000:.1f} ms (median of {_NOOPS} NOOPs)"
    for line in findings.advice:
        yield "advice", line
