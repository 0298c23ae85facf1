"""Tests of an application that sends mail, as reference/testing shows them."""

import pytest

from smtpconn import (
    CertificateError,
    ConnectionPool,
    MailParams,
    Notify,
    RcptParams,
    Recipient,
    Sender,
    SendResult,
    ServiceUnavailableError,
    SmtpConnection,
    TlsConfig,
    TlsMode,
)
from smtpconn.testing import LoopbackServer, Outbox, ServerFactory, TestAuthority


def welcome(sender: Sender, address: str) -> SendResult:
    """The application under test; `sender` is a connection, a lease or a pool."""
    recipient = Recipient(address, RcptParams(notify=Notify.FAILURE))
    message = b"Subject: Welcome\r\n\r\nHello.\r\n"
    return sender.send("app@example.com", [recipient], message, params=MailParams(ret="HDRS"), timeout=10)


def test_the_envelope_is_right(smtpconn_pool: ConnectionPool, smtpconn_server: LoopbackServer) -> None:
    welcome(smtpconn_pool, "ben@example.net")
    mail = smtpconn_server.mails[0]
    assert (mail.sender, mail.recipients) == ("app@example.com", ["ben@example.net"])
    assert mail.message["Subject"] == "Welcome"


def test_failures_are_asked_for(smtpconn_outbox: Outbox) -> None:
    welcome(smtpconn_outbox.pool, "ben@example.net")
    assert smtpconn_outbox[0].mail_params["RET"] == "HDRS"
    assert smtpconn_outbox[0].rcpt_params == [{"NOTIFY": "FAILURE"}]


def test_a_full_mailbox_is_a_verdict(smtpconn_lmtp_server: LoopbackServer) -> None:
    smtpconn_lmtp_server.refuse("full@example.net", "452 4.2.2 Mailbox full", when="data")
    host, port = smtpconn_lmtp_server.host, smtpconn_lmtp_server.port
    with SmtpConnection.connect_lmtp(host, port, TlsMode.NONE, timeout=10) as connection:
        result = welcome(connection, "full@example.net")
    reply = result.rejected[0].reply
    assert reply is not None
    assert reply.code == 452


@pytest.mark.smtpconn(faults=[("MAIL", "421", 2)])
def test_a_421_in_the_middle_of_a_batch_is_not_delivered(
    smtpconn_pool: ConnectionPool, smtpconn_server: LoopbackServer
) -> None:
    with smtpconn_pool.connection() as lease:
        welcome(lease, "ben@example.net")
        with pytest.raises(ServiceUnavailableError):
            welcome(lease, "carla@example.net")
    assert [mail.recipients for mail in smtpconn_server.mails] == [["ben@example.net"]]


def test_an_expired_certificate_stops_everything(
    smtpconn_server_factory: ServerFactory, smtpconn_ca: TestAuthority
) -> None:
    server = smtpconn_server_factory(tls="implicit", certificate=smtpconn_ca.issue("127.0.0.1", expired=True))
    config = TlsConfig(trust=smtpconn_ca.path)
    pool = ConnectionPool(server.host, server.port, TlsMode.IMPLICIT, timeout=10, tls_config=config)
    with pool, pytest.raises(CertificateError, match="expired"):
        welcome(pool, "ben@example.net")
    assert server.received == 0
