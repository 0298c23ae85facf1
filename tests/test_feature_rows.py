"""Rows of the feature list that no other module holds: a scripted peer, a few lines each, the shell above it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn import (
    AuditEvent,
    AuthenticationError,
    BoundedPolicy,
    CertificateError,
    ConnectionLostError,
    ConnectionPool,
    DeliverBy,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    ListAuditSink,
    Mail,
    MailParams,
    PasswordAuth,
    PermanentReplyError,
    PolicyError,
    ProtocolError,
    RcptParams,
    Recipient,
    RecipientRejected,
    RecipientsRefusedError,
    ReplyError,
    SendResult,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsConfig,
    TlsError,
    TlsMode,
    TransientReplyError,
    UsageError,
    opening,
)
from smtpconn.testing import EOF, SILENCE, LoopbackServer, ScriptedTransport

try:
    import ssl

    RAW = [ssl.SSLError(1, "raw")]
except ImportError:  # runs of this module in WebAssembly
    RAW = []

if TYPE_CHECKING:
    from smtpconn.testing import TestAuthority  # it needs cryptography, which Pyodide runs of this module lack

SENDER = "a@example.com"
RECIPIENTS = ["b@example.com", "c@example.com", "d@example.com"]
BODY = b"Subject: x\r\n\r\nhello\r\n"
GREETING = b"220 mx.example.com\r\n"
OK, GO, BYE = b"250 ok\r\n", b"354 go\r\n", b"221 bye\r\n"
SENT = b"250 ok\r\n" * 2 + GO


def hello(*extensions: str) -> bytes:
    lines = ["mx.example.com", *extensions]
    return b"".join(f"250{' ' if last else '-'}{line}\r\n".encode() for last, line in _marked(lines))


def _marked(lines: list[str]) -> list[tuple[bool, str]]:
    return [(index == len(lines) - 1, line) for index, line in enumerate(lines)]


def over(*said: Any, extensions: tuple[str, ...] = ("PIPELINING",), **options: Any) -> tuple[SmtpConnection, Any]:
    """A connection whose peer says `said`, one item to each flight behind the EHLO."""
    secure, dry = options.pop("secure", False), options.pop("dry", "fail")
    transport = ScriptedTransport([GREETING, hello(*extensions), *said], secure=secure, when_dry=dry)
    options = {"timeout": 5, "tls_mode": TlsMode.NONE, "ehlo_domain": "client.test", **options}
    return SmtpConnection.from_transport(transport, **options), transport


def audited(*said: Any, **options: Any) -> tuple[SmtpConnection, Any, ListAuditSink]:
    sink = ListAuditSink()
    return *over(*said, audit=sink, **options), sink


def names(sink: ListAuditSink) -> list[str]:
    return [type(event).__name__ for event in sink.events]


def after_hello(transport: Any) -> bytes:
    """What was written behind the first line, which is the EHLO or LHLO."""
    return bytes(transport.written).split(b"\r\n", 1)[1]


def end_of_chain(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# --- sending ---------------------------------------------------------------------------------------------------------


def test_E59_F70_the_second_mail_of_a_connection_has_neither_RSET_nor_EHLO_in_front() -> None:
    connection, transport = over(
        SENT, b"250 2.0.0 Ok: queued as AAAAAAA\r\n", SENT, b"250 2.0.0 Ok: queued as BBBBBBB\r\n"
    )
    results = [connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5) for _ in range(2)]
    assert [result.queue_id for result in results] == ["AAAAAAA", "BBBBBBB"]
    assert transport.written.count(b"MAIL FROM") == 2
    assert transport.written.count(b"EHLO") == 1
    assert b"RSET" not in transport.written
    connection.close()


@pytest.mark.parametrize(
    "sender",
    ["ü\r@example.com", "ü\r\nRSET@example.com", "a@b.com\r\nRSET"],
    ids=["E71 CR in a UTF-8 address", "E71 CRLF", "E55 a command behind it"],
)
def test_a_control_octet_in_an_address_is_refused_and_costs_nothing(sender: str) -> None:
    connection, transport = over(SENT, OK, extensions=("PIPELINING", "SMTPUTF8"))
    with pytest.raises(InvalidInputError) as caught:
        connection.send(sender, RECIPIENTS[:1], BODY, timeout=5)
    assert after_hello(transport) == b""
    assert caught.value.delivery is Delivery.NOT_DELIVERED
    assert connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5).all_delivered
    connection.close()


def test_E75_F58_a_hidden_recipient_is_an_RCPT_and_the_octets_of_the_message_are_not_touched() -> None:
    message = b"To: b@example.com\r\nBcc: c@example.com\r\n\r\nx\r\n"
    connection, transport = over(OK * 3 + GO, OK)
    connection.send(SENDER, RECIPIENTS[:2], message, timeout=5)
    assert transport.written.count(b"RCPT TO:<c@example.com>\r\n") == 1
    assert after_hello(transport).endswith(b"DATA\r\n" + message + b".\r\n")
    connection.close()


def test_E77_the_empty_sender_is_the_null_path() -> None:
    connection, transport = over(SENT, OK)
    connection.send("", RECIPIENTS[:1], BODY, timeout=5)
    assert after_hello(transport).startswith(b"MAIL FROM:<>\r\n")
    connection.close()


def test_E83_an_LMTP_server_that_answers_once_for_three_leaves_two_unknown() -> None:
    connection, transport = over(OK * 4 + GO, (OK, SILENCE), protocol="lmtp")
    with pytest.raises(DeliveryUnknownError) as caught:
        connection.send_lmtp(SENDER, RECIPIENTS, BODY, timeout=2)
    assert [one.delivery for one in caught.value.recipients] == [
        Delivery.DELIVERED,
        Delivery.UNKNOWN,
        Delivery.UNKNOWN,
    ]
    assert [one.reply and one.reply.code for one in caught.value.recipients] == [250, None, None]
    assert isinstance(caught.value.__cause__, SmtpTimeoutError)
    assert transport.written.endswith(b"\r\n.\r\n")
    with pytest.raises(ConnectionLostError):
        connection.noop(timeout=1)


def test_E138_the_queue_id_may_stand_on_the_second_line() -> None:
    connection, _ = over(SENT, b"250-accepted\r\n250 OK id=1rABcD-0000Xy-2Z\r\n")
    assert connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5).queue_id == "1rABcD-0000Xy-2Z"
    connection.close()


@pytest.mark.parametrize("newlines", ["strict", "crlf"])
@pytest.mark.parametrize("length", [998, 5_000])
def test_E169_a_long_line_passes_as_it_is(newlines: str, length: int) -> None:
    message = b"x" * length + b"\r\n"
    connection, transport = over(SENT, OK)
    connection.send(SENDER, RECIPIENTS[:1], message, timeout=5, newlines=newlines)
    assert after_hello(transport).endswith(b"DATA\r\n" + message + b".\r\n")
    connection.close()


def test_E182_F98b_a_policy_that_refuses_one_mail_of_three_lets_the_others_go() -> None:
    connection, _ = over(SENT, OK, SENT, OK, policy=BoundedPolicy(max_recipients=1))
    mails = [Mail(SENDER, RECIPIENTS[:count], BODY) for count in (1, 2, 1)]
    first, second, third = connection.send_many(mails, timeout=5)
    assert isinstance(first.result, SendResult)
    assert isinstance(second.error, PolicyError)
    assert isinstance(third.result, SendResult)
    connection.close()


def test_E137_F59_send_many_and_send_message_work_over_LMTP() -> None:
    from email.message import EmailMessage

    message = EmailMessage()
    message["From"], message["To"] = SENDER, RECIPIENTS[0]
    message.set_content("x")
    connection, transport = over(SENT, OK, SENT, OK, protocol="lmtp")
    assert connection.send_message(message, timeout=5).all_delivered
    (outcome,) = connection.send_many([Mail(SENDER, RECIPIENTS[:1], BODY)], timeout=5)
    assert outcome.result is not None
    assert outcome.result.all_delivered
    assert transport.written.startswith(b"LHLO ")
    connection.close()


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_E65_every_kind_of_body_makes_the_same_wire_but_for_what_MAIL_declares(chunking: bool) -> None:
    message = b".a\r\n" + b"b" * 100 + b"\r\n"
    bodies: list[Any] = [
        message, bytearray(message), memoryview(message), io.BytesIO(message), iter([message]),
        [message[at : at + 1] for at in range(len(message))],
    ]  # fmt: skip
    wires, declared = [], []
    extensions = ("PIPELINING", "CHUNKING", "SIZE", "8BITMIME")
    for body in bodies:
        said = (OK * 2, OK) if chunking else (SENT, OK)
        connection, transport = over(*said, extensions=extensions)
        verb = connection.send_bdat if chunking else connection.send
        assert verb(SENDER, RECIPIENTS[:1], body, timeout=5).all_delivered
        line, rest = after_hello(transport).split(b"\r\n", 1)
        declared.append(line.removeprefix(b"MAIL FROM:<a@example.com>"))
        wires.append(rest)
        connection.close()
    assert set(wires) == {wires[0]}
    assert declared == [b" SIZE=106"] * 3 + [b" BODY=8BITMIME"] * 3


ORDER: list[Any] = [
    ("F50 a type before the state", {"recipients": "b@example.com"}, "closed", TypeError, None),
    ("F50 a value before the state", {"message": b"a\nb"}, "closed", InvalidInputError, "bare LF"),
    ("F50 a contradiction before the state", {"message": b"\xff", "params": MailParams(body="7BIT")}, "closed",
     InvalidInputError, "7BIT"),
    ("F50 the state before the gate", {"params": MailParams(ret="FULL")}, "closed", UsageError, "closed"),
    ("F50 E54 no recipients", {"recipients": []}, "open", InvalidInputError, "recipients must not be empty"),
    ("F50 the gate before SIZE", {"params": MailParams(ret="FULL"), "message": BODY * 9}, "open",
     ExtensionUnavailableError, "DSN"),
    ("F50 SIZE before 8 bits", {"message": b"\xff" * 200}, "open", ExtensionUnavailableError, "the server takes"),
    ("F50 8 bits before the policy", {"message": b"\xff"}, "open", ExtensionUnavailableError, "8BITMIME"),
    ("F50 the sender first", {}, "open", PolicyError, "sender"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "state", "error", "words"), [pytest.param(*row[1:], id=row[0]) for row in ORDER])
def test_of_two_faults_of_a_call_the_first_in_order_is_raised_and_nothing_is_written(
    given: dict[str, Any], state: str, error: type[Exception], words: str | None
) -> None:
    class RefusesAll:
        def check_sender(self, sender: object) -> None:
            raise PolicyError("sender")

        def check_recipients(self, recipients: object) -> None:
            raise PolicyError("recipients")

        def check_message_size(self, size: int | None) -> None:
            raise PolicyError("size")

    connection, transport = over(extensions=("PIPELINING", "SIZE 100"), policy=RefusesAll())
    if state == "closed":
        connection.close()
    arguments = {"sender": SENDER, "recipients": RECIPIENTS[:1], "message": BODY, **given}
    with pytest.raises(error, match=words) as caught:
        connection.send(**arguments, timeout=5)
    assert type(caught.value) is error
    assert after_hello(transport) == b""
    assert connection.usable == (state == "open")
    connection.close()


@pytest.mark.parametrize("verb", ["send", "send_bdat", "send_lmtp", "send_lmtp_bdat", "send_many"])
def test_BS14_all_parameters_go_out_in_both_protocols_by_DATA_and_by_BDAT(verb: str) -> None:
    """And those of a recipient beside this recipient alone (features:F75, MP1 to MP15)."""
    extensions = (
        "PIPELINING", "CHUNKING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "AUTH PLAIN", "REQUIRETLS", "FUTURERELEASE",
        "DELIVERBY", "MT-PRIORITY",
    )  # fmt: skip
    params = MailParams(
        body="8BITMIME", smtputf8=True, ret="HDRS", envid="a+b", auth="<>", requiretls=True, hold_for=60,
        deliver_by=DeliverBy(60, "N"), mt_priority=-1, extra={"XFOO": "1"},
    )  # fmt: skip
    recipients: list[Any] = [
        Recipient(
            "b@example.com", RcptParams(notify=["DELAY", "SUCCESS"], orcpt="rfc822;x+y@z.test", extra={"XB": None})
        ),
        "c@example.com",
    ]
    protocol = "lmtp" if "lmtp" in verb else "smtp"
    by_bdat = "bdat" in verb or verb == "send_many"
    said = (OK * 3 if by_bdat else OK * 3 + GO, OK * (2 if protocol == "lmtp" else 1))
    connection, transport = over(*said, extensions=extensions, protocol=protocol, secure=True)
    if verb == "send_many":
        (outcome,) = connection.send_many([Mail(SENDER, recipients, BODY, params=params, chunking=True)], timeout=5)
        assert outcome.error is None
    else:
        assert getattr(connection, verb)(SENDER, recipients, BODY, timeout=5, params=params).all_delivered
    content = b"BDAT 21 LAST\r\n" + BODY if by_bdat else b"DATA\r\n" + BODY + b".\r\n"
    assert after_hello(transport) == (
        b"MAIL FROM:<a@example.com> SIZE=21 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<> REQUIRETLS HOLDFOR=60"
        b" BY=60;N MT-PRIORITY=-1 XFOO=1\r\n"
        b"RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@z.test XB\r\n"
        b"RCPT TO:<c@example.com>\r\n" + content
    )
    connection.close()


@pytest.mark.parametrize("verb", ["send", "send_bdat", "send_lmtp", "send_lmtp_bdat"])
def test_F105a_an_error_about_the_content_has_a_verdict_for_each_recipient(verb: str) -> None:
    connection, transport = over(protocol="lmtp" if "lmtp" in verb else "smtp")
    with pytest.raises(InvalidInputError) as caught:
        getattr(connection, verb)(SENDER, iter(RECIPIENTS), b"a\nb", timeout=5)
    assert [(one.address, one.delivery) for one in caught.value.recipients] == [
        (address, Delivery.NOT_DELIVERED) for address in RECIPIENTS
    ]
    assert after_hello(transport) == b""
    connection.close()


def test_F98_a_refusal_that_a_policy_raises_again_and_again_speaks_of_the_mail_at_hand() -> None:
    refusal = PolicyError("closed on Sundays")

    class Closed:
        def check_sender(self, sender: object) -> None:
            raise refusal

        def check_recipients(self, recipients: object) -> None: ...

        def check_message_size(self, size: int | None) -> None: ...

    connection, _ = over(policy=Closed())
    for count in (2, 1, 3):
        with pytest.raises(PolicyError) as caught:
            connection.send(SENDER, RECIPIENTS[:count], BODY, timeout=5)
        assert [one.address for one in caught.value.recipients] == RECIPIENTS[:count]
    connection.close()


# --- session verbs ---------------------------------------------------------------------------------------------------


def test_E198_all_lines_of_a_long_answer_to_EXPN_are_there() -> None:
    members = [f"u{number}@example.com" for number in range(500)]
    answer = "".join(f"250{'-' if one != members[-1] else ' '}{one}\r\n" for one in members).encode()
    connection, _ = over(answer)
    assert connection.expn("everybody", timeout=5).lines == tuple(members)
    connection.close()


def test_E92_quit_on_a_failed_session_writes_nothing_and_reports_nothing_more() -> None:
    connection, transport, sink = audited(EOF)
    with pytest.raises(ConnectionLostError):
        connection.noop(timeout=5)
    written, events = bytes(transport.written), names(sink)
    assert connection.quit(timeout=5) is False
    assert (bytes(transport.written), names(sink)) == (written, events)


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("begun", [False, True])
def test_F107_a_body_that_closes_its_own_connection_ends_the_send_as_a_lost_connection(
    begun: bool, chunking: bool
) -> None:
    """faults:BR12: over a caller's own transport, too, which raises once it is closed (F111)."""

    def body() -> Iterator[bytes]:
        if begun:
            yield b"a\r\n"
        connection.close()
        yield b"b\r\n"

    connection, transport = over(OK * 2 if chunking else SENT, extensions=("PIPELINING", "CHUNKING"))
    verb = connection.send_bdat if chunking else connection.send
    with pytest.raises(ConnectionLostError) as caught:
        verb(SENDER, RECIPIENTS[:1], body(), timeout=5)
    assert [one.delivery for one in caught.value.recipients] == [Delivery.NOT_DELIVERED]
    assert b"LAST" not in transport.written
    assert not transport.written.endswith(b"\r\n.\r\n")


