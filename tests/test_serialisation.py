"""F121: which public types travel, and how. The list is complete: a new name must be put somewhere."""

from __future__ import annotations

import copy
import datetime
import inspect
import json
import pickle
import re
from pathlib import Path
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
    Notify,
    OAuthBearerAuth,
    PasswordAuth,
    Pipelining,
    PlainAuth,
    RcptParams,
    Recipient,
    RecipientResult,
    Reply,
    ReversePath,
    ScramAuth,
    SendResult,
    ServerCapabilities,
    SessionState,
    SmtpConnection,
    SmtpError,
    Timeouts,
    TlsConfig,
    TlsInfo,
    TlsMode,
    XOAuth2Auth,
)
from smtpconn.testing import ScriptedTransport

OCTETS = bytes(range(256))
REPLY = Reply(550, b"550-5.1.1 \xff\xfe\r\n550 5.1.1 no \x1b[2J\r\n", wants_enhanced=True)
RECIPIENT = Recipient("grüße@bücher.example", RcptParams(notify=["FAILURE", "DELAY"], orcpt="utf-8;ü@x.test"))
REFUSED = RecipientResult(RECIPIENT, Delivery.NOT_DELIVERED, REPLY, "RCPT")
UNKNOWN = RecipientResult(Recipient("b@x.test"), Delivery.UNKNOWN)
MOMENT = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)

# Values, parameters, capabilities, replies, results: pickle, copy, equality, `to_dict` and `from_dict`.
VALUES: list[Any] = [
    ReversePath(""),
    ReversePath('"a b"@[IPv6:2001:db8::1]'),
    ForwardPath("user", local=True),
    RECIPIENT,
    MailParams(),
    MailParams(
        body="8BITMIME", smtputf8=True, ret="FULL", envid="QQ+3 1", auth="<>", requiretls=True, hold_until=MOMENT,
        deliver_by=DeliverBy(-5, "N", trace=True), mt_priority=-9, extra={"XFOO": "1", "XBAR": None},
    ),
    RcptParams(notify=Notify.NEVER, extra={"XFOO": None}),
    DeliverBy(120, "R"),
    Timeouts(),
    Timeouts(total=30, final_reply=5.5),
    Mail("a@x.test", [RECIPIENT], OCTETS, params=MailParams(body="BINARYMIME"), chunking=True, tag=["own", 1]),
    REPLY,
    EnhancedStatus(5, 7, 1),
    ServerCapabilities("mx.test", ("SIZE 10", "AUTH PLAIN", "LIMITS RCPTMAX=5", ""), is_esmtp=True),
    TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "mx.test", OCTETS),
    REFUSED,
    UNKNOWN,
    SendResult((REFUSED, UNKNOWN), REPLY),
    SendResult((UNKNOWN,)),
    AttemptVerdict((REFUSED, UNKNOWN)),
]  # fmt: skip
# What pickles and copies, but has no form in JSON.
PICKLED: list[Any] = [
    TlsConfig(trust=("system", Path("ca.pem")), alpn=("smtp",)),
    MailOutcome(index=0, mail=Mail("a@x.test", ["b@x.test"], b"x\r\n"), result=SendResult((UNKNOWN,))),
    *(kind(code=250) for kind in (
        smtpconn.GreetingReceived, smtpconn.MailFromAccepted, smtpconn.RecipientAccepted, smtpconn.RecipientRejected,
        smtpconn.MessageAccepted,
    )),
    *(kind(connection_id=7, endpoint="mx.test:25", seconds=1.5) for kind in (
        smtpconn.AuditEvent, smtpconn.Connected, smtpconn.EhloCompleted, smtpconn.TlsUpgraded, smtpconn.QuitCompleted,
        smtpconn.SessionAborted,
    )),
    smtpconn.AuthCompleted(mechanism="PLAIN"),
    smtpconn.MailSettled(delivered=1, not_delivered=2, unknown=3),
    ConnectionPool("127.0.0.1", 25, TlsMode.NONE, timeout=5).stats(),
    smtpconn.TlsaRecord(3, 1, 1, bytes(32)),
    smtpconn.TlsaDemand((smtpconn.TlsaRecord(3, 1, 1, bytes(32)),), ("mx.test",)),
    *Delivery, *Notify, *Pipelining, *SessionState, *TlsMode,
]  # fmt: skip
CREDENTIALS = [
    PasswordAuth("u", "secret"), PlainAuth("u", "secret"), LoginAuth("u", "secret"), ScramAuth("u", "secret"),
    XOAuth2Auth("u", "secret"), OAuthBearerAuth("secret"),
]  # fmt: skip
# What is no data: hooks and protocols to be implemented, things that are open, functions.
NO_DATA = {
    "AuditSink", "BoundedPolicy", "DefaultPolicy", "ListAuditSink", "NoopAuditSink", "SendPolicy", "Sender",
    "Transport", "SocketTransport", "MailOutcomes", "SmtpConnection", "ConnectionPool", "Lease", "Credentials",
    "attempt_of",
}  # fmt: skip

named = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


@named
def test_F121_E201_SY8_a_value_survives_json(value: Any) -> None:
    data = json.loads(json.dumps(value.to_dict(), allow_nan=False))
    assert data == value.to_dict()  # JSON types only: a tuple would have become a list
    again = type(value).from_dict(data)
    assert again == value
    assert type(again) is type(value)
    assert again.to_dict() == data


@pytest.mark.parametrize("value", [*VALUES, *PICKLED], ids=lambda value: type(value).__name__)
def test_F121_E201_a_value_survives_pickle_and_copy(value: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value  # noqa: S301  # our own octets
    assert copy.copy(value) == copy.deepcopy(value) == value


@pytest.mark.parametrize("value", CREDENTIALS, ids=repr)
@pytest.mark.parametrize("ship", [pickle.dumps, copy.copy, copy.deepcopy])
def test_F121_E150_credentials_refuse_and_name_their_class(value: Any, ship: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__) as caught:
        ship(value)
    assert "secret" not in str(caught.value).replace("it holds a secret", "")


def test_F121_connections_pools_and_leases_refuse_and_name_their_class() -> None:
    transport = ScriptedTransport([b"220 mx.test\r\n", b"250 mx.test\r\n", b"221 bye\r\n"])
    with (
        SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="c.test") as connection,
        ConnectionPool("127.0.0.1", 25, TlsMode.NONE, timeout=5) as pool,
    ):
        for value in (connection, pool, pool.connection()):
            for ship in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=type(value).__name__):
                    ship(value)


def test_F121_every_public_type_is_in_one_of_the_lists() -> None:
    listed = {type(value).__name__ for value in [*VALUES, *PICKLED, *CREDENTIALS]} | NO_DATA
    errors = {name for name in smtpconn.__all__ if name.endswith("Error")}
    assert all(issubclass(getattr(smtpconn, name), SmtpError) for name in errors)  # tests/protocol/test_errors.py
    assert listed | errors == set(smtpconn.__all__)


def test_F121_the_documentation_names_the_types_that_have_a_form_in_json() -> None:
    page = (Path(__file__).parent.parent / "docs/topics/serialisation.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - (.*)\n     - (.*)\n     - (.*)$", page, re.MULTILINE)
    travelling = [names for names, pickles, to_dict in rows if (pickles, to_dict[:3]) == ("yes", "yes")]
    told = {name for names in travelling for name in re.findall(r"`([A-Z]\w+)`", names)}
    public = [getattr(smtpconn, name) for name in smtpconn.__all__]
    assert told == {kind.__name__ for kind in public if inspect.isclass(kind) and hasattr(kind, "to_dict")}
