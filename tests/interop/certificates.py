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

_DOMAIN = "lab.test"
SERVER_NAMES = ("mail.lab.test", "localhost")
SERVER_ADDRESSES = ("127.0.0.1", "::1")

CHAINS = ("expired", "wrong-host", "self-signed", "no-san", "no-intermediate", "intermediate")
"""What is wrong with each server certificate of `Certificates.chains`; nothing is with the last one."""


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
    chains: dict[str, Path]
    """A server name, `expired.lab.test` and so on, and what a server of that name shows: key, certificate, chain."""


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


def _issue(
    common_name: str,
    issuer: _Issued | None,
    *extensions: x509.ExtensionType,
    path_length: int | None = None,
    expired: bool = False,
) -> _Issued:
    """Sign a certificate, by itself without an issuer; with a `path_length` it is an authority's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer = key if issuer is None else issuer.key
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=-1 if expired else 2))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        .add_extension(_key_usage(authority=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return _Issued(key, builder.sign(signer, hashes.SHA256()))


def _server_chains(authority: _Issued) -> dict[str, bytes]:
    """Key, certificate and chain of a server with each of `CHAINS`, each for a name of its own."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    between = _issue("smtpconn test intermediate", authority, path_length=0)

    def named(name: str) -> tuple[x509.ExtensionType, ...]:
        return x509.SubjectAlternativeName([x509.DNSName(f"{name}.{_DOMAIN}")]), usage

    issued = {
        "expired": _issue("expired", authority, *named("expired"), expired=True),
        "wrong-host": _issue("wrong-host", authority, *named("another-host")),
        "self-signed": _issue("self-signed", None, *named("self-signed")),
        # The name where nobody may look for it any more (RFC 9525 section 2).
        "no-san": _issue(f"no-san.{_DOMAIN}", authority, usage),
        "no-intermediate": _issue("no-intermediate", between, *named("no-intermediate")),
        "intermediate": _issue("intermediate", between, *named("intermediate")),
    }
    chains = {name: one.key_pem + one.certificate_pem for name, one in issued.items()}
    chains["intermediate"] += between.certificate_pem
    assert tuple(chains) == CHAINS
    return chains


def make_certificates(directory: Path) -> Certificates:
    """Write fresh certificates, valid for two days, into `directory`."""
    authority = _issue("smtpconn test authority", None, path_length=1)
    other = _issue("smtpconn test authority that signs nothing", None, path_length=1)
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
        chains={f"{name}.{_DOMAIN}": directory / f"{name}.pem" for name in CHAINS},
    )
    certificates.ca_path.write_bytes(authority.certificate_pem)
    certificates.other_ca_path.write_bytes(other.certificate_pem)
    certificates.server_certificate.write_bytes(server.certificate_pem)
    certificates.server_key.write_bytes(server.key_pem)
    certificates.client_certificate.write_bytes(client.key_pem + client.certificate_pem)
    for name, chain in _server_chains(authority).items():
        certificates.chains[f"{name}.{_DOMAIN}"].write_bytes(chain)
    return certificates