def test_F107_E90_a_transport_that_fails_when_it_is_looked_at_is_a_lost_connection() -> None:
    class Failing(ScriptedTransport):
        broken = False

        def readable(self) -> bool:
            if self.broken:
                raise OSError(5, "input/output")
            return super().readable()

    acts: list[Any] = [lambda connection: connection.noop(timeout=5), lambda connection: connection.quit(timeout=5)]
    for act, error in zip(acts, (ConnectionLostError, None), strict=True):
        transport = Failing([GREETING, hello()], when_dry="eof")
        options: dict[str, Any] = {"tls_mode": TlsMode.NONE, "timeout": 5, "ehlo_domain": "client.test"}
        connection = SmtpConnection.from_transport(transport, **options)
        transport.broken = True
        if error is None:
            assert act(connection) is False
        else:
            with pytest.raises(error):
                act(connection)
        assert transport.closed
        assert after_hello(transport) == b""


# --- audit -----------------------------------------------------------------------------------------------------------


def test_E97_F102_a_refused_recipient_aborts_nothing_and_the_end_of_the_stream_does_once() -> None:
    connection, _, sink = audited((b"250 ok\r\n550 no\r\n503 no\r\n",), EOF)
    with pytest.raises(RecipientsRefusedError):
        connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5)
    assert [event.code for event in sink.events if isinstance(event, RecipientRejected)] == [550]
    assert not {"RecipientAccepted", "SessionAborted"} & set(names(sink))
    with pytest.raises(SmtpError):
        connection.noop(timeout=5)
    assert names(sink).count("SessionAborted") == 1


