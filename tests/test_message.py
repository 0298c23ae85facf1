"""An email message to a mail: users MS1 to MS10."""

from __future__ import annotations

import email
import email.headerregistry
import email.policy
from email.header import Header
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest

from smtpconn import Mail, MailParams, Pipelining, SmtpConnection, TlsMode
from smtpconn.message import addressed, mail_of, serialised
from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.testing import ScriptedTransport

KINDS = [Message, EmailMessage]


def offered(*keywords: str) -> ServerCapabilities:
    return ServerCapabilities("server.test", keywords, is_esmtp=True)


FULL = offered("8BITMIME", "SMTPUTF8", "SIZE")
EIGHT = offered("8BITMIME")
PLAIN = offered("SIZE")


def message_of(kind: type[Message] = EmailMessage, content: str = "text\n", **headers: str | list[str]) -> Any:
    """A message; underscores in a header's name are hyphens, a list gives a header more than once."""
    message = kind()
    for name, values in headers.items():
        for value in [values] if isinstance(values, str) else values:
            message[name.replace("_", "-")] = value
    message.set_payload(content)
    return message


def recipients(mail: Mail) -> list[str]:
    assert mail.recipients is not None
    return [recipient.path.mailbox for recipient in mail.recipients]


def octets(mail: Mail, capabilities: ServerCapabilities = EIGHT) -> bytes:
    message = serialised(mail, capabilities).message
    assert isinstance(message, bytes)
    return message


# --- MS1 ---


@pytest.mark.parametrize("given", [b"octets", "text", None, object(), {"To": "a@x.test"}], ids=repr)
def test_MS1_anything_but_a_message_is_a_type_error_that_names_send(given: object) -> None:
    with pytest.raises(TypeError, match="send"):
        mail_of(given)


def test_MS1_a_look_alike_in_a_Mail_is_a_type_error_when_it_is_sent() -> None:
    class LookAlike:
        def get_all(self, name: str) -> None: ...

        def as_bytes(self) -> bytes:
            return b""

    mail = Mail.from_message(LookAlike(), sender="a@x.test", recipients=["b@x.test"])
    with pytest.raises(TypeError, match="EmailMessage, not LookAlike"):
        serialised(mail, EIGHT)


@pytest.mark.parametrize(
    "policy", [email.policy.compat32, email.policy.default, email.policy.SMTP, email.policy.SMTPUTF8]
)
@pytest.mark.parametrize("capabilities", [EIGHT, PLAIN, FULL])
def test_MS1_the_object_is_never_modified(policy: Any, capabilities: ServerCapabilities) -> None:
    raw = (
        b"From: a@x.test\nTo: b@x.test\nBcc: c@x.test\nSubject: h\xc3\xa9\n"
        b"Content-Type: multipart/mixed; boundary=B\n\n"
        b"--B\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nh\xc3\xa9\n--B--\n"
    )
    message = email.message_from_bytes(raw, policy=policy)
    before = message.as_bytes()
    octets(mail_of(message), capabilities)
    assert message.as_bytes() == before
    assert message["Bcc"] == "c@x.test"


def test_MS1_nested_parts_get_their_boundaries_in_a_copy() -> None:
    outer, inner = MIMEMultipart(), MIMEMultipart("alternative")
    inner.attach(MIMEText("a"))
    outer.attach(inner)
    outer["From"], outer["To"] = "a@x.test", "b@x.test"
    assert octets(mail_of(outer)).count(b"boundary=") == 2
    assert outer.get_boundary() is None
    assert inner.get_boundary() is None


# --- MS2 ---

RESENT = {"Resent_From": "rf@x.test", "Resent_To": "rt@x.test", "From": "f@x.test", "To": "t@x.test"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dates", "sender", "to"),
    [([], "f@x.test", ["t@x.test"]), (["Thu, 1 Jan 2026 00:00:00 +0000"], "rf@x.test", ["rt@x.test"])],
)
def test_MS2_one_resent_block_alone_gives_the_envelope(kind: Any, dates: list[str], sender: str, to: list[str]) -> None:
    mail = mail_of(message_of(kind, Resent_Date=dates, **RESENT))
    assert mail.sender is not None
    assert mail.sender.mailbox == sender
    assert recipients(mail) == to


