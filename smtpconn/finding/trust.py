"""Whom to believe: who says that a host serves a domain, and what the host must prove (RFC 6125, 7672, 7673, 7817).

Pure. The law: a name that came out of DNS is verified only if DNSSEC or the caller vouches for it; what TLSA records
demand is demanded whoever vouches.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from smtpconn.finding.records import is_among, same_name
from smtpconn.finding.tlsa import TlsaAnswer, TlsaDemand, TlsaState
from smtpconn.protocol.errors import TlsError
from smtpconn.tls import TlsMode


class Voucher(enum.Enum):
    """Who says that a host serves the domain: it is the name that the caller gave, DNSSEC, the caller, or nobody."""

    GIVEN = "given"
    DNSSEC = "dnssec"
    CALLER = "caller"
    NOBODY = "nobody"


@dataclass(frozen=True)
class FoundServer:
    """A server that DNS names for a domain; `tls_mode` as the kind of record, or the caller, demands it."""

    host: str
    port: int
    tls_mode: TlsMode
    voucher: Voucher


@dataclass(frozen=True)
class Demand:
    """What must hold before a mail goes to a server.

    `reference_name`: the name for SNI, and the one that the certificate is verified for unless `tlsa.alone`. `tlsa`:
    what the certificate must match, or None.
    """

    tls_mode: TlsMode
    reference_name: str
    tlsa: TlsaDemand | None = None


def voucher_of(host: str, domain: str, *, authenticated: bool, expected: Collection[str] = ()) -> Voucher:
    """Who vouches for a host that DNS named for the domain. `expected`: the names that the caller knows of."""
    if same_name(host, domain):
        return Voucher.GIVEN
    if authenticated:
        return Voucher.DNSSEC
    return Voucher.CALLER if is_among(host, expected) else Voucher.NOBODY


def demand_on(
    server: FoundServer, answer: TlsaAnswer, domain: str, *, required: bool = False, server_name: str | None = None
) -> Demand:
    """What this server must prove. `required`: DANE or nothing. `server_name`: the caller's own word on the name.

    Raises:
        TlsError: DANE is required, and there is nothing to prove it with, or nobody vouches for the host.
    """
    vouched = server.voucher is not Voucher.NOBODY
    reference_name = server_name or (server.host if vouched else domain)
    usable = answer.state is TlsaState.USABLE
    if required and not (usable and vouched):
        why = f"its TLSA records are {answer.state.value}" if vouched else f"DNSSEC does not vouch for it ({domain})"
        raise TlsError(f"DANE is required, and {server.host}:{server.port} cannot be trusted by it: {why}")
    # RFC 7672 section 2.2: records, usable or not, say that there is TLS: in the clear nothing goes there.
    has_records = answer.state in (TlsaState.USABLE, TlsaState.UNUSABLE)
    tls_mode = TlsMode.STARTTLS if has_records and server.tls_mode is TlsMode.NONE else server.tls_mode
    if not usable:
        return Demand(tls_mode, reference_name)
    if not vouched:
        # Records of a host that an attacker may have named prove that host, and not that it serves the domain.
        return Demand(tls_mode, reference_name, TlsaDemand(answer.records, (answer.base,), alone=False))
    # RFC 7672 section 3.2.2: the base domain, and the domain that was asked for.
    names = tuple(dict.fromkeys((answer.base, domain)))
    return Demand(tls_mode, answer.base, TlsaDemand(answer.records, names))
