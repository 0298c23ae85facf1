"""Certificates with exactly the faults that a row of the TLS table asks for, and a server that speaks TLS with them.

Knows X.509 and the standard library's `ssl`; shares no code with the library. Keys are P-256 and live as files in the
directory given, no longer.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, password: bytes | None = None) -> bytes:
        how: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            how = serialization.BestAvailableEncryption(password)
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

    def file(self, directory: Path, *chain: Certificate) -> Path:
        """Key, certificate and chain in one PEM file."""
        path = directory / f"{self.certificate.serial_number:x}-{len(chain)}.pem"
        path.write_bytes(self.key_pem() + self.pem + b"".join(link.pem for link in chain))
        return path


def new_key(kind: str) -> Key:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    return ec.generate_private_key(ec.SECP256R1())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def certify(
    subject: str | None,
    issuer: Certificate | None = None,
    *,
    names: Sequence[str] = (),
    authority: bool = False,
    key: str = "p256",
    signature: hashes.HashAlgorithm | None = None,
    days: tuple[int, int] = (-2, 2),
    usage: x509.ObjectIdentifier | None = None,
    identifiers: bool = True,
    basic_constraints: bool = True,
    signs: bool | None = None,
    permitted: Sequence[str] = (),
    attribute: x509.ObjectIdentifier = NameOID.COMMON_NAME,
) -> Certificate:
    """A certificate that is good but for what the keywords say; `issuer=None` signs it with its own key.

    `signs`: what its keyUsage says of signing certificates; as `authority` does, by default.
    """
    own = new_key(key)
    name = x509.Name([] if subject is None else [x509.NameAttribute(attribute, subject)])
    signer = own if issuer is None else issuer.key
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if basic_constraints:
        extensions.append((x509.BasicConstraints(ca=authority, path_length=None), True))
        extensions.append((_key_usage(authority=authority if signs is None else signs), True))
    if names:  # critical where there is no subject (RFC 5280 section 4.2.1.6)
        extensions.append((x509.SubjectAlternativeName([_general_name(each) for each in names]), subject is None))
    if identifiers:
        extensions.append((x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False))
        extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False))
    if usage is not None or not authority:
        extensions.append((x509.ExtendedKeyUsage([usage or SERVER]), False))
    if permitted:
        extensions.append((x509.NameConstraints([x509.DNSName(each) for each in permitted], None), True))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else signature or hashes.SHA256()
    return Certificate(own, builder.sign(signer, algorithm))  # type: ignore[arg-type]  # None goes with Ed25519 only


def with_sha1(given: Certificate, issuer: Certificate) -> Certificate:
    """The same certificate, signed with SHA-1 by its RSA issuer; `cryptography` refuses to make one."""
    assert isinstance(issuer.key, rsa.RSAPrivateKey)
    sha256, sha1 = (bytes.fromhex("06092a864886f70d0101" + last) for last in ("0b", "05"))  # of equal length
    body = given.certificate.tbs_certificate_bytes.replace(sha256, sha1)
    signature = issuer.key.sign(body, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - the fault that is asked for
    der = given.der.replace(sha256, sha1).replace(given.certificate.signature, signature)
    return Certificate(given.key, x509.load_der_x509_certificate(der))


@dataclass(frozen=True)
class Authority:
    """A root, an intermediate under it, and a stranger that has signed nothing."""

    root: Certificate
    intermediate: Certificate
    stranger: Certificate

    @classmethod
    def new(cls) -> Authority:
        root = certify("root", authority=True)
        return cls(root, certify("intermediate", root, authority=True), certify("stranger", authority=True))


def server_context(chain: Path) -> ssl.SSLContext:
    """A server's context that shows whatever certificate it is given, too weak ones included."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(chain)
    return context


class OneConnection:
    """A loopback listener whose thread serves one connection by a function; leaving the block joins it and shows its
    error."""

    def __init__(
        self, serve: Callable[[socket.socket], None], *, family: int = socket.AF_INET, where: str = ""
    ) -> None:
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind(where or ("127.0.0.1", 0))
        self._listener.listen(1)
        self._listener.settimeout(10)
        self._serve = serve
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.address = self._listener.getsockname()
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            with self._listener.accept()[0] as sock:
                sock.settimeout(10)
                self._serve(sock)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> OneConnection:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.close()
        self._thread.join(15)
        assert not self._thread.is_alive()
        if self.error is not None and exc_info[0] is None:
            raise self.error


class TlsEcho:
    """Serves one connection: with `starttls` a plaintext exchange first, then the handshake, then an echo until the
    end."""

    def __init__(self, context: ssl.SSLContext, *, starttls: bool) -> None:
        self.context = context
        self.starttls = starttls
        self.received = b""  # under TLS
        self.after_failure: bytes | None = None  # what came on the socket after a handshake that failed
        self.sni: str | None = None
        context.sni_callback = self._note_name

    def _note_name(self, sock: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.sni = name

    def __call__(self, sock: socket.socket) -> None:
        if self.starttls:
            assert sock.recv(100) == b"STARTTLS\r\n"
            sock.sendall(b"220 go\r\n")
        raw = sock.dup()  # the TLS object takes the descriptor with it
        with raw, contextlib.suppress(ssl.SSLError, ConnectionError):
            try:
                tls = self.context.wrap_socket(sock, server_side=True)
            except (ssl.SSLError, ConnectionError):
                self.after_failure = _rest(raw)
                raise
            with tls:
                try:
                    while octets := tls.recv(65_536):
                        self.received += octets
                        tls.sendall(octets)
                except (ssl.SSLError, ConnectionError):  # TLS 1.3 clients tell of a refusal after our part is done
                    self.after_failure = _rest(raw)


def _rest(sock: socket.socket) -> bytes:
    octets = b""
    with contextlib.suppress(OSError):
        while more := sock.recv(65_536):
            octets += more
    return octets
