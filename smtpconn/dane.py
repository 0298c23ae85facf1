"""Whether a certificate chain matches TLSA records: RFC 6698 section 2.1, RFC 7671, RFC 7672 section 3.

Knows certificates, by `cryptography`, which is loaded when it is needed; refuses to know where the records come from.
Its law: a chain that matches no record is refused, and so is one that cannot be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from smtpconn.finding.records import TlsaRecord
from smtpconn.finding.tlsa import CERTIFICATE, DANE_EE, DANE_TA, SHA_256, SHA_512, WHOLE, TlsaDemand
from smtpconn.protocol.errors import CertificateError, TlsError

if TYPE_CHECKING:
    import ssl

    from cryptography import x509

_DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    WHOLE: lambda octets: octets,
    SHA_256: lambda octets: hashlib.sha256(octets).digest(),
    SHA_512: lambda octets: hashlib.sha512(octets).digest(),
}
_LONGEST_CHAIN = 16  # certificates that are looked at: a server may send thousands


def chain_of(sock: ssl.SSLSocket) -> list[bytes]:
    """The certificates that the server sent, DER, its own first; the own one alone where Python cannot tell more.

    A chain that is cut short matches less, never more.
    """
    owner: Any = sock if hasattr(sock, "get_unverified_chain") else getattr(sock, "_sslobj", None)  # public since 3.13
    get = getattr(owner, "get_unverified_chain", None)
    sent = [] if get is None else [_der(each) for each in get() or ()]
    own = sock.getpeercert(binary_form=True) or b""
    return sent if sent and sent[0] == own else [own]


def _der(certificate: Any) -> bytes:
    if isinstance(certificate, bytes):
        return certificate
    import _ssl

    return bytes(certificate.public_bytes(_ssl.ENCODING_DER))


def verify(chain: Sequence[bytes], demand: TlsaDemand, where: str) -> str:
    """Which kind of record the chain (DER, the server's own certificate first) matches. `where` names the peer.

    Raises:
        CertificateError: it matches none.
        TlsError: `cryptography` is missing.
    """
    wholes = [record for record in demand.records if record.selector == CERTIFICATE and record.usage == DANE_EE]
    if any(_matches(record, chain[0]) for record in wholes):
        return _told("DANE-EE", demand)
    try:
        from cryptography import x509
    except ImportError as error:
        raise TlsError("matching TLSA records needs the package cryptography", permanent=True) from error
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain[:_LONGEST_CHAIN]]
        keys = [_public_key(certificate) for certificate in certificates]
    except Exception as error:  # its parser of ASN.1 raises what it likes, and what cannot be read is not trusted
        raise CertificateError(f"the certificates of {where} cannot be read: {error}") from error
    for record in demand.records:
        if record.usage == DANE_EE and _matches(record, chain[0] if record.selector == CERTIFICATE else keys[0]):
            return _told("DANE-EE", demand)
    reason = "it matches no TLSA record"
    for anchor in _anchors(demand.records, chain, certificates, keys):
        why_not = _why_not_below(anchor, certificates, demand.names)
        if why_not is None:
            return _told("DANE-TA", demand)
        reason = f"the authority of a TLSA record does not vouch for it: {why_not}"
    # RFC 7672 section 2.2: the mail is delayed, not bounced: a roll-over that went wrong is put right by somebody.
    raise CertificateError(f"the certificate of {where} was refused by DANE: {reason}", permanent=False)


def _told(kind: str, demand: TlsaDemand) -> str:
    return kind if demand.alone else f"PKIX and {kind}"


def _matches(record: TlsaRecord, octets: bytes) -> bool:
    return _DIGESTS[record.matching_type](octets) == record.data


def _public_key(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo, DER."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _anchors(
    records: Iterable[TlsaRecord], chain: Sequence[bytes], certificates: Sequence[x509.Certificate], keys: list[bytes]
) -> list[x509.Certificate]:
    """The authorities that DANE-TA records name: out of the chain, or out of a record that holds all of one.

    The server's own certificate is none: it is no authority, and DANE-EE is the usage that names it.
    """
    found: list[x509.Certificate] = []
    for record in records:
        if record.usage != DANE_TA:
            continue
        octets = chain if record.selector == CERTIFICATE else keys
        found += [c for c, o in zip(certificates[1:], octets[1:], strict=False) if _matches(record, o)]
        if record.selector == CERTIFICATE and record.matching_type == WHOLE:
            found += _certificate_of(record.data)
    return list(dict.fromkeys(found))


def _certificate_of(der: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return [x509.load_der_x509_certificate(der)]
    except Exception:  # of a record whose data is no certificate: it matches nothing
        return []


def _why_not_below(anchor: x509.Certificate, chain: Sequence[x509.Certificate], names: Iterable[str]) -> str | None:
    """Why the anchor does not vouch for the first certificate of the chain under one of the names; None if it does."""
    from cryptography import x509
    from cryptography.x509 import verification

    why_not = "no name to verify"
    for name in names:
        verifier = _builder(verification).store(verification.Store([anchor])).build_server_verifier(x509.DNSName(name))
        try:
            verifier.verify(chain[0], list(chain[1:]))
        except (verification.VerificationError, ValueError) as error:
            why_not = f"{name}: {error}"
            continue
        return None
    return why_not


def _builder(verification: Any) -> Any:
    """A builder without the rules of the public web, which a private authority need not keep (RFC 7671 section 5.2).

    Signatures, validity, path length, name constraints and names are looked at all the same, and what is here.
    """
    builder = verification.PolicyBuilder()
    if not hasattr(builder, "extension_policies"):  # cryptography before 45: the rules of the public web
        return builder
    from cryptography import x509

    policy, agnostic = verification.ExtensionPolicy, verification.Criticality.AGNOSTIC
    of_authority = (
        policy.permit_all()
        .require_present(x509.BasicConstraints, agnostic, _check_authority)
        .may_be_present(x509.KeyUsage, agnostic, _check_may_sign)
    )
    of_server = (
        policy.permit_all()
        .require_present(x509.SubjectAlternativeName, agnostic, None)
        .may_be_present(x509.ExtendedKeyUsage, agnostic, _check_may_serve)
    )
    return builder.extension_policies(ca_policy=of_authority, ee_policy=of_server)


# Each is called with the policy, a certificate and one of its extensions, and raises ValueError to refuse it.


def _check_authority(policy: Any, certificate: Any, constraints: Any) -> None:
    if not constraints.ca:
        raise ValueError("an issuer is no authority")


def _check_may_sign(policy: Any, certificate: Any, usage: Any) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key of an issuer is not for signing certificates")


def _check_may_serve(policy: Any, certificate: Any, usage: Any) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    serving = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if usage is not None and not any(purpose in usage for purpose in serving):
        raise ValueError("the certificate is not for servers")
