from __future__ import annotations

import smtplib
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpconn.testing import LoopbackServer, TestAuthority

from .conftest import Dial

Serve = Callable[..., LoopbackServer]


def strict(authority: TestAuthority, pem: bytes | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=(pem or authority.pem).decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    return context


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_smtplib_sends_over_tls(serve: Serve, tls: str, protocol: str) -> None:
    server = serve(tls=tls, protocol=protocol)
    assert server.ca is not None
    context = strict(server.ca)
    client: Any
    if tls == "implicit":
        client = smtplib.SMTP_SSL(server.host, server.port, context=context)
    else:
        client = smtplib.SMTP(server.host, server.port)
    if protocol == "lmtp":
        client.ehlo_msg = "lhlo"
    with client:
        if tls == "starttls":
            client.ehlo()
            assert client.has_extn("starttls")
            client.starttls(context=context)
        client.sendmail("a@x.test", "b@x.test", "X-Id: 1\r\n\r\n")
        assert not client.has_extn("starttls")
    [session] = server.sessions
    assert session.tls is not None
    assert session.tls.version == "TLSv1.3"
    assert server.violations == []
    assert server.ledger.count("1", "b@x.test") == 1


def test_the_server_name_and_the_client_s_certificate_are_recorded(serve: Serve, authority: TestAuthority) -> None:
    server = serve(tls="implicit", ca=authority, client_certificates="required")
    context = strict(authority)
    client = authority.client_certificate("client.test")
    context.load_cert_chain(client.path)
    with (
        socket.create_connection((server.host, server.port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        assert tls.recv(100).startswith(b"220")
    record = server.sessions[0].tls
    assert record is not None
    assert (record.server_name, record.client_certificate) == ("localhost", client.der)


GOOD: list[tuple[dict[str, Any], str]] = [
    ({}, "127.0.0.1"),
    ({}, "localhost"),
    ({"names": ["mx.test"]}, "mx.test"),
    ({"names": ["*.mx.test"]}, "a.mx.test"),
    ({"names": ["::1"]}, "::1"),
    ({"intermediate": True}, "localhost"),
    ({"key": "rsa"}, "localhost"),
    ({"key": "ed25519"}, "localhost"),
    ({"hash_algorithm": "sha384"}, "localhost"),
    ({"names": ["a.good.test"], "permitted_names": ["good.test"]}, "a.good.test"),
]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"expired": True}, "localhost", "expired"),
    ({"not_yet_valid": True}, "localhost", "not yet valid"),
    ({}, "other.test", "Hostname mismatch"),
    ({"no_san": True, "names": ["mx.test"]}, "mx.test", "Hostname mismatch"),
    ({"self_signed": True}, "localhost", "self.signed"),
    ({"missing_intermediate": True}, "localhost", "unable to get local issuer"),
    ({"bad_intermediate": True}, "localhost", "invalid CA certificate"),
    ({"client_only": True}, "localhost", "(unsupported|unsuitable) certificate purpose"),
    ({"no_key_identifiers": True}, "localhost", "Missing (Authority|Subject) Key Identifier"),
    ({"names": ["a.bad.test"], "permitted_names": ["good.test"]}, "a.bad.test", "permitted subtree violation"),
    ({"hash_algorithm": "sha1"}, "localhost", "too weak"),
    ({"key": "rsa", "key_size": 1024}, "localhost", "too (weak|small)"),
    ({"names": ["*.mx.test"]}, "a.b.mx.test", "Hostname mismatch"),
]


def handshake(context: ssl.SSLContext, server: LoopbackServer, name: str) -> str | None:
    with socket.create_connection((server.host, server.port)) as sock:
        sock.settimeout(10)
        with context.wrap_socket(sock, server_hostname=name) as tls:
            return tls.version()


@pytest.mark.parametrize(("faults", "name"), GOOD)
def test_a_good_certificate_passes_the_strict_check(
    serve: Serve, authority: TestAuthority, faults: dict[str, Any], name: str
) -> None:
    server = serve(tls="implicit", ca=authority, certificate=authority.issue(**faults))
    assert handshake(strict(authority), server, name) == "TLSv1.3"


@pytest.mark.parametrize(("faults", "name", "reason"), BAD, ids=[f"{case[2]}-{case[1]}" for case in BAD])
def test_a_bad_certificate_fails_for_its_reason(
    serve: Serve, authority: TestAuthority, faults: dict[str, Any], name: str, reason: str
) -> None:
    server = serve(tls="implicit", ca=authority, certificate=authority.issue(**faults))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(strict(authority), server, name)
    server.wait_for_connections(0, 5)
    assert server.sessions[0].lines == []


def test_the_intermediate_can_be_the_trust_anchor_TC35(serve: Serve, authority: TestAuthority) -> None:
    server = serve(tls="implicit", ca=authority, certificate=authority.issue(intermediate=True))
    context = strict(authority, authority.intermediate_pem)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    assert handshake(context, server, "localhost") == "TLSv1.3"


def test_an_ssl_context_of_the_test_s_own_is_used_as_it_is(serve: Serve, authority: TestAuthority) -> None:
    context = authority.issue().server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = serve(tls="implicit", ca=authority, certificate=context)
    assert handshake(strict(authority), server, "localhost") == "TLSv1.2"


def test_files_of_the_authority_are_private_and_vanish_PT4() -> None:
    with TestAuthority() as authority:
        leaf, root = authority.issue().path, authority.path
        assert stat.S_IMODE(leaf.stat().st_mode) == 0o600
        assert Path(root).read_bytes() == authority.pem
    assert not root.exists()
    assert not leaf.exists()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("RST", ConnectionResetError),
        ("EOF", ssl.SSLError),
        ("cut-reply", ssl.SSLError),
        ("malformed", ssl.SSLError),
        ("alert", ssl.SSLError),
        ("oversize", ssl.SSLError),
        ("silence", TimeoutError),
        ("drip", TimeoutError),
    ],
)
def test_faults_of_the_handshake(serve: Serve, dial: Dial, tls: str, kind: str, expected: type[Exception]) -> None:
    server = serve(tls=tls)
    server.fault("tls", kind, nth=1)
    assert server.ca is not None
    talk = dial(server, hello=tls == "starttls")
    if tls == "starttls":
        assert talk.ask("STARTTLS").startswith("220")
    talk.sock.settimeout(0.2 if expected is TimeoutError else 10)
    with pytest.raises((expected, ssl.SSLEOFError) if expected is ssl.SSLError else expected):
        strict(server.ca).wrap_socket(talk.sock, server_hostname="localhost")


