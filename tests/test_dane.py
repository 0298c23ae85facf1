"""Certificates against TLSA records: RFC 6698 section 2.1, RFC 7671, RFC 7672 section 3; alone and in a handshake."""

from __future__ import annotations

import hashlib
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder

from smtpconn import SmtpConnection, dane
from smtpconn.finding.records import TlsaRecord
from smtpconn.finding.tlsa import TlsaDemand
from smtpconn.handshake import secure
from smtpconn.protocol.errors import CertificateError, ConnectionLostError, InvalidInputError, TlsError
from smtpconn.resolve import SocketAddress
from smtpconn.testing import ScriptedTransport
from smtpconn.tls import TlsConfig, TlsInfo, TlsMode
from smtpconn.transport import SocketTransport

from .tls_authority import CLIENT, Certificate, OneConnection, TlsEcho, certify, server_context

if TYPE_CHECKING:
    from pathlib import Path

NAME = "mx.example.test"
RELAXED = hasattr(PolicyBuilder, "extension_policies")  # cryptography before 45 knows the public web's rules only


def spki(certificate: Certificate) -> bytes:
    return certificate.certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def tlsa(certificate: Certificate, usage: int, selector: int = 1, matching_type: int = 1) -> TlsaRecord:
    octets = certificate.der if selector == 0 else spki(certificate)
    data = (octets, hashlib.sha256(octets).digest(), hashlib.sha512(octets).digest())[matching_type]
    return TlsaRecord(usage, selector, matching_type, data)


@dataclass(frozen=True)
class World:
    """An authority, an intermediate, and servers, each with what is wrong with it."""

    root: Certificate
    between: Certificate
    good: Certificate
    other: Certificate
    expired: Certificate
    elsewhere: Certificate
    nameless: Certificate
    client_only: Certificate
    self_signed: Certificate
    evil: Certificate
    bare: Certificate
    under_bare: Certificate
    posing: Certificate
    under_posing: Certificate
    mute: Certificate
    under_mute: Certificate
    constrained: Certificate
    outside: Certificate
    old_root: Certificate
    under_old: Certificate

    def certificates(self, names: str) -> list[Certificate]:
        return [getattr(self, name) for name in names.split()]


@pytest.fixture(scope="module")
def world() -> World:
    root = certify("root", authority=True)
    between = certify("between", root, authority=True)
    good = certify(NAME, between, names=[NAME])
    bare = certify("bare", root, authority=True, basic_constraints=False)
    posing = certify("posing", root, signs=True)
    mute = certify("mute", root, authority=True, signs=False)
    constrained = certify("constrained", root, authority=True, permitted=["other.test"])
    old_root = certify("old root", authority=True, days=(-5, -2))
    return World(
        root=root,
        between=between,
        good=good,
        other=certify(NAME, names=[NAME]),
        expired=certify(NAME, between, names=[NAME], days=(-3, -1)),
        elsewhere=certify("a", between, names=["a.test"]),
        nameless=certify(NAME, between),
        client_only=certify(NAME, between, names=[NAME], usage=CLIENT),
        self_signed=certify(NAME, names=[NAME]),
        evil=certify(NAME, good, names=[NAME]),
        bare=bare,
        under_bare=certify(NAME, bare, names=[NAME]),
        posing=posing,
        under_posing=certify(NAME, posing, names=[NAME]),
        mute=mute,
        under_mute=certify(NAME, mute, names=[NAME]),
        constrained=constrained,
        outside=certify(NAME, constrained, names=[NAME]),
        old_root=old_root,
        under_old=certify(NAME, old_root, names=[NAME]),
    )


def case(label: str, chain: str, records: list[tuple[Any, ...]], verdict: str | None, names: Any = (NAME,)) -> Any:
    return pytest.param(chain, records, names, verdict, id=label)