def test_E98_F102_the_end_of_the_stream_in_a_transaction_is_one_abort_behind_the_verdict() -> None:
    connection, _, sink = audited(b"250 ok\r\n", EOF, extensions=())
    with pytest.raises(ConnectionLostError):
        connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5)
    connection.close()
    assert names(sink)[-2:] == ["MailSettled", "SessionAborted"]
    assert names(sink).count("SessionAborted") == 1


def _mail_in_chunks(connection: SmtpConnection) -> None:
    connection.send_bdat(SENDER, RECIPIENTS[:1], [b"x\r\n" * 30_000], timeout=5)


ENVELOPE_ACCEPTED = [("MailFromAccepted", 250), ("RecipientAccepted", 250)]
SETTLED: dict[str, list[Any]] = {
    "delivered": [("MailSettled", 1, 0, 0)],
    "refused": [("MailSettled", 0, 1, 0)],
    "in doubt": [("MailSettled", 0, 0, 1)],
}
QUIT_OK, ABORTED = [("QuitCompleted",)], [("SessionAborted",)]
EVENTS: list[Any] = [
    ("F101 EHLO again", lambda c: c.rehlo(timeout=5), [hello(), BYE], [("EhloCompleted",), *QUIT_OK]),
    ("F101 EHLO again refused", lambda c: c.rehlo(timeout=5), [b"500 no\r\n"], ABORTED),
    (
        "F101 AUTH",
        lambda c: c.auth_plain("u", "p", timeout=5),
        [b"235 ok\r\n", BYE],
        [("AuthCompleted", "PLAIN"), *QUIT_OK],
    ),
    ("F101 F102 AUTH refused", lambda c: c.auth_plain("u", "p", timeout=5), [b"535 no\r\n", BYE], QUIT_OK),
    ("F101 nothing of NOOP", lambda c: c.noop(timeout=5), [OK, BYE], QUIT_OK),
    (
        "F101 BDAT",
        _mail_in_chunks,
        [OK * 2, OK, OK, BYE],
        [*ENVELOPE_ACCEPTED, ("MessageAccepted", 250), *SETTLED["delivered"], *QUIT_OK],
    ),
    (
        "F101 F102 a chunk refused",
        _mail_in_chunks,
        [OK * 2, b"452 no\r\n", BYE],
        [*ENVELOPE_ACCEPTED, *SETTLED["refused"], *QUIT_OK],
    ),
    (
        "F101 F102 a message refused",
        None,
        [SENT, b"554 no\r\n", BYE],
        [*ENVELOPE_ACCEPTED, *SETTLED["refused"], *QUIT_OK],
    ),
    (
        "F101 a lone dot",
        None,
        [b"250 ok\r\n550 no\r\n354 go\r\n", b"554 no\r\n", BYE],
        [("MailFromAccepted", 250), ("RecipientRejected", 550), *SETTLED["refused"], *QUIT_OK],
    ),
    ("F101 F102 in doubt", None, [SENT, EOF], [*ENVELOPE_ACCEPTED, *SETTLED["in doubt"], *ABORTED]),
    ("F102 QUIT not answered", lambda c: None, [EOF], ABORTED),
]


