"""From a domain to a delivered mail, or to none: RFC 5321 section 5.1, 6186, 7672, 7817; servers and DNS on loopback.

Addresses come from the system's resolver, whose place a table takes here.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from typing import TYPE_CHECKING, Any

import dns.rcode
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ConnectionPool,
    InvalidInputError,
    ResolveError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsUnavailableError,
    TlsaDemand,
    TlsaRecord,
    TlsConfig,
    TlsError,
    TlsMode,
)
from smtpconn.testing import Issued, LoopbackServer, TestAuthority
from smtpconn.tls_context import ssl_context

from .name_server import AD, NameServer, Zone

if TYPE_CHECKING:
    from collections.abc import Iterator

DOMAIN = "example.test"
MX = "mx.provider.test"
ENVELOPE: Any = ("anna@example.com", ["ben@example.test"], b"Subject: x\r\n\r\nx\r\n")
WRONG = "3 1 1 " + "00" * 32


@pytest.fixture(scope="module")
def authority() -> Iterator[TestAuthority]:
    with TestAuthority() as made:
        yield made


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer({})
    yield server
    server.close()


class Network:
    """Servers at loopback addresses, and the names by which the system's resolver knows them."""

    def __init__(self, name_server: NameServer, authority: TestAuthority, stack: contextlib.ExitStack) -> None:
        self.name_server = name_server
        self.authority = authority
        self.stack = stack
        self.addresses: dict[str, str] = {}

    def server(self, name: str, certificate: Issued | None = None, *, port: int = 0, **options: Any) -> LoopbackServer:
        """A server for that name, with STARTTLS if it has a certificate."""
        address = f"127.0.0.{len(self.addresses) + 2}"
        self.addresses[name] = address
        if certificate is not None:
            options = {"tls": "starttls", "ca": self.authority, "certificate": certificate, **options}
        return self.stack.enter_context(LoopbackServer(host=address, port=port, **options))

    def zone(self, records: Zone) -> None:
        self.name_server.zone = records
        self.name_server.asked.clear()

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[Any]:
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.addresses[host], 0))]

    def options(self, **options: Any) -> dict[str, Any]:
        """What every search here needs."""
        trusted = {} if options.get("tls_mode") is TlsMode.NONE else {"tls_config": TlsConfig(trust=self.authority.pem)}
        return {"timeout": 10, "resolver": self.name_server.resolver(), **trusted, **options}

    def send(self, domain: str = DOMAIN, **options: Any) -> str:
        """Send one mail over a connection to the domain; by what its certificate was verified."""
        with SmtpConnection.from_domain(domain, **self.options(**options)) as connection:
            connection.send(*ENVELOPE, timeout=10)
            return "plaintext" if connection.tls is None else connection.tls.verified_by


