"""From a domain to a connection: its servers in order, each with the TLS that it must prove, until one of them serves.

Knows how what was found becomes an `Opening`; refuses to know DNS and sockets. Its laws: TLSA records are looked up for
every connection anew, so that a roll-over needs nobody; a server whose records cannot be had, or that does not prove
what they demand, is passed over, and nothing is ever said to it but EHLO and STARTTLS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from smtpconn.deadline import Budget, Deadline
from smtpconn.finding.domain import DomainSearch, find_servers, tlsa_of, what_it_must_prove
from smtpconn.finding.tlsa import TlsaAnswer
from smtpconn.finding.trust import Demand, FoundServer
from smtpconn.opening import Endpoint, Opening
from smtpconn.protocol.errors import AuthenticationError, InvalidInputError, SmtpError, UsageError
from smtpconn.tls import TlsMode

_Connection = TypeVar("_Connection")

_KEYS = frozenset(field.name for field in fields(DomainSearch)) - {"domain"}


def search_of(domain: str, keywords: dict[str, Any]) -> tuple[DomainSearch, dict[str, Any]]:
    """The search that a `from_domain` means, and the keywords that are not of it. Raises as `DomainSearch`."""
    found = {key: value for key, value in keywords.items() if key in _KEYS}
    return DomainSearch(domain=domain, **found), {k: v for k, v in keywords.items() if k not in _KEYS}


def check_opening(opening: Opening, endpoint: Endpoint) -> None:
    """What cannot be combined with a search. Raises `InvalidInputError`."""
    if endpoint.search is None:
        return
    if opening.protocol != "smtp":
        raise InvalidInputError("from_domain finds SMTP servers: LMTP is spoken to a server that is known")
    if opening.tls.context is not None:
        raise InvalidInputError("from_domain builds a context for each server: give trust, not context")
    if opening.tls.tlsa is not None:
        raise InvalidInputError("from_domain looks TLSA records up: tlsa is for a server that is known")


@dataclass(frozen=True)
class Candidate:
    """A server that was found, its TLSA records, what it must prove, and how to open a connection to it."""

    server: FoundServer
    answer: TlsaAnswer
    demand: Demand
    endpoint: Endpoint
    opening: Opening


def candidate(server: FoundServer, search: DomainSearch, opening: Opening, deadline: Deadline) -> Candidate:
    """Look its TLSA records up, and say what follows.

    Raises:
        ResolveError: the records cannot be had: the server must not be used (RFC 7672 section 2.1.1).
        TlsError: DANE is required, and the server cannot be trusted by it.
        SmtpTimeoutError: the deadline passed first; `stage` is `resolve`.
    """
    return candidate_of(server, tlsa_of(server, search, deadline), search, opening)


def candidate_of(server: FoundServer, answer: TlsaAnswer, search: DomainSearch, opening: Opening) -> Candidate:
    """The same where the records are known. Raises `TlsError` where DANE is required, and impossible."""
    demand = what_it_must_prove(server, answer, search, opening.tls.server_name)
    config = None
    if demand.tls_mode is not TlsMode.NONE:
        config = replace(opening.tls, server_name=demand.reference_name, tlsa=demand.tlsa)
    its_opening = replace(opening, tls_mode=demand.tls_mode, tls_config=config)
    return Candidate(server, answer, demand, Endpoint(server.host, server.port), its_opening)


def open_first(
    search: DomainSearch,
    opening: Opening,
    budget: Budget,
    open_one: Callable[[Opening, Endpoint, Budget], _Connection],
) -> _Connection:
    """A connection to the first server of the domain that can be had (RFC 5321 section 5.1, RFC 2782).

    Each server may use its share of a total. Raises what the last one raised, with the others named; `permanent` only
    if it is for all of them; what concerns every server, as a refused login does, at once.
    """
    servers = find_servers(search, budget.phase("connect"))
    errors: list[SmtpError] = []
    for place, server in enumerate(servers):
        share = _share(budget, len(servers) - place)
        try:
            found = candidate(server, search, opening, share.phase("connect"))
            return open_one(found.opening, found.endpoint, share)
        except SmtpError as error:
            if not may_fail_over(error):
                raise
            errors.append(error)
            if budget.total.expired:
                break
    raise _all_of(errors)


def may_fail_over(error: SmtpError) -> bool:
    """EP3: to the next server for all but a refused login and what the caller did."""
    if isinstance(error, AuthenticationError):
        return error.permanent is not True
    return not isinstance(error, (InvalidInputError, UsageError))


def _share(budget: Budget, left: int) -> Budget:
    remaining = budget.total.remaining()
    if remaining is None or left == 1:
        return budget
    return Budget(budget.total.within(remaining / left), budget.phases, budget.reserve)


def _all_of(errors: list[SmtpError]) -> SmtpError:
    """The last error, which tells of the others, too."""
    last = errors[-1]
    if len(errors) > 1:
        others = "; ".join(str(error) for error in errors[:-1])
        last.args = (f"{last.args[0]} (other servers: {others})", *last.args[1:])
        if last.permanent and not all(error.permanent for error in errors):
            last.permanent = None
    return last
