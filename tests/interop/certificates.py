"""A certificate authority for one run of the tests, and what it signs.

Knows X.509; knows no server. The certificates pass `ssl.VERIFY_X509_STRICT` (RFC 5280: key identifiers, critical
basicConstraints, keyUsage), which the default context of newer Pythons asks for. Keys are P-256 and live as files in
the directory given, no longer.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

SERVER_NAMES = ("mail.lab.test", "localhost")
SERVER_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Files in PEM: two authorities, one of which nobody here uses, a server's certificate, and a client's."""

    ca_path: Path
    """The authority that signed the server's and the client's certificate."""
    other_ca_path: Path
    """An authority that has signed nothing: whoever trusts only it must refuse the server."""
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    """Private key and certificate in one file, as `ssl.SSLContext.load_cert_chain` takes it."""


@dataclass(frozen=True)
class _Issued:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _issue(common_name: str, issuer: _Issued | None, *extensions: x509.ExtensionType) -> _Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer = key if issuer is None else issuer.key
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(_key_usage(authority=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return _Issued(key, builder.sign(signer, hashes.SHA256()))


def make_certificates(directory: Path) -> Certificates:
    """Write fresh certificates, valid for two days, into `directory`."""
    authority = _issue("smtpconn test authority", None)
    other = _issue("smtpconn test authority that signs nothing", None)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in SERVER_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in SERVER_ADDRESSES]
    server = _issue(
        SERVER_NAMES[0],
        authority,
        x509.SubjectAlternativeName(names),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    )
    client = _issue("smtpconn test client", authority, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
    certificates = Certificates(
        ca_path=directory / "ca.pem",
        other_ca_path=directory / "other-ca.pem",
        server_certificate=directory / "server.pem",
        server_key=directory / "server.key",
        client_certificate=directory / "client.pem",
    )
    certificates.ca_path.write_bytes(authority.certificate_pem)
    certificates.other_ca_path.write_bytes(other.certificate_pem)
    certificates.server_certificate.write_bytes(server.certificate_pem)
    certificates.server_key.write_bytes(server.key_pem)
    certificates.client_certificate.write_bytes(client.key_pem + client.certificate_pem)
    return certificates
