"""From a transport that is up to a session that can send: greeting, EHLO, STARTTLS, AUTH.

Knows in which order a session is opened and what must be demanded before what; refuses to know locks and mails. Its
laws: TLS is a demand, never an opportunity (D11); nothing learnt in clear survives the handshake; octets in front of it
are an attack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from smtpconn.deadline import Budget
from smtpconn.driver import Driver
from smtpconn.opening import Opening
from smtpconn.protocol import audit
from smtpconn.protocol.errors import CertificateError, SmtpError, StartTlsInjectionError, TlsError, UsageError
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.sasl import Binding, Credentials, asked, choose
from smtpconn.tls import TlsConfig, TlsMode
from smtpconn.tls_context import tls_server_end_point

_COUNTED = 4_096  # octets of an injection that are counted, at most


class Publish(Protocol):
    """Where audit events go."""

    def __call__(self, event: Callable[..., audit.AuditEvent], **fields: Any) -> None:
        """Make the event and pass it on."""


def establish(driver: Driver, opening: Opening, budget: Budget, publish: Publish) -> None:
    """Open the session. What it raises leaves the transport to the caller, who ends it."""
    session = driver.session
    if opening.tls_mode is TlsMode.IMPLICIT:
        _require_match(driver, opening.tls)
    publish(audit.Connected)
    driver.journal.connected(driver.transport.tls)
    driver.run(session.greet(), budget)
    demands = "STARTTLS" if opening.tls_mode is TlsMode.STARTTLS else "AUTH" if opening.credentials else None
    driver.run(session.hello(demands=demands), budget)
    _greeted(driver, publish)
    if opening.tls_mode is TlsMode.STARTTLS:
        _upgrade(driver, opening, budget, publish)
    if opening.credentials is not None:
        authenticate(driver, opening, opening.credentials, budget, publish)


def hello_again(driver: Driver, budget: Budget, publish: Publish) -> None:
    """EHLO or LHLO in a session that is open (F10)."""
    driver.run(driver.session.rehlo(), budget)
    _greeted(driver, publish)


def _greeted(driver: Driver, publish: Publish) -> None:
    publish(audit.EhloCompleted)
    driver.journal.greeted()


def _upgrade(driver: Driver, opening: Opening, budget: Budget, publish: Publish) -> None:
    """STARTTLS, and EHLO again over TLS (RFC 3207)."""
    secure(driver, opening.tls, budget, publish)
    driver.run(driver.session.hello(fallback=False), budget)
    _greeted(driver, publish)


def secure(driver: Driver, config: TlsConfig, budget: Budget, publish: Publish) -> Reply:
    """STARTTLS and the handshake: the 220. EHLO is next."""
    session = driver.session
    driver.run(session.starttls(), budget)
    reply = session.ledger.last
    assert reply is not None
    _refuse_injection(driver)
    try:
        driver.transport = driver.transport.start_tls(config, budget.phase("tls").remaining())
    except BaseException as error:
        driver.poison(f"TLS failed: {type(error).__name__}")
        if isinstance(error, OSError) and not isinstance(error, SmtpError):  # BR12: a transport of the caller's
            raise TlsError(f"the TLS handshake failed: {error}") from error
        raise
    _require_match(driver, config)
    session.upgraded()
    publish(audit.TlsUpgraded)
    driver.journal.secured(driver.transport.tls)
    return reply


def _require_match(driver: Driver, config: TlsConfig) -> None:
    """A transport of the caller's own may know nothing of TLSA records: what nobody has looked at is not met."""
    info = driver.transport.tls
    if config.tlsa is not None and (info is None or "DANE" not in info.verified_by):
        driver.poison("TLSA records were not looked at")
        raise CertificateError("the transport does not say that the certificate matches a TLSA record (verified_by)")


def _refuse_injection(driver: Driver) -> None:
    """RFC 3207 section 6: octets behind the 220 were put there in the clear by an attacker (CVE-2011-0411)."""
    seen = driver.session.parser.pending
    try:
        while seen < _COUNTED and driver.transport.readable():
            octets = driver.transport.recv(_COUNTED, 0.0)
            if not octets:
                break
            seen += len(octets)
    except OSError:
        pass  # a connection that is gone fails in the handshake
    if seen:
        driver.poison("octets behind the 220 to STARTTLS")
        raise StartTlsInjectionError(
            f"{seen} octets followed the 220 to STARTTLS in the clear: an attack, or a broken server", octets=seen
        )


def authenticate(
    driver: Driver,
    opening: Opening,
    source: Credentials | Callable[[], Credentials],
    budget: Budget,
    publish: Publish,
) -> Reply:
    """One AUTH: its 235. What a callable raises passes unchanged, before an octet of it is written."""
    session = driver.session
    if session.authenticated:
        raise UsageError("already authenticated: AUTH is possible once in a session (RFC 4954 section 4)")
    session.require_between_mails("AUTH")
    credentials = asked(source)
    offered = session.capabilities.auth_mechanisms
    binding = Binding(_channel_binding(driver, credentials), plus_offered="SCRAM-SHA-256-PLUS" in offered)
    clear = not session.secure and not opening.allow_plaintext_auth
    name = choose(credentials, offered, clear=clear, binding=binding)
    mechanism = credentials.mechanism(name, credentials.revealed(), binding)
    reply = driver.run(session.auth(mechanism), budget)
    publish(audit.AuthCompleted, mechanism=name)
    driver.journal.authenticated(name)
    return reply


def _channel_binding(driver: Driver, credentials: Credentials) -> bytes | None:
    info = driver.transport.tls
    if info is None or getattr(credentials, "channel_binding", None) is None:
        return None
    # A server whose certificate was replaced reckons with the new one, and a session that was resumed knows the old.
    getattr(driver.transport, "forgo_resumption", lambda: None)()
    return tls_server_end_point(info.peer_certificate)
