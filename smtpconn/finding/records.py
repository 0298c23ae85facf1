"""DNS records as values: MX, SRV, TLSA, and a set of them with what DNSSEC says about it.

Knows what a record holds; refuses to know who was asked. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from smtpconn.protocol.address import check_host
from smtpconn.protocol.errors import InvalidInputError

_LARGEST_PORT = 65_535


@dataclass(frozen=True)
class MxRecord:
    """A mail exchanger (RFC 5321 section 5.1); `host` is empty where the record names the root (RFC 7505)."""

    host: str
    preference: int


@dataclass(frozen=True)
class SrvRecord:
    """A server of a service (RFC 2782); `host` is empty where the record names the root: there is no such service."""

    host: str
    port: int
    priority: int
    weight: int


@dataclass(frozen=True)
class TlsaRecord:
    """What a TLS server's certificate must match (RFC 6698 section 2.1); `data` in octets."""

    usage: int
    selector: int
    matching_type: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching_type} {self.data.hex()}"


Record = TypeVar("Record", MxRecord, SrvRecord, TlsaRecord, str)


@dataclass(frozen=True)
class RecordSet(Generic[Record]):
    """The records of one name and kind; none where the name, or the kind, does not exist.

    `authenticated`: DNSSEC vouches for them, or for there being none, and the resolver that says so is trusted. `name`:
    where they stand, once every alias was followed.
    """

    name: str
    records: tuple[Record, ...] = ()
    authenticated: bool = False


def is_server(host: str, port: int = 1) -> bool:
    """True for a target that can be connected to: a host name, no address (RFC 5321 section 5.1), and a port."""
    try:
        name = check_host(host)
    except InvalidInputError:
        return False
    return name == host and ":" not in name and not name.rpartition(".")[2].isdecimal() and 1 <= port <= _LARGEST_PORT


def same_name(one: str, other: str) -> bool:
    """True if both are the same domain name: case and a final dot mean nothing."""
    return one.rstrip(".").lower() == other.rstrip(".").lower()


def is_among(host: str, patterns: Iterable[str]) -> bool:
    """True if a pattern is that name; `*.` stands for one whole label, as in MTA-STS (RFC 8461 section 4.1)."""
    name = host.rstrip(".").lower()
    parent = name.partition(".")[2]
    wanted = {pattern.rstrip(".").lower() for pattern in patterns}
    return name in wanted or (bool(parent) and f"*.{parent}" in wanted)


def checked_patterns(argument: str, given: object) -> tuple[str, ...]:
    """Names, of which the first label may be `*`. Raises TypeError or `InvalidInputError`."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"{argument} must be a sequence of host names, not {type(given).__name__}")
    found = []
    for each in given:
        if not isinstance(each, str):
            raise TypeError(f"{argument} must hold host names, not {type(each).__name__}")
        star, _, rest = each.partition(".")
        found.append(f"*.{check_host(rest, argument=argument)}" if star == "*" else check_host(each, argument=argument))
    return tuple(found)
