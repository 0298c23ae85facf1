"""Errors: what they say of the mail, whose fault they name, one safe line, and that nothing is lost in a pickle."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from smtpconn.protocol import errors
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
    summary,
)
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import RecipientResult

from .dialogue import revived

REPLY = Reply(550, b"550 5.7.1 no\r\n", wants_enhanced=True)
DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN

# class, its bases outside of SmtpError, stage, permanent, scope: as they are born
TREE: list[tuple[type[SmtpError], tuple[type[BaseException], ...], str, bool | None, str]] = [
    (SmtpError, (Exception,), "input", None, "service"),
    (InvalidInputError, (SmtpError, ValueError), "input", True, "caller"),
    (UsageError, (SmtpError, RuntimeError), "input", True, "caller"),
    (PolicyError, (SmtpError,), "input", True, "caller"),
    (ExtensionUnavailableError, (SmtpError,), "input", True, "message"),
    (ConnectError, (SmtpError, ConnectionError), "connect", None, "service"),
    (ResolveError, (ConnectError,), "resolve", None, "service"),
    (TlsError, (SmtpError,), "tls", None, "service"),
    (CertificateError, (TlsError,), "tls", True, "service"),
    (StartTlsInjectionError, (TlsError,), "STARTTLS", None, "service"),
    (StartTlsUnavailableError, (TlsError, ExtensionUnavailableError), "STARTTLS", True, "service"),
    (SmtpTimeoutError, (SmtpError, TimeoutError), "input", None, "service"),
    (ConnectionLostError, (SmtpError, ConnectionError), "input", None, "service"),
    (ProtocolError, (SmtpError,), "input", None, "service"),
    (ReplyError, (SmtpError,), "input", None, "service"),
    (TransientReplyError, (ReplyError,), "input", False, "service"),
    (PermanentReplyError, (ReplyError,), "input", True, "service"),
    (ServiceUnavailableError, (ReplyError,), "input", False, "service"),
    (AuthenticationError, (SmtpError,), "input", None, "service"),
    (RecipientsRefusedError, (SmtpError,), "RCPT", None, "recipient"),
    (DeliveryUnknownError, (SmtpError,), "end of data", None, "service"),
    (PoolError, (SmtpError,), "pool", None, "service"),
    (PoolTimeoutError, (PoolError, TimeoutError), "pool", None, "service"),
    (PoolClosedError, (PoolError,), "pool", True, "caller"),
    (PoolOverloadedError, (PoolError,), "pool", False, "service"),
]
CLASSES = [row[0] for row in TREE]


def born(cls: type[SmtpError], message: str = "text", **keywords: Any) -> SmtpError:
    if issubclass(cls, ReplyError):
        keywords.setdefault("reply", REPLY)
    return cls(message, **keywords)


def outcome(delivery: Delivery, reply: Reply | None = None, stage: str | None = None) -> RecipientResult:
    return RecipientResult(Recipient("a@x.test"), delivery, reply, stage)


def test_the_table_names_every_class() -> None:
    public = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, SmtpError)]
    assert set(public) == set(CLASSES)


@pytest.mark.parametrize(("cls", "bases", "stage", "permanent", "scope"), TREE, ids=lambda value: str(value)[:60])
def test_how_an_error_is_born_F105a(
    cls: type[SmtpError], bases: tuple[type[BaseException], ...], stage: str, permanent: bool | None, scope: str
) -> None:
    error = born(cls)
    for base in bases:
        assert isinstance(error, base)
    assert (error.stage, error.permanent, error.scope) == (stage, permanent, scope)
    delivery = UN if cls is DeliveryUnknownError else ND
    assert (error.delivery, error.retry_safe, error.recipients) == (delivery, delivery is ND, ())
    assert (error.offset, error.detail, error.retry_after) == (None, None, None)
    assert error.reply is (REPLY if issubclass(cls, ReplyError) else None)


@pytest.mark.parametrize("cls", [PoolTimeoutError, DeliveryUnknownError])
def test_retrying_on_a_time_out_stays_safe(cls: type[SmtpError]) -> None:
    """design 4: what was handed over, or never sent, is no `SmtpTimeoutError`."""
    assert not issubclass(cls, SmtpTimeoutError)


@pytest.mark.parametrize("cls", [ReplyError, TransientReplyError, PermanentReplyError, ServiceUnavailableError])
def test_the_reply_of_a_reply_error_is_never_None(cls: type[ReplyError]) -> None:
    with pytest.raises(TypeError, match="reply"):
        cls("text")  # type: ignore[call-arg]


def with_everything(cls: type[SmtpError]) -> SmtpError:
    """An error of this class with a value in every attribute."""
    keywords: dict[str, Any] = {}
    if cls is StartTlsInjectionError:
        keywords["octets"] = 25
    if cls is PoolTimeoutError:
        keywords["holders"] = [("worker-1", 2.5)]
    error = born(
        cls,
        "text \x1b",
        stage="DATA",
        reply=REPLY,
        recipients=[outcome(DL, REPLY, "end of data"), outcome(UN)],
        permanent=False,
        extension="DSN",
        offset=7,
        detail="d",
        retry_after=1.5,
        **keywords,
    )
    error._unanswered = error._rset_alone = True
    error.note = "what somebody put there"  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("cls", CLASSES)
def test_every_attribute_survives_pickle_and_copy_SY3(cls: type[SmtpError]) -> None:
    error = with_everything(cls)
    for copy in revived(error):
        assert type(copy) is cls
        assert vars(copy) == vars(error)
        assert copy.args == error.args
        assert (str(copy), repr(copy)) == (str(error), repr(error))
        assert (copy.delivery, copy.retry_safe, copy.scope) == (UN, False, error.scope)
    if cls is StartTlsInjectionError:
        assert vars(error)["octets"] == 25
    if cls is PoolTimeoutError:
        assert vars(error)["holders"] == (("worker-1", 2.5),)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "message",
    ["a\r\nb\0\x1b[31m\u2028\u202e\x85\ud800", "x" * 500, "x" * 501, "\n" * 400, "", "ä" * 600],
    ids=["controls", "500", "501", "escapes grow", "empty", "not ASCII"],
)
def test_str_is_one_safe_line_of_at_most_500_characters_SEC6_F108(cls: type[SmtpError], message: str) -> None:
    text = str(born(cls, message))
    assert len(text) <= 500
    assert text.isprintable()
    assert len(text.splitlines()) <= 1
    if message.isprintable() and len(message) <= 500:
        assert text == message
    if len(message) > 500:
        assert text.endswith("...")


def test_repr_names_class_text_and_stage_E101() -> None:
    assert repr(ProtocolError("a\nb", stage="EHLO")) == "ProtocolError('a\\\\x0ab', stage='EHLO')"


def test_an_error_without_arguments_has_an_empty_text() -> None:
    error = SmtpError("x")
    error.args = ()
    assert str(error) == ""


@pytest.mark.parametrize(
    ("verdicts", "delivery"),
    [((), ND), ((ND,), ND), ((ND, DL), DL), ((DL, UN, ND), UN), ((UN,), UN), ((DL, DL), DL)],
)
def test_the_verdict_of_an_attempt_in_one_value(verdicts: tuple[Delivery, ...], delivery: Delivery) -> None:
    """faults 1: UNKNOWN if any recipient is, else DELIVERED if any is."""
    assert summary(verdicts) is delivery
    error = SmtpError("x", recipients=[outcome(verdict) for verdict in verdicts])
    assert error.delivery is delivery
    assert error.retry_safe is (delivery is ND)
    assert repr(delivery) == f"Delivery.{delivery.name}"


def test_an_unknown_delivery_stays_unknown_where_its_recipients_were_lost() -> None:
    """A result back end that keeps class and text makes it anew; nobody may take it for safe to repeat."""
    assert DeliveryUnknownError("text").delivery is Delivery.UNKNOWN
    assert not DeliveryUnknownError("text").retry_safe
    known = RecipientResult(Recipient("a@example.com"), Delivery.NOT_DELIVERED)
    assert DeliveryUnknownError("text", recipients=[known]).delivery is Delivery.NOT_DELIVERED


@pytest.mark.parametrize(
    ("stage", "code", "scope"),
    [
        ("RCPT", 550, "recipient"),
        ("RCPT", 452, "recipient"),
        ("MAIL", 550, "message"),
        ("DATA", 451, "message"),
        ("BDAT", 554, "message"),
        ("body", 552, "message"),
        ("end of data", 554, "message"),
        ("greeting", 554, "service"),
        ("EHLO", 550, "service"),
        ("RSET", 550, "service"),
        *[(stage, code, "service") for stage in ("MAIL", "RCPT") for code in (421, 500, 502, 503, 530, 534, 535, 538)],
    ],
)
def test_the_scope_of_a_refusal_follows_stage_and_code(stage: str, code: int, scope: str) -> None:
    reply = Reply(code, b"%d x\r\n" % code)
    assert ReplyError("x", stage=stage, reply=reply).scope == scope
    assert ServiceUnavailableError("x", stage=stage, reply=reply).scope == "service"


@pytest.mark.parametrize(
    ("codes", "scope"),
    [
        ((550,), "recipient"),
        ((550, 452), "recipient"),
        ((530,), "service"),
        ((530, 503), "service"),
        ((530, 550), "recipient"),
        ((None,), "recipient"),
    ],
)
def test_recipients_are_not_to_blame_for_a_session_that_may_not_send(codes: tuple[int | None, ...], scope: str) -> None:
    """530 to every RCPT (Postfix checks at RCPT by default) says "log in", and nothing of an address."""
    replies = [None if code is None else Reply(code, b"%d x\r\n" % code) for code in codes]
    results = [outcome(ND, reply, "RCPT") for reply in replies]
    error = RecipientsRefusedError("x", recipients=[*results, outcome(DL, Reply(250, b"250 ok\r\n"))])
    assert error.scope == scope


@pytest.mark.parametrize(
    ("extension", "scope"),
    [("AUTH", "service"), ("STARTTLS", "service"), ("LIMITS", "caller"), ("SMTPUTF8", "message"), (None, "message")],
)
def test_the_scope_of_a_missing_extension(extension: str | None, scope: str) -> None:
    assert ExtensionUnavailableError("x", extension=extension).scope == scope


def test_a_missing_STARTTLS_names_itself_F12() -> None:
    assert StartTlsUnavailableError("x").extension == "STARTTLS"
