"""How TLS is to be done, as values: `TlsMode`, `TlsConfig`, and `TlsInfo` for what came of it.

Knows what may be asked for; refuses to know how a context is built. Its laws: TLS is a demand, never an opportunity; no
flag switches verification off; no error echoes what stands in a bundle. The module imports where `ssl` is missing.
"""

from __future__ import annotations

import base64
import enum
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Union

from smtpconn.finding.tlsa import TlsaDemand
from smtpconn.pem import pem_certificates
from smtpconn.protocol.address import check_host
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.reply import safe_text

try:
    import ssl

    HAVE_SSL = True
except ImportError:  # a WASI component, or an interpreter built without OpenSSL
    HAVE_SSL = False

Trust = Union[str, "os.PathLike[str]", bytes, "tuple[str | os.PathLike[str] | bytes, ...]"]
ClientCertificate = Union[str, "os.PathLike[str]", "tuple[Any, ...]"]


class TlsMode(enum.Enum):
    """What the caller demands: there is no opportunistic member and no fall from one to another (D11).

    `IMPLICIT`: TLS from the first octet (RFC 8314 section 3.3). `STARTTLS`: RFC 3207, or no connection. `NONE`:
    plaintext.
    """

    IMPLICIT = "implicit"
    STARTTLS = "starttls"
    NONE = "none"

    def __repr__(self) -> str:
        return f"TlsMode.{self.name}"


