"""`SmtpConnection` against Postfix, Exim and Dovecot LMTP: every octet of real mail files, and every verdict."""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    Delivery,
    MailParams,
    PermanentReplyError,
    RecipientsRefusedError,
    ServiceUnavailableError,
    SmtpConnection,
    TlsMode,
    TransientReplyError,
)

from .clients import SENDER, TIMEOUT, connect
from .corpus import CORPUS, OURS, Sample, assert_same_octets
from .dovecot import Dovecot
from .postfix import Postfix
from .servers import UNKNOWN, MailServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def open_connections() -> Iterator[dict[str, SmtpConnection]]:
    """One connection per server for the whole corpus: what is sent is also sent on a reused connection."""
    connections: dict[str, SmtpConnection] = {}
    yield connections
    for connection in connections.values():
        connection.close()


def reused(connections: dict[str, SmtpConnection], server: MailServer) -> SmtpConnection:
    """Ten mails a connection: Exim puts what comes beyond them into its queue instead of delivering it at once."""
    name = type(server).__name__
    connection = connections.get(name)
    if connection is not None and (connection.mails >= 10 or not connection.usable):
        connection.close()
        connection = None
    if connection is None:
        connection = connections[name] = connect(server)
    return connection


def terminated(sent: bytes) -> bytes:
    """features:F71, C33: by BDAT, too, a text that lacks its final CRLF gets it."""
    return sent if not sent or sent.endswith(b"\r\n") else sent + b"\r\n"


@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("sample", CORPUS, ids=lambda sample: sample.id)
def test_a_mail_arrives_octet_for_octet(
    mail_server: MailServer, sample: Sample, chunked: bool, message_id: str, open_connections: dict[str, SmtpConnection]
) -> None:
    """Issue A: real mail files by DATA and by BDAT through Postfix, Exim and Dovecot LMTP, read back and compared."""
    sent = sample.marked(message_id)
    user = mail_server.users[0]
    smtputf8 = sample.smtputf8 and not isinstance(mail_server, Dovecot)
    params = MailParams(smtputf8=True) if smtputf8 else None
    connection = reused(open_connections, mail_server)
    send = connection.send_bdat if chunked else connection.send
    result = send(SENDER, [user], sent, timeout=TIMEOUT, params=params)
    assert result.all_delivered
    stored = mail_server.wait_for_mail(user, message_id)
    assert_same_octets(
        mail_server.original(stored, message_id), mail_server.expected(terminated(sent), chunked=chunked)
    )


@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("kind", ["file", "iterator"])
@pytest.mark.parametrize("sample", OURS, ids=lambda sample: sample.id)
def test_a_stream_arrives_as_bytes_do(
    mail_server: MailServer,
    sample: Sample,
    kind: str,
    chunked: bool,
    message_id: str,
    open_connections: dict[str, SmtpConnection],
    tmp_path: Path,
) -> None:
    """features:F63: a file and an iterator deliver what bytes deliver."""
    sent = sample.marked(message_id)
    path = tmp_path / "mail"
    path.write_bytes(sent)
    user = mail_server.users[0]
    connection = reused(open_connections, mail_server)
    send = connection.send_bdat if chunked else connection.send
    with path.open("rb") as file:
        source = file if kind == "file" else iter(lambda: file.read(7_001), b"")
        smtputf8 = sample.smtputf8 and not isinstance(mail_server, Dovecot)
        assert send(SENDER, [user], source, timeout=TIMEOUT, params=MailParams(smtputf8=smtputf8 or None)).all_delivered
    stored = mail_server.wait_for_mail(user, message_id)
    assert_same_octets(
        mail_server.original(stored, message_id), mail_server.expected(terminated(sent), chunked=chunked)
    )


@pytest.mark.parametrize("port", ["port", "lockstep_port"])
def test_one_refused_recipient_does_not_hold_back_the_others(postfix: Postfix, port: str, message_id: str) -> None:
    """features:F54, F55, pipelined and in lock-step."""
    with connect(postfix, port=getattr(postfix, port)) as connection:
        assert connection.capabilities.supports_pipelining is (port == "port")
        body = b"Message-ID: " + message_id.encode() + b"\r\n\r\nhello\r\n"
        result = connection.send(SENDER, [UNKNOWN, postfix.users[1]], body, timeout=TIMEOUT)
    assert [entry.delivery for entry in result.recipients] == [Delivery.NOT_DELIVERED, Delivery.DELIVERED]
    assert result.queue_id
    assert postfix.wait_for_mail(postfix.users[1], message_id)


