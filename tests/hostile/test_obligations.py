"""What the RFCs oblige a client to (faults.md section 9: OB1 to OB22), and what a server may do at STARTTLS.

One short test for each obligation that no other test is named after.
"""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Any

import pytest

from smtpconn import (
    CertificateError,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    MailParams,
    Notify,
    Pipelining,
    PlainAuth,
    ProtocolError,
    RcptParams,
    Recipient,
    ReplyError,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    Timeouts,
    TlsConfig,
    TlsError,
    TlsMode,
    UsageError,
    resolve,
)
from smtpconn.deadline import Budget
from smtpconn.testing import EOF, SILENCE, LoopbackServer, ScriptedTransport, TestAuthority, Wait

from ..test_feature_rows import BYE, GO, GREETING, OK, SENT, after_hello, hello, over
from ..tls_authority import OneConnection
from .subjects import BODY, ONE, SENDER, Lines, pool_over
from .test_attacks import NAMED, send, starttls

ND, UN = Delivery.NOT_DELIVERED, Delivery.UNKNOWN


def test_OB3_a_refused_RSET_in_front_of_an_accepted_MAIL_stops_no_mail_but_retires_the_connection() -> None:
    """RFC 5321 4.1.1.5; code RS. A refused `reset()` closes."""
    connection, transport = over(OK + b"550 no\r\n" + b"554 no\r\n", b"502 what\r\n" + SENT, OK, BYE)
    with pytest.raises(SmtpError):
        send(connection)
    assert send(connection).all_delivered
    assert transport.written.count(b"RSET") == 1
    assert transport.written.endswith(b"QUIT\r\n")
    assert not connection.usable
    connection, transport = over(b"502 what\r\n")
    with pytest.raises(ReplyError):
        connection.reset(timeout=5)
    assert transport.closed


def test_OB4_a_healthy_connection_is_left_with_QUIT_and_its_reply_is_awaited_and_a_sick_one_without() -> None:
    """RFC 5321 4.1.1.10."""
    connection, transport = over(SENT, OK, BYE)
    with connection:
        send(connection)
    assert transport.written.endswith(b"QUIT\r\n")
    transport.assert_finished()
    connection, transport = over(SENT, SILENCE)
    with pytest.raises(DeliveryUnknownError), connection:
        connection.send(SENDER, [ONE], BODY, timeout=5)
    assert b"QUIT" not in transport.written


@pytest.mark.parametrize("text", [b"", b" ", b" no such user, go away", b" 550 5.1.1", b" \xff\xfe", b" -"])
def test_OB5_only_the_code_counts_whatever_the_text(text: bytes) -> None:
    """RFC 5321 4.2: any text, even none; unknown codes by their first digit."""
    replies = [code + text + b"\r\n" for code in (b"259", b"299", b"399", b"277")]
    connection, _ = over(*replies, extensions=())
    assert send(connection).all_delivered
    connection.close()
    for code in (b"599", b"577"):
        connection, _ = over(code + text + b"\r\n", extensions=())
        with pytest.raises(SmtpError) as caught:
            send(connection)
        assert caught.value.permanent is True
        connection.close()


@pytest.mark.parametrize("first", b"016789")
def test_OB5_ST6_a_first_digit_outside_2_to_5_is_no_reply_at_any_stage(first: int) -> None:
    line = bytes((first,)) + b"50 x\r\n"
    for before in ([], [GREETING], [GREETING, b"502 no\r\n"]):  # greeting, EHLO, HELO
        transport = ScriptedTransport([*before, line], when_dry="eof")
        with pytest.raises(ProtocolError):
            SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="a.test")
        assert transport.closed
    for call in (lambda c: c.reset(timeout=5), lambda c: c.noop(timeout=5), send):
        connection, transport = over(line, dry="eof")
        with pytest.raises(ProtocolError):
            call(connection)
        assert transport.closed
    connection, transport = over(line, dry="eof")
    assert connection.quit(timeout=5) is False
    assert transport.closed


@pytest.mark.parametrize("code", [211, 250, 334, 354, 450, 550])
def test_ST6_a_greeting_other_than_220_greets_nobody(code: int) -> None:
    transport = ScriptedTransport([b"%d x\r\n" % code, BYE], when_dry="eof")
    with pytest.raises((ProtocolError, ReplyError)):
        SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5)
    assert b"EHLO" not in transport.written
    assert transport.closed


