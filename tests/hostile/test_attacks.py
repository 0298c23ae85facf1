"""The published attacks, one test or more named after each (faults.md section 10: AK1 to AK23).

The labels of the rows are the reports that showed the attack on somebody. `docs/topics/security.rst` prints the table
of attack, defence and test; `test_the_table_of_the_docs_names_tests_that_are_here` keeps it true.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import re
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    Lease,
    LoginAuth,
    MailParams,
    OAuthBearerAuth,
    PasswordAuth,
    Pipelining,
    PlainAuth,
    ProtocolError,
    RcptParams,
    ScramAuth,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    StartTlsUnavailableError,
    Timeouts,
    TlsConfig,
    TlsError,
    TlsMode,
    UsageError,
    XOAuth2Auth,
    attempt_of,
)
from smtpconn.deadline import Budget
from smtpconn.testing import EOF, RESET, SILENCE, LoopbackServer, ScriptedTransport, TestAuthority, Wait

from ..protocol.dialogue import raised, rendered
from ..protocol.test_session import forms_of
from ..protocol.test_smuggling import KINDS, S
from ..test_feature_rows import BYE, GO, GREETING, OK, SENT, after_hello, audited, hello, over
from .subjects import BODY, MAIL, ONE, SENDER, Lines, connection_over, pool_over

ND, UN, DL = Delivery.NOT_DELIVERED, Delivery.UNKNOWN, Delivery.DELIVERED
NO = b"550 5.7.1 no\r\n"


def send(connection: Any, **options: Any) -> Any:
    return connection.send(SENDER, [ONE], BODY, timeout=5, **options)


# --- AK1 to AK3: what is put into a command ---------------------------------------------------------------------------

INJECTIONS: dict[str, Callable[[SmtpConnection], object]] = {
    "CVE-2015-9096 a recipient": lambda c: c.send(SENDER, [f"{ONE}>\r\nDATA\r\nx\r\n.\r\nQUIT"], BODY, timeout=5),
    "golang#21159 a sender": lambda c: c.send("a@example.com>\r\nRCPT TO:<evil@x", [ONE], BODY, timeout=5),
    "CVE-2025-7962 letters that are CRLF when they are narrowed":
        lambda c: c.send("a\u760d\u760aRSET@x", [ONE], BODY, timeout=5),
    "CVE-2026-30227 a quoted local part": lambda c: c.send('"a\r\nRSET"@example.com', [ONE], BODY, timeout=5),
    "CVE-2026-30227 behind a backslash": lambda c: c.send('"a\\\r\\\nRSET"@example.com', [ONE], BODY, timeout=5),
    "GHSA-v3q9-hj7j-63hq VRFY": lambda c: c.vrfy("a\r\nMAIL FROM:<evil@x>", timeout=5),
    "GHSA-v3q9-hj7j-63hq EXPN": lambda c: c.expn("a\nMAIL FROM:<evil@x>", timeout=5),
    "GHSA-v3q9-hj7j-63hq HELP": lambda c: c.help("a\rMAIL FROM:<evil@x>", timeout=5),
    "GHSA-c7w3-x93f-qmm8 the size": lambda c: c.send(SENDER, [ONE], BODY, timeout=5, size="21\r\nRSET"),  # type: ignore[arg-type]
    "GHSA-c7w3-x93f-qmm8 ENVID": lambda c: c.send(SENDER, [ONE], BODY, timeout=5, params=MailParams(envid="a\r\nRSET")),
    "GHSA-c7w3-x93f-qmm8 a parameter that is not modelled":
        lambda c: c.send(SENDER, [ONE], BODY, timeout=5, params=MailParams(extra={"X": "1\r\nRSET"})),
    "GHSA-c7w3-x93f-qmm8 its keyword":
        lambda c: c.send(SENDER, [ONE], BODY, timeout=5, params=MailParams(extra={"X\r\nRSET": None})),
    "GHSA-vvjj-xcjg-gr5g the name for EHLO": lambda c: c.set_ehlo_domain("a.example\r\nMAIL FROM:<evil@x>"),
    "CVE-2026-45067 ORCPT": lambda c: RcptParams(orcpt="rfc822;a\r\nRSET@x"),
    "CVE-2026-45067 NOTIFY": lambda c: RcptParams(notify="NEVER\r\nRSET"),
    "CVE-2025-59419 AUTH=": lambda c: MailParams(auth="a\r\nRSET@x"),
    "CVE-2025-59419 BODY": lambda c: MailParams(body="7BIT\r\nRSET"),
    "gh-87290 a user": lambda c: c.auth_xoauth2("a\r\nRSET", "t", timeout=5),
    "gh-87290 a token": lambda c: c.auth_oauthbearer("t\r\nRSET", timeout=5),
    "a message without line ends of its own": lambda c: c.send(SENDER, [ONE], b"x\n.\nRSET\n", timeout=5),
}  # fmt: skip


@pytest.mark.parametrize("name", INJECTIONS)
def test_AK1_no_command_is_injected_through_an_argument(name: str) -> None:
    """faults:AK3, G-B-9, G-SEC-3: refused in words, not an octet leaves, and the next mail is as if nothing was."""
    lines = Lines()
    connection = connection_over(lines)
    with pytest.raises((InvalidInputError, TypeError)) as caught:
        INJECTIONS[name](connection)
    assert "\r" not in str(caught.value) + repr(caught.value)
    assert "\n" not in str(caught.value)
    assert lines.told == b""
    assert send(connection).all_delivered
    assert lines.told == MAIL
    connection.close()


SMUGGLED = {
    "CVE-2025-59937 ORCPT behind the path": "a@x.example> ORCPT=rfc822;b@y.example",
    "CVE-2025-59937 SIZE": "a@x.example> SIZE=1",
    "CVE-2025-59937 a second path": "a@x.example>,<b@y.example",
    "smtplib: what stands behind > is cut": "a@b.c>...",
    "smtplib: a name in front": "evil@y.example <a@x.example>",
    "a comment": "a@x.example(b@y.example)",
    "a list": "a@x.example,b@y.example",
    "brackets around it": "<a@x.example>",
    "a blank": "a @x.example",
    "a quote that does not close": '"a@x.example',
    "a route with a command": "@a.example> RSET:b@x.example",
}


@pytest.mark.parametrize("role", ["sender", "recipient"])
@pytest.mark.parametrize("name", SMUGGLED)
def test_AK2_no_parameter_is_smuggled_behind_a_path_and_nothing_is_tidied_up(name: str, role: str) -> None:
    lines = Lines()
    connection = connection_over(lines)
    given = (SMUGGLED[name], [ONE]) if role == "sender" else (SENDER, [SMUGGLED[name]])
    with pytest.raises(InvalidInputError, match=role):
        connection.send(*given, BODY, timeout=5)
    assert lines.told == b""
    assert send(connection).all_delivered
    assert lines.told == MAIL
    connection.close()


@pytest.mark.parametrize(
    "character", ["\u760d", "\u760a", "\u010a", "\u010d", "\u0a0d", "\u0d0a", "\uff0a", "\U0001f40d"], ids=ascii
)
def test_AK3_a_letter_is_never_narrowed_to_its_low_octet(character: str) -> None:
    """CVE-2025-7962: refused, or sent as its UTF-8 octets; either way no octet of it is CR or LF."""
    connection, transport = over(SENT, OK, extensions=("PIPELINING", "SMTPUTF8"))
    try:
        connection.send(f"a{character}b@example.com", [ONE], BODY, timeout=5)
    except InvalidInputError:
        assert after_hello(transport) == b""
    else:
        line = after_hello(transport).split(b"\r\n", 1)[0]
        assert line == b"MAIL FROM:<a" + character.encode("utf-8") + b"b@example.com> SMTPUTF8"
    connection.close()


# --- AK4: the traps of the language -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_AK4_a_line_of_a_server_ends_with_CRLF_and_with_nothing_else(end: str) -> None:
    """`str.splitlines` would see a second line, and a capability in it."""
    connection, _ = over(extensions=(f"X-NOTHING{end}250-CHUNKING", "PIPELINING"))
    assert connection.capabilities.supports_pipelining
    assert not connection.capabilities.supports_chunking
    connection.close()


@pytest.mark.parametrize("digits", ["\u0661\u0660", "\uff11\uff10", "1_0", " 10", "+10", "1e1", "0x10"], ids=ascii)
def test_AK4_SEC7_only_ten_digits_are_digits(digits: str) -> None:
    connection, _ = over(extensions=(f"SIZE {digits}", "PIPELINING"))
    assert connection.capabilities.size_limit in (None, 10 if digits == " 10" else None)
    connection.close()
    with pytest.raises(ProtocolError):
        SmtpConnection.from_transport(
            ScriptedTransport([f"2{digits[:2]} x\r\n".encode()]), tls_mode=TlsMode.NONE, timeout=5
        )


@pytest.mark.parametrize(
    "host", ["fa\u00df.de", "\u212a.example", "mx\u2024example", "\uff4dx.example", "mx\u3002example"], ids=ascii
)
def test_AK4_SEC9_no_host_is_mapped_onto_another(host: str) -> None:
    with pytest.raises(InvalidInputError, match="A-label"):
        SmtpConnection.connect(host, 25, TlsMode.NONE, timeout=5)
    with pytest.raises(InvalidInputError, match="A-label"):
        TlsConfig(server_name=host)


# --- AK5, AK6: what is put into a body --------------------------------------------------------------------------------

STUFFING = {
    "CVE-2021-38189 a line that is empty": b"a\r\n\r\n.\r\nQUIT\r\n",
    "CVE-2021-38189 two of them": b"\r\n\r\n.\r\n\r\n.\r\n",
    "CVE-2018-0500 dots at every place": b".\r\n..\r\n...\r\n.a\r\na.\r\n",
    "CVE-2018-0500 nothing but dots": b"." * 50 + b"\r\n",
    "RUSTSEC-2026-0561 a dot that comes first": b".\r\nMAIL FROM:<evil@x>\r\n",
    "no end of line": b"a\r\n.",
}


@pytest.mark.parametrize("newlines", ["strict", "crlf"])
@pytest.mark.parametrize("name", STUFFING)
def test_AK5_a_dot_is_stuffed_wherever_the_stream_is_split(name: str, newlines: str) -> None:
    body = STUFFING[name]
    whole = body if body.endswith(b"\r\n") else body + b"\r\n"
    for at in range(len(body) + 1):
        for pieces in ([body[:at], body[at:]], [body[index : index + 1] for index in range(at)] + [body[at:]]):
            connection, transport = over(SENT, OK)
            assert connection.send(SENDER, [ONE], pieces, timeout=5, newlines=newlines).all_delivered
            wire = after_hello(transport).split(b"DATA\r\n", 1)[1]
            assert wire.find(b"\r\n.\r\n") == len(wire) - 5
            assert re.sub(rb"(?m)^\.", b"", wire[:-3]) == whole
            connection.close()


@pytest.mark.parametrize("bare", [b"a\r.\r\n", b"a\n.\n", b"a\n.\r\n", b"a\r\n.\n", b"a\0\r\n"])
def test_AK5_AK6_what_is_no_line_end_is_refused_and_not_repaired(bare: bytes) -> None:
    """RUSTSEC-2026-0561."""
    lines = Lines()
    connection = connection_over(lines)
    with pytest.raises(InvalidInputError) as caught:
        connection.send(SENDER, [ONE], bare, timeout=5)
    assert caught.value.offset == re.search(rb"\r(?!\n)|(?<!\r)\n|\0", bare).start()  # type: ignore[union-attr]
    assert lines.told == b""
    assert send(connection).all_delivered
    connection.close()


@pytest.mark.parametrize("verb", ["send", "send_bdat"])
def test_AK6_the_18_sequences_reach_no_server_as_a_second_message(verb: str, server: LoopbackServer) -> None:
    """CVE-2023-51764, CVE-2023-51765, CVE-2023-51766, CVE-2023-51747, CVE-2024-27305; G-B-1, OB1."""
    hidden = b"\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nsecond\r\n.\r\n"
    delivered = 0
    with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5) as connection:
        for (name, (sequence, *_)), kind, newlines in itertools.product(S.items(), KINDS, ("strict", "crlf")):
            body = b"Subject: " + name.encode() + b"\r\n\r\nfirst" + sequence + hidden
            if not connection.usable:
                connection = SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5)
            try:
                getattr(connection, verb)(SENDER, [ONE], KINDS[kind](body), timeout=5, newlines=newlines)
                delivered += 1
            except InvalidInputError:
                assert connection.usable or (kind, verb) != ("bytes", "send")
        connection.close()
    assert delivered == 3 * (1 + sum(place is None for _, _, place in S.values()))
    assert server.received == delivered
    assert {mail.sender for mail in server.mails} == {SENDER}
    assert {tuple(mail.recipients) for mail in server.mails} == {(ONE,)}


# --- AK7 to AK10: the transport ---------------------------------------------------------------------------------------

INJECTED = {
    "CVE-2011-0411 a reply": b"250 ok\r\n",
    "libetpan#386 capabilities": b"250-mx.example.com\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 1\r\n",
    "CVE-2021-38371 the reply to EHLO": b"250 mx.example.com\r\n",
    "CVE-2021-22947 replies to all that follows": b"250 mx\r\n235 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n",
    "CVE-2026-41319 an untagged line": b"250-\r\n",
    "GHSA-vxj7-4xrp-5vr4 one octet": b"2",
    "nodemailer#1835 a fragment without CRLF": b"250 mx.example.com",
    "a line end": b"\r\n",
    "a TLS record": b"\x16\x03\x03\x00\x01\x00",
    "a farewell": b"421 bye\r\n",
}
NAMED = TlsConfig(server_name="mx.example.com")


def starttls(*said: Any, **options: Any) -> tuple[ScriptedTransport, dict[str, Any]]:
    transport = ScriptedTransport([GREETING, *said], when_dry="eof")
    given = {"tls_mode": TlsMode.STARTTLS, "tls_config": NAMED, "timeout": 5, "ehlo_domain": "client.test", **options}
    return transport, given


@pytest.mark.parametrize("where", ["in the segment of the 220", "behind it"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("name", INJECTED)
def test_AK7_octets_in_front_of_the_handshake_end_the_connection(name: str, protocol: str, where: str) -> None:
    """faults:ST7-ST10, TI, OB14: not dropped in silence, not answered, never the reply to something said under TLS."""
    said = b"220 go\r\n" + INJECTED[name] if where.startswith("in") else (b"220 go\r\n", INJECTED[name])
    transport, given = starttls(hello("STARTTLS", "AUTH PLAIN"), said, protocol=protocol, credentials=("u", "hunter2"))
    with pytest.raises(StartTlsInjectionError) as caught:
        SmtpConnection.from_transport(transport, **given)
    assert transport.closed
    assert transport.tls_starts == []
    assert after_hello(transport) == b"STARTTLS\r\n"
    assert (caught.value.delivery, caught.value.retry_safe) == (ND, True)


def test_AK7_what_was_offered_in_clear_is_forgotten() -> None:
    """faults:ST14, ST15, OB14."""
    transport, given = starttls(hello("STARTTLS", "CHUNKING", "SIZE 1", "AUTH PLAIN"), b"220 go\r\n", hello("STARTTLS"))
    connection = SmtpConnection.from_transport(transport, **given)
    assert not connection.capabilities.supports_chunking
    assert connection.capabilities.size_limit is None
    with pytest.raises(ExtensionUnavailableError):
        connection.auth_plain("u", "hunter2", timeout=5)
    assert b"AUTH" not in transport.written
    assert transport.written.count(b"STARTTLS") == 1
    connection.close()


STRIPPED: dict[str, tuple[list[Any], type[SmtpError], bool]] = {
    "golang#22145 not offered": ([hello("AUTH PLAIN"), BYE], StartTlsUnavailableError, True),
    "CVE-2021-22946 EHLO is refused": ([b"500 what\r\n", BYE], StartTlsUnavailableError, True),
    "CVE-2021-22946 EHLO is not implemented": ([b"502 no\r\n", BYE], StartTlsUnavailableError, True),
    "CVE-2021-22946 words that resemble it": ([hello("XSTARTTLS", "STARTTLSX"), BYE], StartTlsUnavailableError, True),
    **{
        f"CVE-2016-0772 answered {code}": ([hello("STARTTLS", "AUTH PLAIN"), b"%d no\r\n" % code, BYE], TlsError, True)
        for code in (235, 250, 299, 334, 354, 454, 501, 502, 503, 530, 554)
    },
    **{
        f"CVE-2016-0772 answered {code}": ([hello("STARTTLS"), b"%d no\r\n" % code], ServiceUnavailableError, False)
        for code in (221, 421)
    },
    "answered by garbage": ([hello("STARTTLS"), b"220go\r\n"], ProtocolError, False),
    "answered by nobody": ([hello("STARTTLS"), EOF], ConnectionLostError, False),
}


@pytest.mark.parametrize("name", STRIPPED)
def test_AK8_nothing_is_said_in_clear_where_TLS_was_demanded(name: str) -> None:
    """faults:ST1-ST5, D11, D13, G-SEC-2: neither HELO, nor AUTH, nor a mail."""
    said, error, quits = STRIPPED[name]
    transport, given = starttls(*said, credentials=("u", "hunter2"))
    with pytest.raises(error):
        SmtpConnection.from_transport(transport, **given)
    verbs = [line.split()[0] for line in transport.written.split(b"\r\n")[:-1]]
    assert verbs == [b"EHLO", *[b"STARTTLS"] * (len(said) - quits > 1), *[b"QUIT"] * quits]
    assert transport.closed


def test_AK8_no_HELO_where_a_login_is_demanded() -> None:
    """faults:H5."""
    transport = ScriptedTransport([GREETING, b"500 what\r\n", BYE])
    with pytest.raises(ExtensionUnavailableError):
        SmtpConnection.from_transport(
            transport, tls_mode=TlsMode.NONE, timeout=5, credentials=("u", "p"), ehlo_domain="client.test"
        )
    assert after_hello(transport) == b"QUIT\r\n"


REVEALING: list[Callable[[], Any]] = [
    lambda: PlainAuth("u", "hunter2"), lambda: LoginAuth("u", "hunter2"), lambda: XOAuth2Auth("u", "hunter2"),
    lambda: OAuthBearerAuth("hunter2"), lambda: PasswordAuth("u", "hunter2"),
]  # fmt: skip


@pytest.mark.parametrize("make", REVEALING, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("offered", ["AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER", "AUTH=PLAIN LOGIN XOAUTH2 OAUTHBEARER"])
def test_AK9_no_secret_goes_out_in_clear_whatever_the_server_calls_fine(make: Callable[[], Any], offered: str) -> None:
    """CVE-2017-15042, G-B-10; at the opening and later."""
    connection, transport = over(extensions=(offered,))
    with pytest.raises(UsageError, match="TLS"):
        connection.auth(make(), timeout=5)
    assert after_hello(transport) == b""
    connection.close()
    transport = ScriptedTransport([GREETING, hello(offered), BYE])
    with pytest.raises(UsageError, match="TLS"):
        SmtpConnection.from_transport(
            transport, tls_mode=TlsMode.NONE, timeout=5, credentials=make(), ehlo_domain="client.test"
        )
    assert after_hello(transport) == b"QUIT\r\n"


@pytest.mark.parametrize("code", [535, 534, 538, 504, 454])
def test_AK9_after_a_refusal_no_other_mechanism_is_tried(code: int) -> None:
    connection, transport = over(b"%d no\r\n" % code, extensions=("AUTH PLAIN LOGIN",), allow_plaintext_auth=True)
    with pytest.raises(AuthenticationError):
        connection.auth(PasswordAuth("u", "hunter2"), timeout=5)
    assert after_hello(transport).count(b"AUTH") == 1
    assert b"LOGIN" not in after_hello(transport)
    connection.close()


def test_AK9_the_best_mechanism_is_taken_and_a_list_without_it_is_no_reason_to_reveal_more() -> None:
    """D12: SCRAM was asked for, and PLAIN alone is offered."""
    connection, transport = over(extensions=("AUTH PLAIN LOGIN",), allow_plaintext_auth=True)
    with pytest.raises(ExtensionUnavailableError):
        connection.auth(ScramAuth("u", "hunter2"), timeout=5)
    assert after_hello(transport) == b""
    connection.close()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("path", ["roots of a stranger", "another name"])
def test_AK10_a_certificate_is_verified_in_every_mode_and_by_every_way_to_configure_it(
    tls: Any, path: str, authority: TestAuthority
) -> None:
    """RUSTSEC-2026-0141, CVE-2021-44549: the rows TC1 to TC42 are in test_tls."""
    mode = TlsMode.IMPLICIT if tls == "implicit" else TlsMode.STARTTLS
    if path == "another name":
        context = ssl.create_default_context(cadata=authority.pem.decode())
        given: list[dict[str, Any]] = [{"trust": authority.pem}, {"context": context}]
    else:
        given = [{}, {"trust": "certifi"}, {"context": ssl.create_default_context()}]
    name = "other.test" if path == "another name" else "localhost"
    with LoopbackServer(tls=tls, ca=authority, auth={"u": "hunter2"}) as server:
        for options in given:
            config = TlsConfig(**options, server_name=name)
            with pytest.raises(TlsError) as caught:
                SmtpConnection.connect(
                    "127.0.0.1", server.port, mode, timeout=5, tls_config=config, credentials=("u", "hunter2")
                )
            assert caught.value.permanent
    for session in server.sessions:
        assert session.commands in ([], ["EHLO", "STARTTLS"])


@pytest.mark.parametrize("verifies", ["no name", "nothing"])
def test_AK10_a_context_that_does_not_verify_is_not_taken(verifies: str) -> None:
    for context in (ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)):
        context.check_hostname = False
        if verifies == "nothing":
            context.verify_mode = ssl.CERT_NONE
        with pytest.raises(InvalidInputError, match="context"):
            TlsConfig(context=context)


# --- AK11, AK12: endless and slow -------------------------------------------------------------------------------------


class Flood:
    """A transport that says its script, and then brings octets for as long as it is asked; each slice made anew."""

    tls: Any = None
    secure = False

    def __init__(self, script: list[bytes], flood: Callable[[int], bytes]) -> None:
        self._script = list(script)
        self._flood = flood
        self.brought = 0

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
        return len(data)

    def recv(self, limit: int, timeout: float | None) -> bytes:
        if self._script:
            return self._script.pop(0)
        octets = self._flood(self.brought)[:limit]
        self.brought += len(octets)
        assert self.brought < 32 << 20, "it read all of it"
        return octets

    def readable(self) -> bool:
        return False

    def start_tls(self, config: Any, timeout: float | None) -> Flood:
        raise AssertionError("no TLS was asked for")

    def close(self) -> None:
        pass


FLOODS: dict[str, Callable[[int], bytes]] = {
    "CVE-2013-1752 one line": lambda at: (b"" if at else b"250 ") + b"x" * 16_384,
    "lettre#1143 continuation lines": lambda at: b"250-x\r\n" * 2_000,
    "aiosmtplib before 5.1.2: long lines": lambda at: (b"250-" + b"x" * 2_000 + b"\r\n") * 8,
    "empty continuation lines": lambda at: b"250-\r\n" * 2_500,
    "NUL": lambda at: bytes(16_384),
    "line feeds": lambda at: b"\n" * 16_384,
    "digits": lambda at: b"2" * 16_384,
    "challenges": lambda at: b"334 " + b"eA==" * 4_000,
}
AUTH = hello("AUTH LOGIN", "PIPELINING", "CHUNKING")
STAGES: dict[str, tuple[list[Any], Callable[[SmtpConnection], object] | None]] = {
    "A4": ([], None),
    "A5": ([GREETING], None),
    "A9": ([GREETING, AUTH], lambda c: c.auth_login("u", "hunter2", timeout=5)),
    "A9 second challenge": ([GREETING, AUTH, b"334 VXNlcm5hbWU6\r\n"], lambda c: c.auth_login("u", "p", timeout=5)),
    "B1": ([GREETING, hello()], send),
    "B2": ([GREETING, hello(), OK], send),
    "B3": ([GREETING, hello(), OK, OK], send),
    "B5": ([GREETING, hello("PIPELINING"), SENT], send),
    "B8": ([GREETING, hello("PIPELINING", "CHUNKING"), OK + OK], lambda c: c.send_bdat(SENDER, [ONE], BODY, timeout=5)),
    "C1": ([GREETING, hello()], lambda c: c.reset(timeout=5)),
    "C4 NOOP": ([GREETING, hello()], lambda c: c.noop(timeout=5)),
    "C4 VRFY": ([GREETING, hello()], lambda c: c.vrfy("x", timeout=5)),
    "C4 EHLO": ([GREETING, hello()], lambda c: c.rehlo(timeout=5)),
    "C4 EXPN": ([GREETING, hello()], lambda c: c.expn("x", timeout=5)),
    "C4 HELP": ([GREETING, hello()], lambda c: c.help(timeout=5)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_AK11_LM11_an_endless_reply_costs_no_memory_at_any_stage(flood: str) -> None:
    """faults:G-SEC-5, G-B-3, LM2, LM13: at most 1 MiB beside what was there, at every stage that reads."""
    for stage, (script, call) in STAGES.items():
        transport = Flood(script, FLOODS[flood])
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            began = time.process_time()
            try:
                connection = SmtpConnection.from_transport(
                    transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="a.test", allow_plaintext_auth=True
                )
                assert call is not None
                call(connection)
            except (ProtocolError, AuthenticationError, DeliveryUnknownError) as error:
                caught: SmtpError = error
            used = time.process_time() - began
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        room = 1 << 20 if stage not in ("C4 EXPN", "C4 HELP") else 3 << 20  # LM2: those two may have 1 MiB of text
        assert peak <= room, f"{stage}: {peak} octets"
        assert transport.brought <= (1 << 20) + 65_536, stage
        assert used < 5, "work that is not linear"
        assert caught.delivery is (UN if stage in ("B5", "B8") else ND), stage
        assert len(str(caught)) <= 500


def test_AK11_LM12_a_reply_that_comes_octet_by_octet_costs_linear_work() -> None:
    """60,000 octets, one by one: what an octet costs does not grow with what was read."""

    def cost(octets: int) -> float:
        reply = b"".join(b"214-%60d\r\n" % number for number in range(octets // 66)) + b"214 x\r\n"
        transport = ScriptedTransport([GREETING, hello(), reply], delivery="octet")
        connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5)
        began = time.process_time()
        assert connection.help(timeout=5).code == 214
        connection.close()
        return time.process_time() - began

    cost(6_000)
    assert cost(60_000) < 10 * 4 * max(cost(6_000), 0.002)


DRIPS: dict[str, tuple[list[Any], Callable[[SmtpConnection], object] | None]] = {
    **{stage: STAGES[stage] for stage in ("A4", "A5", "A9", "B1", "B3", "B5", "B8", "C4 NOOP", "C4 HELP")},
}


@pytest.mark.parametrize("stage", DRIPS)
@pytest.mark.parametrize("limits", [5.0, Timeouts(total=5.0)], ids=["seconds", "Timeouts"])
def test_AK12_a_drip_gains_no_time_at_any_stage(
    stage: str, limits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults:G-B-2: an octet a second, each within the limit of a read; the call ends at its deadline."""
    script, call = DRIPS[stage]
    drip = tuple(part for octet in b"250-" + b"x" * 60 for part in (Wait(1.0), bytes((octet,))))
    transport = ScriptedTransport([*script, drip])
    clock = transport.clock

    class Clocked(Budget):
        @classmethod
        def of(cls, timeout: Any, *_: object, **__: object) -> Budget:
            return Budget.of(timeout, clock)

    monkeypatch.setattr("smtpconn.connection.Budget", Clocked)
    monkeypatch.setattr("smtpconn.outcomes.Budget", Clocked)

    def talk() -> None:
        connection = SmtpConnection.from_transport(
            transport, tls_mode=TlsMode.NONE, timeout=limits, ehlo_domain="a.test", allow_plaintext_auth=True
        )
        assert call is not None
        call(connection)

    with pytest.raises((SmtpTimeoutError, DeliveryUnknownError)) as caught:
        talk()
    assert clock() <= 5.0 + 1e-6
    assert caught.value.delivery is (UN if stage in ("B5", "B8") else ND)
    assert transport.closed


