"""`SmtpConnection` before Nodemailer's smtp-server: REQUIRETLS, DSN and XOAUTH2 as it reads them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ExtensionUnavailableError,
    LoginAuth,
    MailParams,
    Notify,
    PasswordAuth,
    PlainAuth,
    RcptParams,
    Recipient,
    SmtpConnection,
    TlsMode,
    XOAuth2Auth,
)

from . import nodemailer
from .clients import SENDER, TIMEOUT, connect, trusting
from .servers import LOGIN, UNKNOWN, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .certificates import Certificates
    from .nodemailer import Nodemailer

pytestmark = pytest.mark.interop

modes = pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT], ids=["STARTTLS", "IMPLICIT"])


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Nodemailer]:
    with running(lambda: nodemailer.Nodemailer(certificates), nodemailer.Nodemailer) as started:
        yield started


def last(server: Nodemailer) -> dict[str, Any]:
    return server.received()[-1]


@modes
def test_requiretls_is_understood_under_tls(server: Nodemailer, tls_mode: TlsMode) -> None:
    """features:MP7, E213, BS14: the server keeps the demand for the mail that had it and for no other."""
    with connect(server, tls_mode) as connection:
        assert connection.capabilities.supports_requiretls
        params = MailParams(requiretls=True)
        assert connection.send(SENDER, [server.users[0]], b"x\r\n", timeout=TIMEOUT, params=params).all_delivered
        assert last(server)["requireTLS"] is True
        assert connection.send(SENDER, [server.users[0]], b"x\r\n", timeout=TIMEOUT).all_delivered
        assert last(server)["requireTLS"] is False


def test_requiretls_is_not_sent_in_the_clear(server: Nodemailer) -> None:
    """features:MP7, F78, E213."""
    before = len(server.received())
    with connect(server) as connection:
        assert not connection.capabilities.supports_requiretls
        with pytest.raises(ExtensionUnavailableError) as unavailable:
            connection.send(SENDER, [server.users[0]], b"x\r\n", timeout=TIMEOUT, params=MailParams(requiretls=True))
        assert unavailable.value.extension == "REQUIRETLS"
        connection.noop(timeout=TIMEOUT)
    assert len(server.received()) == before


@modes
def test_dsn_parameters_are_decoded_to_what_was_given(server: Nodemailer, tls_mode: TlsMode) -> None:
    """features:MP4, MP5, MP13, MP14, MP16."""
    to = [
        Recipient(server.users[0], RcptParams(notify=[Notify.FAILURE, Notify.SUCCESS], orcpt="rfc822;a+b=c d@x.test")),
        Recipient(server.users[1], RcptParams(notify=Notify.NEVER)),
    ]
    params = MailParams(ret="HDRS", envid="QQ+3=1 4")
    with connect(server, tls_mode) as connection:
        assert connection.send(SENDER, to, b"x\r\n", timeout=TIMEOUT, params=params).all_delivered
    mail = last(server)
    assert mail["dsn"] == {"ret": "HDRS", "envid": "QQ+3=1 4"}
    assert mail["rcptDsn"][0]["notify"] == ["SUCCESS", "FAILURE"]
    assert mail["rcptDsn"][0]["orcpt"] == "rfc822;a+b=c d@x.test"
    assert mail["rcptDsn"][1]["notify"] == ["NEVER"]


@modes
@pytest.mark.parametrize(
    "credentials",
    [PasswordAuth(*LOGIN), PlainAuth(*LOGIN), LoginAuth(*LOGIN), XOAuth2Auth(LOGIN[0], nodemailer.TOKEN)],
    ids=["automatic", "PLAIN", "LOGIN", "XOAUTH2"],
)
def test_each_mechanism_lets_in(
    server: Nodemailer, credentials: PasswordAuth | PlainAuth | LoginAuth | XOAuth2Auth, tls_mode: TlsMode
) -> None:
    """features:F35, F38, F40, F41."""
    with connect(server, tls_mode, credentials=credentials) as connection:
        assert connection.send(SENDER, [server.users[0]], b"x\r\n", timeout=TIMEOUT).all_delivered
    assert last(server)["user"] == LOGIN[0]


def test_a_refused_token_says_why_and_another_lets_in(server: Nodemailer) -> None:
    """features:F46, E40."""
    with connect(server, TlsMode.STARTTLS) as connection:
        with pytest.raises(AuthenticationError) as refused:
            connection.auth_xoauth2(LOGIN[0], "wrong", timeout=TIMEOUT)
        assert refused.value.detail is not None
        assert json.loads(refused.value.detail) == nodemailer.REFUSAL
        assert refused.value.reply is not None
        assert refused.value.reply.is_permanent
        assert connection.usable
        connection.auth_xoauth2(LOGIN[0], nodemailer.TOKEN, timeout=TIMEOUT)
        assert connection.is_authenticated


def test_addresses_and_octets_arrive(server: Nodemailer) -> None:
    """features:F60, F65, E70."""
    sent = "Subject: Grüße\r\n\r\n.\r\n..\r\nä\r\n".encode()
    with connect(server, TlsMode.STARTTLS) as connection:
        connection.send("grüße@bücher.test", ["jörg@lab.test"], sent, timeout=TIMEOUT)
    mail = last(server)
    assert mail["smtputf8"] is True
    assert mail["bodyType"] == "8bitmime"
    assert mail["sender"]["address"] == "grüße@bücher.test"
    assert [path["address"] for path in mail["recipients"]] == ["jörg@lab.test"]
    assert base64.b64decode(mail["content"]) == sent


@modes
def test_a_name_that_is_not_the_servers_ends_it(server: Nodemailer, tls_mode: TlsMode) -> None:
    """features:E28."""
    before = len(server.received())
    with pytest.raises(CertificateError):
        connect(server, tls_mode, tls_config=trusting(server, server_name="wrong.lab.test"))
    assert len(server.received()) == before


def test_recipients_that_lmtp_merges_are_sent_once(server: Nodemailer) -> None:
    """features:D18, BS9, E136: asked for one reply a RCPT, this server would leave a client waiting."""
    to = [server.users[0], UNKNOWN, server.users[1], server.users[0]]
    with SmtpConnection.connect_lmtp(server.host, server.lmtp_port, TlsMode.NONE, timeout=TIMEOUT) as connection:
        result = connection.send_lmtp(SENDER, to, b"x\r\n", timeout=TIMEOUT)
        assert [entry.reply and entry.reply.code for entry in result.recipients] == [250, 550, 250, 250]
        assert connection.send_lmtp(SENDER, [server.users[2]], b"x\r\n", timeout=TIMEOUT).all_delivered
    assert [path["address"] for path in server.received()[-2]["recipients"]] == [server.users[0], server.users[1]]