@pytest.fixture
def network(
    name_server: NameServer, authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        made = Network(name_server, authority, stack)
        monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
        yield made


def ee(certificate: Issued) -> str:
    """A DANE-EE record for its key."""
    key = x509.load_der_x509_certificate(certificate.der).public_key()
    return "3 1 1 " + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def said(server: LoopbackServer) -> set[str]:
    return {command for session in server.sessions for command in session.commands}


def refused(server: LoopbackServer) -> bool:
    """Nothing of a mail, and no credentials, ever came there."""
    return said(server) <= {"EHLO", "STARTTLS", "QUIT"} and not server.mails


# --- submission ---


def submission(port: int, *, implicit: bool = False, authenticated: bool = False) -> Zone:
    record: Any = [f"0 1 {port} mail.provider.test."]
    return {f"_submission{'s' * implicit}._tcp.{DOMAIN}. SRV": AD(record) if authenticated else record}


@pytest.mark.parametrize("implicit", [False, True])
def test_OB20_the_certificate_is_verified_for_the_name_that_the_user_gave(network: Network, implicit: bool) -> None:
    """RFC 6186 section 6, RFC 7817 section 3."""
    tls = "implicit" if implicit else "starttls"
    certificate = network.authority.issue(DOMAIN)
    server = network.server("mail.provider.test", certificate, tls=tls, auth={"anna": "secret"})
    network.zone(submission(server.port, implicit=implicit))
    assert network.send(credentials=("anna", "secret")) == "PKIX"
    assert len(server.mails) == 1


def test_OB20_a_certificate_for_the_name_out_of_DNS_is_refused_unless_somebody_vouches_for_it(network: Network) -> None:
    certificate = network.authority.issue("mail.provider.test")
    server = network.server("mail.provider.test", certificate, auth={"anna": "secret"})
    network.zone(submission(server.port))
    with pytest.raises(CertificateError, match=f"refused for '{DOMAIN}'"):
        network.send(credentials=("anna", "secret"))
    assert refused(server)
    login: dict[str, Any] = {"credentials": ("anna", "secret")}
    assert network.send(expected=["mail.provider.test"], **login) == "PKIX"
    assert network.send(expected=["*.provider.test"], **login) == "PKIX"
    named = TlsConfig(trust=network.authority.pem, server_name="mail.provider.test")
    assert network.send(tls_config=named, **login) == "PKIX"
    network.zone(submission(server.port, authenticated=True))
    assert network.send(**login) == "PKIX"
    with pytest.raises(CertificateError, match=f"refused for '{DOMAIN}'"):
        network.send(validating=False, **login)
    assert len(server.mails) == 4


def test_BS21_the_next_server_takes_over_but_not_for_a_login_that_is_refused(network: Network) -> None:
    certificate = network.authority.issue(DOMAIN)
    second = network.server("b.test", certificate, auth={"anna": "secret"})
    third = network.server("c.test", certificate, auth={"anna": "secret"}, port=second.port)
    network.addresses["a.test"] = "127.0.0.99"
    port = second.port
    network.zone({f"_submission._tcp.{DOMAIN}. SRV": [f"{n} 0 {port} {h}.test." for n, h in enumerate("abc")]})
    assert network.send(credentials=("anna", "secret")) == "PKIX"
    assert (len(second.mails), third.sessions) == (1, [])
    with pytest.raises(AuthenticationError):
        network.send(credentials=("anna", "wrong"))
    assert third.sessions == []


# --- MX and DANE ---


def relay_zone(*records: str, authenticated: bool = True, port: int = 25, host: str = MX) -> Zone:
    """An MX record, the host's address and its TLSA records, all of them vouched for or none."""
    mark: Any = AD if authenticated else list
    return {
        f"{DOMAIN}. MX": mark([f"10 {host}."]),
        f"{host}. A": mark(["127.0.0.2"]),
        f"_{port}._tcp.{host}. TLSA": mark(list(records)),
    }


def test_OB20_a_host_that_matches_its_TLSA_record_needs_no_root_no_name_and_no_validity(network: Network) -> None:
    certificate = network.authority.issue("elsewhere.test", self_signed=True, expired=True)
    server = network.server(MX, certificate)
    network.zone(relay_zone(WRONG, ee(certificate), port=server.port))
    assert network.send(service="mx", port=server.port) == "DANE-EE"
    assert server.sessions[0].commands == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize("asked", [TlsMode.STARTTLS, TlsMode.NONE])
def test_OB20_nothing_is_delivered_to_a_host_that_DANE_says_is_wrong(network: Network, asked: TlsMode) -> None:
    """Its certificate is good by every root and name; RFC 7672 section 2.2: that does not count."""
    server = network.server(MX, network.authority.issue([MX, DOMAIN]))
    network.zone(relay_zone(WRONG, port=server.port))
    with pytest.raises(CertificateError, match="refused by DANE") as caught:
        network.send(service="mx", port=server.port, tls_mode=asked)
    assert caught.value.retry_safe
    assert refused(server)


@pytest.mark.parametrize("asked", [TlsMode.STARTTLS, TlsMode.NONE])
@pytest.mark.parametrize("record", [WRONG, "1 1 1 " + "00" * 32], ids=["usable", "unusable"])
def test_OB20_a_host_with_TLSA_records_that_offers_no_STARTTLS_gets_nothing(
    network: Network, asked: TlsMode, record: str
) -> None:
    server = network.server(MX)
    network.zone(relay_zone(record, port=server.port))
    with pytest.raises(StartTlsUnavailableError):
        network.send(service="mx", port=server.port, tls_mode=asked)
    assert refused(server)


def test_OB20_the_next_host_is_tried_when_one_is_wrong(network: Network) -> None:
    good = network.authority.issue("b.test")
    first = network.server("a.test", network.authority.issue([DOMAIN, "a.test"]))
    second = network.server("b.test", good, port=first.port)
    zone = {f"{DOMAIN}. MX": AD(["10 a.test.", "20 b.test."])}
    for name, record in (("a.test", WRONG), ("b.test", ee(good))):
        zone |= {f"{name}. A": AD(["127.0.0.2"]), f"_{first.port}._tcp.{name}. TLSA": AD([record])}
    network.zone(zone)
    assert network.send(service="mx", port=first.port) == "DANE-EE"
    assert refused(first)
    assert len(second.mails) == 1
    network.zone({**zone, f"_{first.port}._tcp.b.test. TLSA": AD([WRONG])})
    with pytest.raises(CertificateError, match=r"b\.test.*other servers: .*a\.test") as caught:
        network.send(service="mx", port=first.port)
    assert caught.value.permanent is False
    assert refused(first)
    assert len(second.mails) == 1


@pytest.mark.parametrize("answer", [dns.rcode.SERVFAIL, None], ids=["SERVFAIL", "silence"])
def test_OB20_a_host_whose_TLSA_records_cannot_be_had_is_not_even_connected_to(network: Network, answer: Any) -> None:
    """RFC 7672 section 2.1.1."""
    server = network.server(MX, network.authority.issue([MX, DOMAIN]))
    network.zone({**relay_zone(port=server.port), f"_{server.port}._tcp.{MX}. TLSA": answer})
    with pytest.raises((ResolveError, SmtpTimeoutError)) as caught:
        network.send(service="mx", port=server.port, timeout=0.5 if answer is None else 10)
    assert caught.value.stage == "resolve"
    assert server.sessions == []


def test_OB20_TLSA_records_of_an_unsigned_zone_are_no_records(network: Network) -> None:
    server = network.server(MX, network.authority.issue(DOMAIN))
    network.zone(relay_zone(WRONG, authenticated=False, port=server.port))
    assert network.send(service="mx", port=server.port) == "PKIX"
    plain = network.server("plain.test")
    network.zone(relay_zone(WRONG, authenticated=False, port=plain.port, host="plain.test"))
    assert network.send(service="mx", port=plain.port, tls_mode=TlsMode.NONE) == "plaintext"


def test_OB20_an_MX_out_of_an_unsigned_zone_must_have_the_domains_name_and_match_its_own_records(
    network: Network,
) -> None:
    """RFC 7672 section 2.2.1: an attacker may name a host of his own, in a signed zone of his own."""
    attackers = network.authority.issue(MX)
    server = network.server(MX, attackers)
    forged = {**relay_zone(ee(attackers), port=server.port), f"{DOMAIN}. MX": [f"10 {MX}."]}
    network.zone(forged)
    with pytest.raises(CertificateError, match=f"refused for '{DOMAIN}'"):
        network.send(service="mx", port=server.port)
    assert refused(server)
    assert network.send(service="mx", port=server.port, expected=[MX]) == "DANE-EE"
    honest = network.authority.issue(DOMAIN)
    server = network.server("b.test", honest)
    network.zone({**relay_zone(ee(honest), port=server.port, host="b.test"), f"{DOMAIN}. MX": ["10 b.test."]})
    assert network.send(service="mx", port=server.port) == "PKIX and DANE-EE"


def test_OB20_where_DANE_is_required_a_host_without_it_gets_nothing(network: Network) -> None:
    server = network.server(MX, network.authority.issue([MX, DOMAIN]))
    for zone in (relay_zone(port=server.port), relay_zone(WRONG, authenticated=False, port=server.port)):
        network.zone(zone)
        with pytest.raises(TlsError, match="DANE is required"):
            network.send(service="mx", port=server.port, dane="require")
    assert server.sessions == []


def test_BS21_a_domain_without_MX_is_its_own_host_and_null_MX_is_final(network: Network) -> None:
    server = network.server(DOMAIN, network.authority.issue(DOMAIN))
    network.zone({f"{DOMAIN}. MX": []})
    assert network.send(service="mx", port=server.port) == "PKIX"
    network.zone({f"{DOMAIN}. MX": ["0 ."]})
    with pytest.raises(ResolveError, match="null MX") as caught:
        network.send(service="mx", port=server.port)
    assert caught.value.permanent is True
    assert len(server.sessions) == 1


def test_BR9_a_silent_resolver_costs_no_more_than_the_deadline(network: Network) -> None:
    network.zone({f"{DOMAIN}. MX": None})
    with pytest.raises(SmtpTimeoutError) as caught:
        network.send(service="mx", timeout=0.3)
    assert caught.value.stage == "resolve"


# --- the pool ---


def test_BS21_a_pool_asks_DNS_whenever_it_opens_a_connection_and_follows_a_roll_over(network: Network) -> None:
    """RFC 7671 section 8.1."""
    old, new = network.authority.issue(MX), network.authority.issue(MX)
    server = network.server(MX, old)
    network.zone(relay_zone(ee(old), port=server.port))
    options = network.options(service="mx", port=server.port)
    with ConnectionPool.from_domain(DOMAIN, **options) as pool:
        assert network.name_server.asked == []
        pool.send(*ENVELOPE)
        asked = len(network.name_server.asked)
        pool.send(*ENVELOPE)
        assert len(network.name_server.asked) == asked
        network.zone(relay_zone(ee(new), port=server.port))
        pool.invalidate()
        with pytest.raises(CertificateError, match="refused by DANE"):
            pool.send(*ENVELOPE)
        pool.invalidate()
        network.zone(relay_zone(ee(new), ee(old), port=server.port))
        pool.send(*ENVELOPE)
        assert f"{DOMAIN} (MX)" in repr(pool)
    assert len(server.mails) == 3


def test_BS21_a_pool_takes_the_options_of_both(network: Network) -> None:
    server = network.server("mail.provider.test", network.authority.issue(DOMAIN), auth={"anna": "secret"})
    network.zone(submission(server.port))
    options = network.options(credentials=("anna", "secret"), max_size=1, name="ours")
    with ConnectionPool.from_domain(DOMAIN, **options) as pool:
        assert pool.send(*ENVELOPE).all_delivered
        assert pool.stats().max_size == 1
    assert [session.user for session in server.sessions] == ["anna"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"service": "imap"}, InvalidInputError),
        ({"tls_config": TlsConfig(), "tls_mode": TlsMode.NONE, "service": "mx"}, InvalidInputError),
        ({"protocol": "lmtp"}, InvalidInputError),
        ({"host": "mail.test"}, TypeError),
        ({"unix_socket": "/run/lmtp"}, (TypeError, InvalidInputError)),
        ({"nonsense": 1}, TypeError),
    ],
    ids=repr,
)
def test_what_cannot_be_combined_with_a_domain_is_refused_before_anybody_is_asked(
    network: Network, options: dict[str, Any], error: Any
) -> None:
    network.zone({})
    for make in (ConnectionPool.from_domain, SmtpConnection.from_domain):
        with pytest.raises(error):
            make(DOMAIN, **{"timeout": 1, "resolver": network.name_server.resolver(), **options})
    assert network.name_server.asked == []


def test_a_context_of_the_callers_and_records_of_his_are_for_a_server_that_is_known(network: Network) -> None:
    context = TlsConfig(trust=network.authority.pem)
    pinned = TlsConfig(tlsa=TlsaDemand((TlsaRecord(3, 1, 1, bytes(32)),), ()))
    for config in (TlsConfig(context=ssl_context(context)), pinned):
        for make in (ConnectionPool.from_domain, SmtpConnection.from_domain):
            with pytest.raises(InvalidInputError, match="from_domain"):
                make(DOMAIN, timeout=1, tls_config=config)


def test_every_error_leaves_the_mail_undelivered_and_safe_to_repeat(network: Network) -> None:
    network.zone({})
    for service in ("mx", "submission"):
        with pytest.raises(SmtpError) as caught:
            network.send(service=service)
        assert (type(caught.value), caught.value.permanent, caught.value.retry_safe) == (ResolveError, True, True)