# --- AK13, AK20, AK21: whose reply is it ------------------------------------------------------------------------------

WHILE_IDLE: dict[str, tuple[Any, ...]] = {
    "lettre#743 a 221": (b"221 idle\r\n",),
    "filtermail#143 a 421": (b"421 4.4.2 idle\r\n",),
    "filtermail#143 a 421 and the end": (b"421 4.4.2 idle\r\n", EOF),
    "smtppool#19 the end": (EOF,),
    "MailKit#1196 a reset": (RESET,),
    "a reply to nothing": (b"250 ok\r\n",),
    "half a reply": (b"25",),
    "garbage": (b"\0\xff",),
}


@pytest.mark.parametrize("name", WHILE_IDLE)
def test_AK13_what_a_server_says_while_nobody_asks_is_no_answer(name: str) -> None:
    """faults:D1/421, PD, BR6, BR11, OB2, G-B-8: the next mail goes over another connection; its caller sees nothing."""
    lines = Lines()
    with pool_over(lines) as pool:
        assert send(pool).all_delivered
        lines.opened[0].push(*WHILE_IDLE[name])
        assert send(pool).all_delivered
        assert len(lines.opened) == 2
        assert [made.written.count(b"MAIL FROM") for made in lines.opened] == [1, 1]
        assert b"RSET" not in lines.opened[0].written
        assert pool.stats().delivered == 2