@pytest.mark.parametrize(("act", "said", "events"), [pytest.param(*row[1:], id=row[0]) for row in EVENTS])
def test_which_events_follow_the_first_EHLO(act: Any, said: list[Any], events: list[Any]) -> None:
    connection, _, sink = audited(*said, extensions=("PIPELINING", "CHUNKING", "AUTH PLAIN"), allow_plaintext_auth=True)
    with contextlib.suppress(SmtpError):
        (act or mail)(connection)
    connection.quit(timeout=1)
    assert [_shown(event) for event in sink.events[3:]] == events


def _shown(event: AuditEvent) -> tuple[Any, ...]:
    """The name and the event's own fields."""
    common = {field.name for field in dataclasses.fields(AuditEvent)}
    own = [getattr(event, field.name) for field in dataclasses.fields(event) if field.name not in common]
    return (type(event).__name__, *own)


@pytest.mark.parametrize(
    ("greeting", "events"),
    [(b"554 no\r\n", [("GreetingReceived", 554), *QUIT_OK]), (b"421 no\r\n", [("GreetingReceived", 421), *ABORTED])],
)
def test_F101_a_greeting_that_refuses_is_an_event_too(greeting: bytes, events: list[Any]) -> None:
    sink = ListAuditSink()
    with pytest.raises(ReplyError):
        SmtpConnection.from_transport(
            ScriptedTransport([greeting, BYE]), tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test", audit=sink
        )
    assert [_shown(event) for event in sink.events] == [("Connected",), *events]


