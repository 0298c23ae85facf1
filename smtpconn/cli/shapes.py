"""The shapes of the JSON objects that commands print (schema 1): keys may be added, none is ever renamed.

Knows results, errors and certificates; refuses to know commands. The law: octets of a server are text that is safe to
show, and nothing here has a credential in it.
"""

from __future__ import annotations

from typing import Any

from smtpconn import RecipientResult, Reply, SmtpError, TlsInfo, TlsMode
from smtpconn.finding.tlsa import TlsaAnswer
from smtpconn.finding.trust import Demand, FoundServer
from smtpconn.oneshot import failure_of
from smtpconn.protocol.reply import safe_text

SCHEMA = 1


def reply(given: Reply | None) -> dict[str, Any] | None:
    """Code, enhanced status and text."""
    if given is None:
        return None
    return {"code": given.code, "enhanced": str(given.enhanced) if given.enhanced else None, "text": given.message}


def found_server(server: FoundServer, known: TlsaAnswer | None, demand: Demand | None) -> dict[str, Any]:
    """A server that DNS names for a domain, and what it must prove; null where that cannot be known."""
    return {
        "host": safe_text(server.host),
        "port": server.port,
        "tls_mode": None if demand is None else demand.tls_mode.value,
        "vouched_by": server.voucher.value,
        "tlsa": None if known is None else known.state.value,
        "tlsa_name": None if known is None else f"_{server.port}._tcp.{known.base}",
        "tlsa_records": [] if known is None else [str(record) for record in known.records],
        "verified_name": None if demand is None or not _is_name_verified(demand) else demand.reference_name,
        "trust": None if demand is None else _trust(demand),
    }


def _is_name_verified(demand: Demand) -> bool:
    return demand.tls_mode is not TlsMode.NONE and not (demand.tlsa is not None and demand.tlsa.alone)


def _trust(demand: Demand) -> str:
    """What stands behind the certificate: trust roots (PKIX), TLSA records (DANE), both, or nothing."""
    if demand.tls_mode is TlsMode.NONE:
        return "none"
    if demand.tlsa is None:
        return "PKIX"
    return "DANE" if demand.tlsa.alone else "PKIX and DANE"


def recipient(result: RecipientResult, *, queue_id: bool = False) -> dict[str, Any]:
    """One recipient's verdict; over LMTP with the queue id of his own final reply."""
    said = reply(result.reply) or {"code": None, "enhanced": None, "text": None}
    own = {"queue_id": result.queue_id} if queue_id else {}
    return {"recipient": result.address, "delivery": result.delivery.value, **said, **own}


def error(given: SmtpError) -> dict[str, Any]:
    """Who erred, where, and what a caller may do; `kind` is one of the five of `oneshot`."""
    failure = failure_of(given)
    return {
        "type": type(given).__name__,
        "kind": failure.kind.value,
        "stage": given.stage,
        "code": failure.code,
        "enhanced": str(given.reply.enhanced) if given.reply is not None and given.reply.enhanced else None,
        "message": failure.text,
        "retry_safe": given.retry_safe,
        "permanent": failure.permanent,
    }


def refusal(message: str) -> dict[str, Any]:
    """What a command refuses before it speaks to a server, in the shape of an error."""
    return {
        "type": "CommandError",
        "kind": "invalid-input",
        "stage": "input",
        "code": None,
        "enhanced": None,
        "message": message,
        "retry_safe": True,
        "permanent": True,
    }


def tls(info: TlsInfo | None) -> dict[str, Any] | None:
    """What was agreed on, and what the server's certificate says."""
    if info is None:
        return None
    agreed = {"version": info.version, "cipher": info.cipher, "server_name": info.server_name}
    return {**agreed, **certificate(info.peer_certificate), "verified_by": info.verified_by}


def certificate(der: bytes) -> dict[str, Any]:
    """Names, issuer, validity (ISO 8601, UTC) and SHA-256 of a certificate; null where it cannot be read."""
    import hashlib

    names, issuer, since, until = _fields(der)
    return {
        "subject_alt_names": names,
        "issuer": issuer,
        "not_before": since,
        "not_after": until,
        "sha256": hashlib.sha256(der).hexdigest() if der else None,
    }


def _fields(der: bytes) -> tuple[list[str] | None, str | None, str | None, str | None]:
    from cryptography import x509

    try:
        found = x509.load_der_x509_certificate(der)
        issuer = safe_text(found.issuer.rfc4514_string())
        since, until = found.not_valid_before_utc.isoformat(), found.not_valid_after_utc.isoformat()
        try:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return [], issuer, since, until
        return [safe_text(str(name.value)) for name in names], issuer, since, until
    except ValueError:  # what the server sent is no certificate that this library reads
        return None, None, None, None