@pytest.mark.parametrize("kind", [Message])
@pytest.mark.parametrize("given", [{}, {"sender": "a@x.test", "recipients": ["b@x.test"]}])
def test_MS2_several_resent_blocks_are_refused_whatever_is_given(kind: Any, given: dict[str, Any]) -> None:
    message = message_of(kind, Resent_Date=["Thu, 1 Jan 2026 00:00:00 +0000"] * 2, **RESENT)
    with pytest.raises(InvalidInputError, match="Resent-Date"):
        mail_of(message, **given)
    with pytest.raises(InvalidInputError, match="Resent-Date"):
        serialised(Mail.from_message(message, **given), EIGHT)


# --- MS3 ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("headers", "sender"),
    [
        ({"From": "a@x.test"}, "a@x.test"),
        ({"From": "A <a@x.test>, b@x.test"}, "a@x.test"),
        ({"From": "a@x.test", "Sender": "S <s@x.test>"}, "s@x.test"),
        ({"Resent_Date": "x", "Resent_Sender": "rs@x.test", "Resent_From": "rf@x.test"}, "rs@x.test"),
    ],
)
def test_MS3_the_sender_is_Sender_or_the_first_of_From(kind: Any, headers: dict[str, str], sender: str) -> None:
    mail = mail_of(message_of(kind, **headers), recipients=["b@x.test"])
    assert mail.sender is not None
    assert mail.sender.mailbox == sender


@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ({}, "neither Sender nor From"),
        ({"From": ""}, "neither"),
        ({"Resent_Date": "x", "From": "a@x.test"}, "neither Resent-Sender nor Resent-From"),
        ({"Sender": "a@x.test, b@x.test", "From": "c@x.test"}, "Sender has more than one"),
        ({"From": "nobody"}, "the header From"),
    ],
)
def test_MS3_MS5_no_clear_sender_is_invalid(headers: dict[str, str], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        mail_of(message_of(Message, **headers), recipients=["b@x.test"])


def test_MS3_the_null_path_is_kept() -> None:
    mail = mail_of(message_of(From="a@x.test", To="b@x.test"), sender="")
    assert mail.sender is not None
    assert mail.sender.mailbox == ""
    assert addressed(mail).sender == mail.sender


# --- MS4, MS5 ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"To": "a@x.test"}, ["a@x.test"]),
        ({"Bcc": "c@x.test", "Cc": "b@x.test", "To": "a@x.test"}, ["a@x.test", "b@x.test", "c@x.test"]),
        ({"To": '"A, B" <a@x.test>, C <c@x.test>'}, ["a@x.test", "c@x.test"]),
        ({"To": "g: a@x.test, b@x.test;, c@x.test"}, ["a@x.test", "b@x.test", "c@x.test"]),
        ({"To": "undisclosed-recipients:;", "Bcc": "a@x.test"}, ["a@x.test"]),
        ({"To": "a@x.test (comment)"}, ["a@x.test"]),
        ({"To": '"a b"@x.test'}, ['"a b"@x.test']),
        ({"To": "=?utf-8?q?evil=40e.test=2C_x?= <j@x.test>"}, ["j@x.test"]),
        ({"To": "J\u00fcrgen <j@x.test>"}, ["j@x.test"]),
        ({"To": "\u00fc@x.test"}, ["\u00fc@x.test"]),
    ],
)
def test_MS4_all_mailboxes_in_order_without_names_and_groups(
    kind: Any, headers: dict[str, str], found: list[str]
) -> None:
    assert recipients(mail_of(message_of(kind, From="s@x.test", **headers))) == found


def test_MS4_headers_that_stand_more_than_once_are_all_read() -> None:
    message = message_of(Message, From="s@x.test", To=["a@x.test", "b@x.test"], Cc=["c@x.test", "d@x.test"])
    assert recipients(mail_of(message)) == ["a@x.test", "b@x.test", "c@x.test", "d@x.test"]