def test_AK13_nodemailer_1105_a_mail_is_not_requeued_for_ever() -> None:
    """Every connection dies in the place of MAIL's reply: one retry where the connection was reused, no second."""

    class Dying(Lines):
        def transport(self) -> ScriptedTransport:
            first = not self.opened
            said: list[Any] = [GREETING, hello("PIPELINING"), *([SENT, OK] if first else []), EOF]
            self.opened.append(ScriptedTransport(said))
            return self.opened[-1]

    lines = Dying()
    with pool_over(lines) as pool:
        assert send(pool).all_delivered
        with pytest.raises(ConnectionLostError) as caught:
            send(pool)
        assert caught.value.delivery is ND
        assert len(lines.opened) == 2


LATE: dict[str, tuple[tuple[Any, ...], type[BaseException]]] = {
    "aiosmtplib before 5.1.2: silence": ((SILENCE,), SmtpTimeoutError),
    "redis-py#2499 an interrupt": ((KeyboardInterrupt(),), KeyboardInterrupt),
    "redis-py#2500 a soft time limit": ((RuntimeError("soft time limit"),), RuntimeError),
    "MemoryError": ((MemoryError(),), MemoryError),
    "swiftmailer#828 a line too many": ((b"250 ok\r\n250 ok\r\n",), ProtocolError),
    "Symfony#54169 half a reply": ((b"250 o", EOF), ConnectionLostError),
}


