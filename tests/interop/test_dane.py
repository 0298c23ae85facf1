"""DANE from end to end: a zone signed by Knot DNS, Unbound as the validating resolver, and Postfix.

Postfix shows the certificate that SNI asks for, so that one server has good, expired, self-signed and wrong ones. The
addresses alone come from a table, in the place of the system's resolver.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import dns.resolver
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smtpconn import (
    CertificateError,
    ConnectionPool,
    ResolveError,
    SmtpConnection,
    StartTlsUnavailableError,
    TlsConfig,
    TlsMode,
)
from smtpconn.cli import main

from .daemon import HOST
from .name_servers import NameServers
from .servers import DOMAIN, MissingServerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .certificates import Certificates
    from .postfix import Postfix

OTHER = "3 1 1 " + "00" * 32
UNUSABLE = "1 1 1 " + "00" * 32


def _record(usage: int, path: Path, place: int = 0) -> str:
    """A TLSA record for the key of a certificate in a PEM file."""
    key = x509.load_pem_x509_certificates(path.read_bytes())[place].public_key()
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{usage} 1 1 {hashlib.sha256(octets).hexdigest()}"


def _zone(certificates: Certificates, port: int, bare_port: int) -> str:
    """Mail domains below `lab.test`, each with hosts of one kind; hosts are names that Postfix knows by SNI."""
    own = certificates.server_certificate
    chains = {name.partition(".")[0]: path for name, path in certificates.chains.items()}
    hosts = {
        "mail": [_record(3, own)],
        "wrong-host": [_record(3, own)],  # it shows another
        "expired": [OTHER, _record(3, chains["expired"])],
        "self-signed": [_record(3, chains["self-signed"])],
        "intermediate": [_record(2, chains["intermediate"], 1)],
        "no-intermediate": [_record(2, chains["intermediate"], 1)],  # the authority's certificate is not sent
        "localhost": [UNUSABLE],
        "without": [],
    }
    lines = [f"{host} A {HOST}" for host in hosts]
    lines += [f"_{port}._tcp.{host} TLSA {record}" for host, records in hosts.items() for record in records]
    lines += [f"{host}-mx MX 10 {host}" for host in hosts]
    lines += [
        f"_{bare_port}._tcp.mail TLSA {_record(3, own)}",
        "alias CNAME mail",
        "alias-mx MX 10 alias",
        "next-mx MX 10 wrong-host",
        "next-mx MX 20 mail",
        "null-mx MX 0 .",
        "plain-mx MX 10 mail.plain.test.",
        "bogus-mx MX 10 mail.bogus.test.",
    ]
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture(scope="module")
def name_servers(postfix: Postfix, certificates: Certificates) -> Iterator[NameServers]:
    try:
        NameServers.require()
    except MissingServerError as error:
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{error} (SMTPCONN_REQUIRE_SERVERS=1)", pytrace=False)
        pytest.skip(str(error))
    elsewhere = f"@ MX 10 mail\nmail A {HOST}\n_{postfix.port}._tcp.mail TLSA {OTHER}\n"
    with NameServers(
        signed={DOMAIN: _zone(certificates, postfix.port, postfix.bare_port)},
        plain={"plain.test": elsewhere + f"to-signed MX 10 mail.{DOMAIN}.\n"},
        bogus={"bogus.test": elsewhere},
    ) as servers:
        yield servers


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


class Sending:
    """Mails to the one Postfix, by what DNS says of a domain."""

    def __init__(self, name_servers: NameServers, postfix: Postfix, message_id: str) -> None:
        self.resolver = name_servers.resolver()
        self.postfix = postfix
        self.message_id = message_id
        self.letter = f"Message-ID: {message_id}\r\nSubject: DANE\r\n\r\nHello.\r\n".encode()

    def __call__(self, domain: str, source: str = HOST, **options: Any) -> str:
        """Send the letter; by what the server's certificate was verified."""
        given = {"port": self.postfix.port, "timeout": 15, "resolver": self.resolver, **options}
        connection = SmtpConnection.from_domain(domain, service="mx", source_address=(source, 0), **given)
        with connection:
            assert connection.send("a@example.com", [self.postfix.users[0]], self.letter, timeout=15).all_delivered
            assert connection.tls is not None
            return connection.tls.verified_by

    @property
    def arrived(self) -> int:
        return len(self.postfix.find_mail(self.postfix.users[0], self.message_id))

    def wait(self) -> None:
        self.postfix.wait_for_mail(self.postfix.users[0], self.message_id)


@pytest.fixture
def send(name_servers: NameServers, postfix: Postfix, message_id: str) -> Sending:
    return Sending(name_servers, postfix, message_id)


