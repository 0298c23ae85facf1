"""Questions to DNS with dnspython, before a deadline, and whether the answer may be believed.

Knows resolvers and the AD bit; refuses to know what the records mean. Its laws: every name is absolute, because a
search list would make somebody else's `_25._tcp.mx.example.com.corp.example` of it; "authenticated" means that a
validating resolver says so *and* that the way to it is trusted; nothing is cached here (BR9).
"""

from __future__ import annotations

import copy
import ipaddress
from typing import TYPE_CHECKING, Any

from smtpconn.deadline import Deadline
from smtpconn.finding.records import MxRecord, RecordSet, SrvRecord, TlsaRecord, same_name
from smtpconn.finding.tlsa import TlsaAnswer, TlsaState, judged
from smtpconn.protocol.errors import ResolveError, SmtpTimeoutError

if TYPE_CHECKING:
    import dns.resolver


class Lookups:
    """One resolver and the trust in it.

    `resolver`: a `dns.resolver.Resolver`; the system's configuration by default. `validating`: True: the resolver
    validates, and nobody can come between it and this process; False: it is not believed; None: it is believed if
    every name server that it asks is on this machine (a loopback address).
    """

    def __init__(self, resolver: dns.resolver.Resolver | None = None, *, validating: bool | None = None) -> None:
        self._given = resolver
        self._validating = validating

    def mx(self, domain: str, deadline: Deadline) -> RecordSet[MxRecord]:
        """The MX records of a domain.

        Raises:
            ResolveError: `permanent` if the domain does not exist.
            SmtpTimeoutError: the deadline passed first; `stage` is `resolve`.
        """
        name, found, authenticated = self._ask(domain, "MX", deadline)
        return RecordSet(name, tuple(MxRecord(_host(r.exchange), r.preference) for r in found), authenticated)

    def srv(self, service: str, domain: str, deadline: Deadline) -> RecordSet[SrvRecord]:
        """The SRV records of a service over TCP, such as `submissions`. Raises as `mx`, but for a name not there."""
        name, found, authenticated = self._ask(f"_{service}._tcp.{domain}", "SRV", deadline, or_nothing=True)
        records = tuple(SrvRecord(_host(r.target), r.port, r.priority, r.weight) for r in found)
        return RecordSet(name, records, authenticated)

    def tlsa(self, host: str, port: int, deadline: Deadline) -> TlsaAnswer:
        """The TLSA records of a server, where DNSSEC vouches for its address (RFC 7672 section 2.2.2).

        Raises:
            ResolveError: the resolver could not say: the server must not be used (RFC 7672 section 2.1.1).
            SmtpTimeoutError: the deadline passed first; `stage` is `resolve`.
        """
        if not self.trusted:
            return TlsaAnswer(TlsaState.NOT_ASKED, host)
        answer = TlsaAnswer(TlsaState.INSECURE, host)
        for base in self._bases(host, deadline):
            _, found, authenticated = self._ask(f"_{port}._tcp.{base}", "TLSA", deadline, or_nothing=True)
            records = tuple(TlsaRecord(r.usage, r.selector, r.mtype, bytes(r.cert)) for r in found)
            answer = judged(base, records, authenticated=authenticated)
            if answer.state in (TlsaState.USABLE, TlsaState.UNUSABLE):
                break
        return answer

    def _bases(self, host: str, deadline: Deadline) -> list[str]:
        """RFC 7672 section 2.2.3: where TLSA records may stand: behind all aliases first, then at the name itself.

        Nothing where the zone of the addresses is not signed: servers there often answer no question about TLSA.
        """
        for kind in ("A", "AAAA"):
            name, found, authenticated = self._ask(host, kind, deadline, or_nothing=True)
            if found or authenticated or not same_name(name, host):
                break
        if authenticated:
            return [host] if same_name(name, host) else [name, host]
        if same_name(name, host):
            return []
        # An alias out of a signed zone into one that is not: the alias itself may be vouched for.
        _, _, authenticated = self._ask(host, "CNAME", deadline, or_nothing=True)
        return [host] if authenticated else []

    @property
    def trusted(self) -> bool:
        """True if what the resolver says of DNSSEC may be believed. Raises `ResolveError` without a resolver."""
        if self._validating is not None:
            return self._validating
        servers = self._resolver().nameservers
        return bool(servers) and all(_is_loopback(server) for server in servers)

    def _resolver(self) -> dns.resolver.Resolver:
        try:
            import dns.exception
            import dns.flags
            import dns.resolver
        except ImportError as error:
            raise ResolveError("MX, SRV and TLSA look-ups need the package dnspython", permanent=True) from error
        try:
            resolver = copy.copy(self._given) if self._given is not None else dns.resolver.Resolver()
        except (dns.exception.DNSException, OSError) as error:
            raise ResolveError(f"no resolver is configured: {error}", permanent=False) from error
        # AD asks to be told what DNSSEC says (RFC 6840 section 5.7).
        resolver.flags = (dns.flags.RD if resolver.flags is None else resolver.flags) | dns.flags.AD
        return resolver

    def _ask(
        self, name: str, kind: str, deadline: Deadline, *, or_nothing: bool = False
    ) -> tuple[str, list[Any], bool]:
        """Where the records stand, the records, and whether they are authenticated.

        `or_nothing`: a name that does not exist has no records; otherwise it is an error.
        """
        resolver = self._resolver()
        import dns.exception
        import dns.resolver

        try:
            answer = resolver.resolve(f"{name}.", kind, lifetime=deadline.remaining(), raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            if not or_nothing:
                raise _failed(name, kind, error, permanent=True) from error
            answers = error.kwargs["responses"].values()
            return name, [], bool(answers) and all(self._believed(response) for response in answers)
        except dns.exception.Timeout as error:
            raise SmtpTimeoutError(f"resolving the {kind} records of {name!r} timed out", stage="resolve") from error
        except (dns.exception.DNSException, OSError) as error:
            raise _failed(name, kind, error, permanent=isinstance(error, _malformed_names())) from error
        found = [] if answer.rrset is None else list(answer.rrset)
        return str(answer.canonical_name.to_text(omit_final_dot=True)), found, self._believed(answer.response)

    def _believed(self, response: Any) -> bool:
        import dns.flags

        return bool(response.flags & dns.flags.AD) and self.trusted


def _failed(name: str, kind: str, error: Exception, *, permanent: bool) -> ResolveError:
    return ResolveError(f"cannot resolve the {kind} records of {name!r}: {error}", permanent=permanent)


def _malformed_names() -> tuple[type[Exception], ...]:
    import dns.name

    return (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.IDNAException)


def _host(name: Any) -> str:
    """A target as a host name without the final dot; empty for the root, which means that there is none."""
    return "" if len(name) <= 1 else str(name.to_text(omit_final_dot=True))


def _is_loopback(server: object) -> bool:
    """An address of this machine alone; a name server that is more than an address is somewhere else."""
    try:
        return ipaddress.ip_address(str(server).partition("%")[0]).is_loopback
    except ValueError:
        return False