def test_F101_RCPTs_are_told_as_they_were_written_and_verdicts_as_recipients_were_given() -> None:
    connection, _, sink = audited(b"250 ok\r\n250 ok\r\n551 no\r\n354 go\r\n", OK)
    connection.send(SENDER, ["b@example.com", "c@example.com", "b@EXAMPLE.com", "c@example.com"], BODY, timeout=5)
    assert names(sink)[3:] == [
        "MailFromAccepted", "RecipientAccepted", "RecipientRejected", "MessageAccepted", "MailSettled",
    ]  # fmt: skip
    settled: Any = sink.events[-1]
    assert (settled.delivered, settled.not_delivered, settled.unknown) == (2, 2, 0)
    connection.close()


def test_E184_LMTP_reports_each_final_reply() -> None:
    connection, _, sink = audited(OK * 3 + GO, b"250 ok\r\n452 full\r\n", protocol="lmtp")
    connection.send(SENDER, RECIPIENTS[:2], BODY, timeout=5)
    final = [(type(event).__name__, event.code) for event in sink.events[-3:-1]]  # type: ignore[attr-defined]
    assert final == [("MessageAccepted", 250), ("RecipientRejected", 452)]
    assert names(sink)[-1] == "MailSettled"
    connection.close()


@pytest.mark.parametrize(
    ("protocol", "said", "named"),
    [
        ("smtp", [b"221 bye\r\n"], []),
        ("smtp", [b"250 ok\r\n221 bye\r\n"], [("MailFromAccepted", 250), ("RecipientRejected", 221)]),
        ("smtp", [SENT, b"221 bye\r\n"], [("MailFromAccepted", 250), ("RecipientAccepted", 250)]),
        (
            "lmtp",
            [SENT, b"221 bye\r\n"],
            [("MailFromAccepted", 250), ("RecipientAccepted", 250), ("RecipientRejected", 221)],
        ),
    ],
)
def test_F101_a_farewell_accepts_nothing_whatever_it_answers(
    protocol: str, said: list[bytes], named: list[tuple[str, int]]
) -> None:
    """221 outside QUIT is 421 (faults:BR2): the events must not say other than `MailSettled`."""
    connection, _, sink = audited(*said, protocol=protocol)
    (outcome,) = connection.send_many([Mail(SENDER, RECIPIENTS[:1], BODY)], timeout=5)
    assert outcome.delivery is Delivery.NOT_DELIVERED
    events: list[Any] = sink.events[3:]
    assert [(type(event).__name__, event.code) for event in events[:-2]] == named
    assert (events[-2].delivered, events[-2].not_delivered, events[-2].unknown) == (0, 1, 0)
    assert type(events[-1]).__name__ == "SessionAborted"


def test_E185_F102_close_without_QUIT_is_one_abort() -> None:
    connection, _, sink = audited()
    connection.close()
    connection.close()
    assert names(sink).count("SessionAborted") == 1
    assert names(sink)[-1] == "SessionAborted"


def test_E186_F102_a_421_is_one_abort_and_quit_adds_nothing() -> None:
    connection, transport, sink = audited(b"421 4.3.2 closing\r\n")
    with pytest.raises(ServiceUnavailableError):
        connection.noop(timeout=5)
    assert connection.is_shutting_down
    assert connection.quit(timeout=5) is False
    assert b"QUIT" not in transport.written
    assert names(sink).count("SessionAborted") == 1
    assert names(sink)[-1] == "SessionAborted"