@pytest.mark.parametrize("said", [b"250-a\r\n251 b\r\n", b"250-a\r\n550 b\r\n", b"550-a\r\n250 b\r\n"])
def test_OB6_all_lines_of_a_reply_have_one_code(said: bytes) -> None:
    connection, transport = over(said, dry="eof")
    with pytest.raises(ProtocolError):
        connection.noop(timeout=5)
    assert transport.closed


def test_OB8_what_the_limits_allow_is_sent_and_552_to_RCPT_is_temporary() -> None:
    """RFC 5321 4.5.3.1: 64 octets, 255, 256, at least 100 recipients; 4.5.3.1.10. faults:BR8."""
    connection, _ = over(b"250 ok\r\n" * 101 + GO, OK)
    local = "l" * 64
    domain = ".".join(["d" * 63, "d" * 63, "d" * 53, "example"])
    assert len(f"{local}@{domain}") == 254
    recipients = [f"r{number}@example.com" for number in range(99)] + [f"{local[:-1]}x@{domain}"]
    result = connection.send(f"{local}@{domain}", recipients, BODY, timeout=5)
    assert len(result.recipients) == 100
    assert result.all_delivered
    connection.close()
    connection, _ = over(OK + b"552 too many\r\n" + OK + GO, OK)
    mixed = connection.send(SENDER, ["x@example.com", ONE], BODY, timeout=5)
    assert mixed.rejected[0].permanent is False
    connection.close()


@pytest.mark.parametrize("verb", ["send", "send_bdat"])
def test_LM9_a_line_of_the_body_has_no_limit_of_ours_and_is_never_folded(verb: str, server: LoopbackServer) -> None:
    body = b"Subject: x\r\n\r\n" + b"x" * 300_000 + b"\r\n"
    with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as connection:
        getattr(connection, verb)(SENDER, [ONE], body, timeout=20)
    assert [mail.content for mail in server.mails] == [body]


def test_LM14_BR16_after_a_failed_write_the_peer_is_listened_to_for_a_quarter_of_a_second() -> None:
    transport = ScriptedTransport([GREETING, hello(), SILENCE], accept=30, then=BrokenPipeError(32, "gone"))
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=50, ehlo_domain="client.test")
    began = transport.clock()
    with pytest.raises(SmtpError) as caught:
        connection.send(SENDER, [ONE], BODY, timeout=50)
    assert caught.value.delivery is ND
    assert transport.clock() - began <= 0.25
    assert transport.closed


def test_OB9_OB10_the_limits_are_at_least_those_of_the_rfc() -> None:
    """RFC 5321 4.5.3.2, RFC 1047: 5, 5, 5, 2, 3 and 10 minutes."""
    given = Timeouts()
    assert (given.greeting, given.mail, given.rcpt, given.data, given.body) == (300, 300, 300, 120, 180)
    assert Budget.of(given).phase("final_reply").remaining() == pytest.approx(600, abs=1)


def test_OB10_a_mail_in_doubt_is_never_repeated_by_itself() -> None:
    class Doubtful(Lines):
        def transport(self) -> ScriptedTransport:
            said: list[Any] = [GREETING, hello("PIPELINING"), SENT, OK, SENT, EOF]
            self.opened.append(ScriptedTransport(said))
            return self.opened[-1]

    lines = Doubtful()
    with pool_over(lines) as pool:
        assert send(pool).all_delivered
        with pytest.raises(DeliveryUnknownError) as caught:
            send(pool)
        assert caught.value.retry_safe is False
        assert len(lines.opened) == 1


def test_OB11_LM7_commands_without_an_answer_stay_within_4_KiB() -> None:
    """RFC 2920 3.1: 5,000 recipients; each group is answered before the next is written, so that nobody blocks."""
    unanswered = most = 0
    pending = bytearray()
    connection, _ = over()

    class Counting:
        """Answers each command as soon as somebody reads."""

        tls, secure = None, False

        def send(self, data: Any, timeout: float | None) -> int:
            nonlocal unanswered, most
            unanswered += len(data)
            most = max(most, unanswered)
            lines = bytes(data).split(b"\r\n")[:-1]
            if lines[-1] == b".":  # the message, and its end
                lines = lines[-1:]
            for line in lines:
                pending.extend(GO if line == b"DATA" else OK)
            return len(data)

        def recv(self, limit: int, timeout: float | None) -> bytes:
            nonlocal unanswered
            unanswered = 0
            said = bytes(pending[:limit])
            del pending[:limit]
            return said

        def readable(self) -> bool:
            return bool(pending)

        def close(self) -> None:
            pass

    connection._driver.transport.close()
    connection._driver.transport = Counting()  # type: ignore[assignment]
    recipients = [f"r{number}@example.com" for number in range(5_000)]
    result = connection.send(SENDER, recipients, b"x\r\n", timeout=60)
    assert len(result.accepted) == 5_000
    assert most <= 4_096
    connection.close()