@dataclass(frozen=True)
class TlsInfo:
    """What a handshake agreed on.

    `version`: for example "TLSv1.3". `cipher`: its OpenSSL name. `server_name`: the name that was verified.
    `peer_certificate`: the server's certificate, DER. `verified_by`: "PKIX": trust roots; "DANE-EE" or "DANE-TA": a
    TLSA record in their place (RFC 7672); "PKIX and DANE-EE", "PKIX and DANE-TA": both. `resumed`: the server's
    certificate was verified in an earlier handshake, within the last hour (RFC 8446 section 2.2).
    """

    version: str
    cipher: str
    server_name: str
    peer_certificate: bytes = field(repr=False)
    verified_by: str = "PKIX"
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields in JSON types; the certificate in base64."""
        octets = base64.b64encode(self.peer_certificate).decode("ascii")
        return {
            "version": self.version,
            "cipher": self.cipher,
            "server_name": self.server_name,
            "peer_certificate": octets,
            "verified_by": self.verified_by,
            "resumed": self.resumed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TlsInfo:
        """The inverse of `to_dict`; takes what was written before a field was there."""
        octets = base64.b64decode(data["peer_certificate"])
        later = {name: data[name] for name in ("verified_by", "resumed") if name in data}
        return cls(data["version"], data["cipher"], data["server_name"], octets, **later)


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """How TLS is done; an immutable value, validated at birth. Certificates are always verified (D11).

    `trust`: `"system"`, `"certifi"`, an `os.PathLike` to a PEM file, PEM octets, or a tuple of these, added together;
    anything but `"system"` replaces the system's roots. `server_name`: the name for SNI and verification, the host
    that was dialled by default; needed for TLS over a Unix socket. `client_certificate`: the path of a PEM file with
    certificate and key, or `(certificate path, key path)`, or `(certificate path, key path, callable that returns the
    key's password)`. `minimum_version`: `"TLSv1.2"` or `"TLSv1.3"`. `x509_strict=False` accepts chains that break RFC
    5280 in form only. `alpn`: protocol names to offer. `tlsa`: TLSA records that the certificate must match, in place
    of `trust` or in addition to it. `context`: a client-side `ssl.SSLContext` that verifies, used as it is in place of
    all the above but `server_name`.

    Raises `InvalidInputError` or TypeError.
    """

    trust: Trust = "system"
    server_name: str | None = None
    client_certificate: ClientCertificate | None = None
    minimum_version: str = "TLSv1.2"
    x509_strict: bool = True
    alpn: tuple[str, ...] = ()
    tlsa: TlsaDemand | None = None
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.server_name is not None:
            object.__setattr__(self, "server_name", check_host(self.server_name, argument="server_name"))
        object.__setattr__(self, "trust", _checked_trust(self.trust))
        object.__setattr__(self, "client_certificate", _checked_client_certificate(self.client_certificate))
        object.__setattr__(self, "minimum_version", _checked_version(self.minimum_version))
        object.__setattr__(self, "alpn", _checked_alpn(self.alpn))
        if not isinstance(self.x509_strict, bool):
            raise TypeError(f"x509_strict must be a bool, not {type(self.x509_strict).__name__}")
        if self.tlsa is not None and not isinstance(self.tlsa, TlsaDemand):
            raise TypeError(f"tlsa must be a TlsaDemand, not {type(self.tlsa).__name__}")
        if self.context is not None:
            for other in fields(self):
                if other.name not in ("context", "server_name") and getattr(self, other.name) != other.default:
                    raise InvalidInputError(f"TlsConfig: context excludes {other.name}: set it on the context")
            check_given(self.context)

    def __repr__(self) -> str:
        shown = [f"trust={_shown_trust(self.trust)}"]
        shown += [
            f"{name}={getattr(self, name)!r}"
            for name in ("server_name", "minimum_version", "x509_strict", "alpn", "tlsa")
            if getattr(self, name) != getattr(type(self), name)
        ]
        if isinstance(self.client_certificate, tuple):
            shown.append(f"client_certificate={str(self.client_certificate[0])!r}")
        if self.context is not None:
            shown = [*shown[1:], f"context=<{type(self.context).__name__}>"]
        return f"TlsConfig({', '.join(shown)})"


# --- birth ---


_TRUST = "'system', 'certifi', a pathlib.Path, PEM octets (bytes), or a tuple of these"


def _checked_trust(trust: object) -> Trust:
    if not isinstance(trust, tuple):
        return _checked_root(trust)
    if not trust:
        raise InvalidInputError("trust must not be empty: nothing could be verified")
    return tuple(_checked_root(root) for root in trust)


def _checked_root(root: object) -> str | os.PathLike[str] | bytes:
    if isinstance(root, str):
        name = str.__str__(root)
        if name not in ("system", "certifi"):  # never echoed: it may be a key that was pasted
            raise InvalidInputError(f"trust must be {_TRUST}")
        return name
    if isinstance(root, (bytes, bytearray, memoryview)):
        octets = bytes(root)
        certificates = pem_certificates(octets)
        if HAVE_SSL:
            load_roots(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificates, "trust")
        return octets
    if not isinstance(root, os.PathLike):
        raise TypeError(f"trust must be {_TRUST}, not {type(root).__name__}")
    return _path("trust", root)


def _path(name: str, given: object) -> pathlib.Path:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, not {type(given).__name__}")
    path = os.fsdecode(given)
    if not path or "\0" in path:
        raise InvalidInputError(f"{name} must be a path that is not empty and has no NUL")
    return pathlib.Path(path)


def _checked_client_certificate(given: object) -> ClientCertificate | None:
    if given is None:
        return None
    if not isinstance(given, tuple):
        return (_path("client_certificate", given),)
    if len(given) not in (1, 2, 3):
        raise InvalidInputError("client_certificate must be a path, or two paths, or two paths and a password callable")
    paths = tuple(_path("client_certificate", part) for part in given[:2])
    if len(given) < 3:
        return paths
    if not callable(given[2]) or getattr(given[2], "__hash__", None) is None:
        raise TypeError("client_certificate: the password must be a (hashable) callable that returns it")
    return (*paths, given[2])


def _checked_version(version: object) -> str:
    if not isinstance(version, str):
        raise TypeError(f"minimum_version must be a str, not {type(version).__name__}")
    for name in ("TLSv1.2", "TLSv1.3"):
        if version == name:
            return name
    raise InvalidInputError(f"minimum_version must be 'TLSv1.2' or 'TLSv1.3': {safe_text(str(version))[:80]}")


def _checked_alpn(names: object) -> tuple[str, ...]:
    if not isinstance(names, (tuple, list)):
        raise TypeError(f"alpn must be a tuple of str, not {type(names).__name__}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"alpn must be a tuple of str, not of {type(name).__name__}")
        if not name.isascii() or not 1 <= len(name) <= 255:
            raise InvalidInputError("alpn: a protocol name must have 1 to 255 ASCII octets (RFC 7301 section 3.1)")
    return tuple(str.__str__(name) for name in names)


def check_given(context: object) -> None:
    """F112: whatever a given context lets through, we cannot promise anything; no flag lifts this."""
    if not HAVE_SSL or not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise InvalidInputError("TlsConfig: the context is of the server kind")
    if context.verify_mode is not ssl.CERT_REQUIRED:
        raise InvalidInputError("TlsConfig: the context does not verify certificates: verify_mode is not CERT_REQUIRED")
    if not context.check_hostname:
        raise InvalidInputError("TlsConfig: the context does not verify names: check_hostname must be True")


def _shown_trust(trust: Trust) -> str:
    if isinstance(trust, tuple):
        return f"({', '.join(_shown_trust(root) for root in trust)})"
    if isinstance(trust, bytes):
        return f"<PEM, {len(trust)} octets>"
    return repr(str(trust))


def load_roots(context: ssl.SSLContext, certificates: list[bytes], source: str) -> None:
    """Add trust roots (DER) to a context; the error names `source` and the number of the bad one."""
    index = 0
    try:
        for index, der in enumerate(certificates, 1):  # noqa: B007  # named in the error
            context.load_verify_locations(cadata=der)
    except ssl.SSLError:
        raise InvalidInputError(f"{source}: certificate {index} of the PEM data cannot be read") from None