def test_E189_an_interrupt_behind_the_end_of_data_settles_before_it_aborts() -> None:
    connection, _, sink = audited(OK * 3 + GO, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        connection.send(SENDER, RECIPIENTS[:2], BODY, timeout=5)
    assert names(sink)[-2:] == ["MailSettled", "SessionAborted"]
    settled: Any = sink.events[-2]
    assert (settled.delivered, settled.not_delivered, settled.unknown) == (0, 0, 2)


@pytest.mark.parametrize(
    ("goodbye", "error"),
    [(b"421 4.3.2 closing\r\n", ServiceUnavailableError), (BYE, ServiceUnavailableError), (EOF, ConnectionLostError)],
    ids=["421", "221", "EOF"],
)
@pytest.mark.parametrize("verb", ["noop", "send", "rehlo"])
def test_F91_a_goodbye_shuts_the_connection_down_whatever_was_asked(verb: str, goodbye: Any, error: Any) -> None:
    connection, transport = over(goodbye, extensions=())
    call = getattr(connection, verb)
    with pytest.raises(error) as caught:
        call(*((SENDER, RECIPIENTS, BODY) if verb == "send" else ()), timeout=5)
    if isinstance(goodbye, bytes):
        assert caught.value.reply.raw == goodbye
    assert connection.is_shutting_down
    assert connection.quit(timeout=5) is False
    assert b"QUIT" not in transport.written


def test_F104_SY11_no_option_is_in_the_repr_of_a_connection() -> None:
    class Seen:
        def __repr__(self) -> str:
            return "SEEN"

        def on_event(self, event: object) -> None: ...

    connection, _ = over(policy=BoundedPolicy(max_recipients=7), audit=Seen())
    assert "SEEN" not in repr(connection)
    assert "Policy" not in repr(connection)
    connection.close()


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [TlsError("no handshake"), CertificateError("untrusted"), *RAW, ConnectionResetError("raw")],
)
def test_E24_E188_F16_a_handshake_that_fails_closes_and_reports_no_upgrade(failure: Exception) -> None:
    """F107, E108: also what a transport of the caller's lets through, and the chain ends at it."""
    sink = ListAuditSink()
    transport = ScriptedTransport([GREETING, hello("STARTTLS"), b"220 go\r\n"], start_tls_error=failure)
    with pytest.raises(TlsError) as caught:
        SmtpConnection.from_transport(
            transport,
            tls_mode=TlsMode.STARTTLS,
            tls_config=TlsConfig(server_name="mx.example.com"),
            timeout=5,
            ehlo_domain="client.test",
            audit=sink,
        )
    assert caught.value.delivery is Delivery.NOT_DELIVERED
    assert end_of_chain(caught.value) is failure
    assert bytes(transport.written) == b"EHLO client.test\r\nSTARTTLS\r\n"
    assert len(transport.tls_starts) == 1
    assert "TlsUpgraded" not in names(sink)
    assert names(sink).count("SessionAborted") == 1


@pytest.mark.parametrize("mode", [TlsMode.IMPLICIT, TlsMode.STARTTLS])
def test_F112a_tls_says_version_cipher_name_and_certificate(mode: TlsMode, authority: TestAuthority) -> None:
    tls: Any = mode.name.lower()
    with LoopbackServer(tls=tls, ca=authority) as server:
        config = TlsConfig(trust=authority.pem, server_name="localhost")
        with SmtpConnection.connect("127.0.0.1", server.port, mode, timeout=5, tls_config=config) as connection:
            info = connection.tls
            assert info is not None
            assert info.version in ("TLSv1.2", "TLSv1.3")
            assert info.cipher
            assert info.server_name == "localhost"
            assert info.peer_certificate is not None
            assert info.peer_certificate[:1] == b"\x30"
    in_clear, _ = over()
    assert in_clear.tls is None
    in_clear.close()


# --- errors ----------------------------------------------------------------------------------------------------------


def mail(connection: SmtpConnection, **options: Any) -> object:
    return connection.send(SENDER, RECIPIENTS[:1], options.pop("message", BODY), timeout=0.2, **options)


def noop(connection: SmtpConnection) -> None:
    connection.noop(timeout=0.2)


CAUSES: list[Any] = [
    ("F105 lost", noop, [ConnectionResetError(104, "reset")], ConnectionLostError, "NOOP"),
    ("F105 4yz", mail, [b"451 no\r\n503 x\r\n503 x\r\n"], TransientReplyError, "MAIL"),
    ("F105 5yz", mail, [SENT, b"552 no\r\n"], PermanentReplyError, "end of data"),
    ("F105 another class", noop, [b"354 go\r\n"], ProtocolError, "NOOP"),
    ("F105 malformed", noop, [b"hello\r\n"], ProtocolError, "NOOP"),
    ("F105 too long", noop, [b"250 " + b"x" * 20_000 + b"\r\n"], ProtocolError, "NOOP"),
    ("F105 inconsistent", noop, [b"250-x\r\n251 y\r\n"], ProtocolError, "NOOP"),
    ("F105 closed", noop, [EOF], ConnectionLostError, "NOOP"),
    (
        "F105 an extension",
        lambda connection: mail(connection, params=MailParams(ret="FULL")),
        [],
        ExtensionUnavailableError,
        "input",
    ),
    (
        "F105 a mechanism",
        lambda connection: connection.auth_oauthbearer("t", timeout=1),
        [],
        ExtensionUnavailableError,
        "input",
    ),
    (
        "F105 credentials",
        lambda connection: connection.auth_plain("u", "p", timeout=1),
        [b"535 no\r\n"],
        AuthenticationError,
        "AUTH PLAIN",
    ),
    (
        "F105 a challenge",
        lambda connection: connection.auth_scram("u", "p", timeout=1),
        [b"334 ????\r\n"],
        ProtocolError,
        "AUTH SCRAM-SHA-256",
    ),
    ("F105 a value", lambda connection: mail(connection, message=b"a\nb"), [], InvalidInputError, "input"),
    ("F105 the wrong protocol", lambda c: c.send_lmtp(SENDER, RECIPIENTS, BODY, timeout=1), [], UsageError, "input"),
    ("F106 time", noop, [SILENCE], SmtpTimeoutError, "NOOP"),
    ("F106 all refused", mail, [b"250 ok\r\n550 no\r\n503 x\r\n"], RecipientsRefusedError, "RCPT"),
    ("F106 goodbye", noop, [b"421 bye\r\n"], ServiceUnavailableError, "NOOP"),
    ("F106 nobody knows", mail, [SENT, EOF], DeliveryUnknownError, "end of data"),
]


AN_EXTENSION = [row[0] for row in CAUSES].index("F105 an extension")


