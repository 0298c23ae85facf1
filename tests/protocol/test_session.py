"""The flows that are not a mail, as dialogues: what is written, what is learnt, what ends the session."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn.protocol.errors import (
    AuthenticationError,
    ConnectionLostError,
    ExtensionUnavailableError,
    InvalidInputError,
    PermanentReplyError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    StartTlsUnavailableError,
    TlsError,
    TransientReplyError,
    UsageError,
)
from smtpconn.protocol.ledger import DATA, END, MAIL, NOOP, RCPT, RSET, Entry, Kind
from smtpconn.protocol.mechanisms import (
    BearerMechanism,
    LoginMechanism,
    Mechanism,
    PlainMechanism,
    ScramMechanism,
)
from smtpconn.protocol.reply import MAX_REPLY, Reply
from smtpconn.protocol.session import ProtocolName, Session, SessionState, used_up

from .dialogue import DELIVERIES, Delivery, Dialogue, raised, ready, rendered

DOMAIN = "client.example.com"
GREETING = b"220 mx.example.com ESMTP\r\n"
EHLO = b"EHLO client.example.com\r\n"
LHLO = b"LHLO client.example.com\r\n"
HELO = b"HELO client.example.com\r\n"


def new(delivery: Delivery, protocol: ProtocolName = "smtp", *, greeted: bool = True) -> Dialogue:
    dialogue = Dialogue(Session(protocol, DOMAIN), delivery)
    if greeted:
        dialogue.run(dialogue.session.greet(), GREETING)
    return dialogue


# --- greeting


@pytest.mark.parametrize("octets", [GREETING, b"220-a\r\n220 b\r\n", b"220\r\n"], ids=["one line", "E110", "E9"])
def test_a_greeting_is_220(octets: bytes, delivery: Delivery) -> None:
    dialogue = new(delivery, greeted=False)
    assert dialogue.session.state is SessionState.GREETING
    reply = dialogue.run(dialogue.session.greet(), octets)
    assert reply.raw == octets
    assert (dialogue.written, dialogue.session.state) == ([], SessionState.EHLO)


@pytest.mark.parametrize(
    ("octets", "error", "code"),
    [
        pytest.param(b"554 no\r\n", PermanentReplyError, 554, id="E1 G5"),
        pytest.param(b"450 later\r\n", TransientReplyError, 450, id="G4"),
        pytest.param(b"421 closing\r\n", ServiceUnavailableError, 421, id="F6 SX"),
        pytest.param(b"221 closing\r\n", ServiceUnavailableError, 221, id="BR2 221"),
        pytest.param(b"250 hello\r\n", ProtocolError, 250, id="E111"),
        pytest.param(b"200 hello\r\n", ProtocolError, 200, id="E111 C18"),
        pytest.param(b"354 go\r\n", ProtocolError, 354, id="3yz"),
        pytest.param(b"HTTP/1.1 400\r\n", ProtocolError, None, id="malformed"),
        pytest.param(b"", ConnectionLostError, None, id="EOF"),
        pytest.param(b"220 mx", ConnectionLostError, None, id="BR3 cut"),
    ],
)
def test_another_greeting_is_an_error(
    octets: bytes, error: type[SmtpError], code: int | None, delivery: Delivery
) -> None:
    dialogue = new(delivery, greeted=False)
    found = raised(dialogue.run, dialogue.session.greet(), octets)
    assert type(found) is error
    assert isinstance(found, SmtpError)
    assert (found.stage, found.reply and found.reply.code) == ("greeting", code)
    assert dialogue.session.state is SessionState.GREETING


# --- EHLO, LHLO, HELO


@pytest.mark.parametrize(("protocol", "line"), [("smtp", EHLO), ("lmtp", LHLO)])
def test_hello_learns_what_the_server_offers_F7_E5(protocol: ProtocolName, line: bytes, delivery: Delivery) -> None:
    dialogue = new(delivery, protocol)
    dialogue.run(
        dialogue.session.hello(), b"250-mx.example.com hi\r\n250-SIZE 10\r\n250-ENHANCEDSTATUSCODES\r\n250 \r\n"
    )
    session = dialogue.session
    assert dialogue.written == [line]
    assert session.capabilities.lines == ("SIZE 10", "ENHANCEDSTATUSCODES", "")
    assert (session.capabilities.greeting_name, session.capabilities.is_esmtp) == ("mx.example.com", True)
    assert session.state is SessionState.AUTHENTICATION
    assert session.parser.wants_enhanced
    assert session.is_lmtp is (protocol == "lmtp")


def test_greeting_and_hello_cut_at_every_octet_boundary_E5() -> None:
    hello = b"250-mx\r\n250-PIPELINING\r\n250 HELP\r\n"
    for cut in range(len(hello) + 1):
        session = Session("smtp", DOMAIN)
        session.parser.feed(GREETING)
        flow = session.greet()
        next(flow)
        reply = session.parser.next_reply()
        assert reply is not None
        with pytest.raises(StopIteration):
            flow.send([reply])
        opening = session.hello()
        next(opening)
        session.parser.feed(hello[:cut])
        first = session.parser.next_reply()
        session.parser.feed(hello[cut:])
        answer = first or session.parser.next_reply()
        assert answer is not None
        with pytest.raises(StopIteration):
            opening.send([answer])
        assert session.capabilities.lines == ("PIPELINING", "HELP")


@pytest.mark.parametrize("code", [500, 501, 502, 504, 550])
@pytest.mark.parametrize(
    ("protocol", "demands", "fallback", "error", "extension"),
    [
        pytest.param("smtp", None, True, None, None, id="E4a HELO"),
        pytest.param("smtp", "STARTTLS", True, StartTlsUnavailableError, "STARTTLS", id="E4b"),
        pytest.param("smtp", "AUTH", True, ExtensionUnavailableError, "AUTH", id="E113"),
        pytest.param("smtp", None, False, PermanentReplyError, None, id="A8 G5 after STARTTLS"),
        pytest.param("lmtp", None, True, PermanentReplyError, None, id="E4c LMTP"),
        pytest.param("lmtp", "AUTH", True, PermanentReplyError, None, id="D13 LMTP never falls back"),
    ],
)
def test_a_server_without_EHLO_H5_F8_D13(
    code: int,
    protocol: ProtocolName,
    demands: str | None,
    fallback: bool,
    error: type[SmtpError] | None,
    extension: str | None,
    delivery: Delivery,
) -> None:
    dialogue = new(delivery, protocol)
    session = dialogue.session
    refusal = b"%d what?\r\n" % code
    flow = session.hello(demands=demands, fallback=fallback)
    if error is None:
        dialogue.run(flow, refusal, b"250 mx.example.com\r\n")
        assert dialogue.written == [EHLO, HELO]
        capabilities = session.capabilities
        assert (capabilities.lines, capabilities.is_esmtp) == ((), False)  # E122
        assert capabilities.greeting_name == "mx.example.com"
        assert (session.state, session.parser.wants_enhanced) == (SessionState.AUTHENTICATION, False)
        return
    found = raised(dialogue.run, flow, refusal)
    assert type(found) is error
    assert isinstance(found, SmtpError)
    assert (found.extension, found.permanent, found.scope) == (extension, True, "service")
    assert found.reply is not None
    assert found.reply.code == code
    assert found.stage == ("LHLO" if protocol == "lmtp" else "EHLO")
    assert dialogue.written == [LHLO if protocol == "lmtp" else EHLO]
    assert session.may_quit


@pytest.mark.parametrize(
    ("script", "error", "stage"),
    [
        pytest.param([b"554 no\r\n"], PermanentReplyError, "EHLO", id="H5 any other 5yz is G5"),
        pytest.param([b"503 no\r\n"], PermanentReplyError, "EHLO", id="503"),
        pytest.param([b"450 no\r\n"], TransientReplyError, "EHLO", id="G4"),
        pytest.param([b"502 no\r\n", b"550 no\r\n"], PermanentReplyError, "HELO", id="H5 HELO G5"),
        pytest.param([b"502 no\r\n", b"450 no\r\n"], TransientReplyError, "HELO", id="H5 HELO G4"),
        pytest.param([b"502 no\r\n", b"251 no\r\n"], ProtocolError, "HELO", id="BR2 HELO 251"),
        pytest.param([b"251 x\r\n"], ProtocolError, "EHLO", id="E112 251"),
        pytest.param([b"299 x\r\n"], ProtocolError, "EHLO", id="E112 299"),
        pytest.param([b"250-x\r\n251 y\r\n"], ProtocolError, "EHLO", id="E7"),
        pytest.param([b"250-a\r\n"], ConnectionLostError, "EHLO", id="E6"),
        pytest.param([b"421 x\r\n"], ServiceUnavailableError, "EHLO", id="SX"),
    ],
)
def test_hello_fails(script: list[bytes], error: type[SmtpError], stage: str, delivery: Delivery) -> None:
    dialogue = new(delivery)
    found = raised(dialogue.run, dialogue.session.hello(), *script)
    assert type(found) is error
    assert isinstance(found, SmtpError)
    assert found.stage == stage
    assert dialogue.session.state is SessionState.EHLO
    if error is ProtocolError and b"251 y" in script[0]:
        assert "250" in str(found)
        assert "251" in str(found)


# --- STARTTLS


def test_a_full_STARTTLS_run_E20_E21_E27(delivery: Delivery) -> None:
    dialogue = new(delivery)
    session = dialogue.session
    dialogue.run(session.hello(), b"250-mx\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250 AUTH PLAIN\r\n")
    dialogue.run(session.starttls(), b"220 2.0.0 go\r\n")
    assert session.state is SessionState.STARTTLS
    assert not session.capabilities.is_esmtp, "F15: dropped before the handshake"
    assert not session.parser.wants_enhanced
    assert (session.may_quit, session.secure) == (False, False)
    session.upgraded()
    assert (session.state, session.secure) == (SessionState.EHLO, True)
    dialogue.run(session.hello(fallback=False), b"250-mx\r\n250 AUTH LOGIN\r\n")
    assert dialogue.lines == [EHLO, b"STARTTLS\r\n", EHLO]
    assert session.capabilities.auth_mechanisms == {"LOGIN"}
    assert not session.authenticated
    reply = dialogue.run(session.noop(), b"250 2.0.0 ok\r\n")
    assert reply.enhanced is None


@pytest.mark.parametrize(
    ("octets", "permanent"),
    [
        (b"502 no\r\n", True),
        (b"454 not now\r\n", False),
        (b"250 ok\r\n", True),
        (b"299 ok\r\n", True),
        (b"354 go\r\n", True),
    ],
    ids=["E23 502", "E23 454", "TS wrong class", "TS 299", "TS 3yz"],
)
def test_STARTTLS_answered_otherwise_than_220_F13(octets: bytes, permanent: bool, delivery: Delivery) -> None:
    dialogue = ready("STARTTLS", delivery=delivery, secure=False)
    found = raised(dialogue.run, dialogue.session.starttls(), octets)
    assert type(found) is TlsError
    assert isinstance(found, TlsError)
    assert (found.stage, found.permanent, found.reply and found.reply.raw) == ("STARTTLS", permanent, octets)
    assert (dialogue.session.secure, dialogue.session.may_quit) == (False, True)


def test_STARTTLS_that_is_not_offered_E22(delivery: Delivery) -> None:
    dialogue = ready("STARTTLSPLUS", delivery=delivery, secure=False)
    found = raised(dialogue.run, dialogue.session.starttls())
    assert isinstance(found, StartTlsUnavailableError)
    assert (found.permanent, found.extension, found.scope) == (True, "STARTTLS", "service")
    assert dialogue.written == []


@pytest.mark.parametrize("case", ["under TLS", "after AUTH", "before EHLO", "between mails"])
def test_STARTTLS_at_the_wrong_time_E25_F11(case: str) -> None:
    dialogue = ready("STARTTLS", secure=case == "under TLS")
    session = dialogue.session
    session.authenticated = case == "after AUTH"
    if case == "before EHLO":
        session.state = SessionState.EHLO
    if case == "between mails":
        session.state = SessionState.MAIL_FROM
    assert isinstance(raised(dialogue.run, session.starttls()), UsageError)
    assert dialogue.written == []


@pytest.mark.parametrize("surplus", [b"X\r\n", b"250-mx\r\n250 AUTH LOGIN\r\n", b"frag"], ids=["3", "24", "no CRLF"])
def test_octets_behind_the_220_stay_to_be_seen_E26(surplus: bytes, delivery: Delivery) -> None:
    """F14: the shell counts them and refuses; the flow does not drop them."""
    dialogue = ready("STARTTLS", delivery=delivery, secure=False)
    dialogue.run(dialogue.session.starttls(), b"220 go\r\n" + surplus)
    assert dialogue.session.parser.pending == len(surplus)


# --- AUTH

USER, SECRET, TOKEN = "user-name", "S3cret-pencil-horse", "ya29.A0ARrdaM-token-token"
NONCE = "rOprNGfwEbeRWgbNEkqO"  # RFC 7677 section 3
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
PROOF = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
CLIENT_FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=" + PROOF


def plain() -> Mechanism:
    return PlainMechanism(USER, SECRET, None)


def login() -> Mechanism:
    return LoginMechanism(USER, SECRET)


def xoauth2() -> Mechanism:
    return BearerMechanism("XOAUTH2", f"user={USER}\x01auth=Bearer {TOKEN}\x01\x01", TOKEN, b"")


def bearer() -> Mechanism:
    return BearerMechanism("OAUTHBEARER", f"n,,\x01auth=Bearer {TOKEN}\x01\x01", TOKEN, b"\x01")


def scram() -> Mechanism:
    return ScramMechanism("user", "pencil", b"n,,", b"", NONCE)


def bound() -> Mechanism:
    return ScramMechanism("user", "pencil", b"p=tls-server-end-point,,", b"x" * 32, NONCE)


def b64(octets: bytes | str) -> bytes:
    return base64.b64encode(octets.encode() if isinstance(octets, str) else octets)


def challenge(octets: bytes | str) -> bytes:
    return b"334 " + b64(octets) + b"\r\n"


PLAIN_LINE = b"AUTH PLAIN " + b64(f"\0{USER}\0{SECRET}") + b"\r\n"
LOGIN_LINES = [b"AUTH LOGIN\r\n", b64(USER) + b"\r\n", b64(SECRET) + b"\r\n"]
XOAUTH2_LINE = b"AUTH XOAUTH2 " + b64(f"user={USER}\x01auth=Bearer {TOKEN}\x01\x01") + b"\r\n"
BEARER_LINE = b"AUTH OAUTHBEARER " + b64(f"n,,\x01auth=Bearer {TOKEN}\x01\x01") + b"\r\n"
SCRAM_LINE = b"AUTH SCRAM-SHA-256 " + b64(f"n,,n=user,r={NONCE}") + b"\r\n"
PROOF_LINE = b64(CLIENT_FINAL) + b"\r\n"
OK = b"235 2.7.0 ok\r\n"
NO = b"535 5.7.8 no\r\n"
CANCEL = b"*\r\n"


@pytest.mark.parametrize(
    ("mechanism", "script", "written"),
    [
        pytest.param(plain, [OK], [PLAIN_LINE], id="F38"),
        pytest.param(login, [b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n", OK], LOGIN_LINES, id="F40"),
        pytest.param(login, [b"334 \r\n", b"334\r\n", OK], LOGIN_LINES, id="E149 empty prompts, F18 code only"),
        pytest.param(login, [b"334  \r\n", challenge("User Name\0"), OK], LOGIN_LINES, id="E148 two blanks"),
        pytest.param(login, [challenge(b"x" * 9_216), challenge(b""), OK], LOGIN_LINES, id="E147 12,288 octets"),
        pytest.param(xoauth2, [OK], [XOAUTH2_LINE], id="F41"),
        pytest.param(bearer, [OK], [BEARER_LINE], id="F42"),
        pytest.param(
            scram,
            [challenge(SERVER_FIRST), challenge(SERVER_FINAL), OK],
            [SCRAM_LINE, PROOF_LINE, b"\r\n"],
            id="E44 F43 signature in a challenge",
        ),
        pytest.param(
            scram,
            [challenge(SERVER_FIRST), b"235 2.7.0 " + SERVER_FINAL + b"\r\n"],
            [SCRAM_LINE, PROOF_LINE],
            id="E45 signature in the 235",
        ),
        pytest.param(
            scram,
            [b"334   " + b64(SERVER_FIRST) + b" \r\n", challenge(SERVER_FINAL), b"235\r\n"],
            [SCRAM_LINE, PROOF_LINE, b"\r\n"],
            id="F43 blanks around a challenge",
        ),
    ],
)
def test_auth_succeeds_with_235(
    mechanism: Callable[[], Mechanism], script: list[bytes], written: list[bytes], delivery: Delivery
) -> None:
    dialogue = ready("AUTH ANY", delivery=delivery)
    session = dialogue.session
    reply = dialogue.run(session.auth(mechanism()), *script)
    assert reply.code == 235
    assert dialogue.written == written
    assert (session.authenticated, session.state, session.condemned) == (True, SessionState.MAIL_FROM, None)
    assert (session.may_quit, session.parser.redact) == (True, None)


def echo_of(line: bytes) -> bytes:
    return b"535 5.7.8 no such thing: " + line.strip() + b"\r\n"


LONG = "x" * 9_200


def failing(
    name: str,
    mechanism: Callable[[], Mechanism],
    script: list[bytes],
    written: list[bytes],
    error: type[SmtpError] = AuthenticationError,
    *,
    permanent: bool | None = True,
    condemned: bool = False,
    detail: str | None = None,
) -> tuple[Any, ...]:
    """What the server says; what is written behind the first line; what is raised, and whether the session ends."""
    return name, mechanism, script, written, error, permanent, condemned, detail


FAILURES = [
    failing("E35 AP", plain, [NO], []),
    failing("AP 534", plain, [b"534 5.7.9 x\r\n"], []),
    failing("AP 538", plain, [b"538 5.7.11 x\r\n"], []),
    failing("AP 503", plain, [b"503 x\r\n"], []),
    failing("E36 AT 454", plain, [b"454 4.7.0 x\r\n"], [], permanent=False),
    failing("E36 AT 432", plain, [b"432 4.7.12 x\r\n"], [], permanent=False),
    failing("E35 LOGIN, third step", login, [challenge("u"), challenge("p"), NO], LOGIN_LINES[1:]),
    failing("LOGIN, first step", login, [NO], []),
    failing("E152 PLAIN echo", plain, [echo_of(PLAIN_LINE)], []),
    failing("E152 LOGIN echo", login, [challenge(""), challenge(""), echo_of(LOGIN_LINES[2])], LOGIN_LINES[1:]),
    failing("E152 echo in plain", plain, [b"535 bad password " + SECRET.encode() + b"\r\n"], []),
    failing("E152 an echo as malformed reply", plain, [PLAIN_LINE], [], ProtocolError, permanent=None),
    failing("E152 an echo behind a wrong code", plain, [b"250 " + PLAIN_LINE], [], ProtocolError, condemned=True),
    failing("E152 an echo in a 421", plain, [b"421 " + PLAIN_LINE], [], ServiceUnavailableError, permanent=False),
    failing("E152 an echo as challenge", plain, [b"334 " + PLAIN_LINE], [], ProtocolError, condemned=True),
    failing(
        "E152 an echo as a good challenge", plain, [challenge(f"\0{USER}\0{SECRET}"), NO], [CANCEL], condemned=True
    ),
    failing("E50 AC unexpected 334", plain, [challenge(""), b"501 5.5.2 x\r\n"], [CANCEL], condemned=True),
    failing("E50 AC 235 to the cancel", plain, [challenge(""), OK], [CANCEL], condemned=True),
    failing("E50 AC 334 to the cancel", plain, [challenge(""), challenge("")], [CANCEL], condemned=True),
    failing(
        "F46 third challenge of LOGIN", login, [challenge("")] * 3 + [NO], [*LOGIN_LINES[1:], CANCEL], condemned=True
    ),
    failing("E145 F48 250", plain, [b"250 ok\r\n"], [], ProtocolError, condemned=True),
    failing(
        "E145 250 to the last step",
        login,
        [challenge(""), challenge(""), b"250 ok\r\n"],
        LOGIN_LINES[1:],
        ProtocolError,
        condemned=True,
    ),
    failing("F48 C3 299", plain, [b"299 ok\r\n"], [], ProtocolError, condemned=True),
    failing("AC 3yz", plain, [b"354 go\r\n"], [], ProtocolError, condemned=True),
    failing("AC undecodable", login, [b"334 !\r\n"], [], ProtocolError, condemned=True),
    failing("AC two lines", login, [b"334-VXNl\r\n334 VXNl\r\n"], [], ProtocolError, condemned=True),
    failing("E40", xoauth2, [challenge('{"status":"400"}'), NO], [b"\r\n"], detail='{"status":"400"}'),
    failing("E42 C1", bearer, [challenge('{"status":"x"}'), NO], [b"AQ==\r\n"], detail='{"status":"x"}'),
    failing("F46 bearer, then success", bearer, [challenge("{}"), OK], [b"AQ==\r\n"], condemned=True, detail="{}"),
    failing(
        "F46 bearer, second challenge",
        xoauth2,
        [challenge("{}"), challenge(""), NO],
        [b"\r\n", CANCEL],
        condemned=True,
        detail="{}",
    ),
    failing("the token in the JSON", xoauth2, [challenge(TOKEN), NO], [b"\r\n"], detail="***"),
    failing("535 to a token", xoauth2, [echo_of(XOAUTH2_LINE)], []),
    failing("E142 535 to SCRAM", scram, [NO], []),
    failing("SCRAM proof refused", scram, [challenge(SERVER_FIRST), NO], [PROOF_LINE]),
    failing("E152 SCRAM echo", scram, [challenge(SERVER_FIRST), echo_of(PROOF_LINE)], [PROOF_LINE]),
    failing("E152 SCRAM echo of the proof", scram, [challenge(SERVER_FIRST), echo_of(PROOF)], [PROOF_LINE]),
    failing("E45 235 without signature", scram, [challenge(SERVER_FIRST), OK], [PROOF_LINE], condemned=True),
    failing("E45 235 at once", scram, [OK], [], condemned=True),
    failing("E46 nonce", scram, [challenge("r=x,s=YQ==,i=4096"), NO], [CANCEL], condemned=True),
    failing("E46 454 to the cancel", scram, [challenge("m=x"), b"454 x\r\n"], [CANCEL], condemned=True),
    failing("E46 grammar", scram, [challenge("i=lots")], [], ProtocolError, condemned=True),
    failing("E46 undecodable", scram, [b"334 ????\r\n"], [], ProtocolError, condemned=True),
    failing(
        "E47 wrong v=", scram, [challenge(SERVER_FIRST), challenge("v=AAAA"), NO], [PROOF_LINE, CANCEL], condemned=True
    ),
    failing(
        "E47 e=",
        scram,
        [challenge(SERVER_FIRST), challenge("e=invalid-proof"), NO],
        [PROOF_LINE, b"\r\n"],
        detail="e=invalid-proof",
    ),
    failing(
        "E47 e=, then success",
        scram,
        [challenge(SERVER_FIRST), challenge("e=x"), OK],
        [PROOF_LINE, b"\r\n"],
        condemned=True,
        detail="e=x",
    ),
    failing(
        "E146 LM4 ninth challenge",
        scram,
        [challenge("e=x")] * 9 + [NO],
        [b"\r\n"] * 8 + [CANCEL],
        condemned=True,
        detail="e=x",
    ),
    failing(
        "F45 a challenge that calls for too long a response",
        scram,
        [challenge(f"r={NONCE}{LONG},s=YQ==,i=4096"), NO],
        [CANCEL],
        condemned=True,
    ),
    failing("SX", plain, [b"421 4.3.2 x\r\n"], [], ServiceUnavailableError, permanent=False),
    failing("DX", plain, [b""], [], ConnectionLostError, permanent=None),
    failing("PX", login, [challenge("")[:-2] + b"\n"], [], ProtocolError, permanent=None),
]


def forms_of(secret: str | bytes) -> list[str]:
    octets = secret.encode() if isinstance(secret, str) else secret
    found = [octets.decode()]
    for before in range(3):
        text = b64(b"\0" * before + octets + b"\0\0").decode()
        found.append(text[4 if before else 0 : (before + len(octets)) // 3 * 4])
    return found


@pytest.mark.parametrize(
    ("mechanism", "script", "written", "error", "permanent", "condemned", "detail"),
    [pytest.param(*row[1:], id=row[0]) for row in FAILURES],
)
def test_auth_fails_and_shows_no_secret_A9_SEC3_E151(
    mechanism: Callable[[], Mechanism],
    script: list[bytes],
    written: list[bytes],
    error: type[SmtpError],
    permanent: bool | None,
    condemned: bool,
    detail: str | None,
    delivery: Delivery,
) -> None:
    dialogue = ready("AUTH ANY", "ENHANCEDSTATUSCODES", delivery=delivery)
    session, exchange = dialogue.session, mechanism()
    found = raised(dialogue.run, session.auth(exchange), *script)
    assert type(found) is error
    assert isinstance(found, SmtpError)
    assert dialogue.lines[1:] == written
    assert (found.permanent, found.detail) == (permanent, detail)
    assert found.stage == f"AUTH {exchange.name}"
    assert (found.scope, found.retry_safe) == ("service", True)
    assert (session.condemned is not None) is condemned
    assert not session.authenticated
    assert session.state is SessionState.AUTHENTICATION
    assert session.parser.redact is None
    shown = rendered(found) + repr(session.closing)
    secrets = (
        SECRET,
        TOKEN,
        "pencil",
        PROOF,
        CLIENT_FINAL,
        f"\0{USER}\0{SECRET}",
        f"user={USER}\x01auth=Bearer {TOKEN}",
    )
    for form in [form for secret in secrets for form in forms_of(secret)]:
        assert form not in shown
    if error is AuthenticationError:
        assert found.reply is not None
        assert found.reply.code == int(script[-1][:3])


@pytest.mark.parametrize(
    ("first", "error"), [(OK, ProtocolError), (NO, AuthenticationError), (b"250 x\r\n", ProtocolError)]
)
def test_octets_behind_the_final_reply_end_the_session_A9_surplus_PX(first: bytes, error: type[SmtpError]) -> None:
    """They may be an echo, and would be quoted by the next verb, when nobody knows the secret any more."""
    dialogue = ready("AUTH PLAIN")
    session = dialogue.session
    found = raised(dialogue.run, session.auth(plain()), first + b"535 " + PLAIN_LINE)
    assert type(found) is error
    assert session.condemned
    assert not session.authenticated
    assert not session.may_quit
    for form in forms_of(SECRET):
        assert form not in rendered(found)


def test_a_refusal_leaves_the_session_usable_E35_F47(delivery: Delivery) -> None:
    dialogue = ready("AUTH PLAIN LOGIN", delivery=delivery)
    session = dialogue.session
    assert isinstance(raised(dialogue.run, session.auth(plain()), NO), AuthenticationError)
    assert session.may_quit
    dialogue.run(session.auth(plain()), OK)
    assert session.authenticated
    assert dialogue.lines == [PLAIN_LINE, PLAIN_LINE]


def test_the_enhanced_status_of_a_refusal_E39(delivery: Delivery) -> None:
    for capabilities, status, message in ((("ENHANCEDSTATUSCODES",), (5, 7, 8), "x"), ((), None, "5.7.8 x")):
        dialogue = ready("AUTH PLAIN", *capabilities, delivery=delivery)
        found = raised(dialogue.run, dialogue.session.auth(plain()), b"535 5.7.8 x\r\n")
        assert isinstance(found, AuthenticationError)
        assert found.reply is not None
        assert (found.reply.enhanced, found.reply.text, found.reply.message) == (status, "5.7.8 x", message)
        if status:
            assert str(found) == "AUTH PLAIN refused: 535 [5.7.8] x"


def test_a_refused_binding_names_the_remedy_F44() -> None:
    dialogue = ready("AUTH SCRAM-SHA-256-PLUS")
    found = raised(dialogue.run, dialogue.session.auth(bound()), NO)
    assert "channel_binding=None" in str(found)


@pytest.mark.parametrize(("length", "steps"), [(512, 1), (513, 2)])
def test_a_long_initial_response_goes_in_two_steps_E49_LM6(length: int, steps: int, delivery: Delivery) -> None:
    octets = (512 - len("AUTH XPLAIN \r\n")) // 4 * 3
    name = "PLAIN" if length == 513 else "XPLAIN"  # one octet of the name decides: 493 + 4n octets are all there is
    mechanism = PlainMechanism("u", "p" * (octets - 3), None)
    mechanism.name = name + "X" * (length - len(f"AUTH {name}  \r\n") - octets // 3 * 4 + 1)
    response = b64(mechanism.start() or b"")
    line = b"AUTH " + mechanism.name.encode() + b" " + response + b"\r\n"
    assert len(line) == length
    dialogue = ready("AUTH PLAIN", delivery=delivery)
    dialogue.run(dialogue.session.auth(mechanism), *[b"334 \r\n"] * (steps - 1), OK)
    if steps == 1:
        assert dialogue.written == [line]
    else:
        assert dialogue.written == [b"AUTH " + mechanism.name.encode() + b"\r\n", response + b"\r\n"]


def test_the_first_of_two_steps_may_be_refused(delivery: Delivery) -> None:
    dialogue = ready("AUTH PLAIN", delivery=delivery)
    found = raised(dialogue.run, dialogue.session.auth(PlainMechanism("u", "p" * 600, None)), b"504 5.5.4 x\r\n")
    assert isinstance(found, AuthenticationError)
    assert dialogue.written == [b"AUTH PLAIN\r\n"]


@pytest.mark.parametrize(("secret", "allowed"), [(9_213, True), (9_214, False), (18_000, False)])
def test_a_response_longer_than_12288_octets_is_refused_before_the_first_octet_F45_LM6(
    secret: int, allowed: bool
) -> None:
    dialogue = ready("AUTH PLAIN")
    session = dialogue.session
    mechanism = PlainMechanism("u", "hunter2" + "p" * (secret - 7), None)
    if allowed:
        dialogue.run(session.auth(mechanism), b"334\r\n", OK)
        assert len(dialogue.lines[1]) == 12_290
        return
    found = raised(dialogue.run, session.auth(mechanism))
    assert isinstance(found, InvalidInputError)
    assert (dialogue.written, session.condemned, session.may_quit) == ([], None, True)
    for form in forms_of("hunter2" + "p" * 20):
        assert form not in rendered(found)


@pytest.mark.parametrize(
    "state", [SessionState.RCPT_TO, SessionState.DATA], ids=["E52 behind MAIL", "E52 in a message"]
)
def test_AUTH_inside_a_transaction_is_refused_F37(state: SessionState) -> None:
    """RFC 4954 section 4: not during a mail transaction."""
    dialogue = ready("AUTH PLAIN")
    dialogue.session.state = state
    assert isinstance(raised(dialogue.run, dialogue.session.auth(plain())), UsageError)
    assert (dialogue.written, dialogue.session.state, dialogue.session.authenticated) == ([], state, False)


def test_a_second_AUTH_is_refused_E52() -> None:
    dialogue = ready("AUTH PLAIN")
    dialogue.run(dialogue.session.auth(plain()), OK)
    dialogue.written.clear()
    assert isinstance(raised(dialogue.run, dialogue.session.auth(plain())), UsageError)
    assert dialogue.written == []


@pytest.mark.parametrize("refused", [False, True])
def test_AUTH_behind_a_failed_transaction_waits_for_its_RSET_F37(refused: bool, delivery: Delivery) -> None:
    """Postfix answers 503 to AUTH while the transaction that nobody finished is open (RFC 4954 section 3)."""
    dialogue = ready("AUTH PLAIN", delivery=delivery)
    session = dialogue.session
    session.mails, session.rset_owed, session.state = 1, True, SessionState.MAIL_FROM
    if refused:
        found = raised(dialogue.run, session.auth(plain()), b"554 no\r\n")
        assert isinstance(found, PermanentReplyError)
        assert (found.stage, session.condemned) == ("RSET", "a refused RSET")
        assert dialogue.written == [b"RSET\r\n"]
        return
    dialogue.run(session.auth(plain()), b"250 ok\r\n", OK)
    assert dialogue.written == [b"RSET\r\n", PLAIN_LINE]
    assert not session.rset_owed


def test_AUTH_is_legal_between_transactions_C31() -> None:
    dialogue = ready("AUTH PLAIN")
    dialogue.session.mails, dialogue.session.state = 1, SessionState.MAIL_FROM
    dialogue.run(dialogue.session.auth(plain()), OK)
    assert dialogue.written == [PLAIN_LINE]


# --- between mails


def test_rehlo_replaces_the_snapshot_and_keeps_authentication_E119_F10(delivery: Delivery) -> None:
    dialogue = ready("SIZE 10", "ENHANCEDSTATUSCODES", delivery=delivery)
    session = dialogue.session
    old = session.capabilities
    session.authenticated = True
    session.domain = "other.example.com"
    session.state = SessionState.MAIL_FROM
    dialogue.run(session.rehlo(), b"250-mx\r\n250 PIPELINING\r\n")
    assert dialogue.written == [b"EHLO other.example.com\r\n"]
    assert (old.lines, session.capabilities.lines) == (("SIZE 10", "ENHANCEDSTATUSCODES"), ("PIPELINING",))
    assert (session.authenticated, session.state) == (True, SessionState.MAIL_FROM)
    assert not session.parser.wants_enhanced
    assert session.nonmail == 1


@pytest.mark.parametrize(
    ("authenticated", "mails", "state"),
    [(False, 0, SessionState.AUTHENTICATION), (True, 0, SessionState.MAIL_FROM), (False, 1, SessionState.MAIL_FROM)],
)
def test_rehlo_returns_to_where_the_session_was(authenticated: bool, mails: int, state: SessionState) -> None:
    dialogue = ready("HELP")
    dialogue.session.authenticated, dialogue.session.mails = authenticated, mails
    dialogue.run(dialogue.session.rehlo(), b"250 mx\r\n")
    assert dialogue.session.state is state


@pytest.mark.parametrize(("protocol", "line"), [("smtp", EHLO), ("lmtp", LHLO)])
@pytest.mark.parametrize(
    ("octets", "error"), [(b"502 no\r\n", PermanentReplyError), (b"450 x\r\n", TransientReplyError)]
)
def test_a_refused_rehlo_voids_what_was_known_and_ends_the_session_F10(
    protocol: ProtocolName, line: bytes, octets: bytes, error: type[SmtpError], delivery: Delivery
) -> None:
    dialogue = ready("PIPELINING", protocol=protocol, delivery=delivery)
    found = raised(dialogue.run, dialogue.session.rehlo(), octets)
    assert type(found) is error
    assert dialogue.written == [line], "F8: never HELO"
    assert not dialogue.session.capabilities.is_esmtp
    assert dialogue.session.condemned
    assert not dialogue.session.may_quit


@pytest.mark.parametrize("octets", [b"250 ok\r\n", b"200 ok\r\n", b"299-a\r\n299 b\r\n"], ids=["250", "C20 200", "299"])
def test_reset_and_noop_take_any_2yz_F87(octets: bytes, delivery: Delivery) -> None:
    dialogue = ready(delivery=delivery)
    session = dialogue.session
    session.rset_owed = True
    dialogue.run(session.reset(), octets)
    assert not session.rset_owed
    assert session.state is SessionState.AUTHENTICATION, "RSET ends a mail; what may follow EHLO still may"
    assert dialogue.run(session.noop(), octets).raw == octets
    assert dialogue.written == [b"RSET\r\n", b"NOOP\r\n"]
    assert (session.nonmail, session.noops, session.may_quit) == (2, 1, True)


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"500 x\r\n", PermanentReplyError),
        (b"450 x\r\n", TransientReplyError),
        (b"421 x\r\n", ServiceUnavailableError),
        (b"221 x\r\n", ServiceUnavailableError),
        (b"354 x\r\n", ProtocolError),
        (b"x\r\n", ProtocolError),
    ],
)
def test_reset_and_noop_refused_E88_F87_C7(octets: bytes, error: type[SmtpError], delivery: Delivery) -> None:
    for verb, stays in (("noop", True), ("reset", False)):
        dialogue = ready(delivery=delivery)
        session = dialogue.session
        session.rset_owed = True
        found = raised(dialogue.run, getattr(session, verb)(), octets)
        assert type(found) is error
        assert isinstance(found, SmtpError)
        assert found.stage == {"noop": "NOOP", "reset": "RSET"}[verb]
        assert session.rset_owed
        if error in (PermanentReplyError, TransientReplyError):
            assert session.may_quit is stays
        else:
            assert not session.may_quit or session.closing is None


@pytest.mark.parametrize("octets", [b"252 x\r\n", b"502 x\r\n", b"550 x\r\n", b"450 x\r\n", b"250-a\r\n250 b\r\n"])
@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda session: session.vrfy("alice smith"), b"VRFY alice smith\r\n"),
        (lambda session: session.expn("list"), b"EXPN list\r\n"),
        (lambda session: session.help(None), b"HELP\r\n"),
        (lambda session: session.help("MAIL"), b"HELP MAIL\r\n"),
    ],
    ids=["VRFY", "EXPN", "HELP", "HELP topic"],
)
def test_an_answer_is_an_answer_whatever_its_code_E87_F88_F89(
    ask: Callable[[Session], Any], line: bytes, octets: bytes, delivery: Delivery
) -> None:
    protocols: tuple[ProtocolName, ...] = ("smtp", "lmtp")
    for protocol in protocols:
        dialogue = ready(protocol=protocol, delivery=delivery)
        reply = dialogue.run(ask(dialogue.session), octets)
        assert reply.raw == octets
        assert dialogue.written == [line]
        assert (dialogue.session.nonmail, dialogue.session.noops, dialogue.session.may_quit) == (1, 0, True)


def test_only_a_listing_may_be_long_LM2() -> None:
    octets = b"".join(b"250-" + b"x" * 1_000 + b"\r\n" for _ in range(99)) + b"250 x\r\n"
    assert len(octets) > MAX_REPLY
    for verb in ("expn", "help"):
        dialogue = ready()
        assert dialogue.run(VERBS[verb](dialogue.session), octets).raw == octets
        assert dialogue.session.parser.limit == MAX_REPLY
    dialogue = ready()
    assert isinstance(raised(dialogue.run, dialogue.session.vrfy("a"), octets), ProtocolError)


def test_which_commands_count_against_the_budget_VA4() -> None:
    """An RSET directly behind an accepted message is free, as with Exim: one of them, and nothing else in between."""
    dialogue = ready()
    session = dialogue.session

    def count(*verbs: str) -> int:
        before = session.nonmail
        for verb in verbs:
            dialogue.run(getattr(session, verb)(), b"250 ok\r\n")
        return session.nonmail - before

    assert count("reset") == 1, "there was no message yet"
    session.mails, session.rset_owed = 1, False
    assert count("reset") == 0
    assert count("reset") == 1
    session.mails = 2
    assert count("noop", "reset") == 2
    session.mails, session.rset_owed = 3, True
    assert count("reset") == 1, "the message was not accepted"


VERBS: dict[str, Callable[[Session], Any]] = {
    "auth": lambda session: session.auth(plain()),
    "reset": lambda session: session.reset(),
    "noop": lambda session: session.noop(),
    "vrfy": lambda session: session.vrfy("a"),
    "expn": lambda session: session.expn("a"),
    "help": lambda session: session.help(None),
    "rehlo": lambda session: session.rehlo(),
}
BETWEEN = (SessionState.AUTHENTICATION, SessionState.MAIL_FROM)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", list(SessionState), ids=lambda state: state.name)
def test_where_a_verb_may_start_E103_F97(verb: str, state: SessionState) -> None:
    dialogue = ready("AUTH PLAIN")
    session = dialogue.session
    session.state = state
    if state in BETWEEN or (verb, state) == ("reset", SessionState.RCPT_TO):  # 2.11: RSET ends a transaction
        dialogue.run(VERBS[verb](session), OK if verb == "auth" else b"250 ok\r\n")
        assert session.state in BETWEEN
        return
    found = raised(dialogue.run, VERBS[verb](session))
    assert isinstance(found, UsageError)
    assert state.value in str(found)
    assert (dialogue.written, session.state, session.nonmail) == ([], state, 0)


def test_a_state_shows_its_name() -> None:
    assert repr(SessionState.MAIL_FROM) == "SessionState.MAIL_FROM"


# --- the end


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"221 2.0.0 bye\r\n", True),
        (b"500 what\r\n", False),
        (b"250 ok\r\n", False),
        (b"421 x\r\n", False),
        (b"354 x\r\n", False),
    ],
    ids=["E91", "E90", "C22 250", "421", "3yz"],
)
def test_quit_tells_whether_221_was_read_F90(octets: bytes, said: bool, delivery: Delivery) -> None:
    dialogue = ready(delivery=delivery)
    assert dialogue.run(dialogue.session.quit(), octets) is said
    assert dialogue.written == [b"QUIT\r\n"]
    assert dialogue.session.state is SessionState.QUIT


QUIT_STATES = {"GREETING", "EHLO", "AUTHENTICATION", "MAIL_FROM", "RCPT_TO"}


@pytest.mark.parametrize("state", list(SessionState), ids=lambda state: state.name)
def test_where_QUIT_would_be_read_as_a_command_C32(state: SessionState) -> None:
    session = ready().session
    session.state = state
    assert session.may_quit is (state.name in QUIT_STATES)


def test_QUIT_is_written_only_in_step_F90() -> None:
    def owing(session: Session) -> None:
        session.ledger.enter(Entry(MAIL))

    def surplus(session: Session) -> None:
        session.parser.feed(b"2")

    def condemned(session: Session) -> None:
        session.condemn("x")

    def closing(session: Session) -> None:
        session.closing = Reply(421, b"421 x\r\n")

    allowed = []
    for change in (lambda _: None, owing, surplus, condemned, closing):
        session = ready().session
        change(session)
        allowed.append(session.may_quit)
    assert allowed == [True, False, False, False, False]


def test_the_first_cause_of_a_condemnation_stands_F93a() -> None:
    session = Session("smtp", DOMAIN)
    session.condemn("first")
    session.condemn("second")
    assert session.condemned == "first"


# --- session used up


def said(text: str, *, enhanced: bool = True) -> Reply:
    return Reply(int(text[:3]), text.encode() + b"\r\n", wants_enhanced=enhanced)


@pytest.mark.parametrize(
    ("kind", "reply", "used"),
    [
        *[pytest.param(k, said("451 4.4.1 x"), True, id=f"CS12 4.4.1 {k.stage}") for k in (MAIL, RSET, NOOP)],
        *[pytest.param(k, said("451 4.4.2 x"), True, id=f"CS12 4.4.2 {k.stage}") for k in (MAIL, RSET, NOOP)],
        *[pytest.param(k, said("451 4.3.2 x"), True, id=f"CS13 {k.stage}") for k in (MAIL, RSET, NOOP)],
        *[pytest.param(k, said("452 4.4.5 x"), True, id=f"CS14 {k.stage}") for k in (MAIL, RSET, DATA)],
        *[
            pytest.param(k, said("432 4.3.2 x"), True, id=f"CS15 {k.stage}")
            for k in (MAIL, RSET, NOOP, RCPT, DATA, END)
        ],
        pytest.param(RCPT, said("451 4.3.2 x"), False, id="CS13 greylisting at RCPT"),
        pytest.param(END, said("451 4.4.2 x"), False, id="CS12 elsewhere"),
        pytest.param(NOOP, said("452 4.4.5 x"), False, id="CS14 elsewhere"),
        pytest.param(MAIL, said("451 4.7.1 x"), False, id="another status"),
        pytest.param(MAIL, said("450 4.4.2 x"), False, id="another code"),
        pytest.param(MAIL, said("551 4.4.2 x"), False, id="5yz"),
        pytest.param(MAIL, said("451 x 4.4.2"), False, id="text is never read"),
        pytest.param(MAIL, said("451 4.4.2 x", enhanced=False), False, id="F25 not advertised"),
        pytest.param(MAIL, said("432 4.7.12 x"), False, id="432 of another kind"),
    ],
)
def test_which_reply_says_that_the_session_is_used_up_D6(kind: Kind, reply: Reply, used: bool) -> None:
    assert used_up(kind, reply) is used
    session = ready().session
    error = session.refusal(kind, reply)
    assert isinstance(error, TransientReplyError if reply.is_transient else PermanentReplyError)
    assert (error.stage, error.reply) == (kind.stage, reply)
    assert str(error) == f"{kind.stage} refused: {reply}"  # E106
    assert session.closing is (reply if used else None)
    assert error._unanswered is (used and kind.opens)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_used_up_session_says_so_through_a_verb_CS12(delivery: Delivery) -> None:
    dialogue = ready("ENHANCEDSTATUSCODES", delivery=delivery)
    found = raised(dialogue.run, dialogue.session.noop(), b"451 4.4.2 timeout\r\n")
    assert isinstance(found, TransientReplyError)
    assert dialogue.session.closing == found.reply
    assert found._unanswered
