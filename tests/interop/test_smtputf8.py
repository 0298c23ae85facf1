"""Addresses, headers and bodies beyond ASCII: SMTPUTF8 (RFC 6531) and 8BITMIME (RFC 6152) on Postfix and Exim."""

from __future__ import annotations

from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest

from smtpconn import ExtensionUnavailableError, ForwardPath, InvalidInputError, MailParams, ReversePath
from smtpconn.testing import Relay

from .clients import SENDER, TIMEOUT, Dial, connect, mail
from .corpus import assert_same_octets
from .exim import Exim
from .postfix import Postfix

if TYPE_CHECKING:
    from .dovecot import Dovecot

pytestmark = pytest.mark.interop

chunked = pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])

SENDERS = ["grüße@elsewhere.test", "grüße@bücher.test", "用户@例え.test"]


@pytest.fixture(params=["postfix", "exim"])
def server(request: pytest.FixtureRequest) -> Postfix | Exim:
    """Each server that offers SMTPUTF8."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, (Postfix, Exim))
    return found


@chunked
@pytest.mark.parametrize("sender", SENDERS)
def test_sender_recipient_and_header_arrive_as_they_were_given(
    server: Postfix | Exim, sender: str, chunked: bool, message_id: str
) -> None:
    """features:F65, F66, E70, WM12, BS13: asked for by itself, once, on MAIL and not on RCPT."""
    user = server.unicode_user
    sent = f"Message-ID: {message_id}\r\nSubject: Grüße, 你好\r\nX-Note: \U0001f40d\r\n\r\nHällo\r\n".encode()
    assert ReversePath(sender).requires_smtputf8
    assert ForwardPath(user).requires_smtputf8
    with Relay((server.host, server.port)) as relay, connect(server, port=relay.port) as connection:
        send = connection.send_bdat if chunked else connection.send
        assert send(sender, [user, server.users[6]], sent, timeout=TIMEOUT).all_delivered
        lines = relay.octets_to_server.split(b"\r\n")
    (mail_line,) = [line for line in lines if line.startswith(b"MAIL ")]
    assert mail_line.startswith(f"MAIL FROM:<{sender}> ".encode())
    assert mail_line.split().count(b"SMTPUTF8") == 1
    assert f"RCPT TO:<{user}>".encode() in lines
    for recipient in (user, server.users[6]):
        stored = server.wait_for_mail(recipient, message_id)
        assert_same_octets(server.original(stored, message_id), sent)
        assert server.envelope_sender(stored) == sender
        name = b"Delivered-To: " if isinstance(server, Postfix) else b"Envelope-to: "
        assert name + recipient.encode() in stored


@chunked
def test_an_internationalised_header_alone_is_sent_where_the_caller_asks(
    server: Postfix | Exim, chunked: bool, message_id: str
) -> None:
    """features:MP3, F65."""
    sent = f"Message-ID: {message_id}\r\nSubject: Grüße\r\n\r\nHello\r\n".encode()
    with Relay((server.host, server.port)) as relay, connect(server, port=relay.port) as connection:
        send = connection.send_bdat if chunked else connection.send
        send(SENDER, [server.users[6]], sent, timeout=TIMEOUT, params=MailParams(smtputf8=True))
        assert b" BODY=8BITMIME SMTPUTF8\r\n" in relay.octets_to_server
    assert_same_octets(server.original(server.wait_for_mail(server.users[6], message_id), message_id), sent)


def test_send_message_asks_for_smtputf8_where_the_headers_need_it(server: Postfix | Exim, message_id: str) -> None:
    """features:F59, BS13: addresses in From and To that no encoded-word can hold."""
    message = EmailMessage()
    message["From"] = "grüße@elsewhere.test"
    message["To"] = server.unicode_user
    message["Message-ID"] = message_id
    message["Subject"] = "Grüße"
    message.set_content("Hällo\n")
    with connect(server) as connection:
        assert connection.send_message(message, timeout=TIMEOUT).all_delivered
    stored = server.wait_for_mail(server.unicode_user, message_id)
    assert server.envelope_sender(stored) == "grüße@elsewhere.test"
    assert f"To: {server.unicode_user}".encode() in stored
    assert "Hällo".encode() in stored


def test_smtputf8_that_the_caller_forbids_is_refused_here(server: Postfix | Exim) -> None:
    """features:F65, E70, C19."""
    with connect(server) as connection:
        with pytest.raises(InvalidInputError):
            connection.send(SENDER, [server.unicode_user], b"x\r\n", timeout=TIMEOUT, params=MailParams(smtputf8=False))
        assert connection.send(SENDER, [server.users[6]], b"x\r\n", timeout=TIMEOUT).all_delivered


def test_where_smtputf8_is_not_offered_nothing_is_sent(postfix: Postfix, dovecot: Dovecot) -> None:
    """features:F65, F78, E175: Postfix without the keyword counts no MAIL; Dovecot LMTP never had it."""
    dial = Dial()
    with connect(postfix, port=postfix.bare_port, dial=dial) as connection:
        for sender, recipient, smtputf8 in (
            ("grüße@elsewhere.test", postfix.users[6], None),
            (SENDER, postfix.unicode_user, None),
            (SENDER, postfix.users[6], True),
        ):
            with pytest.raises(ExtensionUnavailableError) as unavailable:
                connection.send(sender, [recipient], b"x\r\n", timeout=TIMEOUT, params=MailParams(smtputf8=smtputf8))
            assert unavailable.value.extension == "SMTPUTF8"
    assert postfix.commands_of(dial.address) == {"ehlo": (1, 1), "quit": (1, 1), "commands": (2, 2)}
    with connect(dovecot) as connection, pytest.raises(ExtensionUnavailableError):
        connection.send("grüße@elsewhere.test", [dovecot.users[0]], b"x\r\n", timeout=TIMEOUT)


# --- 8BITMIME


@chunked
@pytest.mark.parametrize(
    ("body", "params", "wanted"),
    [
        (b"seven", None, b""),
        ("ächt".encode(), None, b" BODY=8BITMIME"),
        (b"\xe4cht", None, b" BODY=8BITMIME"),
        (b"seven", MailParams(body="7BIT"), b" BODY=7BIT"),
        (b"seven", MailParams(body="8BITMIME"), b" BODY=8BITMIME"),
    ],
    ids=["7 bit", "UTF-8", "Latin-1", "7BIT on request", "8BITMIME on request"],
)
def test_body_says_what_the_body_is(
    server: Postfix | Exim, body: bytes, params: MailParams | None, wanted: bytes, chunked: bool, message_id: str
) -> None:
    """features:F64a, MP2, E168."""
    sent = mail(message_id).replace(b"hello", body)
    with Relay((server.host, server.port)) as relay, connect(server, port=relay.port) as connection:
        send = connection.send_bdat if chunked else connection.send
        assert send(SENDER, [server.users[6]], sent, timeout=TIMEOUT, params=params).all_delivered
        (line,) = [line for line in relay.octets_to_server.split(b"\r\n") if line.startswith(b"MAIL ")]
    assert line == f"MAIL FROM:<{SENDER}> SIZE={len(sent)}".encode() + wanted
    assert_same_octets(server.original(server.wait_for_mail(server.users[6], message_id), message_id), sent)


def test_eight_bits_where_they_are_not_offered_are_refused_here_and_send_message_needs_none(
    postfix: Postfix, message_id: str
) -> None:
    """features:F64a, F59, E168, BS12, BS13."""
    message = EmailMessage()
    message["From"], message["To"] = SENDER, postfix.users[6]
    message["Subject"], message["Message-ID"] = "Grüße", message_id
    message.set_content("Hällo\n", cte="8bit")
    dial = Dial()
    with connect(postfix, port=postfix.bare_port, dial=dial) as connection:
        with pytest.raises(ExtensionUnavailableError) as unavailable:
            connection.send(SENDER, [postfix.users[6]], "ächt\r\n".encode(), timeout=TIMEOUT)
        assert unavailable.value.extension == "8BITMIME"
        assert connection.send_message(message, timeout=TIMEOUT).all_delivered
    commands = postfix.commands_of(dial.address)
    assert (commands["mail"], commands["data"]) == ((1, 1), (1, 1))
    stored = postfix.wait_for_mail(postfix.users[6], message_id)
    assert stored.isascii()
    assert "Hällo".encode() not in stored
