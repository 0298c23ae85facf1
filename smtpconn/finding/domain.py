"""A mail domain to the servers that take its mail, in the order to try them, and what each must prove.

Knows which questions to ask for which service; refuses to know sockets. Its laws: nothing is guessed where a domain has
no record of a service; a server whose TLSA records cannot be had is not used (RFC 7672 section 2.1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smtpconn.deadline import Deadline
from smtpconn.finding.exchangers import exchangers
from smtpconn.finding.lookups import Lookups
from smtpconn.finding.records import RecordSet, SrvRecord, checked_patterns
from smtpconn.finding.services import services
from smtpconn.finding.tlsa import TlsaAnswer
from smtpconn.finding.trust import Demand, FoundServer, Voucher, demand_on, voucher_of
from smtpconn.protocol.address import check_host
from smtpconn.protocol.errors import InvalidInputError, ResolveError, SmtpError, numeral
from smtpconn.tls import TlsMode

if TYPE_CHECKING:
    import dns.resolver

Service = Literal["submission", "mx"]
Dane = Literal["auto", "require"]

SMTP_PORT = 25
_MOST_SERVERS = 20  # of one domain that are tried: a zone may hold thousands, and each costs questions
_KINDS = (("submissions", TlsMode.IMPLICIT), ("submission", TlsMode.STARTTLS))


@dataclass(frozen=True, kw_only=True)
class DomainSearch:
    """What is looked for, and what the caller says about it; validated at birth.

    `domain`: the name that the user gave, ASCII. `service`: "submission" (SRV, RFC 6186 and 8314) or "mx". `tls_mode`:
    for a submission only servers of this mode; for MX what is demanded of servers without TLSA records (STARTTLS by
    default). `port`: of the MX hosts. `expected`: host names that the caller knows to serve the domain, as
    `mx.example.net` or `*.example.net`. `dane`: "auto": as the records say; "require": no server without. `own_names`:
    what this relay is called in MX records. `resolver`, `validating`: as for `Lookups`.

    Raises `InvalidInputError` or TypeError.
    """

    domain: str
    service: Service = "submission"
    tls_mode: TlsMode | None = None
    port: int = SMTP_PORT
    expected: Sequence[str] = ()
    dane: Dane = "auto"
    own_names: Sequence[str] = ()
    resolver: dns.resolver.Resolver | None = None
    validating: bool | None = None

    def __post_init__(self) -> None:
        domain = check_host(self.domain, argument="domain")
        if ":" in domain or domain.rpartition(".")[2].isdecimal():
            raise InvalidInputError(f"domain must be a name, not an address: {domain!r}")
        object.__setattr__(self, "domain", domain)
        if self.service not in ("submission", "mx"):
            raise InvalidInputError('service must be "submission" or "mx"')
        if self.dane not in ("auto", "require"):
            raise InvalidInputError('dane must be "auto" or "require"')
        if self.tls_mode is not None and not isinstance(self.tls_mode, TlsMode):
            raise TypeError(f"tls_mode must be a TlsMode, not {type(self.tls_mode).__name__}")
        if self.service == "submission" and self.tls_mode is TlsMode.NONE:
            raise InvalidInputError("tls_mode must be IMPLICIT or STARTTLS for a submission (RFC 8314)")
        if self.service == "mx" and self.tls_mode is TlsMode.IMPLICIT:
            raise InvalidInputError("tls_mode must be STARTTLS or NONE for MX hosts: relays have no implicit TLS")
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise TypeError(f"port must be an int, not {type(self.port).__name__}")
        if not 1 <= self.port <= 65_535:
            raise InvalidInputError(f"port must be 1 to 65535: {numeral(self.port)}")
        object.__setattr__(self, "port", int.__int__(self.port))
        if self.port != SMTP_PORT and self.service != "mx":
            raise InvalidInputError("port is for MX hosts: an SRV record names its own, leave it away")
        for name in ("expected", "own_names"):
            object.__setattr__(self, name, checked_patterns(name, getattr(self, name)))
        if self.validating is not None and not isinstance(self.validating, bool):
            raise TypeError(f"validating must be a bool or None, not {type(self.validating).__name__}")

    @property
    def name(self) -> str:
        """For messages: the domain and what is looked for."""
        return f"{self.domain} ({'MX' if self.service == 'mx' else 'submission'})"

    @property
    def lookups(self) -> Lookups:
        """Who is asked."""
        return Lookups(self.resolver, validating=self.validating)

    @property
    def least_tls(self) -> TlsMode:
        """The mode of a connection of which nothing more is known yet."""
        return self.tls_mode or (TlsMode.STARTTLS if self.service == "mx" else TlsMode.IMPLICIT)


def find_servers(search: DomainSearch, deadline: Deadline) -> tuple[FoundServer, ...]:
    """The servers of the domain, in the order to try them; never empty.

    Raises:
        ResolveError: `permanent` if the domain does not exist, takes no mail, or has no such service.
        SmtpTimeoutError: the deadline passed first; `stage` is `resolve`.
    """
    found = _exchangers(search, deadline) if search.service == "mx" else _services(search, deadline)
    return tuple(dict.fromkeys(found))[:_MOST_SERVERS]


def tlsa_of(server: FoundServer, search: DomainSearch, deadline: Deadline) -> TlsaAnswer:
    """The server's TLSA records. Raises as `Lookups.tlsa`."""
    return search.lookups.tlsa(server.host, server.port, deadline)


def what_it_must_prove(
    server: FoundServer, answer: TlsaAnswer, search: DomainSearch, server_name: str | None = None
) -> Demand:
    """What this server must prove, given its TLSA records. Raises `TlsError` where DANE is required and impossible."""
    return demand_on(server, answer, search.domain, required=search.dane == "require", server_name=server_name)


def _exchangers(search: DomainSearch, deadline: Deadline) -> list[FoundServer]:
    found = search.lookups.mx(search.domain, deadline)
    ordered = exchangers(search.domain, found, own_names=search.own_names)
    voucher = _vouching(search, found.authenticated)
    return [FoundServer(each.host, search.port, search.least_tls, voucher(each.host)) for each in ordered]


def _services(search: DomainSearch, deadline: Deadline) -> list[FoundServer]:
    """RFC 8314 section 3.3: implicit TLS is preferred; who has both kinds of record is asked by STARTTLS last."""
    servers: list[FoundServer] = []
    failed: SmtpError | None = None
    for service, tls_mode in _KINDS:
        if search.tls_mode in (None, tls_mode):
            try:
                found: RecordSet[SrvRecord] = search.lookups.srv(service, search.domain, deadline)
            except ResolveError as error:  # the other kind may be there, and is no less safe
                failed = error
                continue
            voucher = _vouching(search, found.authenticated)
            servers += [FoundServer(r.host, r.port, tls_mode, voucher(r.host)) for r in services(found)]
    if not servers:
        if failed is not None:
            raise failed
        raise ResolveError(f"{search.domain!r} names no submission server (RFC 6186)", permanent=True)
    return servers


def _vouching(search: DomainSearch, authenticated: bool) -> Callable[[str], Voucher]:
    def voucher(host: str) -> Voucher:
        return voucher_of(host, search.domain, authenticated=authenticated, expected=search.expected)

    return voucher
