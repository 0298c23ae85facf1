"""The library's errors as those of smtplib, for code that catches smtplib's. Needs no extra.

Knows both families and which of ours is which of theirs (users 7); refuses to know who asks. Its laws: what was raised
stays reachable (`original`); a class that callers send again after, `SMTPServerDisconnected`, is raised only where the
mail is provably not delivered; nothing without a reply pretends to have a code, but for -1 and 538.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smtpconn.protocol.errors import (
    AuthenticationError,
    CertificateError,
    ConnectError,
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    PoolClosedError,
    PoolTimeoutError,
    ProtocolError,
    RecipientsRefusedError,
    ReplyError,
    ResolveError,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    UsageError,
)
from smtpconn.protocol.reply import Reply

Answer = tuple[int, bytes]

_NO_REPLY = -1  # smtplib's own sign for "nothing was said"
_TLS_NEEDED = 538  # RFC 4954 section 4: what a server says to a mechanism that needs encryption
_HELLO = frozenset({"EHLO", "LHLO", "HELO"})
_CONTENT = frozenset({"DATA", "body", "BDAT", "end of data"})


class _Border:
    """Shows its text, and pickles with its attributes, also those that `OSError` keeps in C."""

    def __str__(self) -> str:
        error: Any = self
        return str(error.args[0]) if error.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        error: Any = self
        return _rebuild, (type(self), error.args, dict(error.__dict__), error.errno, error.strerror)


def _rebuild(cls: type[OSError], args: tuple[Any, ...], state: dict[str, Any], number: Any, text: Any) -> OSError:
    error = cls(*args)
    error.errno, error.strerror = number, text
    error.__dict__.update(state)
    return error


class SMTPTimeout(_Border, smtplib.SMTPServerDisconnected, TimeoutError):  # noqa: N818  # as smtplib's
    """The deadline has passed; the mail is not delivered."""


class SMTPConnectionLost(_Border, smtplib.SMTPServerDisconnected, ConnectionError):  # noqa: N818  # as smtplib's
    """The connection ended; the mail is not delivered."""


class SMTPConnectFailed(_Border, smtplib.SMTPException, ConnectionError):  # noqa: N818  # as smtplib's
    """No connection came about; `errno` and `strerror` are those of the last address tried."""


class SMTPResolveFailed(SMTPConnectFailed, socket.gaierror):
    """The host's name has no address, or the resolver could not say."""


class SMTPTlsFailed(_Border, smtplib.SMTPException, ssl.SSLError):
    """TLS was demanded and did not come about."""


class SMTPCertificateFailed(SMTPTlsFailed, ssl.SSLCertVerificationError):
    """The server's certificate is not trusted, or not for this name."""


class SMTPPoolTimeout(_Border, smtplib.SMTPException, TimeoutError):  # noqa: N818  # as smtplib's
    """No connection of the pool came free in time; nothing was sent."""


class SMTPDeliveryUnknown(_Border, smtplib.SMTPException):
    """The message was handed over and no complete reply came back: sending it again may duplicate it.

    `recipients`: address to (code, text) of those who provably do not have it.
    """

    recipients: dict[str, Answer]


class SMTPSomeRecipientsRefused(_Border, smtplib.SMTPException):
    """Some recipients were refused, and others have the message.

    `recipients`: address to (code, text) of those who do not have it.
    """

    recipients: dict[str, Answer]


def original(error: BaseException) -> SmtpError | None:
    """The error of smtpconn that this exception was translated from, or None."""
    found = getattr(error, "smtpconn_error", None)
    return found if isinstance(found, SmtpError) else None


def answer(reply: Reply | None) -> Answer:
    """A reply as smtplib gives it: the code, and its lines without codes, joined by LF; (-1, b"") without one."""
    if reply is None:
        return _NO_REPLY, b""
    lines = reply.raw.rstrip(b"\r\n").split(b"\r\n")
    return reply.code, b"\n".join(line[4:].strip(b" \t\r\n") for line in lines)


def refusals(recipients: Sequence[Any], keys: Sequence[str] | None = None) -> dict[str, Answer]:
    """Those who provably do not have the mail and were told so: the key, or the address as given, to the answer."""
    names = keys if keys is not None and len(keys) == len(recipients) else [entry.address for entry in recipients]
    return {
        name: answer(entry.reply)
        for name, entry in zip(names, recipients, strict=True)
        if entry.delivery is Delivery.NOT_DELIVERED and entry.reply is not None and entry.reply.code >= 400
    }


