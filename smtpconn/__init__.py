"""smtpconn: a thread-safe, blocking SMTP and LMTP client and connection pool.

Start with `ConnectionPool` in an application, with `SmtpConnection` in a script. Every send ends with a verdict for
every recipient (`Delivery`), every call has one deadline (`timeout`, in seconds), and everything that is raised for a
reason of SMTP is an `SmtpError` that says what became of the mail.

The names are loaded when they are first used, so that `import smtpconn` costs little. A WebAssembly component imports
`smtpconn.connection` and what else it uses at the top of its own module.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtpconn.attempts import AttemptVerdict, attempt_of
    from smtpconn.connection import SmtpConnection
    from smtpconn.deadline import Timeouts
    from smtpconn.lease import Lease
    from smtpconn.outcomes import MailOutcome, MailOutcomes
    from smtpconn.pool import ConnectionPool
    from smtpconn.protocol.address import ForwardPath, ReversePath
    from smtpconn.protocol.audit import (
        AuditEvent,
        AuditSink,
        AuthCompleted,
        Connected,
        EhloCompleted,
        GreetingReceived,
        ListAuditSink,
        MailFromAccepted,
        MailSettled,
        MessageAccepted,
        NoopAuditSink,
        QuitCompleted,
        RecipientAccepted,
        RecipientRejected,
        SessionAborted,
        TlsUpgraded,
    )
    from smtpconn.protocol.errors import (
        AuthenticationError,
        CertificateError,
        ConnectError,
        ConnectionLostError,
        Delivery,
        DeliveryUnknownError,
        ExtensionUnavailableError,
        InvalidInputError,
        PermanentReplyError,
        PolicyError,
        PoolClosedError,
        PoolError,
        PoolOverloadedError,
        PoolTimeoutError,
        ProtocolError,
        RecipientsRefusedError,
        ReplyError,
        ResolveError,
        ServiceUnavailableError,
        SmtpError,
        SmtpTimeoutError,
        StartTlsInjectionError,
        StartTlsUnavailableError,
        TlsError,
        TransientReplyError,
        UsageError,
    )
    from smtpconn.protocol.extensions import ServerCapabilities
    from smtpconn.protocol.flow import Pipelining
    from smtpconn.protocol.mail import Mail, Recipient
    from smtpconn.protocol.params import DeliverBy, MailParams, Notify, RcptParams
    from smtpconn.protocol.policy import BoundedPolicy, DefaultPolicy, SendPolicy
    from smtpconn.protocol.reply import EnhancedStatus, Reply
    from smtpconn.protocol.result import RecipientResult, SendResult
    from smtpconn.protocol.sasl import (
        Credentials,
        LoginAuth,
        OAuthBearerAuth,
        PasswordAuth,
        PlainAuth,
        ScramAuth,
        XOAuth2Auth,
    )
    from smtpconn.protocol.session import SessionState
    from smtpconn.sender import Sender
    from smtpconn.stats import PoolStats
    from smtpconn.tls import TlsConfig, TlsInfo, TlsMode
    from smtpconn.transport import SocketTransport, Transport

_HOMES: dict[str, str] = {
    "attempts": "AttemptVerdict attempt_of",
    "connection": "SmtpConnection",
    "deadline": "Timeouts",
    "lease": "Lease",
    "outcomes": "MailOutcome MailOutcomes",
    "pool": "ConnectionPool",
    "protocol.address": "ForwardPath ReversePath",
    "protocol.audit": (
        "AuditEvent AuditSink AuthCompleted Connected EhloCompleted GreetingReceived ListAuditSink MailFromAccepted "
        "MailSettled MessageAccepted NoopAuditSink QuitCompleted RecipientAccepted RecipientRejected SessionAborted "
        "TlsUpgraded"
    ),
    "protocol.errors": (
        "AuthenticationError CertificateError ConnectError ConnectionLostError Delivery DeliveryUnknownError "
        "ExtensionUnavailableError InvalidInputError PermanentReplyError PolicyError PoolClosedError PoolError "
        "PoolOverloadedError PoolTimeoutError ProtocolError RecipientsRefusedError ReplyError ResolveError "
        "ServiceUnavailableError SmtpError SmtpTimeoutError StartTlsInjectionError StartTlsUnavailableError TlsError "
        "TransientReplyError UsageError"
    ),
    "protocol.extensions": "ServerCapabilities",
    "protocol.flow": "Pipelining",
    "protocol.mail": "Mail Recipient",
    "protocol.params": "DeliverBy MailParams Notify RcptParams",
    "protocol.policy": "BoundedPolicy DefaultPolicy SendPolicy",
    "protocol.reply": "EnhancedStatus Reply",
    "protocol.result": "RecipientResult SendResult",
    "protocol.sasl": "Credentials LoginAuth OAuthBearerAuth PasswordAuth PlainAuth ScramAuth XOAuth2Auth",
    "protocol.session": "SessionState",
    "sender": "Sender",
    "stats": "PoolStats",
    "tls": "TlsConfig TlsInfo TlsMode",
    "transport": "SocketTransport Transport",
}
_HOME_OF = {name: f"smtpconn.{home}" for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)

# The library sets up no handler; the wire log shows addresses and is on only where the application asks for it.
logging.getLogger("smtpconn").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'smtpconn' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
