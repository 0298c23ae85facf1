"""The servers themselves, judged by the standard library's smtplib: what they offer, refuse, deliver and give back."""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from .corpus import CORPUS, OURS, TEN_MIB, Sample, assert_same_octets
from .dovecot import Dovecot, DovecotSubmission
from .exim import Exim
from .postfix import Postfix
from .servers import LOGIN, UNICODE_LOGIN, UNKNOWN, MailServer

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.interop

TIMEOUT = 15.0
SENDER = "sender@elsewhere.test"

KEYWORDS = {
    "postfix": "PIPELINING SIZE VRFY ETRN STARTTLS AUTH ENHANCEDSTATUSCODES 8BITMIME DSN SMTPUTF8 CHUNKING",
    "exim": "SIZE 8BITMIME DSN ETRN VRFY EXPN PIPELINING PIPECONNECT AUTH CHUNKING STARTTLS PRDR SMTPUTF8 HELP",
    "dovecot": "8BITMIME CHUNKING ENHANCEDSTATUSCODES PIPELINING STARTTLS",
    "dovecot_submission": "8BITMIME AUTH BURL CHUNKING ENHANCEDSTATUSCODES SIZE STARTTLS PIPELINING",
}


@contextmanager
def client_of(server: MailServer, address: int | str | None = None) -> Iterator[smtplib.SMTP]:
    """Connect, and say EHLO or LHLO; leave without QUIT, which Exim takes 0.2 s to answer."""
    kind = smtplib.LMTP if isinstance(server, Dovecot) else smtplib.SMTP
    if isinstance(address, str):
        client = kind(address, 0, timeout=TIMEOUT)
    else:
        client = kind(server.host, address or server.port, timeout=TIMEOUT)
    try:
        client.ehlo()
        yield client
    finally:
        client.close()


def trusting(server: MailServer) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=server.ca_path)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def mail_options(server: MailServer, sample: Sample) -> list[str]:
    smtputf8 = sample.smtputf8 and not isinstance(server, Dovecot)
    return ["BODY=8BITMIME"] * sample.eight_bit + ["SMTPUTF8"] * smtputf8


def send_bdat(
    client: smtplib.SMTP, recipient: str, octets: bytes, options: list[str], chunk_size: int = 1 << 20
) -> None:
    assert client.mail(SENDER, options)[0] == 250
    assert client.rcpt(recipient)[0] == 250
    chunks = [octets[start : start + chunk_size] for start in range(0, len(octets), chunk_size)] or [b""]
    for index, chunk in enumerate(chunks):
        client.putcmd(f"BDAT {len(chunk)}", "LAST" if index == len(chunks) - 1 else "")
        client.send(chunk)
        code, text = client.getreply()
        assert code == 250, text


# --- what is offered


@pytest.mark.parametrize("fixture", KEYWORDS)
def test_ehlo_lists_the_keywords_of_servers_2(fixture: str, request: pytest.FixtureRequest) -> None:
    server: MailServer = request.getfixturevalue(fixture)
    with client_of(server) as client:
        assert {keyword.upper() for keyword in client.esmtp_features} == set(KEYWORDS[fixture].split())