EE, TA = "DANE-EE", "DANE-TA"
ROOTED = "good between root"
MATCHES = [
    case("6698 2.1: DANE-EE, key, SHA-256", ROOTED, [("good", 3, 1, 1)], EE),
    case("6698 2.1: DANE-EE, key, SHA-512", ROOTED, [("good", 3, 1, 2)], EE),
    case("6698 2.1: DANE-EE, the whole key", ROOTED, [("good", 3, 1, 0)], EE),
    case("6698 2.1: DANE-EE, certificate, SHA-256", ROOTED, [("good", 3, 0, 1)], EE),
    case("6698 2.1: DANE-EE, certificate, SHA-512", ROOTED, [("good", 3, 0, 2)], EE),
    case("6698 2.1: DANE-EE, the whole certificate", ROOTED, [("good", 3, 0, 0)], EE),
    case("7672 3.1.1: DANE-EE looks at no validity", "expired", [("expired", 3, 1, 1)], EE),
    case("7672 3.1.1: DANE-EE looks at no name", "elsewhere", [("elsewhere", 3, 1, 1)], EE),
    case("7672 3.1.1: DANE-EE, no name at all", "nameless", [("nameless", 3, 1, 1)], EE, ()),
    case("7672 3.1.1: DANE-EE, signed by itself", "self_signed", [("self_signed", 3, 1, 1)], EE),
    case("7671 5.1: DANE-EE is the server's own, not its issuer's", ROOTED, [("between", 3, 1, 1)], None),
    case("7672: DANE-EE of another key", ROOTED, [("other", 3, 1, 1)], None),
    case("7671 8.1: roll-over: the next key is published already", ROOTED, [("other", 3, 1, 1), ("good", 3, 1, 1)], EE),
    case("7671 8.1: roll-over: the last key is still published", ROOTED, [("good", 3, 1, 1), ("other", 3, 1, 1)], EE),
    case("7671 9: a weak digest that matches beside a strong one that does not", ROOTED,
         [("good", 3, 1, 1), ("other", 3, 1, 2)], None),
    case("7671 8.4: from DANE-EE to DANE-TA", ROOTED, [("other", 3, 1, 1), ("between", 2, 1, 1)], TA),
    case("6698 2.1: DANE-TA, key of the root, SHA-256", ROOTED, [("root", 2, 1, 1)], TA),
    case("6698 2.1: DANE-TA, certificate of the root, SHA-512", ROOTED, [("root", 2, 0, 2)], TA),
    case("6698 2.1: DANE-TA, an intermediate, whole key", ROOTED, [("between", 2, 1, 0)], TA),
    case("7671 5.2: DANE-TA, a root in the record need not be sent", "good between", [("root", 2, 0, 0)], TA),
    case("7672 3.1.2: DANE-TA, a digest of a root that is not sent", "good between", [("root", 2, 0, 1)], None),
    case("7672 3.1.2: DANE-TA, the anchor ends the chain", "good between", [("between", 2, 1, 1)], TA),
    case("7671 5.2: DANE-TA, order in the chain means nothing", "good root between", [("root", 2, 1, 1)], TA),
    case("7672 3.2.2: DANE-TA, any of the names", ROOTED, [("root", 2, 1, 1)], TA, ("example.test", NAME)),
    case("7672 3.2.2: DANE-TA, none of the names", "elsewhere between", [("between", 2, 1, 1)], None),
    case("7672 3.2.2: DANE-TA, the name in the subject alone", "nameless between", [("between", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA looks at validity", "expired between", [("between", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA, an anchor that has ended", "under_old old_root", [("old_root", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA, a certificate for clients", "client_only between", [("between", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA, an authority that has not signed it", "other root", [("root", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA, issued by what is no authority", "evil good between root", [("root", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA, issued by what is no authority and is the anchor", "evil good", [("good", 2, 1, 1)], None),
    case("5280 4.2.1.9: DANE-TA, an issuer that is no authority, whatever its key may do", "under_posing posing root",
         [("root", 2, 1, 1)], None),
    case("5280 4.2.1.3: DANE-TA, an authority whose key is not for certificates", "under_mute mute root",
         [("root", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA, an issuer without basicConstraints", "under_bare bare root", [("root", 2, 1, 1)], None),
    case("5280 4.2.1.10: DANE-TA, name constraints", "outside constrained root", [("root", 2, 1, 1)], None),
    case("7671 5.2: DANE-TA is not the server's own certificate", "self_signed", [("self_signed", 2, 1, 1)], None),
    case("a chain of 16", "good" + " between" * 14 + " root", [("root", 2, 1, 1)], TA),
    case("a chain of 17: the last is not looked at", "good" + " between" * 15 + " root", [("root", 2, 1, 1)], None),
    case("a record whose certificate is none", ROOTED, [("junk",)], None),
]  # fmt: skip


@pytest.mark.parametrize(("chain", "records", "names", "verdict"), MATCHES)
def test_OB20_a_chain_matches_a_record_or_is_refused(
    world: World, chain: str, records: list[tuple[Any, ...]], names: tuple[str, ...], verdict: str | None
) -> None:
    given = [
        TlsaRecord(2, 0, 0, b"junk") if name == "junk" else tlsa(getattr(world, name), *numbers)
        for name, *numbers in records
    ]
    sent = [certificate.der for certificate in world.certificates(chain)]
    for alone, prefix in ((True, ""), (False, "PKIX and ")):
        demand = TlsaDemand(tuple(given), names, alone=alone)
        if verdict is not None:
            assert dane.verify(sent, demand, "peer") == prefix + verdict
            continue
        with pytest.raises(CertificateError, match="the certificate of peer was refused by DANE") as caught:
            dane.verify(sent, demand, "peer")
        assert caught.value.permanent is False


@pytest.mark.skipif(not RELAXED, reason="cryptography before 45 has the rules of the public web alone")
def test_a_private_authority_need_not_keep_the_rules_of_the_public_web() -> None:
    """RFC 7671 section 5.2: what `openssl req -x509` makes has neither keyUsage nor key identifiers."""
    root = certify("root", authority=True, identifiers=False)
    server = certify(None, root, names=[NAME], identifiers=False)
    assert dane.verify([server.der, root.der], TlsaDemand((tlsa(root, 2),), (NAME,)), "peer") == TA


def test_a_certificate_that_cannot_be_read_is_refused_but_for_the_octets_of_a_record(world: World) -> None:
    for chain in ([b"junk"], [b""], [world.good.der, b"\x30\x03junk"]):
        with pytest.raises(CertificateError, match="cannot be read"):
            dane.verify(chain, TlsaDemand((tlsa(world.good, 3),), (NAME,)), "peer")
    exact = TlsaDemand((TlsaRecord(3, 0, 1, hashlib.sha256(b"junk").digest()),), ())
    assert dane.verify([b"junk"], exact, "peer") == EE


def test_cryptography_missing_is_a_tls_error_that_names_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(TlsError, match="cryptography"):
        dane.verify([world.good.der], TlsaDemand((tlsa(world.good, 3),), (NAME,)), "peer")
    assert dane.verify([world.good.der], TlsaDemand((tlsa(world.good, 3, 0),), (NAME,)), "peer") == EE


# --- in a handshake ---


def handshake(tmp_path: Path, world: World, chain: str, config: TlsConfig) -> tuple[str, str | None, bytes]:
    """By what the certificate was verified, the server name that was asked for, and what the server has received."""
    own, *above = world.certificates(chain)
    echo = TlsEcho(server_context(own.file(tmp_path, *above)), starttls=False)
    with OneConnection(echo) as server:
        address = SocketAddress(socket.AF_INET, server.address, "dialled.test")
        tls = SocketTransport.connect(address, timeout=5).start_tls(config, 5)
        assert tls.tls is not None
        verified_by = tls.tls.verified_by
        tls.send(b"over TLS", 5)
        assert tls.recv(100, 5) == b"over TLS"
        tls.close()
    return verified_by, echo.sni, echo.received


@pytest.mark.parametrize(
    ("chain", "record", "verdict"),
    [("self_signed", ("self_signed", 3), EE), ("expired", ("expired", 3), EE), (ROOTED, ("root", 2), TA)],
)
def test_OB20_a_handshake_is_verified_by_TLSA_records_alone(
    tmp_path: Path, world: World, chain: str, record: tuple[str, int], verdict: str
) -> None:
    """RFC 7672 section 8.1: the base domain is the name in SNI."""
    name, usage = record
    config = TlsConfig(server_name=NAME, tlsa=TlsaDemand((tlsa(getattr(world, name), usage),), (NAME,)))
    assert handshake(tmp_path, world, chain, config) == (verdict, NAME, b"over TLS")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("usage", [2, 3])
def test_OB20_a_mismatch_ends_the_handshake_and_nothing_is_written(
    tmp_path: Path, world: World, usage: int, alone: bool
) -> None:
    demand = TlsaDemand((tlsa(world.other, usage),), (NAME,), alone=alone)
    config = TlsConfig(server_name=NAME, trust=world.root.pem, tlsa=demand)
    echo = TlsEcho(server_context(world.good.file(tmp_path, world.between)), starttls=False)
    with OneConnection(echo) as server:
        plain = SocketTransport.connect(SocketAddress(socket.AF_INET, server.address, "dialled.test"), timeout=5)
        with pytest.raises(CertificateError, match="refused by DANE"):
            plain.start_tls(config, 5)
    assert echo.received == b""


def test_OB20_records_in_addition_leave_the_roots_and_the_name_in_force(tmp_path: Path, world: World) -> None:
    both = TlsaDemand((tlsa(world.good, 3),), (NAME,), alone=False)
    config = TlsConfig(server_name=NAME, trust=world.root.pem, tlsa=both)
    assert handshake(tmp_path, world, ROOTED, config)[0] == "PKIX and DANE-EE"
    for wrong in (TlsConfig(server_name="other.test", trust=world.root.pem, tlsa=both),
                  TlsConfig(server_name=NAME, trust=world.other.pem, tlsa=both)):  # fmt: skip
        with pytest.raises(CertificateError, match="refused for"):
            handshake(tmp_path, world, ROOTED, wrong)


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
@pytest.mark.parametrize("verified_by", ["PKIX", "DANE-EE"])
def test_OB20_a_transport_of_the_callers_that_does_not_look_at_the_records_is_refused(
    world: World, mode: TlsMode, verified_by: str
) -> None:
    starttls = [b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n"] if mode is TlsMode.STARTTLS else []
    info = TlsInfo("TLSv1.3", "x", NAME, world.good.der, verified_by)
    said = [b"220 mx\r\n", *starttls, b"250 mx\r\n"]
    transport = ScriptedTransport(said, when_dry="eof", tls=info, secure=mode is TlsMode.IMPLICIT)
    config = TlsConfig(server_name=NAME, tlsa=TlsaDemand((tlsa(world.good, 3),), (NAME,)))
    options: dict[str, Any] = {"tls_mode": mode, "tls_config": config, "timeout": 5, "ehlo_domain": "c.test"}
    if verified_by == "DANE-EE":
        SmtpConnection.from_transport(transport, **options).close()
        return
    with pytest.raises(CertificateError, match="verified_by"):
        SmtpConnection.from_transport(transport, **options)
    in_clear = b"EHLO c.test\r\nSTARTTLS\r\n" if mode is TlsMode.STARTTLS else b""
    assert transport.written == in_clear


def test_OB20_who_goes_on_behind_records_that_nobody_looked_at_has_no_connection(world: World) -> None:
    """An adapter's caller may catch the error."""
    said = [b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n", b"250 mx\r\n"]
    transport = ScriptedTransport(said, tls=TlsInfo("TLSv1.3", "x", NAME, world.good.der))
    config = TlsConfig(server_name=NAME, tlsa=TlsaDemand((tlsa(world.good, 3),), (NAME,)))
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="c.test")
    with pytest.raises(CertificateError, match="verified_by"):
        connection.converse(lambda it, budget: secure(it._driver, config, budget, it._publish), timeout=5)
    with pytest.raises(ConnectionLostError):
        connection.rehlo(timeout=5)
    assert transport.closed


def test_a_chain_that_python_does_not_tell_is_the_servers_own_certificate(world: World) -> None:
    class Silent:
        def getpeercert(self, binary_form: bool) -> bytes:
            return world.good.der

    silent: Any = Silent()
    assert dane.chain_of(silent) == [world.good.der]


def test_a_configuration_holds_a_demand_and_no_given_context_beside_it(world: World) -> None:
    demand = TlsaDemand((tlsa(world.good, 3),), (NAME,))
    assert "tlsa=TlsaDemand(" in repr(TlsConfig(tlsa=demand))
    with pytest.raises(InvalidInputError, match="tlsa"):
        TlsConfig(tlsa=demand, context=ssl.create_default_context())
    wrong: Any = [demand]
    with pytest.raises(TypeError, match="tlsa"):
        TlsConfig(tlsa=wrong)