@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
def test_a_mail_after_a_refused_one_goes_out_under_its_own_sender(
    mail_server: MailServer, chunked: bool, message_id: str
) -> None:
    """pipelining:PL11, users:UA4, faults:AK23: without RSET, Exim files the second mail under the first's sender."""
    body = b"Message-ID: " + message_id.encode() + b"\r\n\r\nhello\r\n"
    user = mail_server.users[2]
    with connect(mail_server) as connection:
        send = connection.send_bdat if chunked else connection.send
        if isinstance(mail_server, Dovecot):
            assert not send("first@elsewhere.test", [UNKNOWN], b"x\r\n", timeout=TIMEOUT).accepted
        else:
            with pytest.raises(RecipientsRefusedError):
                send("first@elsewhere.test", [UNKNOWN], b"x\r\n", timeout=TIMEOUT)
        assert connection.usable
        assert send("second@elsewhere.test", [user], body, timeout=TIMEOUT).all_delivered
    stored = mail_server.wait_for_mail(user, message_id)
    assert mail_server.envelope_sender(stored) == "second@elsewhere.test"


@pytest.mark.parametrize("tls_mode", [TlsMode.IMPLICIT, TlsMode.STARTTLS])
def test_tls_verifies_and_a_mail_goes_through(mail_server: MailServer, tls_mode: TlsMode, message_id: str) -> None:
    body = b"Message-ID: " + message_id.encode() + b"\r\n\r\nhello\r\n"
    with connect(mail_server, tls_mode) as connection:
        assert connection.tls is not None
        assert connection.tls.version in ("TLSv1.2", "TLSv1.3")
        assert connection.send(SENDER, [mail_server.users[0]], body, timeout=TIMEOUT).all_delivered
    assert mail_server.wait_for_mail(mail_server.users[0], message_id)


@pytest.mark.parametrize(
    ("address", "stage", "code"),
    [
        ("mail421", "MAIL", 421),
        ("rcpt421", "RCPT", 421),
        ("eod421", "end of data", 421),
        ("eod450", "end of data", 450),
        ("eod550", "end of data", 550),
    ],
)
def test_refusals_at_every_stage(postfix: Postfix, address: str, stage: str, code: int) -> None:
    """faults:B1/421, B5/421 (OB7: a 421 at the dot is no doubt), B5/4yz, B5/5yz."""
    sender = SENDER if stage == "RCPT" else f"{address}@lab.test"
    recipient = f"{address}@lab.test" if stage == "RCPT" else postfix.users[0]
    with connect(postfix) as connection:
        expected = {421: ServiceUnavailableError, 450: TransientReplyError, 550: PermanentReplyError}[code]
        with pytest.raises(expected) as refused:
            connection.send(sender, [recipient], b"x\r\n", timeout=TIMEOUT)
        assert refused.value.stage == stage
        assert refused.value.reply is not None
        assert refused.value.reply.code == code
        assert refused.value.delivery is Delivery.NOT_DELIVERED
        assert refused.value.retry_safe
        assert connection.is_shutting_down is (code == 421)
        assert connection.usable is (code != 421)


def test_send_message_serialises_what_the_server_can_take(mail_server: MailServer, message_id: str) -> None:
    """users:MS1-MS7."""
    user = mail_server.users[0]
    message = EmailMessage()
    message["From"] = "Ünï <sender@elsewhere.test>"
    message["To"] = user
    message["Bcc"] = mail_server.users[1]
    message["Message-ID"] = message_id
    message["Subject"] = "Grüße"
    message.set_content("Zeile eins\n.Zeile zwei mit Ümlaut\n")
    with connect(mail_server) as connection:
        result = connection.send_message(message, timeout=TIMEOUT)
    assert [entry.address for entry in result.recipients] == [user, mail_server.users[1]]
    assert result.all_delivered
    for recipient in (user, mail_server.users[1]):
        stored = mail_server.wait_for_mail(recipient, message_id)
        assert b"Bcc" not in stored
        assert "Zeile zwei mit Ümlaut".encode() in stored


def test_three_hundred_refusals_and_one_delivery_in_one_transaction(dovecot: Dovecot) -> None:
    """pipelining:RT10: groups of at most 4,096 octets; every reply finds its recipient."""
    recipients = [f"nobody{number}@lab.test" for number in range(300)]
    recipients.insert(150, dovecot.users[0])
    with connect(dovecot) as connection:
        result = connection.send_lmtp(SENDER, recipients, b"x\r\n", timeout=TIMEOUT)
    assert [entry.address for entry in result.accepted] == [dovecot.users[0]]
    assert len(result.rejected) == 300
