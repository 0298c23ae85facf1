"""`TlsConfig` to `ssl.SSLContext`: what is trusted and demanded, and what went wrong in words.

Knows trust roots, the flags of a context, and the reasons OpenSSL gives; refuses to know sockets and SMTP. Its laws: a
context is built once per configuration and shared; one that was given is used as it is and never altered; no flag
switches verification off. The module imports where `ssl` is missing.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import pathlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from smtpconn.pem import pem_certificates
from smtpconn.protocol.errors import CertificateError, InvalidInputError, SmtpError, SmtpTimeoutError, TlsError
from smtpconn.tls import HAVE_SSL, TlsConfig, check_given, load_roots
from smtpconn.tls_sessions import TlsSessions

if HAVE_SSL:
    import ssl

_CONTEXTS_KEPT = 32
_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN
_STRICT = 0x20  # X509_V_FLAG_X509_STRICT
_SECURITY_LEVEL = 2  # refuses SHA-1 signatures and keys below 112 bits
# CPython's own list.
_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"

# What OpenSSL finds under X509_V_FLAG_X509_STRICT only (x509_vfy.c, check_extensions and check_curve).
_STRICT_ONLY = frozenset({78, *range(80, 95)})
# No path to an anchor: issuer or local issuer not found, self-signed leaf or root unknown, leaf cannot be verified.
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})


_NOT_OF_THE_CONTEXT = ("server_name", "tlsa", "context")
_of_the_context = operator.attrgetter(
    *(item.name for item in fields(TlsConfig) if item.name not in _NOT_OF_THE_CONTEXT)
)

_contexts: OrderedDict[tuple[Any, ...], tuple[tuple[Any, ...], ssl.SSLContext, TlsSessions]] = OrderedDict()
_contexts_lock = threading.Lock()


def ssl_context(config: TlsConfig) -> ssl.SSLContext:
    """The context that a configuration means: the one given, or one that is built once and shared.

    It is built anew when a file that it was made from has changed.

    Raises:
        TlsError: no `ssl` in this interpreter, no trust roots on this system, or a file that cannot be read.
        InvalidInputError: a file without certificates, or a context that was given and no longer verifies.
    """
    return context_and_sessions(config)[0]


def context_and_sessions(config: TlsConfig) -> tuple[ssl.SSLContext, TlsSessions | None]:
    """See `ssl_context`; and the sessions that may be resumed with that context.

    None for a context that was given, since it is used as it is, and for TLSA records: what is resumed shows no chain.
    """
    require_ssl()
    if config.context is not None:
        check_given(config.context)
        return config.context, None
    key = (config.tlsa is not None and config.tlsa.alone, *_of_the_context(config))
    seen = tuple(_fingerprint(config))
    with _contexts_lock:
        known = _contexts.get(key)
        if known is not None and known[0] == seen:
            _contexts.move_to_end(key)
    if known is None or known[0] != seen:
        known = _kept(key, (seen, _build(config), TlsSessions()))
    return known[1], None if config.tlsa is not None else known[2]


def _kept(
    key: tuple[Any, ...], made: tuple[tuple[Any, ...], ssl.SSLContext, TlsSessions]
) -> tuple[tuple[Any, ...], ssl.SSLContext, TlsSessions]:
    with _contexts_lock:
        known = _contexts.get(key)
        if known is not None and known[0] == made[0]:
            return known  # another thread was first
        _contexts[key] = made
        _contexts.move_to_end(key)
        while len(_contexts) > _CONTEXTS_KEPT:
            _contexts.popitem(last=False)
    return made


def require_ssl() -> None:
    """Raise `TlsError` where this interpreter cannot do TLS itself: a component, or one that was built without it."""
    if not HAVE_SSL:
        raise TlsError("TLS needs the module ssl, which this Python does not have", permanent=True)


def _renew() -> None:
    """In a forked child: whoever held a lock does not exist here."""
    global _contexts_lock
    _contexts_lock = threading.Lock()
    for _, _, sessions in _contexts.values():
        sessions.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def _fingerprint(config: TlsConfig) -> Iterator[Any]:
    """What must stay the same for a context to be used again: a rotated file is another file."""
    for root in _roots(config):
        if root == "system":
            paths = ssl.get_default_verify_paths()
            for name in (paths.openssl_cafile_env, paths.openssl_capath_env):
                yield os.environ.get(name)
            for path in (paths.cafile, paths.capath):
                yield path and _state(path)
        elif isinstance(root, pathlib.Path):
            yield _state(root)
    if isinstance(config.client_certificate, tuple):
        for part in config.client_certificate[:2]:
            yield _state(part)


def _roots(config: TlsConfig) -> tuple[str | os.PathLike[str] | bytes, ...]:
    if config.tlsa is not None and config.tlsa.alone:
        return ()
    return config.trust if isinstance(config.trust, tuple) else (config.trust,)


def _state(path: str | pathlib.Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # for each login; a Path would be made first
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _build(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verify_mode CERT_REQUIRED and check_hostname True
    context.hostname_checks_common_name = False  # SAN only (RFC 9525 section 2)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if config.minimum_version == "TLSv1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    flags = int(context.verify_flags) | _PARTIAL_CHAIN
    context.verify_flags = ssl.VerifyFlags(flags | _STRICT if config.x509_strict else flags & ~_STRICT)
    if context.security_level < _SECURITY_LEVEL:  # an interpreter built with other default ciphers
        with contextlib.suppress(ssl.SSLError):
            context.set_ciphers(_CIPHERS)
    if config.alpn:
        context.set_alpn_protocols(list(config.alpn))
    for root in _roots(config):
        _add_root(context, root)
    if config.tlsa is not None and config.tlsa.alone:
        # What the certificate must match is looked at behind the handshake, in `dane`, before an octet is written: no
        # root of ours, no name (DANE-EE) and no validity (RFC 7672 section 3.1.1) has a say in it.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if isinstance(config.client_certificate, tuple):
        _add_client_certificate(context, config.client_certificate)
    return context


def _add_root(context: ssl.SSLContext, root: str | os.PathLike[str] | bytes) -> None:
    if root == "system":
        with contextlib.suppress(ssl.SSLError):  # then the store is empty
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"] and not _has_hashed_certificates():
            raise TlsError("this system has no trust roots: install them, or use TlsConfig(trust='certifi')")
    elif root == "certifi":
        try:
            import certifi
        except ImportError as error:
            raise TlsError("TlsConfig(trust='certifi') needs the package certifi", permanent=True) from error
        context.load_verify_locations(cafile=certifi.where())
    elif isinstance(root, bytes):
        load_roots(context, pem_certificates(root), "trust")
    else:
        path = pathlib.Path(root)
        try:
            octets = path.read_bytes()
        except OSError as error:
            raise TlsError(f"trust: cannot read {str(path)!r}: {error.strerror}") from error
        load_roots(context, pem_certificates(octets), f"trust: {str(path)!r}")


_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def _has_hashed_certificates() -> bool:
    """OpenSSL reads its directories of hashed names only when it looks for an issuer: its store is empty until then."""
    paths = ssl.get_default_verify_paths()
    directories = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)
    for directory in directories.split(os.pathsep):
        with contextlib.suppress(OSError):
            if directory and any(_HASHED.fullmatch(entry.name) for entry in pathlib.Path(directory).iterdir()):
                return True
    return False


def _add_client_certificate(context: ssl.SSLContext, parts: tuple[Any, ...]) -> None:
    certificate, key = parts[0], parts[1] if len(parts) > 1 else None
    try:
        context.load_cert_chain(certificate, key, password=parts[2] if len(parts) > 2 else _no_password)
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise InvalidInputError(f"client_certificate: bad certificate or key, or they do not fit: {reason}") from None
    except OSError as error:
        raise TlsError(f"client_certificate: cannot read a file: {error.strerror}") from error


def _no_password() -> str:
    # Without a callable OpenSSL would ask on the terminal.
    raise InvalidInputError("client_certificate: the key is encrypted: give a password callable as third part")


# --- the name to verify, and what went wrong ---


def name_to_verify(config: TlsConfig, host: str | None) -> str:
    """The name that is sent and verified; `host` was dialled. Raises `InvalidInputError`."""
    name = config.server_name or host
    if name is None:
        raise InvalidInputError("TlsConfig.server_name is needed: there is no host name to verify here")
    try:
        _encodable(name)
    except UnicodeError as error:
        raise InvalidInputError("the host name cannot be used for TLS: give TlsConfig.server_name") from error
    return name


@functools.lru_cache(maxsize=64)
def _encodable(name: str) -> None:
    """Raises UnicodeError, like `ssl` itself, for a label that is too long."""
    name.encode("idna")


def handshake_error(error: Exception, config: TlsConfig, server_name: str, where: str) -> SmtpError:
    """The error to raise for a handshake that failed; `where` names the peer. The caller chains the cause."""
    if isinstance(error, TimeoutError):
        return SmtpTimeoutError(f"TLS handshake with {where} timed out", stage="tls")
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate of {where} was refused for {server_name!r}: {error.verify_message}"
        return CertificateError(text + _remedy(error.verify_code, given=config.context is not None))
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return TlsError(f"{where} closed the connection in the TLS handshake")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "protocol error").replace("_", " ").lower()
        hint = _HINT if error.reason in _NOT_TLS else ""
        return TlsError(f"TLS handshake with {where} failed: {reason}{hint}")
    return TlsError(f"TLS handshake with {where} failed: {getattr(error, 'strerror', None) or type(error).__name__}")


_HINT = " (does it speak TLS here? for STARTTLS say TlsMode.STARTTLS or submission://)"
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


def _remedy(code: int, *, given: bool) -> str:
    if code in _STRICT_ONLY:
        relax = "clear VERIFY_X509_STRICT in the given context" if given else "TlsConfig(x509_strict=False) accepts it"
        return f" (the chain breaks RFC 5280 in form only; {relax})"
    if code in _UNKNOWN_ISSUER:
        add = "load it into the given context" if given else "give it as TlsConfig(trust=...)"
        return f" (the issuer is not a known authority; if it is a private one, {add})"
    return ""


# --- channel binding (F44) ---


def tls_server_end_point(certificate_der: bytes) -> bytes | None:
    """The channel binding `tls-server-end-point` of a server's certificate (RFC 5929 section 4.1), or None.

    The certificate's hash by the hash of its signature algorithm, SHA-256 in place of MD5 and SHA-1. None: the
    algorithm has no single hash (Ed25519), the certificate cannot be read, or `cryptography` is missing.
    """
    try:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes
    except ImportError:
        return None
    try:
        algorithm = x509.load_der_x509_certificate(certificate_der).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, (hashes.MD5, hashes.SHA1)):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate_der)
    return digest.finalize()
