"""One mail and no more: connect, authenticate, send, quit; and what came of it in plain values (features F117).

For callers to whom a connection is of no use: a command line, a component that exports one call. Knows in which order
a `SmtpConnection` is used and how its errors fall into five kinds; refuses to know the wire. Its laws: every
setting is validated before the first octet; a bundle of trust roots is taken whole or not at all and nothing takes its
place; one deadline covers the whole call.

`from smtpconn.oneshot import SendConfig, send_once, failure_of`
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from smtpconn import attempts
from smtpconn.connection import SmtpConnection, Timeout
from smtpconn.deadline import Budget
from smtpconn.opening import CredentialsSource, Opening, concealed, endpoint_of
from smtpconn.pem import pem_certificates
from smtpconn.protocol.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    Delivery,
    InvalidInputError,
    PolicyError,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    UsageError,
)
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.protocol.session import ProtocolName
from smtpconn.tls import TlsConfig, TlsMode
from smtpconn.transport import Transport

# L13: what a caller hands over with every call stays small; the bundle of a whole system belongs into a file.
_PEM_BLOCKS = 64
_PEM_OCTETS = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class SendConfig:
    """Where the mail goes and how; an immutable value, validated at birth.

    `host`: an ASCII name or an IP address. `port`: 1 to 65535, for LMTP not 25. `tls_mode`: a demand, as everywhere.
    `protocol`: `"smtp"` or `"lmtp"`. `ehlo_domain`: the machine's own name or address by default. `trust`: `"bundled"`
    for the roots of the package certifi, or PEM octets that replace them: at most 64 certificates and 256 KiB, all of
    them or none; without TLS it must be `"bundled"`, which then means nothing.

    Raises `InvalidInputError` or TypeError; no text shows what stands in the PEM octets.
    """

    host: str
    port: int
    tls_mode: TlsMode
    protocol: ProtocolName = "smtp"
    ehlo_domain: str | None = None
    trust: str | bytes = field(default="bundled", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "trust", _trust_of(self.trust))
        if self.tls_mode is TlsMode.NONE and self.trust != "bundled":
            raise InvalidInputError("trust with TlsMode.NONE would promise what is not done: choose another tls_mode")
        Opening(protocol=self.protocol, tls_mode=self.tls_mode, ehlo_domain=self.ehlo_domain)
        object.__setattr__(self, "host", endpoint_of(self.host, self.port, protocol=self.protocol).host)
        _ = self.tls_config  # a certificate that cannot be read is found now

    @property
    def tls_config(self) -> TlsConfig | None:
        """How TLS is done: the trust of this configuration, and its host as the name to verify. None without TLS."""
        if self.tls_mode is TlsMode.NONE:
            return None
        return TlsConfig(trust="certifi" if self.trust == "bundled" else self.trust, server_name=self.host)


def _trust_of(given: object) -> str | bytes:
    if isinstance(given, str):
        if given != "bundled":  # never echoed: it may be a key that was pasted
            raise InvalidInputError("trust must be 'bundled' or PEM octets")
        return "bundled"
    if not isinstance(given, (bytes, bytearray, memoryview)):
        raise TypeError(f"trust must be 'bundled' or PEM octets (bytes), not {type(given).__name__}")
    octets = bytes(given)
    if len(octets) > _PEM_OCTETS:
        raise InvalidInputError(f"trust: the PEM data must not have more than {_PEM_OCTETS} octets")
    if len(pem_certificates(octets)) > _PEM_BLOCKS:
        raise InvalidInputError(f"trust: the PEM data must not have more than {_PEM_BLOCKS} certificates")
    return octets


@dataclass(frozen=True)
class Outcome:
    """What the server said to the mail.

    `code`, `text`: of the final reply; over LMTP of the first recipient who has the mail, or of the first refusal.
    `queue_id`: as far as the reply names one in a usual wording. `recipients`: one verdict per recipient, in order.
    """

    code: int
    text: str
    queue_id: str | None
    recipients: tuple[RecipientResult, ...]

    @classmethod
    def of(cls, result: SendResult) -> Outcome:
        """The outcome that a result means."""
        replies = [result.reply, *(entry.reply for entry in (*result.accepted, *result.rejected))]
        reply = next(reply for reply in replies if reply is not None)
        return cls(reply.code, reply.text, result.queue_id, result.recipients)


def send_once(
    config: SendConfig,
    mail: Mail,
    *,
    timeout: Timeout,
    credentials: CredentialsSource | None = None,
    policy: SendPolicy | None = None,
    transport: Transport | None = None,
) -> Outcome:
    """Connect, authenticate if there are `credentials`, send the mail and say QUIT, all of it within `timeout`.

    `timeout`: seconds, or a `Timeouts`. `transport`: a connected one in place of a connection of ours; for
    `TlsMode.IMPLICIT` it is past its handshake. Whatever happens, nothing stays open, but for a transport of a call
    that was refused for its arguments. Raises what `SmtpConnection` raises: an `SmtpError` or TypeError, of which
    `failure_of` tells the kind. Over LMTP, and over SMTP where others were accepted, a refused recipient is part of the
    outcome.
    """
    credentials = concealed(credentials)
    if not isinstance(config, SendConfig):
        raise TypeError(f"config must be a SendConfig, not {type(config).__name__}")
    if not isinstance(mail, Mail):
        raise TypeError(f"mail must be a Mail, not {type(mail).__name__}")
    budget = Budget.of(timeout)
    return Outcome.of(send_over(_connected(config, timeout, credentials, policy, transport), mail, budget))


def send_over(connection: SmtpConnection, mail: Mail, budget: Budget) -> SendResult:
    """Send the mail over a connection that serves nothing else, and leave it with QUIT, whatever happens.

    Raises what `SmtpConnection.send` raises. What cuts off the QUIT carries the verdicts of the mail, as what cuts off
    the mail does: `attempt_of` reads them.
    """
    try:
        result = connection.send_mail(mail, budget)
    except BaseException:
        connection.leave(budget)
        raise
    try:
        connection.leave(budget)
    except BaseException as error:
        attempts.attach(error, "QUIT", result.recipients, cut_off=True)
        raise
    return result


def _connected(
    config: SendConfig,
    timeout: Timeout,
    credentials: CredentialsSource | None,
    policy: SendPolicy | None,
    transport: Transport | None,
) -> SmtpConnection:
    if transport is not None:
        return SmtpConnection.from_transport(
            transport,
            protocol=config.protocol,
            tls_mode=config.tls_mode,
            tls_config=config.tls_config,
            ehlo_domain=config.ehlo_domain,
            timeout=timeout,
            credentials=credentials,
            policy=policy,
        )
    connect = SmtpConnection.connect_lmtp if config.protocol == "lmtp" else SmtpConnection.connect
    return connect(
        config.host,
        config.port,
        config.tls_mode,
        tls_config=config.tls_config,
        ehlo_domain=config.ehlo_domain,
        timeout=timeout,
        credentials=credentials,
        policy=policy,
    )


class ErrorKind(enum.Enum):
    """The five kinds of failure.

    `IO`: no connection, no TLS, or the connection ended or stalled. `PROTOCOL`: the server refused, cannot do what is
    asked, or said what cannot be said. `AUTH_REJECTED`: it refused the credentials. `INVALID_INPUT`: the call is wrong.
    `POLICY_REJECTED`: the caller's own policy refused.
    """

    IO = "io"
    PROTOCOL = "protocol"
    AUTH_REJECTED = "auth-rejected"
    INVALID_INPUT = "invalid-input"
    POLICY_REJECTED = "policy-rejected"


# The first that fits: a missing STARTTLS is a TlsError and an ExtensionUnavailableError, and no TLS came about.
_KINDS: tuple[tuple[ErrorKind, tuple[type[Exception], ...]], ...] = (
    (ErrorKind.IO, (ConnectError, TlsError, ConnectionLostError, SmtpTimeoutError)),
    (ErrorKind.AUTH_REJECTED, (AuthenticationError,)),
    (ErrorKind.POLICY_REJECTED, (PolicyError,)),
    (ErrorKind.INVALID_INPUT, (InvalidInputError, UsageError, TypeError)),
    (ErrorKind.PROTOCOL, (SmtpError,)),
)


@dataclass(frozen=True)
class Failure:
    """Why the mail was not sent, without a secret in it.

    `code`: of the reply that caused it, or None. `delivery`: `UNKNOWN` where the mail may have gone out all the same:
    sending it again may duplicate it. `permanent`: True if the same call will fail again, False if it may succeed
    later, None if nobody said. `recipients`: one verdict per recipient, as far as the attempt came to them.
    """

    kind: ErrorKind
    text: str
    code: int | None
    delivery: Delivery
    permanent: bool | None
    recipients: tuple[RecipientResult, ...]


def failure_of(error: SmtpError | TypeError) -> Failure:
    """What an error of `SendConfig`, `Mail` or `send_once` means to a caller who knows five kinds."""
    kind = next(kind for kind, classes in _KINDS if isinstance(error, classes))
    if not isinstance(error, SmtpError):
        return Failure(kind, str(error), None, Delivery.NOT_DELIVERED, True, ())
    code = None if error.reply is None else error.reply.code
    return Failure(kind, str(error), code, error.delivery, error.permanent, error.recipients)