@pytest.mark.parametrize("name", LATE)
def test_AK20_AK14_a_late_reply_never_answers_the_next_command(name: str) -> None:
    """faults:BR1, BR5, BR20, BR25, G-T-4: whatever ended the exchange, that connection is not used again."""
    said, error = LATE[name]
    connection, transport = over(said, OK, OK, OK, OK, extensions=())
    with pytest.raises(error) as caught:
        send(connection)
    if isinstance(caught.value, SmtpError):
        assert caught.value.delivery is ND
    else:
        verdict = attempt_of(caught.value)
        assert verdict is not None
        assert verdict.delivery is ND
    written = transport.written
    transport.push(b"250 the late reply\r\n")
    for verb in (lambda: connection.noop(timeout=5), lambda: send(connection), lambda: connection.reset(timeout=5)):
        with pytest.raises(ConnectionLostError):
            verb()
    assert transport.written == written
    assert transport.closed
    assert not connection.usable


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, MemoryError])
def test_AK14_G_B_7_an_interrupted_mail_is_in_doubt_and_its_connection_serves_nobody(
    interrupt: type[BaseException],
) -> None:
    """smtplib: the third mail got the second one's reply. The pool opens another connection for it."""

    class Interrupted(Lines):
        def transport(self) -> ScriptedTransport:
            said = [SENT, interrupt(), OK] if not self.opened else [SENT, b"250 of the second\r\n"]
            self.opened.append(ScriptedTransport([GREETING, hello("PIPELINING"), *said]))
            return self.opened[-1]

    lines = Interrupted()
    with pool_over(lines) as pool:
        with pytest.raises(interrupt) as caught:
            send(pool)
        verdict = attempt_of(caught.value)
        assert verdict is not None
        assert (verdict.delivery, verdict.retry_safe) == (UN, False)
        result = send(pool)
        assert result.reply is not None
        assert result.reply.text == "of the second"
        assert [made.closed for made in lines.opened] == [True, False]
        assert lines.opened[0].written.count(b"MAIL FROM") == 1


