"""A WASI 0.2 component that sends one mail: the guest's side of the world `one-shot`.

Everything is imported here, at the top: a component has no files at run time, so that nothing can be imported later.
"""

from __future__ import annotations

# Octets become text in pickle and in names: encodings are modules, too.
import encodings.ascii
import encodings.idna
import encodings.latin_1  # noqa: F401  # the three of them
from collections.abc import Callable

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import mails
from wit_world.imports.host_stream import Failure as Refusal
from wit_world.imports.host_stream import Link, Trouble, Trust_Bundled, Trust_Custom

from smtpconn.deadline import Deadline, seconds
from smtpconn.oneshot import Failure, Outcome, SendConfig, failure_of, send_once
from smtpconn.protocol.errors import (
    CertificateError,
    ConnectError,
    ResolveError,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    UsageError,
)
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.policy import BoundedPolicy
from smtpconn.protocol.result import RecipientResult
from smtpconn.protocol.sasl import (
    Credentials,
    LoginAuth,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    ScramAuth,
    Secret,
    XOAuth2Auth,
)
from smtpconn.tls import TlsConfig, TlsInfo, TlsMode


class HostTransport:
    """The host's stream as a `smtpconn.Transport`: what it says becomes the exception that a driver expects."""

    def __init__(self, link: Link, peer: str, tls: TlsInfo | None = None) -> None:
        self._link: Link | None = link
        self._gone = "closed"
        self.peer = peer
        self.tls = tls
        self.secure = tls is not None
        self.local_address = link.local_address()

    @classmethod
    def connect(cls, host: str, port: int, timeout: float | None) -> HostTransport:
        """A stream to the server. Raises `ConnectError`, `ResolveError` or `SmtpTimeoutError`."""
        try:
            return cls(Link.connect(host, port, timeout), f"{host}:{port}")
        except Err as refused:
            raise _opening_error(refused.value, "connect") from None

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        """See `Transport.send`."""
        try:
            return int(self._open().send(bytes(octets), timeout))
        except Err as refused:
            raise _stream_error(refused.value) from None

    def recv(self, limit: int, timeout: float | None) -> bytes:
        """See `Transport.recv`."""
        try:
            return bytes(self._open().recv(limit, timeout))
        except Err as refused:
            raise _stream_error(refused.value) from None

    def readable(self) -> bool:
        """See `Transport.readable`. What is closed has an error to give."""
        return self._link is None or bool(self._link.readable())

    def start_tls(self, config: TlsConfig, timeout: float | None) -> HostTransport:
        """See `Transport.start_tls`: the host does the handshake, and verifies what `config` says."""
        if self.secure or self._gone != "closed":
            raise UsageError("TLS is active already")
        link = self._open()
        assert config.server_name is not None
        trust = Trust_Custom(config.trust) if isinstance(config.trust, bytes) else Trust_Bundled()
        self._link, self._gone = None, "replaced by its TLS transport"
        try:
            info = link.start_tls(config.server_name, trust, timeout)
        except Err as refused:
            with link:
                link.close()
            raise _opening_error(refused.value, "tls") from None
        return HostTransport(
            link, self.peer, TlsInfo(info.version, info.cipher, info.server_name, info.peer_certificate)
        )

    def close_notify(self) -> None:
        """Tell the peer that this side is done, without waiting."""
        if self._link is not None:
            self._link.close_notify()

    def close(self) -> None:
        """See `Transport.close`."""
        link, self._link = self._link, None
        if link is not None:
            with link:  # gives the handle back now, not when memory is collected
                link.close()

    def _open(self) -> Link:
        if self._link is None:
            raise OSError(f"the transport is {self._gone}")
        return self._link


def _stream_error(refusal: Refusal) -> OSError:
    return TimeoutError(refusal.text) if refusal.trouble is Trouble.TIMED_OUT else ConnectionError(refusal.text)


def _opening_error(refusal: Refusal, stage: str) -> SmtpError:
    if refusal.trouble is Trouble.TIMED_OUT:
        return SmtpTimeoutError(refusal.text, stage=stage)
    named = {Trouble.UNRESOLVED: ResolveError, Trouble.NO_TLS: TlsError, Trouble.UNTRUSTED: CertificateError}
    return named.get(refusal.trouble, TlsError if stage == "tls" else ConnectError)(refusal.text)