@pytest.mark.parametrize("fixture", KEYWORDS)
def test_starttls_gives_a_certificate_that_strict_verification_accepts(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    server: MailServer = request.getfixturevalue(fixture)
    with client_of(server) as client:
        code, _ = client.starttls(context=trusting(server))
        assert code == 220
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == "TLSv1.3"
        client.ehlo()
        assert not client.has_extn("starttls")


@pytest.mark.parametrize("name", ["mail.lab.test", "localhost", "127.0.0.1"])
@pytest.mark.parametrize("fixture", KEYWORDS)
def test_implicit_tls_greets_under_each_name_of_the_certificate(
    fixture: str, name: str, request: pytest.FixtureRequest
) -> None:
    server: MailServer = request.getfixturevalue(fixture)
    with (
        socket.create_connection((server.host, server.tls_port), TIMEOUT) as plain,
        trusting(server).wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert secure.recv(512).startswith(b"220 ")


def test_the_certificate_is_refused_by_who_trusts_another_authority(postfix: Postfix) -> None:
    context = ssl.create_default_context(cafile=str(postfix.certificates.other_ca_path))
    with (
        socket.create_connection((postfix.host, postfix.tls_port), TIMEOUT) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=postfix.tls_name)


def test_postfix_writes_down_who_the_client_certificate_names(postfix: Postfix, message_id: str) -> None:
    context = trusting(postfix)
    context.load_cert_chain(postfix.certificates.client_certificate)
    with smtplib.SMTP_SSL("localhost", postfix.tls_port, timeout=TIMEOUT, context=context) as client:
        client.sendmail(SENDER, [postfix.users[2]], f"Message-ID: {message_id}\r\n\r\nHello\r\n")
    assert b'Client CN "smtpconn test client"' in postfix.wait_for_mail(postfix.users[2], message_id)


def test_the_lockstep_port_offers_neither_pipelining_nor_chunking(postfix: Postfix) -> None:
    with client_of(postfix, postfix.lockstep_port) as client:
        assert not client.has_extn("pipelining")
        assert not client.has_extn("chunking")
        assert client.has_extn("dsn")


# --- AUTH


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_auth_under_starttls_opens_the_relay(smtp_server: MailServer, mechanism: str) -> None:
    with client_of(smtp_server) as client:
        client.starttls(context=trusting(smtp_server))
        client.ehlo()
        client.mail(SENDER)
        assert client.rcpt("anybody@elsewhere.test")[0] in {550, 554}
        client.rset()
        client.user, client.password = LOGIN
        assert client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))[0] == 235
        client.mail(SENDER)
        assert client.rcpt("anybody@elsewhere.test")[0] == 250


def test_auth_takes_a_password_that_is_not_ascii(smtp_server: MailServer) -> None:
    user, password = UNICODE_LOGIN
    with client_of(smtp_server) as client:
        response = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        assert client.docmd("AUTH PLAIN", response)[0] == 235


def test_a_wrong_password_is_535(smtp_server: MailServer) -> None:
    with client_of(smtp_server) as client:
        client.user, client.password = LOGIN[0], "wrong"
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.auth("PLAIN", client.auth_plain)
        assert caught.value.smtp_code == 535