def test_OB13_D18_lmtp_has_one_reply_for_each_accepted_recipient_and_a_path_given_twice_is_sent_once() -> None:
    """RFC 2033 4.2."""
    connection, transport = over(OK + OK + b"550 no\r\n" + GO, (OK,), protocol="lmtp")
    result = connection.send(SENDER, [ONE, ONE, "no@example.com"], BODY, timeout=5)
    assert transport.written.count(b"RCPT") == 2
    assert [entry.delivery for entry in result.recipients] == [Delivery.DELIVERED, Delivery.DELIVERED, ND]
    connection.close()


def test_OB15_no_second_AUTH_and_none_inside_a_mail() -> None:
    """RFC 4954 section 4."""
    connection, transport = over(b"235 ok\r\n", extensions=("AUTH PLAIN",), allow_plaintext_auth=True)
    connection.auth(PlainAuth("u", "p"), timeout=5)
    with pytest.raises(UsageError):
        connection.auth(PlainAuth("u", "p"), timeout=5)
    assert after_hello(transport).count(b"AUTH") == 1
    connection.close()
    connection, transport = over(SENT, OK, extensions=("PIPELINING", "AUTH PLAIN"), allow_plaintext_auth=True)

    def body() -> Any:
        with pytest.raises(UsageError):
            connection.auth(PlainAuth("u", "p"), timeout=5)
        yield BODY

    assert send_stream(connection, body()).all_delivered
    assert b"AUTH" not in after_hello(transport)
    connection.close()


def send_stream(connection: SmtpConnection, source: Any) -> Any:
    return connection.send(SENDER, [ONE], source, timeout=5)


WANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "OB16 ENVID": ("DSN", {"params": MailParams(envid="x")}),
    "OB16 RET": ("DSN", {"params": MailParams(ret="HDRS")}),
    "OB16 NOTIFY": ("DSN", {"recipients": [Recipient(ONE, RcptParams(notify=Notify.NEVER))]}),
    "OB16 ORCPT": ("DSN", {"recipients": [Recipient(ONE, RcptParams(orcpt="rfc822;a@b.example"))]}),
    "OB17 8BITMIME": ("8BITMIME", {"message": b"caf\xc3\xa9\r\n"}),
    "OB17 SMTPUTF8": ("SMTPUTF8", {"recipients": ["\u00e9@example.com"]}),
    "OB17 BODY": ("8BITMIME", {"params": MailParams(body="8BITMIME")}),
    "OB21 REQUIRETLS": ("REQUIRETLS", {"params": MailParams(requiretls=True)}),
}


@pytest.mark.parametrize("name", WANTS)
def test_OB16_OB17_OB21_what_is_not_offered_any_more_is_not_asked_for(name: str) -> None:
    """The last EHLO counts; REQUIRETLS moreover wants TLS, whatever was offered in clear (RFC 8689 section 2)."""
    extension, changed = WANTS[name]
    connection, transport = over(hello("PIPELINING"), SENT, OK, extensions=("PIPELINING", extension))
    if extension != "REQUIRETLS":
        connection.rehlo(timeout=5)
    before = transport.written
    given = {"sender": SENDER, "recipients": [ONE], "message": BODY, "timeout": 5, **changed}
    with pytest.raises(ExtensionUnavailableError) as caught:
        connection.send(**given)
    assert (caught.value.permanent, caught.value.delivery) == (True, ND)
    assert transport.written == before
    connection.close()


def test_OB17_a_message_above_the_size_is_not_begun() -> None:
    connection, transport = over(SENT, OK, extensions=("PIPELINING", "SIZE 20"))
    with pytest.raises(ExtensionUnavailableError, match="the server takes 20"):
        send(connection)
    assert after_hello(transport) == b""
    connection.close()