@pytest.mark.parametrize(("act", "said", "error", "stage"), [pytest.param(*row[1:], id=row[0]) for row in CAUSES])
def test_each_cause_has_its_class_and_its_stage(act: Any, said: list[Any], error: type[SmtpError], stage: str) -> None:
    """Those of connecting, DNS, the handshake, injection and policies are asserted where these are."""
    connection, transport = over(
        *said, extensions=("PIPELINING", "AUTH PLAIN SCRAM-SHA-256"), allow_plaintext_auth=True
    )
    with pytest.raises(error) as caught:
        act(connection)
    assert type(caught.value) is error
    assert caught.value.stage == stage
    permanent = {PermanentReplyError: True, AuthenticationError: True, TransientReplyError: False}
    if error in permanent:
        assert caught.value.permanent is permanent[error]
        assert caught.value.reply is not None
    if isinstance(caught.value, ExtensionUnavailableError):
        assert caught.value.extension == ("AUTH" if act is not CAUSES[AN_EXTENSION][1] else "DSN")
    if said == [b"250-x\r\n251 y\r\n"]:
        assert "250" in str(caught.value)
        assert "251" in str(caught.value)
    if stage == "input":
        assert after_hello(transport) == b""
        assert caught.value.permanent is True
        assert caught.value.delivery is Delivery.NOT_DELIVERED
    connection.close()


def test_F105_a_wrong_type_is_a_type_error() -> None:
    connection, transport = over()
    text: Any = "text"
    with pytest.raises(TypeError):
        mail(connection, message=text)
    assert after_hello(transport) == b""
    connection.close()


@pytest.mark.parametrize("failure", [ConnectionResetError(104, "reset"), OSError(5, "input/output")], ids=repr)
def test_E108_F107_a_failed_read_ends_in_the_error_of_the_system(failure: OSError) -> None:
    connection, _ = over(failure)
    with pytest.raises(ConnectionLostError) as caught:
        connection.noop(timeout=5)
    assert end_of_chain(caught.value) is failure


def test_E193_who_waits_learns_why_his_turn_never_came() -> None:
    """The fault of another thread's call is `ConnectionLostError`."""
    begun, release = threading.Event(), threading.Event()
    seen: list[SmtpError] = []

    def failing() -> Iterator[bytes]:
        raise OSError("source")

    def body() -> Iterator[bytes]:
        begun.set()
        assert release.wait(10)
        yield from failing()

    connection, _ = over(SENT)

    def first() -> None:
        with pytest.raises(OSError, match="source"):
            connection.send(SENDER, RECIPIENTS[:1], body(), timeout=10)

    def second() -> None:
        try:
            connection.noop(timeout=10)
        except SmtpError as error:
            seen.append(error)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert [type(error) for error in seen] == [ConnectionLostError]


# --- opening ---------------------------------------------------------------------------------------------------------


def test_F4_a_TLS_mode_is_said_by_the_caller_and_none_is_opportunistic() -> None:
    assert [mode.name for mode in TlsMode] == ["IMPLICIT", "STARTTLS", "NONE"]
    assert inspect.signature(SmtpConnection.connect).parameters["tls_mode"].default is inspect.Parameter.empty


def test_F5_a_given_transport_is_greeted_and_its_word_on_security_decides() -> None:
    sink = ListAuditSink()
    for secure in (False, True):
        transport = ScriptedTransport([GREETING, hello("AUTH PLAIN"), b"235 ok\r\n"], secure=secure)
        connection = SmtpConnection.from_transport(
            transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test", audit=sink
        )
        if secure:
            connection.auth_plain("user", "pass", timeout=5)
        else:
            with pytest.raises(UsageError, match="allow_plaintext_auth"):
                connection.auth_plain("user", "pass", timeout=5)
            assert after_hello(transport) == b""
        connection.close()
    assert names(sink)[:4] == ["Connected", "GreetingReceived", "EhloCompleted", "SessionAborted"]


def test_F5_the_domain_is_validated_before_any_octet() -> None:
    transport = ScriptedTransport([GREETING])
    with pytest.raises(InvalidInputError):
        SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="a b")
    assert bytes(transport.written) == b""


def test_E114_without_a_name_that_has_a_dot_EHLO_says_the_sockets_own_address(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any) -> Any:
        raise AssertionError("a DNS query")

    monkeypatch.setattr("socket.gethostname", lambda: "undotted")
    for query in ("getfqdn", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(f"socket.{query}", asked)
    opening._own_name.cache_clear()
    try:
        with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5):
            assert server.sessions[0].ehlo_domain == "[127.0.0.1]"
    finally:
        opening._own_name.cache_clear()


def test_BS20_LMTP_over_a_unix_socket(tmp_path: Path) -> None:
    """The default greets as `localhost` (features:F9a)."""
    path = str(tmp_path / "lmtp")
    with LoopbackServer(protocol="lmtp", unix_socket=path) as server:
        with SmtpConnection.connect_lmtp(unix_socket=path, timeout=5) as connection:
            assert connection.send_lmtp(SENDER, RECIPIENTS, BODY, timeout=5).all_delivered
        assert server.sessions[0].commands[:1] == ["LHLO"]


def test_BS20_the_source_address_is_what_the_server_sees(server: LoopbackServer) -> None:
    with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5, source_address=("127.0.0.2", 0)):
        peer: Any = server.sessions[0].peer
        assert peer[0] == "127.0.0.2"


def test_E108_a_failed_write_ends_in_the_error_of_the_system() -> None:
    failure = BrokenPipeError(32, "broken pipe")
    transport = ScriptedTransport(
        [GREETING, hello()], accept=len(b"EHLO client.test\r\n"), then=failure, when_dry="eof"
    )
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test")
    with pytest.raises(SmtpError) as caught:
        connection.noop(timeout=5)
    assert end_of_chain(caught.value) is failure


