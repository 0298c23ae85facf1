"""A throw-away certification authority: good certificates, and bad ones on demand.

It knows X.509 as the specification's TLS scenarios need it (faults 13). It refuses to know servers and sockets.

Laws: without faults a certificate passes `ssl.VERIFY_X509_STRICT`; a fault changes one thing and leaves the rest good;
private keys live in temporary files that only their owner can read and that vanish with the authority.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import shutil
import ssl
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["Issued", "TestAuthority"]

_Hash = Literal["sha1", "sha256", "sha384", "sha512"]
_HASHES: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_SHA256_WITH_RSA = bytes.fromhex("06092a864886f70d01010b")
_SHA1_WITH_RSA = bytes.fromhex("06092a864886f70d010105")
_SHA1_DIGEST_INFO = bytes.fromhex("3021300906052b0e03021a05000414")
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key.

    Attributes:
        certificate: the leaf, PEM.
        chain: the intermediates that the server sends, PEM; may be empty.
        key: the private key, PEM, not encrypted.
        path: a file with key, leaf and chain, as `ssl.SSLContext.load_cert_chain` wants it.
    """

    certificate: bytes
    chain: bytes
    key: bytes
    path: Path

    @cached_property
    def der(self) -> bytes:
        """The leaf, DER."""
        return x509.load_pem_x509_certificate(self.certificate).public_bytes(serialization.Encoding.DER)

    def server_context(self) -> ssl.SSLContext:
        """Return a new context for a server with this certificate, TLS 1.2 or later."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._weak:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.load_cert_chain(self.path)
        return context

    @property
    def _weak(self) -> bool:
        """OpenSSL's own security level would refuse to load a bad certificate that a test asks for."""
        leaf = x509.load_pem_x509_certificate(self.certificate)
        key = leaf.public_key()
        algorithm = leaf.signature_hash_algorithm
        return (isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048) or (
            algorithm is not None and algorithm.name == "sha1"
        )


@dataclass(frozen=True)
class _Signer:
    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


class TestAuthority:
    """A root with an intermediate, made in a few milliseconds; nobody trusts it unless told to."""

    __test__ = False  # pytest: a class whose name begins with Test, and is none

    def __init__(self, name: str = "smtpconn test authority") -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="smtpconn-ca-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        self._issued = 0
        self._root = _make_authority(name, None)
        self._intermediates: dict[str, _Signer] = {}

    @property
    def pem(self) -> bytes:
        """The root certificate, PEM: what a client must trust."""
        return _pem(self._root.certificate)

    @cached_property
    def path(self) -> Path:
        """A file with `pem`."""
        path = self._directory / "root.pem"
        path.write_bytes(self.pem)
        return path

    @property
    def intermediate_pem(self) -> bytes:
        """The certificate of the intermediate that `issue(..., intermediate=True)` uses, PEM."""
        return _pem(self._intermediate("good").certificate)

    def close(self) -> None:
        """Remove the files."""
        self._remove()

    def __enter__(self) -> TestAuthority:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def issue(
        self,
        names: Sequence[str] | str = ("127.0.0.1", "::1", "localhost"),
        *,
        common_name: str | None = None,
        key: Literal["ec", "rsa", "ed25519"] = "ec",
        key_size: int = 2048,
        hash_algorithm: _Hash = "sha256",
        intermediate: bool = False,
        expired: bool = False,
        not_yet_valid: bool = False,
        no_san: bool = False,
        self_signed: bool = False,
        missing_intermediate: bool = False,
        bad_intermediate: bool = False,
        permitted_names: Sequence[str] = (),
        client_only: bool = False,
        no_key_identifiers: bool = False,
    ) -> Issued:
        """Make a certificate for these DNS names and IP addresses.

        Args:
            names: names of the SAN extension; anything that is an IP address becomes one.
            common_name: the subject's CN; by default the first name.
            key: kind of the leaf's key.
            key_size: bits of an RSA key; below 2048 is a fault.
            hash_algorithm: of the signature; "sha1" is a fault, its issuer an RSA intermediate that is sent along.
            intermediate: issued by an intermediate, which the server sends along.
            expired: ended yesterday.
            not_yet_valid: begins tomorrow.
            no_san: only the CN names the server.
            self_signed: signed by its own key.
            missing_intermediate: issued by an intermediate that is not sent along.
            bad_intermediate: issued by an intermediate without basicConstraints and keyUsage, sent along.
            permitted_names: issued by an intermediate that may certify only these DNS subtrees.
            client_only: extended key usage clientAuth only.
            no_key_identifiers: without AKI and SKI, which the strict flag demands.
        """
        names = [names] if isinstance(names, str) else list(names)
        leaf_key = _make_key(key, key_size)
        if hash_algorithm == "sha1":
            issuer = self._intermediate("rsa")
        else:
            issuer = self._issuer(intermediate or missing_intermediate, bad_intermediate, tuple(permitted_names))
        now = datetime.datetime.now(datetime.timezone.utc)
        begin = now + _DAY if not_yet_valid else now - 3 * _DAY
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (common_name or names[0])[:64])])
        signing_key = leaf_key if self_signed else issuer.key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else issuer.certificate.subject)
            .public_key(leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(now - _DAY if expired else begin + 30 * _DAY)
        )
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client_only else ExtendedKeyUsageOID.SERVER_AUTH
        builder = _leaf_extensions(builder, key == "rsa", usage)
        if not no_san:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        if not no_key_identifiers:
            builder = _key_identifiers(builder, leaf_key.public_key(), signing_key.public_key())
        certificate = _sign(builder, signing_key, hash_algorithm)
        sent = issuer is not self._root and not missing_intermediate and not self_signed
        return self._store(certificate, _pem(issuer.certificate) if sent else b"", leaf_key)

    def client_certificate(self, name: str) -> Issued:
        """Make a certificate for a client."""
        return self.issue([name], client_only=True)

    def _issuer(self, intermediate: bool, bad: bool, permitted: tuple[str, ...]) -> _Signer:
        if bad:
            return self._intermediate("bad")
        if permitted:
            return self._intermediate("constrained", permitted)
        return self._intermediate("good") if intermediate else self._root

    def _intermediate(self, kind: str, permitted: tuple[str, ...] = ()) -> _Signer:
        key = ":".join((kind, *permitted))
        if key not in self._intermediates:
            self._intermediates[key] = _make_authority(
                f"smtpconn {kind} intermediate",
                self._root,
                bad=kind == "bad",
                permitted=permitted,
                rsa_key=kind == "rsa",
            )
        return self._intermediates[key]

    def _store(self, certificate: x509.Certificate, chain: bytes, key: CertificateIssuerPrivateKeyTypes) -> Issued:
        self._issued += 1
        path = self._directory / f"leaf-{self._issued}.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.touch(mode=0o600)
        path.write_bytes(secret + _pem(certificate) + chain)
        return Issued(_pem(certificate), chain, secret, path)