def test_AK21_nothing_stands_behind_the_end_of_data_of_a_single_mail() -> None:
    """Comments in Postfix's smtp_chat.c: QUIT behind the dot, and its 221 taken for the mail's reply."""
    connection, transport = over(SENT, OK, BYE)
    assert send(connection).all_delivered
    assert transport.written.endswith(b"\r\n.\r\n")
    assert connection.quit(timeout=5)
    assert transport.writes[-1] == b"QUIT\r\n"


@pytest.mark.parametrize("level", [Pipelining.OFF, Pipelining.GROUPED])
def test_AK21_a_farewell_in_the_place_of_the_final_reply_delivers_nothing(level: Pipelining) -> None:
    """faults:BR2, BR13."""
    said = [OK, OK, GO] if level is Pipelining.OFF else [SENT]
    connection, transport = over(*said, BYE, pipelining=level)
    with pytest.raises(ServiceUnavailableError) as caught:
        send(connection)
    assert caught.value.delivery is ND
    assert transport.closed


@pytest.mark.parametrize("final", [b"250", b"250 ok", b"250 queued as", b"250x ok\r\n", b"2500 ok\r\n", b"250 a\n"])
def test_AK20_half_a_final_reply_is_no_final_reply(final: bytes) -> None:
    """faults:G-B-4, G-B-5, BR3: others call it a success."""
    connection, transport = over(SENT, (final, EOF))
    with pytest.raises(DeliveryUnknownError) as caught:
        send(connection)
    assert [entry.delivery for entry in caught.value.recipients] == [UN]
    assert transport.closed