def test_MS4_a_list_of_texts_is_read_as_it_will_be_sent() -> None:
    """`EmailMessage` takes it, and parses nothing; redmail gives it."""
    message = message_of(From="a@x.test")
    message["To"] = ["b@x.test", "Carl <c@x.test>", "d@x.test, e@x.test"]
    message["Cc"] = [email.headerregistry.Address("Frank, of us", "f", "x.test")]
    assert recipients(mail_of(message)) == ["b@x.test", "c@x.test", "d@x.test", "e@x.test", "f@x.test"]
    assert b"To: b@x.test, Carl <c@x.test>, d@x.test, e@x.test\r\n" in octets(mail_of(message))
    del message["Cc"]
    message["Cc"] = ["no address"]
    with pytest.raises(InvalidInputError, match="Cc"):
        mail_of(message)


def test_MS4_recipients_that_are_given_are_the_envelope() -> None:
    message = message_of(Message, From="s@x.test", To="garbage", Bcc="c@x.test", Reply_To="more garbage")
    mail = mail_of(message, recipients=["z@x.test"])
    assert recipients(mail) == ["z@x.test"]
    assert b"c@x.test" not in octets(mail)


@pytest.mark.parametrize("headers", [{}, {"To": "undisclosed-recipients:;"}, {"To": ""}])
def test_MS4_no_mailbox_is_invalid(headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="no mailbox in To, Cc or Bcc"):
        mail_of(message_of(From="s@x.test", **headers))


@pytest.mark.parametrize(
    "value",
    [
        "bob", "<>", "@x.test", "a@", "a@x.test b@x.test", "A <a@x.test> B", "a@b@c.test", "a@x.test; b@x.test",
        '""@x.test', '"x" <a@x.test', "a..b@x.test", "=?utf-8?q?a=40x.test?=", "a@x.test, bob", "g: a@x.test, bob;",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["To", "Cc", "Bcc"])
def test_MS5_what_is_not_one_addr_spec_each_is_never_guessed(name: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the header {name} "):
        mail_of(message_of(Message, From="s@x.test", **{name: value}))


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default])
def test_BR12_what_the_parser_of_email_raises_is_an_invalid_header(policy: Any) -> None:
    message = email.message_from_bytes(b"From: s@x.test\nTo: a@\n\nx\n", policy=policy)
    with pytest.raises(InvalidInputError, match="the header To"):
        mail_of(message)


def test_MS5_a_display_name_in_a_Header_object_never_becomes_a_recipient() -> None:
    header = Header("evil@e.test, Victim", "utf-8")
    header.append(" <j@x.test>", "us-ascii")
    message = message_of(Message, From="s@x.test")
    message["To"] = header
    assert recipients(mail_of(message)) == ["j@x.test"]
    message = message_of(Message, From="s@x.test")
    message["To"] = Header("evil@e.test, Victim <j@x.test>", "utf-8")
    with pytest.raises(InvalidInputError, match="the header To"):
        mail_of(message)
    message = message_of(Message, From="s@x.test")
    message["To"] = Header("j@x.test")
    assert recipients(mail_of(message)) == ["j@x.test"]


def test_F84_an_addr_spec_of_a_header_is_checked_as_any_address() -> None:
    with pytest.raises(InvalidInputError):
        mail_of(message_of(Message, From="s@x.test", To="a" * 65 + "@x.test"))


# --- MS6 ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [None, ["z@x.test"]])
def test_MS6_Bcc_is_not_sent_whatever_gave_the_recipients(kind: Any, given: list[str] | None) -> None:
    message = message_of(kind, From="s@x.test", To="a@x.test", Bcc="secret@x.test", Resent_Bcc="hidden@x.test")
    wire = octets(mail_of(message, recipients=given))
    assert b"secret" not in wire
    assert b"hidden" not in wire
    assert b"bcc" not in wire.lower()


def test_MS6_Bcc_in_any_case_and_any_number() -> None:
    message = message_of(Message, From="s@x.test", To="a@x.test", bCC=["b1@x.test", "b2@x.test"])
    mail = mail_of(message)
    assert recipients(mail) == ["a@x.test", "b1@x.test", "b2@x.test"]
    assert octets(mail) == b"From: s@x.test\r\nTo: a@x.test\r\n\r\ntext\r\n"


# --- MS7 ---


def _accented(kind: Any = EmailMessage) -> Any:
    message = kind()
    message["From"], message["To"] = "s@x.test", "a@x.test"
    if kind is EmailMessage:
        message.set_content("h\u00e9llo\n", cte="8bit")
        return message
    raw = b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nh\xc3\xa9llo\n"
    return email.message_from_bytes(b"From: s@x.test\nTo: a@x.test\n" + raw)