def test_what_was_said_in_clear_behind_starttls_is_dropped(serve: Serve, dial: Dial) -> None:
    server = serve(tls="starttls")
    assert server.ca is not None
    talk = dial(server)
    talk.say("STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
    assert talk.reply().startswith("220")
    talk.sock = strict(server.ca).wrap_socket(talk.sock, server_hostname="localhost")
    assert talk.ask("NOOP").startswith("250")
    assert talk.ask("MAIL FROM:<a@x.test>").startswith("503")  # EHLO again first
    assert server.violations[0] == "octets behind STARTTLS in one flight"


@pytest.mark.parametrize("reply", ["454 4.7.0 Later", "250 fine", "220-one\n220 two"])
def test_the_reply_to_starttls_decides_whether_tls_starts(serve: Serve, dial: Dial, reply: str) -> None:
    server = serve(tls="starttls")
    server.reply("STARTTLS", reply)
    talk = dial(server)
    assert talk.ask("STARTTLS") == reply
    if reply.startswith("220"):
        assert server.ca is not None
        talk.sock = strict(server.ca).wrap_socket(talk.sock, server_hostname="localhost")
    assert talk.ask("NOOP").startswith("250")


@pytest.mark.parametrize("kind", ["EOF", "EOF-ragged"])
def test_the_end_comes_with_or_without_close_notify_TC38(serve: Serve, dial: Dial, kind: str) -> None:
    server = serve(tls="implicit")
    server.fault("NOOP", kind)
    assert server.ca is not None
    talk = dial(server, hello=False)
    tls = strict(server.ca).wrap_socket(talk.sock, server_hostname="localhost", suppress_ragged_eofs=False)
    talk.sock = tls
    talk.hello()
    talk.say("NOOP\r\n")
    if kind == "EOF":
        assert tls.recv(1) == b""
    else:
        with pytest.raises(ssl.SSLEOFError):
            tls.recv(1)


def test_close_idle_speaks_inside_tls(serve: Serve) -> None:
    server = serve(tls="implicit")
    assert server.ca is not None
    with smtplib.SMTP_SSL(server.host, server.port, context=strict(server.ca)) as client:
        client.ehlo()
        assert server.close_idle("421 4.3.2 Bye") == 1
        assert client.noop()[0] == 421
        client.close()