_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def _make_key(kind: str, size: int = 2048) -> _Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, size)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def _make_authority(
    name: str, parent: _Signer | None, *, bad: bool = False, permitted: Sequence[str] = (), rsa_key: bool = False
) -> _Signer:
    key = _make_key("rsa" if rsa_key else "ec")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + 100 * _DAY)
    )
    signing_key = parent.key if parent else key
    builder = _key_identifiers(builder, key.public_key(), signing_key.public_key())
    if not bad:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(certificates=True), critical=True)
    if permitted:
        subtrees = [x509.DNSName(name) for name in permitted]
        builder = builder.add_extension(x509.NameConstraints(subtrees, None), critical=True)
    return _Signer(_sign(builder, signing_key, "sha256"), key)


def _sign(
    builder: x509.CertificateBuilder, key: CertificateIssuerPrivateKeyTypes, algorithm: _Hash
) -> x509.Certificate:
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        return builder.sign(key, None)
    if algorithm != "sha1":
        return builder.sign(key, _HASHES[algorithm])
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("only an RSA key signs with SHA-1 here")
    # `cryptography` signs no certificate with SHA-1 any more. The names of both algorithms have the same length, so
    # the certificate is signed with SHA-256, renamed, and signed again by hand (RFC 8017 8.2.1).
    certificate = builder.sign(key, hashes.SHA256())
    content = certificate.tbs_certificate_bytes.replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA)
    numbers = key.private_numbers()
    size = (key.key_size + 7) // 8
    digest = _SHA1_DIGEST_INFO + hashlib.sha1(content, usedforsecurity=False).digest()
    padded = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
    signature = pow(int.from_bytes(padded, "big"), numbers.d, numbers.public_numbers.n).to_bytes(size, "big")
    der = certificate.public_bytes(serialization.Encoding.DER).replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA)
    return x509.load_der_x509_certificate(der[:-size] + signature)


def _leaf_extensions(
    builder: x509.CertificateBuilder, encipher: bool, usage: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(encipher=encipher), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )


def _key_identifiers(
    builder: x509.CertificateBuilder, own: object, issuer: object
) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(own),  # type: ignore[arg-type]
        critical=False,
    ).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer),  # type: ignore[arg-type]
        critical=False,
    )


def _key_usage(*, certificates: bool = False, encipher: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates, content_commitment=False, key_encipherment=encipher,
        data_encipherment=False, key_agreement=False, key_cert_sign=certificates, crl_sign=certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
