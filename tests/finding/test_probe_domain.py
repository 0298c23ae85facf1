"""`smtpconn probe --domain` and `smtpconn send --domain`: what was found by DNS, and what would be trusted."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING, Any

import dns.rcode
import dns.resolver
import pytest

from smtpconn.cli import main
from smtpconn.testing import LoopbackServer, TestAuthority

from .name_server import AD, NameServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smtpconn.testing import Issued

DOMAIN = "example.test"


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer({})
    asking = server.resolver()
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: asking)
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    monkeypatch.delenv("EMAIL_URL", raising=False)
    yield server
    server.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """A command in this process: status, stdout, stderr."""

    def call(*arguments: str) -> tuple[object, str, str]:
        try:
            status: object = main(list(arguments))
        except SystemExit as exited:
            status = exited.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def record(issued: Issued, *, right: bool = True) -> str:
    return f"3 0 1 {hashlib.sha256(issued.der).hexdigest() if right else '00' * 32}"


def relay(port: int, *records: str) -> dict[str, Any]:
    return {
        f"{DOMAIN}. MX": AD(["10 mx1.test.", "20 mx2.test."]),
        "mx1.test. A": dns.rcode.SERVFAIL,
        "mx2.test. A": AD(["127.0.0.1"]),
        f"_{port}._tcp.mx2.test. TLSA": AD(list(records)),
    }


def test_CLI13_a_probe_of_a_domain_shows_each_server_and_what_it_must_prove(
    name_server: NameServer, authority: TestAuthority, run: Callable[..., Any]
) -> None:
    issued = authority.issue("nowhere.test", self_signed=True)
    with LoopbackServer(tls="starttls", ca=authority, certificate=issued) as server:
        name_server.zone = relay(server.port, record(issued))
        options = ("--domain", DOMAIN, "--service", "mx", "--port", str(server.port))
        status, out, err = run("probe", "--json", *options)
        shown = run("probe", *options)[1]
        assert "MAIL" not in server.sessions[0].commands
    report = json.loads(out)
    assert (status, err) == (0, "")
    first, second = report["domain"]["servers"]
    assert report["domain"]["name"] == DOMAIN
    assert (first["host"], first["vouched_by"], first["tlsa"], first["trust"]) == ("mx1.test", "dnssec", None, None)
    assert "SERVFAIL" in first["error"]
    assert second == {
        "host": "mx2.test", "port": server.port, "tls_mode": "starttls", "vouched_by": "dnssec", "tlsa": "usable",
        "tlsa_name": f"_{server.port}._tcp.mx2.test", "tlsa_records": [record(issued)], "verified_name": None,
        "trust": "DANE", "error": None,
    }  # fmt: skip
    assert (report["tls"]["verified_by"], report["tls"]["server_name"]) == ("DANE-EE", "mx2.test")
    assert report["endpoint"] == f"mx2.test:{server.port}"
    assert "DNSSEC" in shown
    assert "DANE" in shown


def test_CLI13_a_probe_shows_the_certificate_that_DANE_refuses(
    name_server: NameServer, authority: TestAuthority, run: Callable[..., Any]
) -> None:
    issued = authority.issue("mx2.test")
    with LoopbackServer(tls="starttls", ca=authority, certificate=issued) as server:
        name_server.zone = relay(server.port, record(issued, right=False))
        options = ("--domain", DOMAIN, "--service", "mx", "--port", str(server.port))
        status, out, err = run("probe", "--json", *options)
    report = json.loads(out)
    assert status == 75  # RFC 7672 section 2.2: later, perhaps
    assert "refused by DANE" in err
    assert report["error"]["type"] == "CertificateError"
    assert report["tls"]["sha256"] == hashlib.sha256(issued.der).hexdigest()
    assert report["tls"]["verified_by"] is None


def test_CLI13_submission_servers_are_found_and_verified_for_the_domain(
    name_server: NameServer, authority: TestAuthority, run: Callable[..., Any]
) -> None:
    with LoopbackServer(tls="implicit", ca=authority, certificate=authority.issue(DOMAIN)) as server:
        name_server.zone = {f"_submissions._tcp.{DOMAIN}. SRV": [f"0 0 {server.port} mail.provider.test."]}
        options = ("--domain", DOMAIN, "--ca", str(authority.path))
        status, out, _ = run("probe", "--json", *options)
        (found,) = json.loads(out)["domain"]["servers"]
        assert (status, found["vouched_by"], found["trust"], found["verified_name"]) == (0, "nobody", "PKIX", DOMAIN)
        expected = run("probe", "--json", *options, "--expect", "*.provider.test")
        (found,) = json.loads(expected[1])["domain"]["servers"]
        assert (expected[0], found["vouched_by"], found["verified_name"]) == (69, "caller", "mail.provider.test")


def test_CLI13_a_domain_without_servers_has_no_host(name_server: NameServer, run: Callable[..., Any]) -> None:
    for options in (("--service", "mx"), ()):
        status, out, err = run("probe", "--json", "--domain", DOMAIN, *options)
        assert status == 68
        assert json.loads(out)["domain"] == {"name": DOMAIN, "servers": []}
        assert "ResolveError" in err


def test_CLI13_no_server_that_may_be_used_is_an_error(name_server: NameServer, run: Callable[..., Any]) -> None:
    name_server.zone = {f"{DOMAIN}. MX": ["10 mx1.test."]}
    status, out, err = run("probe", "--json", "--domain", DOMAIN, "--service", "mx", "--dane", "require")
    (found,) = json.loads(out)["domain"]["servers"]
    assert (status, found["tlsa"], found["trust"]) == (75, "insecure", None)
    assert "DANE is required" in err


def test_a_mail_is_sent_to_a_domain(
    name_server: NameServer, authority: TestAuthority, run: Callable[..., Any], tmp_path: Any
) -> None:
    letter = tmp_path / "hello.eml"
    letter.write_bytes(b"From: anna@example.com\nSubject: x\n\nx\n")
    issued = authority.issue("mx2.test")
    with LoopbackServer(tls="starttls", ca=authority, certificate=issued) as server:
        name_server.zone = relay(server.port, record(issued))
        options = ("--domain", DOMAIN, "--service", "mx", "--port", str(server.port), "--file", str(letter))
        status, _, err = run("send", *options, f"ben@{DOMAIN}")
        assert (status, err) == (0, "")
        name_server.zone = relay(server.port, record(issued, right=False))
        assert run("send", *options, f"ben@{DOMAIN}")[0] == 75
        assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--domain", DOMAIN, "--host", "a.test"), "--host"),
        (("--domain", DOMAIN, "--url", "submission://a.test"), "--url"),
        (("--domain", DOMAIN, "--unix-socket", "/run/lmtp"), "--unix-socket"),
        (("--service", "mx", "--host", "a.test", "--tls", "none"), "--domain"),
        (("--domain", "192.0.2.1"), "domain"),
        (("--domain", DOMAIN, "--tls", "none"), "tls_mode"),
    ],
)
def test_CLI13_a_domain_beside_another_server_is_refused(
    name_server: NameServer, run: Callable[..., Any], arguments: tuple[str, ...], word: str
) -> None:
    status, _, err = run("probe", *arguments)
    assert status == 64
    assert word in err
    assert name_server.asked == []