# --- values of WIT to values of smtpconn, and back


def _config_of(given: mails.SendConfig) -> SendConfig:
    return SendConfig(
        host=given.host,
        port=given.port,
        tls_mode=TlsMode[given.tls_mode.name],
        protocol="lmtp" if given.protocol is mails.Protocol.LMTP else "smtp",
        ehlo_domain=given.ehlo_domain,
        trust=given.trust.value if isinstance(given.trust, Trust_Custom) else "bundled",
    )


def _policy_of(given: mails.SendConfig) -> BoundedPolicy:
    return BoundedPolicy(max_recipients=given.max_recipients, max_message_bytes=given.max_message_octets)


_CLASSES: dict[mails.Mechanism, Callable[[str, Secret], Credentials]] = {
    mails.Mechanism.PASSWORD: PasswordAuth,
    mails.Mechanism.PLAIN: PlainAuth,
    mails.Mechanism.LOGIN: LoginAuth,
    mails.Mechanism.SCRAM_SHA256: ScramAuth,
    mails.Mechanism.XOAUTH2: XOAuth2Auth,
}


def _credentials_of(given: mails.Credentials | None) -> Credentials | None:
    if given is None:
        return None
    secret = Secret(given.secret, "secret")
    if given.mechanism is mails.Mechanism.OAUTHBEARER:
        return OAuthBearerAuth(secret, user=given.user or None)
    return _CLASSES[given.mechanism](given.user, secret)


def _mail_of(given: mails.Mail) -> Mail:
    return Mail(given.sender, given.recipients, given.message, chunking=given.chunking)


def _verdict(entry: RecipientResult) -> mails.Verdict:
    reply = entry.reply
    return mails.Verdict(
        entry.address,
        mails.Delivery[entry.delivery.name],
        None if reply is None else reply.code,
        "" if reply is None else reply.text,
    )


def _outcome(outcome: Outcome) -> mails.Outcome:
    return mails.Outcome(
        outcome.code, outcome.text, outcome.queue_id, [_verdict(entry) for entry in outcome.recipients]
    )


def _failure(failure: Failure) -> mails.SendFailure:
    return mails.SendFailure(
        mails.ErrorKind[failure.kind.name],
        failure.text,
        failure.code,
        mails.Delivery[failure.delivery.name],
        failure.permanent,
        [_verdict(entry) for entry in failure.recipients],
    )


# --- the exports


class Submission(exports.Submission):
    """The interface that the component exports."""

    def send(self, config: mails.SendConfig, credentials: mails.Credentials | None, mail: mails.Mail) -> mails.Outcome:
        """Over a stream of the host."""
        try:
            settings, deadline = _config_of(config), Deadline.after(seconds("timeout", config.timeout))
            message, account = _mail_of(mail), _credentials_of(credentials)
            transport = HostTransport.connect(settings.host, settings.port, deadline.remaining())
            try:
                if settings.tls_mode is TlsMode.IMPLICIT:
                    transport = transport.start_tls(settings.tls_config or TlsConfig(), deadline.remaining())
                left = deadline.remaining()
                if not left:
                    raise SmtpTimeoutError("the deadline has passed", stage="connect")
                outcome = send_once(
                    settings,
                    message,
                    timeout=left,
                    credentials=account,
                    policy=_policy_of(config),
                    transport=transport,
                )
            finally:
                transport.close()
            return _outcome(outcome)
        except (SmtpError, TypeError) as error:
            raise Err(_failure(failure_of(error))) from None

    def send_over_sockets(
        self, config: mails.SendConfig, credentials: mails.Credentials | None, mail: mails.Mail
    ) -> mails.Outcome:
        """Over a socket of our own."""
        try:
            outcome = send_once(
                _config_of(config),
                _mail_of(mail),
                timeout=config.timeout,
                credentials=_credentials_of(credentials),
                policy=_policy_of(config),
            )
            return _outcome(outcome)
        except (SmtpError, TypeError) as error:
            raise Err(_failure(failure_of(error))) from None
