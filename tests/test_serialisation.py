"""F121: every public class travels whole, or refuses by its name; none is forgotten."""

from __future__ import annotations

import copy
import datetime
import enum
import inspect
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import smtpconn
from smtpconn import (
    AttemptVerdict,
    ConnectionPool,
    DeliverBy,
    Delivery,
    EnhancedStatus,
    ForwardPath,
    LoginAuth,
    Mail,
    MailOutcome,
    MailParams,
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
    SmtpConnection,
    Timeouts,
    TlsConfig,
    TlsInfo,
    TlsMode,
    XOAuth2Auth,
)
from smtpconn.testing import LoopbackServer

PARAMS = MailParams(
    body="8BITMIME",
    envid="a b",
    hold_until=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    deliver_by=DeliverBy(60, "N", trace=True),
    extra={"XA": "1", "XB": None},
)
RCPT_PARAMS = RcptParams(notify=["DELAY", "FAILURE"], orcpt="utf-8;\u00fc@x.test", extra={"XC": None})
RECIPIENT = Recipient(ForwardPath("\u00fc@x.test"), RCPT_PARAMS)
REPLY = Reply(250, b"250-2.0.0 \xff\r\n250 2.0.0 queued as ABCDEF\r\n", wants_enhanced=True)
RESULTS = (RecipientResult(RECIPIENT, Delivery.DELIVERED, REPLY, "end of data"),)
MAIL = Mail("", [RECIPIENT, "b@x.test"], b"\xff\n", params=PARAMS, newlines="crlf", size=2, chunking=True, tag="t")

VALUES: list[Any] = [
    ReversePath("@r.test:a@x.test"),
    ForwardPath("user", local=True),
    RECIPIENT,
    PARAMS,
    RCPT_PARAMS,
    DeliverBy(1, "R"),
    MAIL,
    REPLY,
    EnhancedStatus(5, 7, 1),
    ServerCapabilities("mx", ("SIZE 10", "AUTH PLAIN", "LIMITS RCPTMAX=5"), is_esmtp=True),
    *RESULTS,
    SendResult(RESULTS, REPLY),
    AttemptVerdict(RESULTS),
    Timeouts(total=5.0),
    TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "mx.test", b"\x30\xff"),
]
# What has no form in JSON: an outcome has an exception in it, a configuration callables; a report is for monitoring.
TRAVELS_WITHOUT_DICT: list[Any] = [MailOutcome(index=1, mail=MAIL, result=SendResult(RESULTS)), TlsConfig()]
SECRETS: list[Any] = [
    PasswordAuth("u", "hunter2"),
    PlainAuth("u", "hunter2"),
    LoginAuth("u", "hunter2"),
    ScramAuth("u", "hunter2"),
    XOAuth2Auth("u", "hunter2"),
    OAuthBearerAuth("hunter2"),
]
# Interfaces, hooks of the caller's, and what is alive and tested where it is; enumerations and events are asked below.
ELSEWHERE = {
    "AuditSink", "SendPolicy", "Sender", "Transport", "Credentials", "BoundedPolicy", "DefaultPolicy", "ListAuditSink",
    "NoopAuditSink", "SocketTransport", "MailOutcomes", "PoolStats", "ConnectionPool", "Lease", "SmtpConnection",
}  # fmt: skip

WAYS: list[Callable[[Any], Any]] = [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy]  # noqa: S301


def _through_json(value: Any) -> Any:
    kind: Any = type(value)
    return kind.from_dict(json.loads(json.dumps(value.to_dict())))


def _name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", VALUES, ids=_name)
def test_F121_a_value_goes_through_pickle_copy_and_JSON(value: Any) -> None:
    for way in (*WAYS, _through_json):
        twin = way(value)
        assert type(twin) is type(value)
        assert twin == value
        assert repr(twin) == repr(value)


@pytest.mark.parametrize("value", TRAVELS_WITHOUT_DICT, ids=_name)
def test_F121_what_is_no_JSON_goes_through_pickle_and_copy(value: Any) -> None:
    for way in WAYS:
        assert way(value) == value


@pytest.mark.parametrize("value", SECRETS, ids=_name)
def test_F121_credentials_refuse_by_name(value: Any) -> None:
    for way in WAYS:
        with pytest.raises(TypeError, match=_name(value)):
            way(value)


def test_F121_what_is_alive_refuses_by_name() -> None:
    with (
        LoopbackServer() as server,
        SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5) as connection,
        ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=5) as pool,
        pool.connection() as lease,
    ):
        for value in (connection, pool, lease):
            for way in WAYS:
                with pytest.raises(TypeError, match=_name(value)):
                    way(value)


def test_F121_no_public_class_is_forgotten() -> None:
    classes = {name: cls for name in smtpconn.__all__ if inspect.isclass(cls := getattr(smtpconn, name))}
    asked = {_name(value) for value in (*VALUES, *TRAVELS_WITHOUT_DICT, *SECRETS)} | ELSEWHERE
    for name, cls in classes.items():
        if issubclass(cls, enum.Enum):
            assert all(way(member) is member for member in cls for way in WAYS), name
        else:
            assert name in asked or issubclass(cls, (BaseException, smtpconn.AuditEvent)), name