MECHANISMS = {
    # -PLUS none of them: Dovecot 2.3 has no channel binding, and of Exim's authenticators these are what Debian builds.
    "postfix": ["PLAIN", "LOGIN", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2"],
    "exim": ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"],
    "dovecot_submission": ["PLAIN", "LOGIN", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2"],
}


@pytest.mark.parametrize("fixture", MECHANISMS)
def test_the_mechanisms_offered(fixture: str, request: pytest.FixtureRequest) -> None:
    with client_of(request.getfixturevalue(fixture)) as client:
        assert client.esmtp_features["auth"].split() == MECHANISMS[fixture]


# --- delivery


@pytest.mark.parametrize("sample", CORPUS, ids=lambda sample: sample.id)
def test_a_mail_sent_by_data_comes_back_octet_for_octet(
    mail_server: MailServer, sample: Sample, message_id: str
) -> None:
    sent = sample.marked(message_id)
    with client_of(mail_server) as client:
        client.sendmail(SENDER, [mail_server.users[0]], sent, mail_options(mail_server, sample))
    stored = mail_server.wait_for_mail(mail_server.users[0], message_id)
    assert_same_octets(mail_server.original(stored, message_id), mail_server.expected(sent))
    assert mail_server.envelope_sender(stored) == SENDER


@pytest.mark.parametrize("sample", OURS, ids=lambda sample: sample.id)
def test_a_mail_sent_by_bdat_comes_back_octet_for_octet(
    mail_server: MailServer, sample: Sample, message_id: str
) -> None:
    sent = sample.marked(message_id)
    with client_of(mail_server) as client:
        send_bdat(client, mail_server.users[0], sent, mail_options(mail_server, sample))
    stored = mail_server.wait_for_mail(mail_server.users[0], message_id)
    assert_same_octets(mail_server.original(stored, message_id), mail_server.expected(sent, chunked=True))


NOT_RFC_5322 = [
    # sent by BDAT, and what Postfix, Exim and Dovecot make of it
    (b"", b"", b"\r\n", b""),
    (b"\r\n", b"\r\n", b"\r\n", b"\r\n"),
    (b"Hello\r\n", b"\r\nHello\r\n", b"\r\nHello\r\n", b"Hello\r\n"),
    (b"Subject: x\r\n", b"Subject: x\r\n", b"Subject: x\r\n\r\n", b"Subject: x\r\n"),
    (
        b"Subject: x\r\nHello\r\n",
        b"Subject: x\r\n\r\nHello\r\n",
        b"Subject: x\r\n\r\nHello\r\n",
        b"Subject: x\r\nHello\r\n",
    ),
    (b"From x\r\nSubject: x\r\n\r\n", b"\r\nFrom x\r\nSubject: x\r\n\r\n", b"\r\nFrom x\r\nSubject: x\r\n\r\n", None),
]


@pytest.mark.parametrize(("sent", "by_postfix", "by_exim", "by_dovecot"), NOT_RFC_5322)
def test_a_server_touches_nothing_but_the_empty_line_behind_the_headers(
    mail_server: MailServer, sent: bytes, by_postfix: bytes, by_exim: bytes, by_dovecot: bytes | None
) -> None:
    user = mail_server.users[1]
    before = len(mail_server.mailbox(user))
    with client_of(mail_server) as client:
        send_bdat(client, user, sent, [])
    stored = mail_server.wait_for_mails(user, before + 1)[-1]
    expected = {"Postfix": by_postfix, "Exim": by_exim, "Dovecot": sent if by_dovecot is None else by_dovecot}
    assert mail_server.original(stored) == expected[mail_server.name]


def test_ten_mails_and_more_in_one_connection_all_arrive(mail_server: MailServer) -> None:
    user, count = mail_server.users[3], 15
    before = len(mail_server.mailbox(user))
    with client_of(mail_server) as client:
        for _ in range(count):
            client.sendmail(SENDER, [user], b"Subject: one of many\r\n\r\nHello\r\n")
    assert len(mail_server.wait_for_mails(user, before + count)) == before + count


@pytest.mark.parametrize("address", ["port", "unix_socket"])
def test_lmtp_answers_for_each_recipient(dovecot: Dovecot, address: str, message_id: str) -> None:
    alice, bob = dovecot.users[:2]
    with client_of(dovecot, getattr(dovecot, address)) as client:
        client.mail(SENDER)
        at_rcpt = [client.rcpt(user)[0] for user in (alice, dovecot.full, UNKNOWN, dovecot.broken, bob)]
        assert at_rcpt == [250, 250, 550, 250, 250]
        assert client.docmd("DATA")[0] == 354
        client.send(f"Message-ID: {message_id}\r\n\r\nHello\r\n.\r\n".encode())
        assert [client.getreply()[0] for _ in range(4)] == [250, 552, 451, 250]
    for user in (alice, bob):
        dovecot.wait_for_mail(user, message_id)
    assert dovecot.find_mail(dovecot.full, message_id) == []


def test_a_mail_under_implicit_tls_to_lmtp_arrives(dovecot: Dovecot, message_id: str) -> None:
    with (
        socket.create_connection((dovecot.host, dovecot.tls_port), TIMEOUT) as plain,
        trusting(dovecot).wrap_socket(plain, server_hostname=dovecot.tls_name) as secure,
        smtplib.LMTP() as client,
    ):
        client.sock = secure
        assert client.getreply()[0] == 220
        client.sendmail(SENDER, [dovecot.users[0]], f"Message-ID: {message_id}\r\n\r\nHello\r\n")
        dovecot.wait_for_mail(dovecot.users[0], message_id)


def test_smtputf8_delivers_to_an_internationalised_mailbox(smtp_server: MailServer, message_id: str) -> None:
    assert isinstance(smtp_server, Postfix | Exim)
    user = smtp_server.unicode_user
    sent = f"Message-ID: {message_id}\r\nSubject: \u00fc\r\n\r\nHello\r\n".encode()
    with client_of(smtp_server) as client:
        client.sendmail(
            "j\u00f6rg@elsewhere.test",
            [user],
            sent,
            ["SMTPUTF8", "BODY=8BITMIME"],
        )
    stored = smtp_server.wait_for_mail(user, message_id)
    assert smtp_server.original(stored, message_id) == sent
    assert smtp_server.envelope_sender(stored) == "j\u00f6rg@elsewhere.test"


def test_dovecot_submission_hands_mail_on_to_postfix(dovecot_submission: DovecotSubmission, message_id: str) -> None:
    sent = f"Message-ID: {message_id}\r\n\r\n.\r\n".encode()
    user = dovecot_submission.users[4]
    with client_of(dovecot_submission) as client:
        assert client.mail(SENDER)[0] == 530
        client.login(*LOGIN)
        client.sendmail(SENDER, [user], sent)
    assert dovecot_submission.original(dovecot_submission.wait_for_mail(user, message_id), message_id) == sent


# --- refusals


def test_an_unknown_recipient_is_550(mail_server: MailServer) -> None:
    with client_of(mail_server) as client:
        client.mail(SENDER)
        assert client.rcpt(UNKNOWN)[0] == 550
        assert client.rcpt(mail_server.users[0])[0] == 250


def test_a_size_over_the_limit_is_552_at_mail(smtp_server: MailServer) -> None:
    with client_of(smtp_server) as client:
        assert int(client.esmtp_features["size"]) == 2 * TEN_MIB
        assert client.mail(SENDER, [f"SIZE={2 * TEN_MIB + 1}"])[0] == 552


@pytest.mark.parametrize(
    ("sender", "recipient", "codes"),
    [
        ("mail421@lab.test", "user1@lab.test", [421]),
        (SENDER, "rcpt421@lab.test", [250, 421]),
        (SENDER, "rcpt450@lab.test", [250, 450]),
        (SENDER, "rcpt451@lab.test", [250, 451]),
        (SENDER, "rcpt552@lab.test", [250, 552]),
        ("eod421@lab.test", "user1@lab.test", [250, 250, 354, 421]),
        ("eod450@lab.test", "user1@lab.test", [250, 250, 354, 450]),
        ("eod550@lab.test", "user1@lab.test", [250, 250, 354, 550]),
    ],
)
def test_postfix_refuses_where_the_address_says(
    postfix: Postfix, sender: str, recipient: str, codes: list[int]
) -> None:
    commands = [f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA", "."]
    with client_of(postfix) as client:
        assert [client.docmd(command)[0] for command in commands[: len(codes)]] == codes
        if codes[-1] == 421:
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.noop()
        else:
            assert client.rset()[0] == 250


def test_postfix_greets_the_third_parallel_connection_with_421(postfix: Postfix) -> None:
    def connection() -> socket.socket:
        return socket.create_connection((postfix.host, postfix.limited_port), TIMEOUT)

    with connection() as first, connection() as second:
        assert first.recv(512).startswith(b"220 ")
        assert second.recv(512).startswith(b"220 ")
        with connection() as third:
            assert third.recv(512).startswith(b"421 4.7.0 ")
            assert third.recv(512) == b""


def test_postfix_gives_up_at_the_fourth_error_and_the_sixth_recipient(postfix: Postfix) -> None:
    with client_of(postfix, postfix.strict_port) as client:
        client.mail(SENDER)
        assert [client.rcpt(user)[0] for user in postfix.users[:6]] == [250] * 5 + [452]
    with client_of(postfix, postfix.strict_port) as client:
        assert [client.docmd("BOGUS")[0] for _ in range(4)] == [500, 500, 500, 421]


def test_strict_ports_say_421_after_five_seconds_of_silence(postfix: Postfix, exim: Exim) -> None:
    with client_of(postfix, postfix.strict_port) as one, client_of(exim, exim.strict_port) as other:
        assert one.getreply()[0] == 421
        assert other.getreply()[0] == 421


def test_exim_refuses_the_third_mail_of_a_strict_connection_and_keeps_it_open(exim: Exim) -> None:
    with client_of(exim, exim.strict_port) as client:
        for _ in range(2):
            client.sendmail(SENDER, [exim.users[5]], b"Subject: x\r\n\r\nHello\r\n")
        assert client.mail(SENDER)[0] == 421
        assert client.noop()[0] == 250


def test_exim_refuses_the_eleventh_command_without_mail(exim: Exim) -> None:
    with client_of(exim) as client:
        assert [client.noop()[0] for _ in range(11)] == [250] * 10 + [554]