@pytest.mark.parametrize("kind", KINDS)
def test_MS7_8_bit_parts_are_kept_where_8BITMIME_is_offered(kind: Any) -> None:
    wire = octets(mail_of(_accented(kind)), EIGHT)
    assert b"h\xc3\xa9llo\r\n" in wire
    assert b"Content-Transfer-Encoding: 8bit\r\n" in wire


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["not offered", "7BIT asked for"])
def test_MS7_8_bit_parts_are_encoded_otherwise(kind: Any, how: str) -> None:
    asked = how == "7BIT asked for"
    mail = mail_of(_accented(kind), params=MailParams(body="7BIT") if asked else None)
    wire = octets(mail, EIGHT if asked else PLAIN)
    assert wire.isascii()
    back = email.message_from_bytes(wire, policy=email.policy.SMTP)
    assert isinstance(back, EmailMessage)
    assert back.get_content() == "h\u00e9llo\n" or back.get_content() == "h\u00e9llo\r\n"


def _parsed(policy: Any, octets: bytes, *headers: bytes) -> Any:
    head = b"".join(header + b"\n" for header in (b"From: s@x.test", b"To: a@x.test", *headers))
    return email.message_from_bytes(head + b"\n" + octets, policy=policy)


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default, email.policy.SMTPUTF8])
@pytest.mark.parametrize(
    ("headers", "octets"),
    [
        ([b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: 8bit"], b"h\xc3\xa9\nb=\n"),
        ([b"Content-Type: text/plain; charset=unknown-8bit", b"Content-Transfer-Encoding: 8bit"], b"\x80\n\xff"),
        ([b"Content-Type: text/plain", b"Content-Transfer-Encoding: 7bit"], b"\xe9 without a charset\n"),
        ([], b"\xe9 without a type\n"),
        ([b"Content-Type: application/json"], b'"\xc3\xa9"\n'),
        ([b"Content-Type: application/x", b"Content-Transfer-Encoding: BINARY"], b"\x00\x80\n\r\xff\r\n"),
    ],
    ids=["a charset", "an unknown charset", "no charset", "no type", "no text", "binary"],
)
def test_MS7_whatever_8_bit_content_was_parsed_is_encoded_where_8BITMIME_is_missing(
    policy: Any, headers: list[bytes], octets: bytes
) -> None:
    message = _parsed(policy, octets, *headers)
    before = message.as_bytes()
    wire = serialised(mail_of(message), PLAIN).message
    assert isinstance(wire, bytes)
    assert wire.isascii()
    assert wire.count(b"MIME-Version: 1.0\r\n") == 1
    back = email.message_from_bytes(wire).get_payload(decode=True)
    assert isinstance(back, bytes)
    assert back.replace(b"\r\n", b"\n") == octets.replace(b"\r\n", b"\n")
    assert message.as_bytes() == before


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default])
def test_MS7_binary_content_is_never_sent_as_lines(policy: Any) -> None:
    """It is base64 where 8BITMIME is offered, too: as lines its octets would change, and BINARYMIME is not declared."""
    octets = b"\x00\r\xff\n\x80"
    headers = [b"MIME-Version: 1.0", b"Content-Type: application/x", b"Content-Transfer-Encoding: binary"]
    sent = serialised(mail_of(_parsed(policy, octets, *headers)), EIGHT)
    assert isinstance(sent.message, bytes)
    assert sent.message.isascii()
    assert sent.params.body is None
    assert email.message_from_bytes(sent.message).get_payload(decode=True) == octets


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default])
def test_MS7_a_message_inside_a_message_is_encoded_part_by_part(policy: Any) -> None:
    inner = b"From: i@x.test\nBcc: kept@x.test\n\nh\xc3\xa9\n"
    octets = (
        b"pre\xc3\xa9\n--B\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n"
        + inner
        + b"\n--B--\n\xc3"
    )
    message = _parsed(
        policy, octets, b"Content-Type: multipart/mixed; boundary=B", b"Content-Transfer-Encoding: binary"
    )
    wire = serialised(mail_of(message), PLAIN).message
    assert isinstance(wire, bytes)
    assert wire.isascii()
    outer: Any = email.message_from_bytes(wire)
    (attached,) = outer.get_payload()
    (forwarded,) = attached.get_payload()
    assert (outer["Content-Transfer-Encoding"], attached["Content-Transfer-Encoding"]) == ("7bit", "7bit")
    assert (forwarded["MIME-Version"], forwarded["Bcc"]) == ("1.0", "kept@x.test")
    assert forwarded.get_payload(decode=True).rstrip() == b"h\xc3\xa9"
    kept = serialised(mail_of(message), EIGHT).message
    assert isinstance(kept, bytes)
    assert b"h\xc3\xa9\r\n" in kept
    assert b"binary" not in kept