@pytest.mark.parametrize("greeting", [b"450 4.3.2 later\r\n", b"554 no\r\n"], ids=["450", "554"])
def test_E115_a_refused_greeting_leads_to_the_next_address(greeting: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(greeting)
            accepted.settimeout(5)
            while accepted.recv(4_096):
                accepted.sendall(BYE)

    with LoopbackServer() as server, socket.create_server(("127.0.0.2", server.port)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        found = [(socket.AF_INET, 1, 6, "", (ip, 0)) for ip in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with SmtpConnection.connect("two.example.com", server.port, TlsMode.NONE, timeout=5) as connection:
            connection.noop(timeout=5)
        thread.join(10)
        assert not thread.is_alive()
        assert server.sessions[0].commands == ["EHLO", "NOOP", "QUIT"]


def test_E205_the_domain_is_set_while_another_thread_sends_and_used_by_the_next_rehlo() -> None:
    begun, release = threading.Event(), threading.Event()
    connection, transport = over(SENT, OK, hello("PIPELINING"))

    def body() -> Iterator[bytes]:
        begun.set()
        assert release.wait(10)
        yield BODY

    thread = threading.Thread(target=connection.send, args=(SENDER, RECIPIENTS[:1], body()), kwargs={"timeout": 20})
    thread.start()
    assert begun.wait(10)
    connection.set_ehlo_domain("[192.0.2.1]")
    assert thread.is_alive()
    release.set()
    thread.join(20)
    connection.rehlo(timeout=5)
    assert transport.written.endswith(b"EHLO [192.0.2.1]\r\n")
    connection.close()


def test_E101_no_repr_of_an_option_a_credential_a_connection_or_a_pool_shows_a_secret() -> None:
    secret = "hunter2-secret"
    credentials = PasswordAuth("user", secret)
    connection, _ = over(b"235 ok\r\n", extensions=("AUTH PLAIN",), credentials=credentials, allow_plaintext_auth=True)
    with ConnectionPool("127.0.0.1", 2525, TlsMode.NONE, credentials=credentials) as pool:
        tls = TlsConfig(server_name="mx.example.com", client_certificate=("cert.pem", "key.pem", lambda: secret))
        for shown in (credentials, connection, pool, tls, Mail(SENDER, RECIPIENTS, secret.encode())):
            assert secret not in repr(shown)
    connection.close()


# --- the methods -----------------------------------------------------------------------------------------------------

SEND = "sender recipients message * timeout params newlines size"
OPEN = "timeout tls_config credentials ehlo_domain policy audit"
METHODS = [
    pytest.param("connect", f"host port tls_mode * {OPEN}", id="KM1 KM2"),
    pytest.param("connect_lmtp", f"host port tls_mode * unix_socket {OPEN}", id="KM3 KM4"),
    pytest.param("from_transport", f"transport * tls_mode protocol {OPEN}", id="WM1 WM2 WM3"),
    pytest.param("set_ehlo_domain", "domain", id="KM8"),
    pytest.param("rehlo", "* timeout", id="KM9"),
    pytest.param("auth", "credentials * timeout", id="WM5 WM6"),
    pytest.param("auth_plain", "user password * timeout authzid", id="KM10 KM11"),
    pytest.param("auth_login", "user password * timeout", id="KM12"),
    pytest.param("auth_xoauth2", "user token * timeout", id="KM13 WM7"),
    pytest.param("auth_oauthbearer", "token * timeout user", id="KM14 WM8"),
    pytest.param("send", SEND, id="KM15 KM16 KM17 WM10 WM11 WM12"),
    pytest.param("send_bdat", SEND, id="KM18 KM19"),
    pytest.param("send_lmtp", SEND, id="KM20 KM21"),
    pytest.param("send_lmtp_bdat", SEND, id="KM22 KM23"),
    pytest.param("send_message", "email_message * timeout sender recipients params", id="WM13"),
    pytest.param("reset", "* timeout", id="KM24"),
    pytest.param("noop", "* timeout", id="KM25"),
    pytest.param("vrfy", "address * timeout", id="KM26"),
    pytest.param("expn", "name * timeout", id="KM27"),
    pytest.param("help", "topic * timeout", id="KM28"),
    pytest.param("quit", "* timeout", id="KM29 WM16"),
]


@pytest.mark.parametrize(("verb", "arguments"), METHODS)
def test_a_method_takes_these_arguments(verb: str, arguments: str) -> None:
    """What it then does is asserted by the rows that are about it."""
    parameters = inspect.signature(getattr(SmtpConnection, verb)).parameters
    positional, _, keyword = arguments.partition("*")
    given = {name: one.kind for name, one in parameters.items() if name != "self"}
    assert [name for name, kind in given.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == (
        positional.split()
    )
    assert set(keyword.split()) <= {name for name, kind in given.items() if kind is inspect.Parameter.KEYWORD_ONLY}


def test_KM5_KM6_KM7_KM30_WM4_WM14_WM15_F95_what_a_connection_shows_of_itself() -> None:
    connection, _ = over(extensions=("PIPELINING", "SIZE 10"))
    assert connection.capabilities.lines == ("PIPELINING", "SIZE 10")
    assert connection.is_shutting_down is False
    assert connection.is_authenticated is False
    assert connection.state.name == "AUTHENTICATION"
    assert not hasattr(connection, "starttls")
    assert "SmtpConnection" in repr(connection)
    assert "client.test" not in repr(connection)
    connection.close()