@pytest.mark.parametrize(
    ("domain", "verdict"),
    [
        pytest.param("mail-mx", "DANE-EE", id="7672 3.1.1: the matching certificate"),
        pytest.param("expired-mx", "DANE-EE", id="7672 3.1.1: one that has expired, in a roll-over"),
        pytest.param("self-signed-mx", "DANE-EE", id="7672 3.1.1: one of its own"),
        pytest.param("intermediate-mx", "DANE-TA", id="7672 3.1.2: one under the authority of the record"),
        pytest.param("alias-mx", "DANE-EE", id="7672 2.2.3: a host behind an alias"),
        pytest.param("next-mx", "DANE-EE", id="7672 2.2: the next host where the first is wrong"),
        pytest.param("mail", "DANE-EE", id="5321 5.1: a domain without MX"),
    ],
)
def test_OB20_a_mail_goes_to_the_host_that_its_TLSA_records_prove(send: Sending, domain: str, verdict: str) -> None:
    """No root is trusted for it: the system knows nothing of this authority."""
    assert send(f"{domain}.{DOMAIN}") == verdict
    send.wait()
    assert send.arrived == 1


@pytest.mark.parametrize(
    ("domain", "source"), [("wrong-host-mx", "127.0.7.1"), ("no-intermediate-mx", "127.0.7.2")]
)
@pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.NONE])
def test_OB20_a_host_with_a_wrong_certificate_hears_EHLO_and_STARTTLS_and_no_more(
    send: Sending, postfix: Postfix, certificates: Certificates, domain: str, source: str, tls_mode: TlsMode
) -> None:
    trust = {} if tls_mode is TlsMode.NONE else {"tls_config": TlsConfig(trust=certificates.ca_path)}
    source = f"{source}{tls_mode is TlsMode.NONE:d}"
    with pytest.raises(CertificateError, match="refused by DANE"):
        send(f"{domain}.{DOMAIN}", source, tls_mode=tls_mode, **trust)
    assert set(postfix.commands_of(source)) <= {"ehlo", "starttls", "commands"}
    assert send.arrived == 0


@pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.NONE])
def test_OB20_a_host_with_TLSA_records_and_no_STARTTLS_gets_nothing(
    send: Sending, postfix: Postfix, tls_mode: TlsMode
) -> None:
    with pytest.raises(StartTlsUnavailableError):
        send(f"mail-mx.{DOMAIN}", port=postfix.bare_port, tls_mode=tls_mode)
    assert send.arrived == 0


def test_OB20_a_host_whose_records_do_not_validate_is_not_connected_to(send: Sending) -> None:
    """RFC 7672 section 2.1.1: bogus is an error, for the domain and for its host alike."""
    for domain in ("bogus.test", f"bogus-mx.{DOMAIN}"):
        with pytest.raises(ResolveError, match="SERVFAIL") as caught:
            send(domain, tls_mode=TlsMode.NONE)
        assert caught.value.permanent is False
    assert send.arrived == 0


def test_OB20_an_unsigned_zone_proves_nothing_and_a_signed_one_vouches_for_the_hosts_name(
    send: Sending, certificates: Certificates
) -> None:
    trusted = TlsConfig(trust=certificates.ca_path)
    with pytest.raises(CertificateError, match=r"refused for 'plain\.test'"):
        send("plain.test", tls_config=trusted)
    with pytest.raises(CertificateError, match=r"refused for 'to-signed\.plain\.test'"):
        send("to-signed.plain.test", tls_config=trusted)
    with pytest.raises(CertificateError, match=r"refused for 'mail\.plain\.test'"):
        send(f"plain-mx.{DOMAIN}", tls_config=trusted)
    with pytest.raises(CertificateError, match="refused for"):
        send(f"mail-mx.{DOMAIN}", validating=False, tls_config=trusted)
    assert send(f"localhost-mx.{DOMAIN}", tls_config=TlsConfig(trust=certificates.ca_path, server_name="localhost"))
    assert send("to-signed.plain.test", expected=[f"mail.{DOMAIN}"]) == "DANE-EE"
    with pytest.raises(ResolveError, match="null MX"):
        send(f"null-mx.{DOMAIN}")


def test_BS21_a_pool_and_a_probe_find_the_same(
    send: Sending, postfix: Postfix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = f"mail-mx.{DOMAIN}"
    options: dict[str, Any] = {"service": "mx", "port": postfix.port, "resolver": send.resolver, "dane": "require"}
    with ConnectionPool.from_domain(domain, timeout=15, **options) as pool:
        pool.send("a@example.com", [postfix.users[0]], send.letter)
    send.wait()
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: send.resolver)
    assert main(["probe", "--json", "--domain", domain, "--service", "mx", "--port", str(postfix.port)]) == 0
    report = json.loads(capsys.readouterr().out)
    (server,) = report["domain"]["servers"]
    assert (server["host"], server["vouched_by"], server["tlsa"]) == (f"mail.{DOMAIN}", "dnssec", "usable")
    assert (server["trust"], report["tls"]["verified_by"]) == ("DANE", "DANE-EE")
