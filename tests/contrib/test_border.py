"""The library's errors as smtplib's: each class at each stage against the table of the specification (users 7)."""

from __future__ import annotations

import pickle
import smtplib
import socket
import ssl
from typing import Any, NamedTuple

import pytest

from smtpconn import (
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
    Recipient,
    RecipientResult,
    RecipientsRefusedError,
    Reply,
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
from smtpconn.contrib import compat
from smtpconn.contrib.border import answer

STAGES = ("greeting", "EHLO", "LHLO", "HELO", "STARTTLS", "AUTH PLAIN", "MAIL", "RCPT", "DATA", "body", "BDAT",
          "end of data", "RSET", "NOOP", "VRFY", "pool", "input")  # fmt: skip
REPLY_ERRORS = (TransientReplyError, PermanentReplyError, ServiceUnavailableError)
BY_STAGE: dict[str, type[OSError]] = {
    "greeting": smtplib.SMTPConnectError,
    "EHLO": smtplib.SMTPHeloError,
    "LHLO": smtplib.SMTPHeloError,
    "HELO": smtplib.SMTPHeloError,
    "STARTTLS": smtplib.SMTPResponseException,
    "AUTH PLAIN": smtplib.SMTPAuthenticationError,
    "MAIL": smtplib.SMTPSenderRefused,
    "RCPT": smtplib.SMTPRecipientsRefused,
    "DATA": smtplib.SMTPDataError,
    "body": smtplib.SMTPDataError,
    "BDAT": smtplib.SMTPDataError,
    "end of data": smtplib.SMTPDataError,
}


def reply(code: int) -> Reply:
    return Reply(code, b"%d-5.0.0 first\r\n%d 5.0.0 second \r\n" % (code, code), wants_enhanced=True)


def verdicts(*what: tuple[str, Delivery, int | None]) -> tuple[RecipientResult, ...]:
    return tuple(
        RecipientResult(Recipient(address), delivery, None if code is None else reply(code), "RCPT")
        for address, delivery, code in what
    )


NOBODY = verdicts(("a@example.net", Delivery.NOT_DELIVERED, 550), ("b@example.net", Delivery.NOT_DELIVERED, 421))
SOME = verdicts(("a@example.net", Delivery.NOT_DELIVERED, 550), ("b@example.net", Delivery.DELIVERED, 250))
DOUBT = verdicts(("a@example.net", Delivery.NOT_DELIVERED, 550), ("b@example.net", Delivery.UNKNOWN, None))
TEXT = b"5.0.0 first\n5.0.0 second"


class Row(NamedTuple):
    error: SmtpError
    becomes: type[BaseException]
    attributes: dict[str, Any] = {}  # noqa: RUF012  # never changed


def raised(error: SmtpError, cause: BaseException) -> SmtpError:
    error.__cause__ = cause
    return error


REFUSED_CONNECTION = ConnectionRefusedError(111, "Connection refused")
CLOSED = UsageError("the connection is closed")
CLOSED._closed = True

TABLE: list[Row] = [
    *(Row(SmtpTimeoutError("late", stage=stage), compat.SMTPTimeout) for stage in STAGES),
    *(Row(ConnectionLostError("gone", stage=stage), compat.SMTPConnectionLost) for stage in STAGES),
    *(Row(ProtocolError("nonsense", stage=stage), smtplib.SMTPServerDisconnected) for stage in STAGES),
    *(Row(ProtocolError("nonsense", stage=s, reply=reply(200)), smtplib.SMTPServerDisconnected) for s in STAGES),
    *(Row(DeliveryUnknownError("?", stage=stage, recipients=DOUBT), compat.SMTPDeliveryUnknown,
          {"recipients": {"A": (550, TEXT)}}) for stage in STAGES),
    Row(DeliveryUnknownError("?", reply=reply(421), recipients=DOUBT), compat.SMTPDeliveryUnknown),
    Row(raised(ConnectError("no"), REFUSED_CONNECTION), compat.SMTPConnectFailed,
        {"errno": 111, "strerror": "Connection refused"}),
    Row(ConnectError("no"), compat.SMTPConnectFailed, {"errno": None}),
    Row(raised(ResolveError("no"), socket.gaierror(-2, "unknown")), compat.SMTPResolveFailed, {"errno": -2}),
    Row(TlsError("no"), compat.SMTPTlsFailed),
    Row(StartTlsInjectionError("an attack", octets=3), compat.SMTPTlsFailed),
    Row(CertificateError("expired"), compat.SMTPCertificateFailed),
    Row(TlsError("refused", stage="STARTTLS", reply=reply(454)), smtplib.SMTPResponseException, {"smtp_code": 454}),
    Row(StartTlsUnavailableError("not offered"), smtplib.SMTPNotSupportedError),
    Row(StartTlsUnavailableError("EHLO refused", stage="EHLO", reply=reply(502)), smtplib.SMTPNotSupportedError),
    Row(ExtensionUnavailableError("no", extension="SMTPUTF8"), smtplib.SMTPNotSupportedError),
    Row(ExtensionUnavailableError("no", extension="AUTH"), smtplib.SMTPNotSupportedError),
    Row(ExtensionUnavailableError("no", extension="AUTH", detail="CRAM-MD5"), smtplib.SMTPException),
    Row(AuthenticationError("no", stage="AUTH PLAIN", reply=reply(535)), smtplib.SMTPAuthenticationError,
        {"smtp_code": 535, "smtp_error": TEXT, "args": (535, TEXT)}),
    Row(AuthenticationError("no proof", stage="AUTH SCRAM-SHA-256"), smtplib.SMTPAuthenticationError,
        {"smtp_code": -1, "smtp_error": b"no proof"}),
    Row(UsageError("no TLS", extension="AUTH"), smtplib.SMTPAuthenticationError, {"smtp_code": 538}),
    Row(RecipientsRefusedError("all", recipients=NOBODY), smtplib.SMTPRecipientsRefused,
        {"recipients": {"A": (550, TEXT), "B": (421, TEXT)}}),
    Row(RecipientsRefusedError("one of one", recipients=NOBODY, reply=reply(550)), smtplib.SMTPRecipientsRefused),
    Row(RecipientsRefusedError("one", recipients=SOME), compat.SMTPSomeRecipientsRefused,
        {"recipients": {"A": (550, TEXT)}}),
    Row(PolicyError("no"), smtplib.SMTPException),
    Row(PoolOverloadedError("no"), smtplib.SMTPException),
    Row(PoolError("no"), smtplib.SMTPException),
    Row(PoolTimeoutError("no"), compat.SMTPPoolTimeout),
    Row(PoolClosedError("closed"), smtplib.SMTPServerDisconnected),
    Row(CLOSED, smtplib.SMTPServerDisconnected),
    *(Row(cls("no", stage=stage, reply=reply(code), recipients=NOBODY),
          BY_STAGE.get(stage, smtplib.SMTPResponseException))
      for cls, code in zip(REPLY_ERRORS, (451, 550, 421), strict=True) for stage in STAGES),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=[f"{type(row.error).__name__} {row.error.stage}" for row in TABLE])
def test_an_error_becomes_what_the_table_says(row: Row) -> None:
    """users:XT1-XT29: the class, what callers read, the original, and all of it behind a pickle."""
    made = compat.translate(row.error, sender="Anna <anna@example.com>", keys=["A", "B"])
    assert type(made) is row.becomes
    assert made.__cause__ is row.error
    assert compat.original(made) is row.error
    assert isinstance(made, smtplib.SMTPException)
    assert isinstance(made, OSError)
    shown: dict[str, Any] = dict(row.attributes)
    if isinstance(made, smtplib.SMTPResponseException) and row.error.reply is not None:
        shown |= {"smtp_code": row.error.reply.code, "smtp_error": TEXT}
        assert made.args[:2] == (made.smtp_code, made.smtp_error)
    if isinstance(made, smtplib.SMTPSenderRefused):
        shown["sender"] = "Anna <anna@example.com>"
    again = pickle.loads(pickle.dumps(made))  # noqa: S301  # our own octets
    for one in (made, again):
        assert type(one) is row.becomes
        assert {name: getattr(one, name) for name in shown} == shown
        assert str(one) == str(made)
        found = compat.original(one)
        assert found is not None
        assert (type(found), found.stage, str(found)) == (type(row.error), row.error.stage, str(row.error))
    if isinstance(made, smtplib.SMTPServerDisconnected):
        assert Delivery.UNKNOWN not in {entry.delivery for entry in row.error.recipients}, "XT28"


BASES: list[tuple[type[BaseException], tuple[type[BaseException], ...]]] = [
    (compat.SMTPTimeout, (smtplib.SMTPServerDisconnected, TimeoutError)),
    (compat.SMTPConnectionLost, (smtplib.SMTPServerDisconnected, ConnectionError)),
    (compat.SMTPConnectFailed, (ConnectionError,)),
    (compat.SMTPResolveFailed, (compat.SMTPConnectFailed, socket.gaierror)),
    (compat.SMTPTlsFailed, (ssl.SSLError,)),
    (compat.SMTPCertificateFailed, (compat.SMTPTlsFailed, ssl.SSLCertVerificationError)),
    (compat.SMTPPoolTimeout, (TimeoutError,)),
    (compat.SMTPDeliveryUnknown, ()),
    (compat.SMTPSomeRecipientsRefused, ()),
]


@pytest.mark.parametrize(("cls", "bases"), BASES, ids=[cls.__name__ for cls, _ in BASES])
def test_our_classes_have_the_bases_that_callers_catch(
    cls: type[BaseException], bases: tuple[type[BaseException], ...]
) -> None:
    """users:XT1-XT8a, XT27; and no others that callers would send again after."""
    expected: list[type[BaseException]] = [smtplib.SMTPException, OSError, *bases]
    for base in expected:
        assert issubclass(cls, base)
    retried: list[type[BaseException]] = [smtplib.SMTPServerDisconnected, TimeoutError, ConnectionError]
    for again in retried:
        assert issubclass(cls, again) == any(issubclass(base, again) for base in bases)


@pytest.mark.parametrize(
    "error",
    [InvalidInputError("bad"), UsageError("twice"), TypeError("no"), KeyError("of the body"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_the_callers_own_mistakes_pass_as_they_are(error: BaseException) -> None:
    """users:XT23, XT24."""
    assert compat.translate(error) is error
    assert compat.original(error) is None


def test_without_keys_recipients_are_named_as_given() -> None:
    made = compat.translate(RecipientsRefusedError("all", recipients=NOBODY))
    assert isinstance(made, smtplib.SMTPRecipientsRefused)
    assert set(made.recipients) == {"a@example.net", "b@example.net"}


def test_an_answer_has_the_lines_without_their_codes() -> None:
    """users:SC27."""
    assert answer(Reply(250, b"250-a \r\n250-\r\n250 2.0.0 b\r\n")) == (250, b"a\n\n2.0.0 b")
    assert answer(Reply(250, b"250\r\n")) == (250, b"")
    assert answer(None) == (-1, b"")