@pytest.mark.parametrize("kind", KINDS)
def test_MS7_lines_end_in_CRLF_and_From_is_not_mangled(kind: Any) -> None:
    wire = octets(mail_of(message_of(kind, "a\nFrom b\r\nc", From="s@x.test", To="a@x.test")))
    assert wire.endswith(b"\r\n\r\na\r\nFrom b\r\nc")
    assert wire.count(b"\n") == wire.count(b"\r\n") == wire.count(b"\r")


def test_MS7_long_lines_are_folded_as_the_policy_of_the_message_says() -> None:
    for limit, lines in ((78, 2), (0, 1)):
        message = EmailMessage(policy=email.policy.default.clone(max_line_length=limit))
        message["From"], message["To"], message["Subject"] = "s@x.test", "a@x.test", "word " * 20
        message.set_payload("x")
        head = octets(mail_of(message)).split(b"\r\n\r\n")[0]
        assert head.count(b"\r\n") == 1 + lines


def test_MS7_BINARYMIME_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="BINARYMIME"):
        mail_of(_accented(), params=MailParams(body="BINARYMIME"))


@pytest.mark.parametrize(
    "payload", [["not", "parts"], 7, b"octets"], ids=["a list without multipart", "a number", "bytes"]
)
def test_BR12_what_email_cannot_write_is_invalid(payload: Any) -> None:
    message = message_of(Message, From="s@x.test", To="a@x.test")
    message._payload = payload
    with pytest.raises(InvalidInputError, match="message cannot be serialised"):
        serialised(mail_of(message), EIGHT)


def test_a_soft_time_limit_while_a_message_is_written_passes_unchanged() -> None:
    class SoftLimitError(Exception):
        pass

    class Slow(EmailMessage):
        def __deepcopy__(self, memo: object) -> EmailMessage:
            raise SoftLimitError

    with pytest.raises(SoftLimitError):
        serialised(mail_of(message_of(Slow, From="s@x.test", To="a@x.test")), EIGHT)


# --- MS8 ---


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default, email.policy.SMTPUTF8])
@pytest.mark.parametrize("capabilities", [EIGHT, PLAIN, FULL])
def test_MS8_headers_are_ASCII_where_no_address_needs_more(policy: Any, capabilities: ServerCapabilities) -> None:
    raw = b"From: =?utf-8?q?J=C3=BCrgen?= <s@x.test>\nTo: J\xc3\xbcrgen <a@x.test>\nSubject: h\xc3\xa9llo\n\ntext\n"
    mail = mail_of(email.message_from_bytes(raw, policy=policy))
    assert recipients(mail) == ["a@x.test"]
    sent = serialised(mail, capabilities)
    assert isinstance(sent.message, bytes)
    assert sent.message.isascii()
    assert sent.params.smtputf8 is None
    assert b"<a@x.test>\r\n" in sent.message
    back = email.message_from_bytes(sent.message, policy=email.policy.SMTP)
    assert back["Subject"] == "h\u00e9llo"
    assert str(back["To"]) == "J\u00fcrgen <a@x.test>"


def test_MS8_octets_that_are_no_UTF8_are_still_written_as_ASCII() -> None:
    raw = b"From: s@x.test\nTo: a@x.test\nSubject: h\xe9llo\n folded\n\ntext\n"
    for policy in (email.policy.compat32, email.policy.default):
        wire = octets(mail_of(email.message_from_bytes(raw, policy=policy)))
        assert wire.isascii()
        assert b"Subject: =?" in wire


