"""Every public class goes through pickle, copy and JSON, or says why it does not (features:SY8, E201, F121)."""

from __future__ import annotations

import copy
import datetime
import enum
import inspect
import json
import pickle
from typing import Any

import pytest

import smtpconn
from smtpconn import (
    ConnectionPool,
    DeliverBy,
    Delivery,
    EnhancedStatus,
    ForwardPath,
    LoginAuth,
    Mail,
    MailParams,
    Notify,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    RcptParams,
    Recipient,
    RecipientResult,
    Reply,
    ReversePath,
    ScramAuth,
    SendResult,
    ServerCapabilities,
    Timeouts,
    TlsConfig,
    TlsInfo,
    TlsMode,
    XOAuth2Auth,
)

from .test_feature_rows import BYE, over

REPLY = Reply(250, b"250-2.1.5 a\r\n250 2.0.0 \xff id=AAAAAAAA\r\n", wants_enhanced=True)
PARAMS = RcptParams(notify=[Notify.FAILURE, Notify.DELAY], orcpt="rfc822;a+b@c", extra={"XFOO": "1", "XBAR": None})
RECIPIENT = Recipient(ForwardPath("b@example.com"), params=PARAMS)
RESULT = RecipientResult(RECIPIENT, Delivery.UNKNOWN, REPLY, "end of data")
UNTIL = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)

VALUES: list[Any] = [
    DeliverBy(60, "R", trace=True),
    EnhancedStatus(5, 7, 1),
    ForwardPath("b@example.com"),
    ForwardPath("user", local=True),
    Mail("a@example.com", [RECIPIENT, "c@example.com"], b"x\r\n\xff", params=MailParams(smtputf8=True), chunking=True),
    MailParams(
        body="8BITMIME", smtputf8=False, ret="FULL", envid="QQ+3 1", auth="e+mc2@example.com", requiretls=True,
        hold_until=UNTIL, deliver_by=DeliverBy(-1, "N"), mt_priority=-9, extra={"XFOO": None},
    ),
    MailParams(hold_for=10),
    PARAMS,
    RECIPIENT,
    RESULT,
    REPLY,
    Reply(220, b"220\r\n"),
    ReversePath(""),
    ReversePath("\u00fc@example.com"),
    SendResult((RESULT, RecipientResult(Recipient("c@example.com"), Delivery.DELIVERED)), None),
    SendResult((RecipientResult(Recipient("c@example.com"), Delivery.DELIVERED, REPLY),), REPLY),
    ServerCapabilities("mx", ("SIZE 10", "AUTH PLAIN", "", "LIMITS MAILMAX=2"), is_esmtp=True),
    Timeouts(total=5.0, final_reply=1.0, quit=0.5),
    TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "mx.example.com", b"\x30\x00"),
]  # fmt: skip
CREDENTIALS: list[Any] = [
    PasswordAuth("u", "p"), PlainAuth("u", "p", authzid="z"), LoginAuth("u", "p"), ScramAuth("u", "p"),
    XOAuth2Auth("u", "t"), OAuthBearerAuth("t"),
]  # fmt: skip
NO_VALUES = {
    "AttemptVerdict": "what `attempt_of` reads from an exception; its parts are values",
    "MailOutcome": "holds the exception and the caller's own mail and tag",
    "MailOutcomes": "an iterator",
    "PoolStats": "what the pool's own list says of it",
    "TlsConfig": "may hold an ssl.SSLContext and a callable; pickled where it does not",
    "BoundedPolicy": "a hook", "DefaultPolicy": "a hook", "SendPolicy": "a protocol",
    "AuditSink": "a protocol", "ListAuditSink": "a hook", "NoopAuditSink": "a hook",
    "Sender": "a protocol", "Transport": "a protocol", "SocketTransport": "a socket",
    "SmtpConnection": "refuses", "ConnectionPool": "refuses", "Lease": "refuses", "Credentials": "refuses",
}  # fmt: skip


def plain(data: Any) -> bool:
    """True if JSON gives back exactly this."""
    return bool(json.loads(json.dumps(data)) == data)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_E201_F121_SY8_a_value_goes_through_pickle_copy_and_JSON_types(value: Any) -> None:
    twins = [copy.copy(value), copy.deepcopy(value), type(value).from_dict(json.loads(json.dumps(value.to_dict())))]
    twins += [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301  # our own octets
    assert plain(value.to_dict())
    for twin in twins:
        assert type(twin) is type(value)
        assert twin == value
        assert twin.to_dict() == value.to_dict()
        assert repr(twin) == repr(value)


def test_F121_every_public_class_is_a_value_or_says_why_not() -> None:
    values = {type(value).__name__ for value in [*VALUES, *CREDENTIALS]}
    for name in smtpconn.__all__:
        cls: Any = getattr(smtpconn, name)
        if not inspect.isclass(cls) or issubclass(cls, (BaseException, smtpconn.AuditEvent)) or name in NO_VALUES:
            continue
        if issubclass(cls, enum.Enum):
            for member in cls:
                assert pickle.loads(pickle.dumps(member)) is member  # noqa: S301  # our own octets
            continue
        assert name in values, name
    assert not values & set(NO_VALUES)


@pytest.mark.parametrize("name", sorted(n for n in smtpconn.__all__ if inspect.isclass(getattr(smtpconn, n))))
def test_F121_an_audit_event_is_a_picklable_value(name: str) -> None:
    cls: Any = getattr(smtpconn, name)
    if not issubclass(cls, smtpconn.AuditEvent):
        assert not name.endswith(("Accepted", "Rejected", "Settled", "Aborted"))
        return
    wanted = {"code": 250, "mechanism": "PLAIN", "delivered": 1, "not_delivered": 2, "unknown": 3}
    given = {field: wanted[field] for field in inspect.signature(cls).parameters if field in wanted}
    event = cls(connection_id=7, endpoint="mx:25", seconds=1.5, **given)
    for twin in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):  # noqa: S301  # our own
        assert (twin, type(twin)) == (event, cls)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_E201_F121_what_holds_a_secret_or_a_socket_refuses_and_names_itself(way: Any) -> None:
    connection, _ = over(BYE)
    pool = ConnectionPool("127.0.0.1", 2525, TlsMode.NONE, timeout=5)
    with connection, pool:
        for refusing in (*CREDENTIALS, connection, pool):
            with pytest.raises(TypeError, match=type(refusing).__name__):
                way(refusing)


def test_F121_a_TLS_configuration_without_a_context_is_picklable() -> None:
    config = TlsConfig(trust="certifi", server_name="mx.example.com", alpn=("smtp",))
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  # our own octets
