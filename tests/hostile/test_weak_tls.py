"""TLS as nobody should speak it any more (faults.md section 13): version 1 certificates, suites without strength, small
groups, renegotiation. Each is refused in both modes of TLS, and not a word of SMTP is heard."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smtpconn import CertificateError, TlsConfig, TlsError
from smtpconn.resolve import SocketAddress
from smtpconn.transport import SocketTransport

from ..tls_authority import Certificate, OneConnection, TlsEcho, certify, server_context

HOST = "mail.example.test"
MODES = pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])


def shaken(address: Any, config: TlsConfig, *, starttls: bool) -> Any:
    plain = SocketTransport.connect(SocketAddress(socket.AF_INET, address, HOST), timeout=5)
    try:
        if starttls:
            plain.send(b"STARTTLS\r\n", 5)
            assert plain.recv(100, 5) == b"220 go\r\n"
        return plain.start_tls(config, 5)
    except BaseException:
        plain.close()
        raise


def elements(octets: bytes) -> list[bytes]:
    """The DER elements that stand in these octets, whole."""
    found = []
    while octets:
        length, head = octets[1], 2
        if length & 0x80:
            head += length & 0x7F
            length = int.from_bytes(octets[2:head], "big")
        found.append(octets[: head + length])
        octets = octets[head + length :]
    return found


def content(element: bytes) -> bytes:
    return element[2 + (element[1] & 0x7F if element[1] & 0x80 else 0) :]


def sequence(*parts: bytes, tag: int = 0x30) -> bytes:
    body = b"".join(parts)
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag,)) + (bytes((len(body),)) if len(body) < 0x80 else bytes((0x80 | len(length),)) + length) + body


class VersionOne(Certificate):
    """A certificate without version and extensions, signed again; its octets, for no builder of today makes one."""

    octets: bytes

    @property
    def der(self) -> bytes:
        return self.octets

    @property
    def pem(self) -> bytes:
        return ssl.DER_cert_to_PEM_cert(self.octets).encode()


def version_one(made: Certificate, issuer: Certificate) -> VersionOne:
    body, algorithm, _ = elements(content(made.certificate.public_bytes(serialization.Encoding.DER)))
    kept = [part for part in elements(content(body)) if part[0] not in (0xA0, 0xA3)]
    assert len(kept) == 6
    to_sign = sequence(*kept)
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    signature = issuer.key.sign(to_sign, ec.ECDSA(hashes.SHA256()))
    old = VersionOne(made.key, made.certificate)
    object.__setattr__(old, "octets", sequence(to_sign, algorithm, sequence(b"\0" + signature, tag=0x03)))
    return old


def refused(context: ssl.SSLContext, config: TlsConfig, *, starttls: bool) -> TlsError:
    echo = TlsEcho(context, starttls=starttls)
    with OneConnection(echo) as server, pytest.raises(TlsError) as caught:
        shaken(server.address, config, starttls=starttls)
    assert echo.received == b""
    assert caught.value.stage == "tls"
    return caught.value


@MODES
@pytest.mark.parametrize(
    ("whose", "given"),
    [("leaf", False), ("authority between", False), ("authority between", True)],  # a given context may look at the CN
    ids=["leaf", "authority", "authority, given context"],
)
def test_TC20_a_certificate_of_version_1_is_refused(whose: str, given: bool, starttls: bool, tmp_path: Path) -> None:
    """No names and no constraints can stand in it."""
    root = certify("root", authority=True)
    if whose == "leaf":
        leaf: Certificate = version_one(certify(HOST, root, names=(HOST,)), root)
        chain: list[Certificate] = []
    else:
        between = certify("between", root, authority=True)
        leaf, chain = certify("server", between, names=(HOST,)), [version_one(between, root)]
    context = server_context(leaf.file(tmp_path, *chain))
    config = TlsConfig(trust=root.pem)
    if given:
        config = TlsConfig(context=ssl.create_default_context(cadata=root.pem.decode()))
    error = refused(context, config, starttls=starttls)
    assert isinstance(error, CertificateError)
    assert error.permanent is True


@MODES
@pytest.mark.parametrize("suites", ["eNULL", "3DES", "RC4", "aNULL", "EXPORT"])
def test_TC23_a_suite_without_strength_is_refused(suites: str, starttls: bool, tmp_path: Path) -> None:
    """Where this OpenSSL cannot offer it, nobody can be talked into it either."""
    root = certify("root", authority=True)
    context = server_context(certify("server", root, names=(HOST,), key="rsa2048").file(tmp_path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.set_ciphers(f"{suites}:@SECLEVEL=0")
    except ssl.SSLError as error:
        assert "cipher" in str(error).lower()  # noqa: PT017  # it is not built in
        return
    assert not isinstance(refused(context, TlsConfig(trust=root.pem), starttls=starttls), CertificateError)


@MODES
def test_TC24_a_small_group_is_refused(starttls: bool, tmp_path: Path) -> None:
    """1,024 bits: the second Oakley group (RFC 2409 section 6.2)."""
    root = certify("root", authority=True)
    context = server_context(certify("server", root, names=(HOST,), key="rsa2048").file(tmp_path))
    prime = int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
        "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
        "49286651ECE65381FFFFFFFFFFFFFFFF",
        16,
    )
    group = tmp_path / "group.pem"
    octets = sequence(sequence(prime.to_bytes(129, "big"), tag=0x02), sequence(b"\2", tag=0x02))
    text = base64.encodebytes(octets).decode("ascii")
    group.write_text(f"-----BEGIN DH PARAMETERS-----\n{text}-----END DH PARAMETERS-----\n", encoding="ascii")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DHE-RSA-AES256-GCM-SHA384:@SECLEVEL=0")
    context.load_dh_params(str(group))
    error = refused(context, TlsConfig(trust=root.pem), starttls=starttls)
    assert not isinstance(error, CertificateError)
    assert "small" in str(error) or "handshake failure" in str(error).lower()


def test_TC39_a_renegotiation_that_a_server_asks_for_is_not_performed(tmp_path: Path) -> None:
    """TLS 1.2, asked for by the `openssl` program on the key R; the client's context forbids it and time is bounded."""
    program = shutil.which("openssl")
    if program is None:
        assert os.environ.get("SMTPCONN_REQUIRE_SERVERS") != "1", "openssl is not installed"
        pytest.skip("openssl is not installed")
    root = certify("root", authority=True)
    leaf = certify("server", root, names=(HOST,)).file(tmp_path)
    command = [program, "s_server", "-accept", "127.0.0.1:0", "-cert", str(leaf), "-key", str(leaf), "-tls1_2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = next(int(line.rpartition(":")[2]) for line in server.stdout if line.startswith("ACCEPT"))
            transport = shaken(("127.0.0.1", port), TlsConfig(trust=root.pem), starttls=False)
            assert transport.tls is not None
            first = transport.tls
            next(line for line in server.stdout if line.startswith("CIPHER is"))
            server.stdin.write("r\n")
            server.stdin.flush()
            with contextlib.suppress(OSError):  # the end that the server makes
                while transport.recv(1_000, 20):
                    pass
            assert any("SSL_do_handshake" in line for line in server.stdout), "it was not asked"
            assert any("no renegotiation" in line for line in server.stdout)
            assert transport.tls == first
            transport.close()
        finally:
            server.kill()