def test_AK20_G_B_6_a_reply_too_many_to_MAIL_stops_the_mail_in_front_of_its_body() -> None:
    connection, transport = over((OK + OK + NO + GO,))
    with pytest.raises(ProtocolError) as caught:
        send(connection)
    assert (caught.value.delivery, caught.value.permanent, caught.value.scope) == (ND, None, "service")
    assert BODY not in transport.written
    assert transport.closed


@pytest.mark.parametrize("said", [NO + NO + NO, OK + NO + NO, OK + OK + NO], ids=["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("surplus", [b"421 bye\r\n", OK, b"2", b"\0\r\n"], ids=["421", "reply", "octet", "garbage"])
def test_AK20_BR4_a_refusal_counts_for_the_mail_only_where_the_replies_are_in_step(said: bytes, surplus: bytes) -> None:
    """A server that refuses and says goodbye is; one that says a reply too many is not, and nobody shall bounce."""
    connection, transport = over((said + surplus,), dry="eof")
    with pytest.raises(SmtpError) as caught:
        send(connection)
    assert isinstance(caught.value, ProtocolError) is not surplus.startswith(b"421")
    assert (caught.value.delivery, caught.value.retry_safe) == (ND, True)
    assert transport.closed
    assert b"QUIT" not in transport.written


# --- AK15, AK16: collector and fork -----------------------------------------------------------------------------------


def test_AK15_the_collector_takes_no_lock_of_ours() -> None:
    """psycopg#1120, pymongo#642, httpcore#990, httpcore#1108: every allocation may run a finaliser of ours."""
    lines = Lines()
    pool = pool_over(lines, max_size=2)
    before = gc.get_threshold()
    gc.set_threshold(1)
    done: list[int] = []

    def work() -> None:
        for number in range(40):
            lease = pool.connection()
            ring: list[Any] = [lease, pool.send_many([])]
            ring.append(ring)
            list(ring[1])
            with pool.connection() as held:
                held.capabilities.supports_pipelining  # noqa: B018  # it takes the lease's lock
            pool.stats()
            done.append(number)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        gc.set_threshold(*before)
    assert len(done) == 80, "a dead-lock"
    stats = pool.stats()
    assert (stats.leased, stats.waiting) == (0, 0)
    pool.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tls", [None, "implicit", "starttls"])
def test_AK16_a_child_says_nothing_into_a_session_of_its_parent(tls: Any, authority: TestAuthority) -> None:
    """requests#1906, urllib3#850, gevent#2196, openssl#19066; G-S-4: the session lives on, no close_notify, no QUIT."""
    mode = {None: TlsMode.NONE, "implicit": TlsMode.IMPLICIT, "starttls": TlsMode.STARTTLS}[tls]
    config = TlsConfig(trust=authority.pem, server_name="localhost") if tls else None
    with LoopbackServer(tls=tls, ca=authority) as server:
        options: dict[str, Any] = {"timeout": 5, "tls_config": config}
        connection = SmtpConnection.connect("127.0.0.1", server.port, mode, **options)
        with ConnectionPool("127.0.0.1", server.port, mode, **options) as pool, pool.connection() as lease:
            assert send(lease).all_delivered
            assert refusals_in_a_child(connection, lease, pool) == 2
            assert send(lease).all_delivered
            assert send(connection).all_delivered
            connection.close()
    assert server.violations == []
    assert server.received == 3
    assert [session.commands.count("QUIT") for session in server.sessions] == [0, 1]


def refusals_in_a_child(connection: SmtpConnection, lease: Lease, pool: ConnectionPool) -> int:
    """How many of the two refused to be used in a forked child, which then lets go of everything."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99  # pragma: no cover  # another process
    try:
        refused = sum(isinstance(raised(send, inherited), UsageError) for inherited in (connection, lease))
        connection.close()
        pool.close()
        del connection, lease, pool
        gc.collect()
        status = refused
    finally:
        os._exit(status)


# --- AK17, AK18: what is shown ----------------------------------------------------------------------------------------

PASSWORD = "hunter2-\u00e9-correct"
TOKEN = "ya29.hunter2-token"
MAKERS: dict[str, Callable[[], Any]] = {
    "PLAIN": lambda: PlainAuth("u", PASSWORD),
    "LOGIN": lambda: LoginAuth("u", PASSWORD),
    "SCRAM-SHA-256": lambda: ScramAuth("u", "hunter2-correct"),
    "XOAUTH2": lambda: XOAuth2Auth("u", TOKEN),
    "OAUTHBEARER": lambda: OAuthBearerAuth(TOKEN, user="u"),
}
OUTCOMES: dict[str, list[Any]] = {
    "235": [b"235 ok\r\n"],
    "535": [b"535 5.7.8 no\r\n"],
    "454": [b"454 later\r\n"],
    "421": [b"421 bye\r\n"],
    "2yz that is not 235": [b"250 ok\r\n"],
    "another challenge": [b"334 \r\n", b"334 \r\n", b"334 \r\n", b"535 no\r\n"],
    "base64 that is none": [b"334 ????\r\n", b"535 no\r\n"],
    "garbage": [b"\0\0\r\n"],
    "an endless line": [b"535 " + b"x" * 20_000],
    "a reply too many": [b"535 no\r\n250 ok\r\n"],
    "the end": [EOF],
    "a reset": [RESET],
    "silence": [SILENCE],
    "an interrupt": [KeyboardInterrupt()],
    "out of memory": [MemoryError()],
}


@pytest.mark.parametrize("mechanism", MAKERS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_AK17_no_secret_is_seen_whatever_AUTH_comes_to(
    mechanism: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    """aiosmtpd#233, hMailServer#436, chrj/smtpd#38; SEC1-SEC5, G-B-11, G-SEC-4.

    In the error, its chain, its frames with their locals, the records of every logger at DEBUG, the connection and its
    credentials; also by the verbs that come afterwards.
    """
    credentials = MAKERS[mechanism]()
    secrets = [PASSWORD, TOKEN, "hunter2-correct", f"\0u\0{PASSWORD}", f"user=u\x01auth=Bearer {TOKEN}"]
    connection, transport = over(
        *OUTCOMES[outcome], extensions=(f"AUTH {mechanism}",), allow_plaintext_auth=True, dry="eof"
    )
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG, logger="smtpconn"), caplog.at_level(logging.DEBUG, logger="smtpconn.wire"):
        for call in (
            lambda: connection.auth(credentials, timeout=5),
            lambda: connection.noop(timeout=5),
            lambda: connection.quit(timeout=5),
        ):
            with contextlib.suppress(AssertionError):  # nothing was raised
                shown.append(rendered(raised(call)))
    assert b"AUTH" in transport.written
    shown += [repr(connection), repr(vars(connection)), repr(vars(connection._session)), repr(credentials)]
    shown += [repr(vars(credentials)), str(credentials)]
    shown += [f"{record.getMessage()} {vars(record)!r}" for record in caplog.records]
    seen = "\n".join(shown)
    assert "AUTH" in seen
    assert not [form for secret in secrets for form in forms_of(secret) if form in seen]
    connection.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "XOAUTH2"])
@pytest.mark.parametrize("code", [b"535", b"421", b"250", b"334", b"999"])
def test_AK17_a_server_that_echoes_the_line_is_not_quoted(
    mechanism: str, code: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    connection, transport = over(extensions=(f"AUTH {mechanism}",), allow_plaintext_auth=True, dry="eof")

    class Echo:
        """Says the line again."""

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

        def recv(self, limit: int, timeout: float | None) -> bytes:
            line = bytes(transport.written).split(b"\r\n")[1]
            if transport.written.endswith(b"*\r\n"):
                return b""
            return code + b" 5.7.8 " + line + b" is no login\r\n"

    connection._driver.transport = Echo()
    with caplog.at_level(logging.DEBUG, logger="smtpconn.wire"), pytest.raises(SmtpError) as caught:
        connection.auth(MAKERS[mechanism](), timeout=5)
    seen = rendered(caught.value) + repr(connection) + "\n".join(repr(vars(record)) for record in caplog.records)
    line = transport.written.split(b"\r\n")[1].split()[-1].decode()
    assert line not in seen
    for secret in (PASSWORD, TOKEN):
        assert not [form for form in forms_of(secret) if form in seen]
    connection.close()


CONTROLS = {
    "ESC, clear the screen": b"\x1b[2J\x1b[H", "ESC, a title": b"\x1b]0;owned\x07", "a device query": b"\x1b[6n",
    "BEL": b"\x07", "BS": b"\x08" * 20, "CSI of one octet": b"\xc2\x9b31m", "a raw C1": b"\x9b31m",
    "NUL": b"\0", "VT": b"\x0b", "DEL": b"\x7f", "right to left": "\u202etxt.exe".encode(),
    "an isolate": "\u2066x".encode(), "a line separator": "\u2028ERROR forged".encode(),
    "a bare CR": b"\rERROR forged", "private use": "\ue000".encode(), "half a letter": b"\xc3",
    "a tag": "\U000e0041".encode(),
}  # fmt: skip


ACTING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\uf8ff\U000e0000-\U000e007f]"
)


@pytest.mark.parametrize("name", CONTROLS)
def test_AK18_the_words_of_a_server_act_on_no_terminal_and_forge_no_line(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """faults:SEC5, SEC6, P7, G-B-12: escaped in str, repr, log and audit; the raw octets are in `Reply.raw` alone."""
    connection, _, sink = audited((b"550 5.1.1 " + CONTROLS[name] + b" no\r\n",), extensions=(), dry="eof")
    with caplog.at_level(logging.DEBUG, logger="smtpconn.wire"), pytest.raises(SmtpError) as caught:
        send(connection)
    error = caught.value
    shown = [str(error), repr(error), *(record.getMessage() for record in caplog.records), repr(sink.events)]
    if error.reply is not None:
        shown += [error.reply.text, *error.reply.lines, repr(error.reply), str(error.reply)]
        assert CONTROLS[name] in error.reply.raw
    for text in shown:
        assert not ACTING.search(text), ascii(text)
    assert "\n" not in str(error)
    connection.close()


# --- AK19, AK22, AK23: whose mail is it -------------------------------------------------------------------------------


def test_AK19_mails_of_threads_that_share_a_connection_never_mix(server: LoopbackServer) -> None:
    """nodemailer#265: strangers received mail. Each mail names its own envelope in its body; 6 threads, 120 mails."""
    failures: list[BaseException] = []
    with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as connection:

        def work(who: int) -> None:
            try:
                for number in range(20):
                    name = f"t{who}n{number}"
                    to = [f"{name}-{each}@example.com" for each in range(1 + number % 3)]
                    body = [f"Subject: {name}\r\n\r\n".encode(), *[f"{address}\r\n".encode() for address in to]]
                    verb = connection.send if number % 2 else connection.send_bdat
                    assert verb(f"{name}@example.com", to, body, timeout=20).all_delivered
                    if number % 5 == 0:
                        with pytest.raises(InvalidInputError):
                            connection.send("a\r\n@x", to, b"", timeout=20)
                        connection.noop(timeout=20)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert server.received == 120
    for mail in server.mails:
        name = mail.sender.partition("@")[0]
        head, _, rest = mail.content.partition(b"\r\n\r\n")
        assert head.decode().endswith(f"Subject: {name}")
        assert rest.decode().split() == mail.recipients
        assert all(address.startswith(f"{name}-") for address in mail.recipients)


BDAT_REFUSED: dict[str, list[Any]] = {
    "MAIL refused": [NO + NO],
    "every recipient refused": [OK + NO],
    "BDAT not known": [OK + OK, b"502 what\r\n"],
}
HOSTILE = b"Subject: x\r\n\r\nx\r\n.\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<evil@y>\r\nDATA\r\n"


@pytest.mark.parametrize("name", BDAT_REFUSED)
@pytest.mark.parametrize("level", [Pipelining.OFF, Pipelining.GROUPED, Pipelining.PREFETCH])
def test_AK22_no_octet_of_a_chunk_goes_where_it_could_be_run_as_a_command(name: str, level: Pipelining) -> None:
    """go-smtp#315: where the envelope was refused no BDAT is written; a refused one is the last (RFC 3030 2)."""
    said = BDAT_REFUSED[name]
    if level is Pipelining.OFF:
        said = [line + b"\r\n" for turn in said for line in turn.split(b"\r\n")[:-1]]
        if name == "MAIL refused":
            said = said[:1]
    connection, transport = over(*said, extensions=("PIPELINING", "CHUNKING"), pipelining=level, dry="eof")
    with pytest.raises(SmtpError) as caught:
        connection.send_bdat(SENDER, [ONE], HOSTILE, timeout=5)
    assert caught.value.delivery is ND
    assert transport.written.count(b"BDAT") == (1 if "BDAT" in name else 0)
    assert (HOSTILE in transport.written) is ("BDAT" in name)
    connection.close()


def test_AK22_a_refused_chunk_is_the_last_one_of_its_mail() -> None:
    """faults:BR18, OB12, RFC 3030 section 2."""
    connection, transport = over(OK + OK, b"451 no\r\n", extensions=("PIPELINING", "CHUNKING"), dry="eof")
    chunks = [b"x" * 65_534 + b"\r\n"] * 40
    with pytest.raises(SmtpError) as caught:
        connection.send_bdat(SENDER, [ONE], iter(chunks), timeout=5)
    assert caught.value.delivery is ND
    assert b"LAST" not in transport.written
    connection.close()


FAILED: dict[str, list[Any]] = {
    "Exim: MAIL refused": [NO + NO + NO],
    "Postfix: every recipient refused": [OK + NO + b"554 no\r\n"],
    "Sendmail: DATA refused": [OK + OK + NO],
    "the end of data refused": [OK + OK + GO, NO],
}


@pytest.mark.parametrize("name", FAILED)
def test_AK23_the_next_mail_never_goes_out_under_the_sender_before(name: str) -> None:
    """faults:BR10, BR17, BR21: RSET stands in front of it, in its flight."""
    connection, transport = over(*FAILED[name], OK + SENT, OK)
    with pytest.raises(SmtpError) as caught:
        connection.send("first@example.com", [ONE], BODY, timeout=5)
    assert caught.value.delivery is ND
    assert connection.send("second@example.com", [ONE], BODY, timeout=5).all_delivered
    lines = after_hello(transport).split(b"\r\n")
    assert lines[lines.index(b"MAIL FROM:<second@example.com>") - 1] == b"RSET"
    connection.close()


def test_AK23_a_mail_whose_own_MAIL_was_refused_is_not_sent_though_its_recipients_are_taken() -> None:
    """Exim 4.96: MAIL 503, RCPT 250, DATA 354: the body would be filed under the sender before."""
    connection, transport = over(b"503 sender already given\r\n" + OK + GO, dry="eof")
    with pytest.raises(SmtpError) as caught:
        connection.send(SENDER, [ONE], BODY, timeout=5)
    assert caught.value.delivery is ND
    assert BODY not in transport.written
    assert transport.closed


# --- the table of the docs --------------------------------------------------------------------------------------------


def test_the_table_of_the_docs_names_tests_that_are_here() -> None:
    """faults:G-SEC-1, G-C-5: each attack has a row, and a test that is named after it."""
    page = (Path(__file__).parents[2] / "docs/topics/security.rst").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^   \* - (AK\d+)\n((?:     .*\n)+)", page))
    assert list(rows) == [f"AK{number}" for number in range(1, 24)]
    defined = {
        name
        for module in Path(__file__).parents[1].rglob("test_*.py")
        for name in re.findall(r"(?m)^def (test_\w+)", module.read_text(encoding="utf-8"))
    }
    for attack, text in rows.items():
        cited = re.findall(r"``(test_\w+)``", text)
        assert cited, attack
        assert set(cited) <= defined, attack
        assert any(f"_{attack}_" in name for name in cited), attack
