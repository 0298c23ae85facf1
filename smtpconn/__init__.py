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

if TYPE_CHECKING:  # `X as X` is an explicit re-export (PEP 484)
    from smtpconn.attempts import AttemptVerdict as AttemptVerdict
    from smtpconn.attempts import attempt_of as attempt_of
    from smtpconn.connection import SmtpConnection as SmtpConnection
    from smtpconn.deadline import Timeouts as Timeouts
    from smtpconn.finding.records import TlsaRecord as TlsaRecord
    from smtpconn.finding.tlsa import TlsaDemand as TlsaDemand
    from smtpconn.outcomes import MailOutcome as MailOutcome
    from smtpconn.outcomes import MailOutcomes as MailOutcomes
    from smtpconn.pool import ConnectionPool as ConnectionPool
    from smtpconn.pooling.lease import Lease as Lease
    from smtpconn.pooling.stats import PoolStats as PoolStats
    from smtpconn.protocol.address import ForwardPath as ForwardPath
    from smtpconn.protocol.address import ReversePath as ReversePath
    from smtpconn.protocol.audit import (
        AuditEvent as AuditEvent,
    )
    from smtpconn.protocol.audit import (
        AuditSink as AuditSink,
    )
    from smtpconn.protocol.audit import (
        AuthCompleted as AuthCompleted,
    )
    from smtpconn.protocol.audit import (
        Connected as Connected,
    )
    from smtpconn.protocol.audit import (
        EhloCompleted as EhloCompleted,
    )
    from smtpconn.protocol.audit import (
        GreetingReceived as GreetingReceived,
    )
    from smtpconn.protocol.audit import (
        ListAuditSink as ListAuditSink,
    )
    from smtpconn.protocol.audit import (
        MailFromAccepted as MailFromAccepted,
    )
    from smtpconn.protocol.audit import (
        MailSettled as MailSettled,
    )
    from smtpconn.protocol.audit import (
        MessageAccepted as MessageAccepted,
    )
    from smtpconn.protocol.audit import (
        NoopAuditSink as NoopAuditSink,
    )
    from smtpconn.protocol.audit import (
        QuitCompleted as QuitCompleted,
    )
    from smtpconn.protocol.audit import (
        RecipientAccepted as RecipientAccepted,
    )
    from smtpconn.protocol.audit import (
        RecipientRejected as RecipientRejected,
    )
    from smtpconn.protocol.audit import (
        SessionAborted as SessionAborted,
    )
    from smtpconn.protocol.audit import (
        TlsUpgraded as TlsUpgraded,
    )
    from smtpconn.protocol.errors import (
        AuthenticationError as AuthenticationError,
    )
    from smtpconn.protocol.errors import (
        CertificateError as CertificateError,
    )
    from smtpconn.protocol.errors import (
        ConnectError as ConnectError,
    )
    from smtpconn.protocol.errors import (
        ConnectionLostError as ConnectionLostError,
    )
    from smtpconn.protocol.errors import (
        Delivery as Delivery,
    )
    from smtpconn.protocol.errors import (
        DeliveryUnknownError as DeliveryUnknownError,
    )
    from smtpconn.protocol.errors import (
        ExtensionUnavailableError as ExtensionUnavailableError,
    )
    from smtpconn.protocol.errors import (
        InvalidInputError as InvalidInputError,
    )
    from smtpconn.protocol.errors import (
        PermanentReplyError as PermanentReplyError,
    )
    from smtpconn.protocol.errors import (
        PolicyError as PolicyError,
    )
    from smtpconn.protocol.errors import (
        PoolClosedError as PoolClosedError,
    )
    from smtpconn.protocol.errors import (
        PoolError as PoolError,
    )
    from smtpconn.protocol.errors import (
        PoolOverloadedError as PoolOverloadedError,
    )
    from smtpconn.protocol.errors import (
        PoolTimeoutError as PoolTimeoutError,
    )
    from smtpconn.protocol.errors import (
        ProtocolError as ProtocolError,
    )
    from smtpconn.protocol.errors import (
        RecipientsRefusedError as RecipientsRefusedError,
    )
    from smtpconn.protocol.errors import (
        ReplyError as ReplyError,
    )
    from smtpconn.protocol.errors import (
        ResolveError as ResolveError,
    )
    from smtpconn.protocol.errors import (
        ServiceUnavailableError as ServiceUnavailableError,
    )
    from smtpconn.protocol.errors import (
        SmtpError as SmtpError,
    )
    from smtpconn.protocol.errors import (
        SmtpTimeoutError as SmtpTimeoutError,
    )
    from smtpconn.protocol.errors import (
        StartTlsInjectionError as StartTlsInjectionError,
    )
    from smtpconn.protocol.errors import (
        StartTlsUnavailableError as StartTlsUnavailableError,
    )
    from smtpconn.protocol.errors import (
        TlsError as TlsError,
    )
    from smtpconn.protocol.errors import (
        TransientReplyError as TransientReplyError,
    )
    from smtpconn.protocol.errors import (
        UsageError as UsageError,
    )
    from smtpconn.protocol.extensions import ServerCapabilities as ServerCapabilities
    from smtpconn.protocol.flow import Pipelining as Pipelining
    from smtpconn.protocol.mail import Mail as Mail
    from smtpconn.protocol.mail import Recipient as Recipient
    from smtpconn.protocol.params import (
        DeliverBy as DeliverBy,
    )
    from smtpconn.protocol.params import (
        MailParams as MailParams,
    )
    from smtpconn.protocol.params import (
        Notify as Notify,
    )
    from smtpconn.protocol.params import (
        RcptParams as RcptParams,
    )
    from smtpconn.protocol.policy import (
        BoundedPolicy as BoundedPolicy,
    )
    from smtpconn.protocol.policy import (
        DefaultPolicy as DefaultPolicy,
    )
    from smtpconn.protocol.policy import (
        SendPolicy as SendPolicy,
    )
    from smtpconn.protocol.reply import EnhancedStatus as EnhancedStatus
    from smtpconn.protocol.reply import Reply as Reply
    from smtpconn.protocol.result import RecipientResult as RecipientResult
    from smtpconn.protocol.result import SendResult as SendResult
    from smtpconn.protocol.sasl import (
        Credentials as Credentials,
    )
    from smtpconn.protocol.sasl import (
        LoginAuth as LoginAuth,
    )
    from smtpconn.protocol.sasl import (
        OAuthBearerAuth as OAuthBearerAuth,
    )
    from smtpconn.protocol.sasl import (
        PasswordAuth as PasswordAuth,
    )
    from smtpconn.protocol.sasl import (
        PlainAuth as PlainAuth,
    )
    from smtpconn.protocol.sasl import (
        ScramAuth as ScramAuth,
    )
    from smtpconn.protocol.sasl import (
        XOAuth2Auth as XOAuth2Auth,
    )
    from smtpconn.protocol.session import SessionState as SessionState
    from smtpconn.sender import Sender as Sender
    from smtpconn.tls import TlsConfig as TlsConfig
    from smtpconn.tls import TlsInfo as TlsInfo
    from smtpconn.tls import TlsMode as TlsMode
    from smtpconn.transport import SocketTransport as SocketTransport
    from smtpconn.transport import Transport as Transport

_HOMES: dict[str, str] = {
    "attempts": "AttemptVerdict attempt_of",
    "connection": "SmtpConnection",
    "deadline": "Timeouts",
    "finding.records": "TlsaRecord",
    "finding.tlsa": "TlsaDemand",
    "pooling.lease": "Lease",
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
    "pooling.stats": "PoolStats",
    "tls": "TlsConfig TlsInfo TlsMode",
    "transport": "SocketTransport Transport",
}
_HOME_OF = {name: f"smtpconn.{home}" for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)

# The library sets up no handler; the wire log shows addresses and is on only where the application asks for it.
logging.getLogger("smtpconn").addHandler(logging.NullHandler())
if logging.getLogger("smtpconn.wire").level == logging.NOTSET:  # what the application has set stands
    logging.getLogger("smtpconn.wire").setLevel(logging.WARNING)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'smtpconn' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