@pytest.mark.parametrize("place", ["user", "password", "authzid"])
def test_OB22_PLAIN_carries_no_NUL_inside_its_fields(place: str) -> None:
    """RFC 4616 section 2."""
    given = {"user": "u", "password": "p", "authzid": "z", place: "a\0b"}
    with pytest.raises(InvalidInputError, match=place):
        PlainAuth(given["user"], given["password"], authzid=given["authzid"])


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_TC41_OB18_OB19_OB20_the_name_that_was_given_is_verified_whatever_DNS_makes_of_it(
    tls: Any, authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9525: the server has a certificate for `localhost`, where the name leads; that proves nothing."""
    mode = TlsMode.IMPLICIT if tls == "implicit" else TlsMode.STARTTLS

    def elsewhere(host: str) -> Any:
        return [(socket.AF_INET, ("127.0.0.1", 0))]

    monkeypatch.setattr(resolve, "system_resolver", elsewhere)
    with LoopbackServer(tls=tls, ca=authority, auth={"u": "hunter2"}) as server:
        with pytest.raises(CertificateError, match=r"mail\.example\.test"):
            SmtpConnection.connect(
                "mail.example.test", server.port, mode, timeout=5, tls_config=TlsConfig(trust=authority.pem),
                credentials=("u", "hunter2"),
            )  # fmt: skip
        assert server.sessions[0].commands in ([], ["EHLO", "STARTTLS"])


def test_ST11_a_plaintext_reply_in_the_place_of_the_handshake_is_no_handshake(authority: TestAuthority) -> None:
    """TL: nothing more is said in clear."""
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(GREETING)
        heard.append(sock.recv(1_000))
        sock.sendall(hello("STARTTLS", "AUTH PLAIN"))
        heard.append(sock.recv(1_000))
        sock.sendall(b"220 go\r\n")
        heard.append(sock.recv(1_000))
        sock.sendall(b"250 mx.example.com\r\n")
        with contextlib.suppress(ConnectionResetError):  # it left with our octets unread
            while more := sock.recv(1_000):
                heard.append(more)

    config = TlsConfig(trust=authority.pem, server_name="localhost")
    with OneConnection(serve) as peer, pytest.raises(TlsError) as caught:
        SmtpConnection.connect(
            "127.0.0.1", peer.address[1], TlsMode.STARTTLS, timeout=5, tls_config=config, credentials=("u", "hunter2")
        )
    assert caught.value.stage == "tls"
    assert heard[1] == b"STARTTLS\r\n"
    assert heard[2][:1] == b"\x16"
    assert not re.search(rb"AUTH|EHLO|QUIT|MAIL", b"".join(heard[2:]))


def test_ST12_a_220_of_several_lines_is_a_220() -> None:
    transport, given = starttls(hello("STARTTLS"), b"220-go\r\n220 ahead\r\n", hello())
    connection = SmtpConnection.from_transport(transport, **given)
    assert len(transport.tls_starts) == 1
    assert transport.tls_starts[0][0] is NAMED
    connection.close()


@pytest.mark.parametrize("kind", ["silence", "drip"])
def test_ST16_a_220_that_does_not_come_in_time_is_a_timeout_and_nothing_is_said_in_clear(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drip = tuple(part for octet in b"220 go\r\n" for part in (Wait(1.0), bytes((octet,))))
    transport, given = starttls(hello("STARTTLS", "AUTH PLAIN"), drip if kind == "drip" else SILENCE)
    clock = transport.clock

    class Clocked(Budget):
        @classmethod
        def of(cls, timeout: Any, *_: object, **__: object) -> Budget:
            return Budget.of(timeout, clock)

    monkeypatch.setattr("smtpconn.connection.Budget", Clocked)
    with pytest.raises(SmtpTimeoutError) as caught:
        SmtpConnection.from_transport(transport, **given, credentials=("u", "hunter2"))
    assert caught.value.stage == "STARTTLS"
    assert after_hello(transport) == b"STARTTLS\r\n"
    assert transport.closed
    assert transport.tls_starts == []


@pytest.mark.parametrize("level", [Pipelining.OFF, Pipelining.GROUPED])
def test_OB7_BR24_a_421_at_the_end_of_data_is_no_doubt_and_frees_the_slot_first(level: Pipelining) -> None:
    """RFC 5321 4.2.5; when the caller sees the error, another may open."""

    class Leaving(Lines):
        def transport(self) -> ScriptedTransport:
            said: list[Any] = [OK, OK, GO] if level is Pipelining.OFF else [SENT]
            self.opened.append(ScriptedTransport([GREETING, hello("PIPELINING"), *said, b"421 bye\r\n"]))
            return self.opened[-1]

    lines = Leaving()
    with pool_over(lines, max_size=1, pipelining=level) as pool:
        with pytest.raises(ServiceUnavailableError) as caught:
            send(pool)
        assert (caught.value.delivery, caught.value.retry_safe) == (ND, True)
        stats = pool.stats()
        assert (stats.leased, stats.idle, stats.waiting) == (0, 0, 0)
        assert lines.opened[0].closed