def translate(error: BaseException, *, sender: str | None = None, keys: Sequence[str] | None = None) -> BaseException:
    """The exception to raise in the place of `error`; `error` itself where callers expect it as it is.

    `sender`, `keys`: how the caller wrote the sender and each of the recipients.
    """
    if not isinstance(error, SmtpError) or isinstance(error, InvalidInputError):
        return error
    made = _unreplied(error, keys) if error.reply is None else _replied(error, sender, keys)
    if made is None:
        return error
    made.__cause__ = error
    made.smtpconn_error = error  # type: ignore[attr-defined]  # an attribute more, on classes that are not ours
    return made


@contextlib.contextmanager
def border(sender: str | None = None, keys: Sequence[str] | None = None) -> Iterator[None]:
    """What leaves this block leaves it translated."""
    try:
        yield
    except SmtpError as error:
        translated = translate(error, sender=sender, keys=keys)
        if translated is error:
            raise
        raise translated from error


def _replied(error: SmtpError, sender: str | None, keys: Sequence[str] | None) -> OSError | None:
    """An error that a reply caused."""
    code, text = answer(error.reply)
    if isinstance(error, AuthenticationError):
        return smtplib.SMTPAuthenticationError(code, text)
    if isinstance(error, TlsError) and not isinstance(error, ExtensionUnavailableError):
        return smtplib.SMTPResponseException(code, text)
    if not isinstance(error, ReplyError):
        return _unreplied(error, keys)
    stage = error.stage
    if stage == "greeting":
        return smtplib.SMTPConnectError(code, text)
    if stage in _HELLO:
        return smtplib.SMTPHeloError(code, text)
    if stage.startswith("AUTH"):
        return smtplib.SMTPAuthenticationError(code, text)
    if stage == "MAIL":
        return smtplib.SMTPSenderRefused(code, text, sender or "")
    if stage == "RCPT":
        return smtplib.SMTPRecipientsRefused(refusals(error.recipients, keys))
    if stage in _CONTENT:
        return smtplib.SMTPDataError(code, text)
    return smtplib.SMTPResponseException(code, text)


def _unreplied(error: SmtpError, keys: Sequence[str] | None) -> OSError | None:
    """An error that no reply tells; None where it passes as it is."""
    text = str(error)
    if isinstance(error, DeliveryUnknownError) or error.delivery is Delivery.UNKNOWN:
        return _with_recipients(SMTPDeliveryUnknown(text), refusals(error.recipients, keys))
    if isinstance(error, RecipientsRefusedError):
        refused = refusals(error.recipients, keys)
        if error.delivery is Delivery.NOT_DELIVERED:
            return smtplib.SMTPRecipientsRefused(refused)
        return _with_recipients(SMTPSomeRecipientsRefused(text), refused)
    if isinstance(error, UsageError):
        if error.extension == "AUTH":
            return smtplib.SMTPAuthenticationError(_TLS_NEEDED, text.encode("utf-8"))
        return smtplib.SMTPServerDisconnected(text) if error._closed else None
    if isinstance(error, AuthenticationError):
        return smtplib.SMTPAuthenticationError(_NO_REPLY, text.encode("utf-8"))
    if isinstance(error, ExtensionUnavailableError):
        unusable = error.extension == "AUTH" and error.detail is not None  # offered, but nothing that we can use
        return smtplib.SMTPException(text) if unusable else smtplib.SMTPNotSupportedError(text)
    for ours, theirs in _PLAIN.items():
        if isinstance(error, ours):
            return _with_cause(theirs(text), error)
    return smtplib.SMTPException(text)


# The first that fits: a class stands in front of its bases.
_PLAIN: Mapping[type[SmtpError], type[OSError]] = {
    SmtpTimeoutError: SMTPTimeout,
    ConnectionLostError: SMTPConnectionLost,
    ResolveError: SMTPResolveFailed,
    ConnectError: SMTPConnectFailed,
    CertificateError: SMTPCertificateFailed,
    TlsError: SMTPTlsFailed,
    PoolTimeoutError: SMTPPoolTimeout,
    PoolClosedError: smtplib.SMTPServerDisconnected,
    ProtocolError: smtplib.SMTPServerDisconnected,
}


def _with_cause(made: OSError, error: SmtpError) -> OSError:
    """With what the system said, where it said something; `str()` stays the text."""
    cause = error.__cause__
    if isinstance(made, SMTPConnectFailed) and isinstance(cause, OSError):
        made.errno, made.strerror = cause.errno, cause.strerror
    return made


def _with_recipients(
    made: SMTPDeliveryUnknown | SMTPSomeRecipientsRefused, recipients: dict[str, Answer]
) -> OSError:
    made.recipients = recipients
    return made