@pytest.mark.parametrize("kind", KINDS)
def test_MS8_a_display_name_is_encoded_and_the_addr_spec_is_not(kind: Any) -> None:
    wire = octets(mail_of(message_of(kind, From="s@x.test", To="J\u00fcrgen <a@x.test>")))
    assert wire.isascii()
    assert b" <a@x.test>\r\n" in wire


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("headers", "given"),
    [
        ({"To": "\u00fc@x.test"}, None),
        ({"To": "a@\u00fc.test"}, None),
        ({"To": "a@x.test", "Reply_To": "\u00fc@x.test"}, None),
        ({"To": "a@x.test"}, ["\u00fc@x.test"]),
    ],
)
def test_MS8_an_international_address_asks_for_SMTPUTF8_and_headers_in_UTF8(
    kind: Any, headers: dict[str, str], given: list[str] | None
) -> None:
    mail = mail_of(message_of(kind, From="s@x.test", Subject="h\u00e9", **headers), recipients=given)
    sent = serialised(mail, FULL)
    assert sent.params.smtputf8 is True
    assert isinstance(sent.message, bytes)
    assert "Subject: h\u00e9\r\n".encode() in sent.message
    with pytest.raises(ExtensionUnavailableError) as caught:
        serialised(mail, EIGHT)
    assert caught.value.extension == "SMTPUTF8"
    with pytest.raises(InvalidInputError, match="smtputf8"):
        serialised(
            mail_of(message_of(kind, From="s@x.test", **headers), recipients=given, params=MailParams(smtputf8=False)),
            FULL,
        )


# --- MS9, MS10 ---


def test_MS10_SMTPUTF8_may_be_asked_for_and_is_then_used() -> None:
    mail = mail_of(message_of(From="s@x.test", To="a@x.test", Subject="h\u00e9"), params=MailParams(smtputf8=True))
    assert "Subject: h\u00e9".encode() in octets(mail, FULL)


def test_MS9_the_length_is_known_and_declared() -> None:
    message = message_of(From="s@x.test", To="a@x.test")
    wire = b"From: s@x.test\r\nTo: a@x.test\r\n\r\ntext\r\n"
    transport = ScriptedTransport(
        [
            b"220 hi\r\n",
            b"250-x\r\n250-PIPELINING\r\n250 SIZE\r\n",
            b"250 ok\r\n",
            b"250 ok\r\n",
            b"354 go\r\n",
            b"250 ok\r\n",
        ],
        release="line",
    )
    connection = SmtpConnection.from_transport(
        transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="c.test", pipelining=Pipelining.GROUPED
    )
    assert connection.send_message(message, timeout=5).all_delivered
    connection.close()
    assert transport.written == (
        b"EHLO c.test\r\nMAIL FROM:<s@x.test> SIZE=%d\r\nRCPT TO:<a@x.test>\r\nDATA\r\n" % len(wire) + wire + b".\r\n"
    )


@pytest.mark.parametrize(
    ("content", "params", "error"),
    [
        ("a\0b\n", None, InvalidInputError),
        ("x\n", MailParams(body="8BITMIME"), ExtensionUnavailableError),
        ("x\n", MailParams(ret="FULL"), ExtensionUnavailableError),
    ],
)
def test_MS7_MS10_what_cannot_be_sent_is_an_error_and_no_octet(
    content: str, params: MailParams | None, error: type[Exception]
) -> None:
    transport = ScriptedTransport([b"220 hi\r\n", b"250-x\r\n250 SIZE\r\n"], release="line")
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="c.test")
    with pytest.raises(error):
        connection.send_message(message_of(Message, content, From="s@x.test", To="a@x.test"), timeout=5, params=params)
    assert transport.written == b"EHLO c.test\r\n"
    assert connection.usable
    connection.close()


def test_a_Mail_keeps_its_tag_and_its_parameters() -> None:
    params = MailParams(envid="e")
    mail = mail_of(message_of(From="s@x.test", To="a@x.test"), tag="t", params=params)
    assert serialised(mail, EIGHT).tag == "t"
    assert serialised(mail, EIGHT).params == params
    assert serialised(Mail.from_message(mail.email_message), EIGHT).recipients == mail.recipients
