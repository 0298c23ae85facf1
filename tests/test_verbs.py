"""The verbs of a connection, clause by clause: what they write and give, when they refuse, and how it all ends."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any, Literal

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    LoginAuth,
    Mail,
    MailParams,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    ProtocolError,
    RcptParams,
    Recipient,
    Reply,
    ScramAuth,
    ServiceUnavailableError,
    SessionState,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    Timeouts,
    TlsConfig,
    TlsInfo,
    TlsMode,
    TransientReplyError,
    UsageError,
    XOAuth2Auth,
)
from smtpconn.deadline import Budget
from smtpconn.protocol.session import Session
from smtpconn.testing import EOF, RESET, SILENCE, TLS, LoopbackServer, ScriptedTransport, TestAuthority, Wait

from .test_feature_rows import (
    BODY,
    BYE,
    GO,
    GREETING,
    OK,
    RECIPIENTS,
    SENDER,
    SENT,
    after_hello,
    audited,
    hello,
    names,
    over,
)

ONE = RECIPIENTS[:1]
EVERYTHING = (
    "PIPELINING", "SIZE", "8BITMIME", "DSN", "CHUNKING", "BINARYMIME",
    "AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER",
)  # fmt: skip
Verb = Callable[[SmtpConnection], Any]


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"] = SENDER, ONE[0]
    made.set_content("x")
    return made


VERBS: dict[str, Verb] = {
    "auth": lambda c: c.auth(PasswordAuth("u", "p"), timeout=5),
    "auth_plain": lambda c: c.auth_plain("u", "p", timeout=5),
    "auth_login": lambda c: c.auth_login("u", "p", timeout=5),
    "auth_scram": lambda c: c.auth_scram("u", "p", timeout=5),
    "auth_xoauth2": lambda c: c.auth_xoauth2("u", "t", timeout=5),
    "auth_oauthbearer": lambda c: c.auth_oauthbearer("t", timeout=5),
    "send": lambda c: c.send(SENDER, ONE, BODY, timeout=5),
    "send_bdat": lambda c: c.send_bdat(SENDER, ONE, BODY, timeout=5),
    "send_lmtp": lambda c: c.send_lmtp(SENDER, ONE, BODY, timeout=5),
    "send_lmtp_bdat": lambda c: c.send_lmtp_bdat(SENDER, ONE, BODY, timeout=5),
    "send_message": lambda c: c.send_message(message(), timeout=5),
    "reset": lambda c: c.reset(timeout=5),
    "noop": lambda c: c.noop(timeout=5),
    "vrfy": lambda c: c.vrfy("x", timeout=5),
    "expn": lambda c: c.expn("x", timeout=5),
    "help": lambda c: c.help(timeout=5),
    "rehlo": lambda c: c.rehlo(timeout=5),
}
SENDS = [name for name in VERBS if name.startswith("send")]
each_verb = pytest.mark.parametrize("verb", VERBS)


def lmtp_or_smtp(verb: str) -> Literal["smtp", "lmtp"]:
    return "lmtp" if "lmtp" in verb else "smtp"


# --- what is written, and what comes of it ----------------------------------------------------------------------------

PARAMS = MailParams(ret="HDRS", envid="q1")
PARAMETRISED = [Recipient(ONE[0], params=RcptParams(notify=["FAILURE"])), Recipient(RECIPIENTS[1])]
ENVELOPE = (
    b"MAIL FROM:<a@example.com> SIZE=21 RET=HDRS ENVID=q1\r\n"
    b"RCPT TO:<b@example.com> NOTIFY=FAILURE\r\nRCPT TO:<c@example.com>\r\n"
)
BY_DATA = ENVELOPE + b"DATA\r\n" + BODY + b".\r\n"
BY_BDAT = ENVELOPE + b"BDAT 21 LAST\r\n" + BODY
TO_DATA: tuple[Any, ...] = (OK * 3 + GO, OK * 2)
TO_BDAT: tuple[Any, ...] = (OK * 3, OK * 2)


@pytest.mark.parametrize(
    ("verb", "protocol", "said", "written"),
    [
        pytest.param("send", "smtp", (TO_DATA[0], OK), BY_DATA, id="KM15 KM16 KM17"),
        pytest.param("send_bdat", "smtp", (TO_BDAT[0], OK), BY_BDAT, id="KM18 KM19"),
        pytest.param("send_lmtp", "lmtp", TO_DATA, BY_DATA, id="KM20 KM21"),
        pytest.param("send_lmtp_bdat", "lmtp", TO_BDAT, BY_BDAT, id="KM22 KM23"),
        pytest.param("send", "lmtp", TO_DATA, BY_DATA, id="F74 send over LMTP"),
        pytest.param("send_bdat", "lmtp", TO_BDAT, BY_BDAT, id="F74 send_bdat over LMTP"),
    ],
)
def test_a_send_writes_its_parameters_where_they_belong(
    verb: str, protocol: Any, said: tuple[Any, ...], written: bytes
) -> None:
    connection, transport = over(*said, extensions=EVERYTHING, protocol=protocol)
    result = getattr(connection, verb)(SENDER, PARAMETRISED, BODY, timeout=5, params=PARAMS)
    assert after_hello(transport) == written
    assert [entry.delivery for entry in result.recipients] == [Delivery.DELIVERED] * 2
    connection.close()


@pytest.mark.parametrize(
    ("verb", "said", "written", "given"),
    [
        pytest.param("reset", b"200 ok\r\n", b"RSET\r\n", None, id="KM24 E202 C20"),
        pytest.param("noop", b"200 ok\r\n", b"NOOP\r\n", None, id="KM25 E88"),
        pytest.param("vrfy", b"252 x\r\n", b"VRFY x\r\n", 252, id="KM26 E87 252"),
        pytest.param("vrfy", b"502 x\r\n", b"VRFY x\r\n", 502, id="E87 502"),
        pytest.param("vrfy", b"550 x\r\n", b"VRFY x\r\n", 550, id="E87 550"),
        pytest.param("expn", b"550 x\r\n", b"EXPN x\r\n", 550, id="KM27"),
        pytest.param("help", b"214 x\r\n", b"HELP\r\n", 214, id="KM28 E196"),
        pytest.param("rehlo", hello("DSN"), b"EHLO client.test\r\n", None, id="KM9"),
        pytest.param("auth_plain", b"235 x\r\n", b"AUTH PLAIN AHUAcA==\r\n", None, id="KM10"),
        pytest.param("auth_login", (b"334 \r\n", b"334 \r\n", b"235 x\r\n"), b"AUTH LOGIN\r\ndQ==\r\ncA==\r\n", None,
                     id="KM12"),
        pytest.param("auth_xoauth2", b"235 x\r\n", b"AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==\r\n", None,
                     id="KM13 WM7"),
        pytest.param("auth_oauthbearer", b"235 x\r\n", b"AUTH OAUTHBEARER biwsAWF1dGg9QmVhcmVyIHQBAQ==\r\n", None,
                     id="KM14"),
    ],
)  # fmt: skip
def test_a_verb_writes_one_command_and_gives_what_it_promises(
    verb: str, said: Any, written: bytes, given: int | None
) -> None:
    flights = said if isinstance(said, tuple) else (said,)
    connection, transport = over(*flights, extensions=EVERYTHING, allow_plaintext_auth=True)
    result = VERBS[verb](connection)
    assert after_hello(transport) == written
    if given is None:
        assert result is None
    else:
        assert isinstance(result, Reply)
        assert result.code == given
    assert connection.usable
    assert connection.is_authenticated is verb.startswith("auth")
    connection.close()


def test_KM11_WM8_the_identity_to_act_as_and_the_user_of_a_bearer_travel() -> None:
    connection, transport = over(b"235 x\r\n", extensions=EVERYTHING, allow_plaintext_auth=True)
    connection.auth_plain("u", "p", timeout=5, authzid="z")
    assert after_hello(transport) == b"AUTH PLAIN egB1AHA=\r\n"
    connection.close()
    connection, transport = over(b"235 x\r\n", extensions=EVERYTHING, allow_plaintext_auth=True)
    connection.auth_oauthbearer("t", timeout=5, user="u")
    assert after_hello(transport) == b"AUTH OAUTHBEARER bixhPXUsAWF1dGg9QmVhcmVyIHQBAQ==\r\n"
    connection.close()


def test_E96_F36_authentication_is_reported_with_its_wire_keyword() -> None:
    """F36: and the state is MAIL_FROM, so that AUTH is over (F37)."""
    connection, _, sink = audited(b"235 x\r\n", extensions=EVERYTHING, allow_plaintext_auth=True)
    connection.auth_plain("u", "p", timeout=5)
    event: Any = sink.events[-1]
    assert (type(event).__name__, event.mechanism) == ("AuthCompleted", "PLAIN")
    assert connection.state is SessionState.MAIL_FROM
    connection.close()


# --- refused locally: nothing is written, nothing is changed ----------------------------------------------------------


def vault() -> str:
    raise LookupError("sealed")


OFFERED = "AUTH PLAIN LOGIN SCRAM-SHA-256 XOAUTH2 OAUTHBEARER"
CRAM = "AUTH CRAM-MD5"
REFUSALS: list[tuple[Any, ...]] = [
    ("E33 only CRAM-MD5", CRAM, True, lambda c: c.auth(PasswordAuth("u", "p"), timeout=5), ExtensionUnavailableError),
    ("E33 F35 only XOAUTH2", "AUTH XOAUTH2", True, lambda c: c.auth(PasswordAuth("u", "p"), timeout=5),
     ExtensionUnavailableError),
    ("E34", "AUTH LOGIN", True, lambda c: c.auth(PlainAuth("u", "p"), timeout=5), ExtensionUnavailableError),
    ("E37 no user", OFFERED, True, lambda c: c.auth_plain("", "p", timeout=5), InvalidInputError),
    ("E37 no password", OFFERED, True, lambda c: c.auth_login("u", "", timeout=5), InvalidInputError),
    ("E37 NUL in the user", OFFERED, True, lambda c: c.auth_plain("u\0", "p", timeout=5), InvalidInputError),
    ("E37 NUL in the password", OFFERED, True, lambda c: c.auth_scram("u", "p\0", timeout=5), InvalidInputError),
    ("E41 a blank", OFFERED, True, lambda c: c.auth_xoauth2("u", "to ken", timeout=5), InvalidInputError),
    ("E41 LF", OFFERED, True, lambda c: c.auth_oauthbearer("to\nken", timeout=5), InvalidInputError),
    ("E41 0x01 in the user", OFFERED, True, lambda c: c.auth_xoauth2("u\1", "t", timeout=5), InvalidInputError),
    ("E43", "AUTH PLAIN", True, lambda c: c.auth_oauthbearer("t", timeout=5), ExtensionUnavailableError),
    ("E51 no authzid", OFFERED, True, lambda c: c.auth_plain("u", "p", timeout=5, authzid=""), InvalidInputError),
    ("E51 NUL in authzid", OFFERED, True, lambda c: c.auth_plain("u", "p", timeout=5, authzid="\0"),
     InvalidInputError),
    ("E140", "AUTH PLAIN LOGIN", False, lambda c: c.auth(PasswordAuth("u", "p"), timeout=5), UsageError),
    ("E141 PLAIN", OFFERED, False, lambda c: c.auth_plain("u", "p", timeout=5), UsageError),
    ("E141 LOGIN", OFFERED, False, lambda c: c.auth_login("u", "p", timeout=5), UsageError),
    ("E141 XOAUTH2", OFFERED, False, lambda c: c.auth_xoauth2("u", "t", timeout=5), UsageError),
    ("E141 OAUTHBEARER", OFFERED, False, lambda c: c.auth_oauthbearer("t", timeout=5), UsageError),
    ("E143 a bad token", OFFERED, True, lambda c: c.auth_xoauth2("u", lambda: "to ken", timeout=5), InvalidInputError),
    ("E143 raises", OFFERED, True, lambda c: c.auth_xoauth2("u", vault, timeout=5), LookupError),
    ("F42a a password that raises", OFFERED, True, lambda c: c.auth_scram("u", vault, timeout=5), LookupError),
    ("F42a credentials that raise", OFFERED, True, lambda c: c.auth(vault, timeout=5), LookupError),
    ("F42a credentials that are none", OFFERED, True, lambda c: c.auth(lambda: ("u", "p"), timeout=5), TypeError),
    ("IN14", OFFERED, True, lambda c: c.auth_plain("u", b"p", timeout=5), TypeError),
    ("E196 nothing", "HELP", False, lambda c: c.help("", timeout=5), InvalidInputError),
    ("E196 not ASCII", "HELP", False, lambda c: c.help("\u00fc", timeout=5), ExtensionUnavailableError),
    ("E197", "VRFY", False, lambda c: c.vrfy("\u00fc", timeout=5), ExtensionUnavailableError),
    ("F88 CRLF", "VRFY", False, lambda c: c.vrfy("x\r\nRSET", timeout=5), InvalidInputError),
    ("F88 nothing", "EXPN", False, lambda c: c.expn("", timeout=5), InvalidInputError),
    ("E81 send_lmtp", "HELP", False, VERBS["send_lmtp"], UsageError),
    ("E81 send_lmtp_bdat", "CHUNKING", False, VERBS["send_lmtp_bdat"], UsageError),
    ("E79 F71", "PIPELINING", False, VERBS["send_bdat"], ExtensionUnavailableError),
    ("F9 a blank", "HELP", False, lambda c: c.set_ehlo_domain("a b"), InvalidInputError),
]  # fmt: skip


@pytest.mark.parametrize(
    ("offered", "allowed", "call", "error"), [pytest.param(*row[1:], id=row[0]) for row in REFUSALS]
)
def test_what_is_refused_locally_writes_nothing_and_leaves_all_as_it_was(
    offered: str, allowed: bool, call: Verb, error: type[Exception]
) -> None:
    """C23."""
    connection, transport = over(OK, extensions=(offered,), allow_plaintext_auth=allowed)
    before = (repr(connection), connection.state)
    with pytest.raises(error) as caught:
        call(connection)
    assert type(caught.value) is error
    assert after_hello(transport) == b""
    assert (repr(connection), connection.state) == before
    if isinstance(caught.value, SmtpError):
        assert (caught.value.stage, caught.value.permanent) == ("input", True)
        assert caught.value.delivery is Delivery.NOT_DELIVERED
    connection.noop(timeout=5)
    connection.close()


@each_verb
@pytest.mark.parametrize(
    ("timeout", "error"),
    [(True, TypeError), (None, TypeError), ("5", TypeError), (0, InvalidInputError), (-1, InvalidInputError),
     (float("nan"), InvalidInputError), (float("inf"), InvalidInputError), (1e10, InvalidInputError)],
)  # fmt: skip
def test_E191_IN20_a_wrong_timeout_is_refused_by_every_verb(verb: str, timeout: Any, error: type[Exception]) -> None:
    connection, transport = over(extensions=EVERYTHING, protocol=lmtp_or_smtp(verb), allow_plaintext_auth=True)
    arguments: dict[str, tuple[Any, ...]] = {
        "auth": (PasswordAuth("u", "p"),), "auth_oauthbearer": ("t",), "send_message": (message(),),
        "vrfy": ("x",), "expn": ("x",),
    }  # fmt: skip
    given = arguments.get(verb, ("u", "p") if "auth" in verb else (SENDER, ONE, BODY) if "send" in verb else ())
    with pytest.raises(error):
        getattr(connection, verb)(*given, timeout=timeout)
    with pytest.raises(TypeError):
        getattr(connection, verb)(*given)  # D3: no default
    assert after_hello(transport) == b""
    assert connection.usable
    connection.close()


def test_E191_quit_and_send_many_take_no_wrong_timeout_either() -> None:
    connection, transport = over()
    for timeout, error in ((None, TypeError), (0, InvalidInputError)):
        with pytest.raises(error):
            connection.quit(timeout=timeout)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(error):
            connection.send_many([], timeout=timeout)  # type: ignore[arg-type]  # on purpose
    assert connection.usable
    assert after_hello(transport) == b""
    connection.close()


@pytest.mark.parametrize("verb", [name for name in VERBS if name.startswith("auth")])
def test_E52_F37_a_second_AUTH_is_refused(verb: str) -> None:
    connection, transport = over(b"235 x\r\n", extensions=(OFFERED,), allow_plaintext_auth=True)
    connection.auth_plain("u", "p", timeout=5)
    written = bytes(transport.written)
    with pytest.raises(UsageError):
        VERBS[verb](connection)
    assert bytes(transport.written) == written
    assert connection.usable
    connection.close()


# --- which verb may start where ---------------------------------------------------------------------------------------

BETWEEN = (SessionState.AUTHENTICATION, SessionState.MAIL_FROM)


@each_verb
@pytest.mark.parametrize("state", list(SessionState), ids=lambda state: state.name)
def test_E103_F97_SY16_a_verb_starts_between_transactions_or_not_at_all(verb: str, state: SessionState) -> None:
    offered = (*EVERYTHING[:-1], OFFERED)
    connection, transport = over(b"500 x\r\n" * 3, extensions=offered, protocol=lmtp_or_smtp(verb), dry="eof",
                                 allow_plaintext_auth=True)  # fmt: skip
    connection._session.state = state
    if state in BETWEEN:
        with contextlib.suppress(SmtpError):
            VERBS[verb](connection)
        assert after_hello(transport) != b""
    elif (verb, state) == ("reset", SessionState.RCPT_TO):
        with contextlib.suppress(SmtpError):
            VERBS[verb](connection)
        assert after_hello(transport) == b"RSET\r\n"  # 2.11: of the core
    else:
        with pytest.raises(ConnectionLostError if state is SessionState.CLOSED else UsageError) as caught:
            VERBS[verb](connection)
        assert caught.value.delivery is Delivery.NOT_DELIVERED
        assert (after_hello(transport), connection.state) == (b"", state)
    connection._session.state = SessionState.AUTHENTICATION
    connection.close()


@pytest.mark.parametrize("state", list(SessionState), ids=lambda state: state.name)
@pytest.mark.parametrize("how", ["quit", "close"])
def test_E103_C32_quit_and_close_are_possible_everywhere_and_QUIT_is_no_text_of_a_message(
    how: str, state: SessionState
) -> None:
    connection, transport = over(BYE, dry="eof")
    connection._session.state = state
    written = how == "quit" and state.name in ("GREETING", "EHLO", "AUTHENTICATION", "MAIL_FROM", "RCPT_TO")
    result = connection.quit(timeout=5) if how == "quit" else connection.close()  # type: ignore[func-returns-value]
    assert result is (None if how == "close" else written)
    assert after_hello(transport) == (b"QUIT\r\n" if written else b"")
    assert (connection.state, transport.closed) == (SessionState.CLOSED, True)


# --- QUIT, close, with ------------------------------------------------------------------------------------------------


class Notifying(ScriptedTransport):
    """Counts the close_notify that it is asked for."""

    notified = 0

    def close_notify(self) -> None:
        assert not self.closed
        type(self).notified += 1


@pytest.mark.parametrize(
    ("answer", "said", "in_step"),
    [
        pytest.param((BYE,), True, True, id="E91"),
        pytest.param((b"500 what\r\n",), False, True, id="E90 500"),
        pytest.param((b"250 ok\r\n",), False, True, id="C22 250"),
        pytest.param((b"421 x\r\n",), False, True, id="F90 421"),
        pytest.param((SILENCE,), False, False, id="E90 silence"),
        pytest.param((EOF,), False, False, id="F90 EOF"),
        pytest.param((RESET,), False, False, id="F90 RST"),
        pytest.param((b"hello\r\n",), False, False, id="F90 garbage"),
        pytest.param((b"221-x\r\n", EOF), False, False, id="F90 cut"),
        pytest.param((b"221 " + b"x" * 20_000,), False, False, id="F90 endless"),
        pytest.param((BYE, EOF), True, True, id="F90 221 and an end"),
    ],
)
@pytest.mark.parametrize("how", ["quit", "with"])
def test_F90_F116_whatever_the_server_says_to_QUIT_it_is_the_end(
    how: str, answer: tuple[Any, ...], said: bool, in_step: bool
) -> None:
    class Counting(Notifying):
        notified = 0

    transport = Counting([GREETING, hello(), answer])
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test")
    if how == "quit":
        assert connection.quit(timeout=60) is said
    else:
        with connection as entered:
            assert entered is connection
    assert transport.written.endswith(b"\r\nQUIT\r\n")
    assert (transport.closed, connection.state) == (True, SessionState.CLOSED)
    assert Counting.notified == in_step
    writes = list(transport.writes)
    assert connection.quit(timeout=5) is False, "idempotent"
    connection.close()
    connection.close()
    assert transport.writes == writes
    assert Counting.notified == in_step


@pytest.mark.parametrize("fault", [EOF, RESET, SILENCE, b"x\r\n", b"421 x\r\n"], ids=str)
def test_F116_BR14_a_poisoned_connection_writes_nothing_not_even_close_notify(fault: Any) -> None:
    class Counting(Notifying):
        notified = 0

    transport = Counting([GREETING, hello(), fault])
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test")
    with pytest.raises(SmtpError):
        connection.noop(timeout=5)
    assert transport.closed
    assert connection.quit(timeout=5) is False
    connection.close()
    assert transport.written.endswith(b"\r\nNOOP\r\n")
    assert Counting.notified == 0


def test_F116_close_says_neither_QUIT_nor_close_notify() -> None:
    class Counting(Notifying):
        notified = 0

    transport = Counting([GREETING, hello()])
    SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test").close()
    assert (transport.written, transport.closed, Counting.notified) == (b"EHLO client.test\r\n", True, 0)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        pytest.param(60, 2.0, id="E90 the default"),
        pytest.param(0.5, 0.5, id="F90 the smaller of both"),
        pytest.param(Timeouts(), 2.0, id="F90 Timeouts"),
        pytest.param(Timeouts(quit=5.0), 5.0, id="F90 Timeouts.quit above 2"),
        pytest.param(Timeouts(quit=0.25), 0.25, id="F90 Timeouts.quit below 2"),
        pytest.param(Timeouts(quit=5.0, total=1.0), 1.0, id="F90 a total"),
    ],
)
def test_quit_waits_so_long_and_no_longer(timeout: float | Timeouts, seconds: float) -> None:
    connection, transport = over(SILENCE)
    assert connection.quit(timeout=timeout) is False
    assert transport.clock() == pytest.approx(seconds, abs=0.1)
    assert transport.closed


def test_F90_leaving_with_waits_2_seconds_for_QUIT() -> None:
    connection, transport = over(SILENCE)
    with connection:
        pass
    assert transport.clock() == pytest.approx(2.0, abs=0.1)
    assert transport.closed


@pytest.mark.parametrize(
    ("said", "verb", "error", "quits"),
    [
        pytest.param((b"500 x\r\n", BYE), "noop", SmtpError, True, id="F90 an error that leaves it usable"),
        pytest.param((BYE,), "vrfy", InvalidInputError, True, id="F90 refused locally"),
        pytest.param((b"x\r\n",), "noop", ProtocolError, False, id="F90 poisoned"),
        pytest.param((EOF,), "noop", ConnectionLostError, False, id="F90 lost"),
        pytest.param((b"421 x\r\n",), "noop", ServiceUnavailableError, False, id="F90 421"),
    ],
)
def test_with_says_QUIT_where_the_session_is_usable_and_masks_nothing_E194(
    said: tuple[Any, ...], verb: str, error: type[SmtpError], quits: bool
) -> None:
    connection, transport = over(*said)
    with pytest.raises(error) as caught, connection:
        connection.vrfy("", timeout=5) if verb == "vrfy" else connection.noop(timeout=5)
    assert caught.value.stage != "QUIT"
    assert transport.written.endswith(b"QUIT\r\n") is quits
    assert transport.closed


@pytest.mark.parametrize("answer", [RESET, SILENCE, EOF, b"x\r\n", b"421 x\r\n"], ids=str)
def test_E194_the_exception_of_the_body_passes_whatever_QUIT_meets(answer: Any) -> None:
    cause = ValueError("the body's own")
    connection, transport = over(answer)
    with pytest.raises(ValueError, match="own") as caught, connection:
        raise cause
    assert caught.value is cause
    assert (cause.__context__, cause.__cause__) == (None, None)
    assert transport.closed


# --- verbs afterwards -------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Any, type[BaseException], type[SmtpError], str]] = {
    "421": (b"421 4.3.2 going down\r\n", ServiceUnavailableError, ServiceUnavailableError, "421 [4.3.2] going down"),
    "221": (b"221 bye\r\n", ServiceUnavailableError, ServiceUnavailableError, "221 bye"),
    "used up": (b"451 4.4.2 x\r\n", TransientReplyError, ServiceUnavailableError, "451"),
    "EOF": (EOF, ConnectionLostError, ConnectionLostError, "NOOP: the server closed the connection"),
    "RST": (RESET, ConnectionLostError, ConnectionLostError, "NOOP: connection lost"),
    "silence": (SILENCE, SmtpTimeoutError, ConnectionLostError, "NOOP: the deadline has passed"),
    "garbage": (b"hello\r\n", ProtocolError, ConnectionLostError, "not a reply"),
    "wrong class": (b"354 go\r\n", ProtocolError, ConnectionLostError, "354"),
    "interrupt": (KeyboardInterrupt(), KeyboardInterrupt, ConnectionLostError, "KeyboardInterrupt"),
}
GOODBYES = ("421", "221", "used up", "EOF", "RST")


@each_verb
@pytest.mark.parametrize("fault", FAULTS)
def test_E89_F93a_F91_BR25_after_a_fault_every_verb_says_why_without_an_octet(fault: str, verb: str) -> None:
    said, first, later, words = FAULTS[fault]
    connection, transport = over(
        said, extensions=("ENHANCEDSTATUSCODES", *EVERYTHING), protocol=lmtp_or_smtp(verb), allow_plaintext_auth=True
    )
    with pytest.raises(first) as caught:
        connection.noop(timeout=5)
    assert (transport.closed, connection.usable, connection.state) == (True, False, SessionState.CLOSED)
    assert connection.is_shutting_down is (fault in GOODBYES)
    writes = list(transport.writes)
    for _ in range(2):
        with pytest.raises(later) as again:
            VERBS[verb](connection)
        assert type(again.value) is later
        assert words in str(again.value)
        assert (again.value.delivery, again.value.retry_safe) == (Delivery.NOT_DELIVERED, True)
        if later is ServiceUnavailableError:
            assert isinstance(caught.value, SmtpError)
            assert again.value.reply == caught.value.reply
        if "send" in verb:
            assert [entry.delivery for entry in again.value.recipients] == [Delivery.NOT_DELIVERED]
    assert transport.writes == writes
    assert connection.quit(timeout=5) is False
    assert transport.writes == writes
    with pytest.raises(UsageError):  # the owner has ended it himself by now
        VERBS[verb](connection)


@each_verb
@pytest.mark.parametrize("end", ["quit", "close", "with"])
def test_E93_WM16_after_the_owners_end_every_verb_is_a_usage_error_without_an_octet(verb: str, end: str) -> None:
    connection, transport = over(BYE, extensions=EVERYTHING, protocol=lmtp_or_smtp(verb), allow_plaintext_auth=True)
    if end == "quit":
        assert connection.quit(timeout=5) is True
    elif end == "close":
        connection.close()
    else:
        with connection:
            pass
    writes = list(transport.writes)
    assert connection.state is SessionState.CLOSED
    assert "closed" in repr(connection)
    with pytest.raises(UsageError) as caught:
        VERBS[verb](connection)
    assert (caught.value.stage, caught.value.delivery) == ("input", Delivery.NOT_DELIVERED)
    (outcome,) = connection.send_many([Mail(SENDER, ONE, BODY)], timeout=5)
    assert isinstance(outcome.error, UsageError)
    assert transport.writes == writes


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in ("send_lmtp", "send_lmtp_bdat")])
@pytest.mark.parametrize("goodbye", [b"421 4.3.2 x\r\n", b"221 x\r\n", EOF], ids=["421", "221", "EOF"])
def test_F91_C9_a_goodbye_counts_in_answer_to_anything(verb: str, goodbye: Any) -> None:
    connection, transport = over(goodbye, extensions=(*EVERYTHING[:-1], OFFERED), allow_plaintext_auth=True)
    with pytest.raises(ConnectionLostError if goodbye is EOF else ServiceUnavailableError) as caught:
        VERBS[verb](connection)
    if goodbye is not EOF:
        assert caught.value.reply is not None
        assert caught.value.reply.raw == goodbye
    assert (connection.is_shutting_down, transport.closed) == (True, True)
    assert b"QUIT" not in transport.written


@each_verb
def test_F91_a_goodbye_that_nobody_asked_for_is_seen_before_the_next_command(verb: str) -> None:
    connection, transport = over(
        extensions=(*EVERYTHING[:-1], OFFERED), protocol=lmtp_or_smtp(verb), allow_plaintext_auth=True
    )
    transport.push(b"421 4.4.2 idle too long\r\n", EOF)
    with pytest.raises(ServiceUnavailableError, match="idle too long"):
        VERBS[verb](connection)
    assert after_hello(transport) == b""
    assert (connection.is_shutting_down, transport.closed) == (True, True)


@pytest.mark.parametrize("refusal", [b"502 no\r\n", b"451 no\r\n"])
@pytest.mark.parametrize("verb", ["reset", "rehlo"])
def test_E202_F87_F10_a_refused_RSET_or_EHLO_closes_and_raises_the_reply(verb: str, refusal: bytes) -> None:
    connection, transport = over(refusal, extensions=("PIPELINING",))
    with pytest.raises(SmtpError) as caught:
        VERBS[verb](connection)
    assert caught.value.reply is not None
    assert caught.value.reply.raw == refusal
    assert (transport.closed, connection.usable) == (True, False)
    assert connection.capabilities.supports_pipelining is (verb == "reset")
    assert b"QUIT" not in transport.written
    assert b"HELO" not in transport.written


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["send", "send_bdat", "send_lmtp", "send_lmtp_bdat", "send_message"])
def test_F92_the_time_that_goes_through_the_arguments_counts(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, transport = over(extensions=EVERYTHING, protocol=lmtp_or_smtp(verb))
    clock = transport.clock

    class Clocked(Budget):
        @classmethod
        def of(cls, timeout: float | Timeouts, *_: object, **__: object) -> Budget:
            return Budget.of(timeout, clock)

    def slow() -> Iterator[str]:
        clock.advance(10.0)
        yield ONE[0]

    monkeypatch.setattr("smtpconn.outcomes.Budget", Clocked)
    arguments = (message(),) if verb == "send_message" else (SENDER, slow(), BODY)
    options: dict[str, Any] = {"recipients": slow()} if verb == "send_message" else {}
    with pytest.raises(SmtpTimeoutError) as caught:
        getattr(connection, verb)(*arguments, timeout=5, **options)
    assert caught.value.delivery is Delivery.NOT_DELIVERED
    assert caught.value.retry_safe
    assert after_hello(transport) == b""
    assert clock() == 10.0


def test_F92_a_server_that_drips_gains_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each octet comes within the limit of a read, all together do not."""
    drip = tuple(part for octet in b"250 ok\r\n" for part in (Wait(1.0), bytes((octet,))))
    connection, transport = over(drip)
    clock = transport.clock
    monkeypatch.setattr(
        "smtpconn.connection.Budget", type("Clocked", (Budget,), {"of": lambda timeout: Budget.of(timeout, clock)})
    )
    with pytest.raises(SmtpTimeoutError):
        connection.noop(timeout=5.0)
    assert clock() == 5.0
    assert transport.closed


# --- threads ----------------------------------------------------------------------------------------------------------


class Held:
    """Another thread is in the middle of a send until `let_go` is called."""

    def __init__(self, connection: SmtpConnection) -> None:
        self._begun, self._release = threading.Event(), threading.Event()
        self.outcome: list[Any] = []

        def body() -> Iterator[bytes]:
            self._begun.set()
            assert self._release.wait(20)
            yield BODY

        def work() -> None:
            try:
                self.outcome.append(connection.send(SENDER, ONE, body(), timeout=30))
            except BaseException as error:  # handed to the test's thread
                self.outcome.append(error)

        self._thread = threading.Thread(target=work)
        self._thread.start()
        assert self._begun.wait(10)

    def let_go(self) -> Any:
        self._release.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        (outcome,) = self.outcome
        return outcome


def test_E102_SY7_F95_C30_snapshots_and_repr_never_wait_for_the_thread_that_has_the_connection() -> None:
    connection, _ = over(OK * 2 + GO, OK)
    held = Held(connection)
    fastest = 1.0
    for _ in range(5):  # the machine may be busy; a lock would make every one of them long
        began = time.perf_counter()
        shown = repr(connection)
        seen = (
            connection.capabilities.supports_pipelining, connection.is_shutting_down, connection.is_authenticated,
            connection.state, connection.tls,
        )  # fmt: skip
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 0.05
    assert seen == (True, False, False, SessionState.DATA, None)
    assert shown == (
        f"<SmtpConnection {connection.connection_id} smtp a given transport tls=none state=<locked> "
        "authenticated=<locked> shutting_down=False mails=<locked>>"
    )
    assert held.let_go().all_delivered
    connection.close()


def test_F95_KM30_repr_says_protocol_peer_TLS_state_and_count_and_nobodys_address(authority: TestAuthority) -> None:
    with LoopbackServer(protocol="lmtp", tls="implicit", ca=authority, auth={"user": "secret"}) as server:
        connection = SmtpConnection.connect_lmtp(
            "127.0.0.1", server.port, TlsMode.IMPLICIT, timeout=5, tls_config=TlsConfig(trust=authority.pem),
            credentials=("user", "secret"),
        )  # fmt: skip
        number, version = connection.connection_id, connection.tls.version if connection.tls else ""
        for count in range(2):
            assert repr(connection) == (
                f"<SmtpConnection {number} lmtp 127.0.0.1:{server.port} tls={version} state=MAIL FROM "
                f"authenticated=True shutting_down=False mails={count}>"
            )
            assert connection.send(SENDER, ONE, BODY, timeout=5).all_delivered
        connection.close()
        assert repr(connection).endswith("state=closed authenticated=True shutting_down=False mails=2>")


@each_verb
def test_E192_F92_who_waits_too_long_for_his_turn_changes_nothing(verb: str) -> None:
    connection, transport = over(
        OK * 2 + GO, OK, b"250 again\r\n",
        extensions=(*EVERYTHING[:-1], OFFERED), protocol=lmtp_or_smtp(verb), allow_plaintext_auth=True,
    )  # fmt: skip
    held = Held(connection)
    writes = list(transport.writes)
    call = VERBS[verb]
    short: Any = _Hasty(connection)
    with pytest.raises(SmtpTimeoutError) as caught:
        call(short)
    assert (caught.value.stage, caught.value.delivery, caught.value.retry_safe) == (
        "lock", Delivery.NOT_DELIVERED, True,
    )  # fmt: skip
    assert transport.writes == writes
    assert held.let_go().all_delivered
    connection.noop(timeout=5)
    connection.close()


class _Hasty:
    """The connection, asked with a tenth of a second."""

    def __init__(self, connection: SmtpConnection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, timeout: getattr(self._connection, name)(*arguments, timeout=0.05)


def test_NN5_a_quit_that_does_not_get_its_turn_in_time_leaves_the_connection_to_who_has_it() -> None:
    connection, _ = over(OK * 2 + GO, OK, BYE)
    held = Held(connection)
    with pytest.raises(SmtpTimeoutError) as caught:
        connection.quit(timeout=0.05)
    assert caught.value.stage == "lock"
    assert held.let_go().all_delivered
    assert connection.quit(timeout=5) is True


@pytest.mark.parametrize("waiter", ["noop", "send", "auth_plain", "quit"])
def test_E193_the_owner_closes_while_a_thread_waits(waiter: str) -> None:
    """Who has the turn is cut off, who waits for it learns that the connection is closed."""
    with LoopbackServer() as server:
        server.fault("end of data", "silence")
        connection = SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5)
        seen: dict[str, Any] = {}

        def run(name: str, call: Verb) -> threading.Thread:
            def work() -> None:
                try:
                    seen[name] = call(connection)
                except BaseException as error:  # handed to the test's thread
                    seen[name] = error

            thread = threading.Thread(target=work)
            thread.start()
            return thread

        threads = [run("first", lambda c: c.send(SENDER, ONE, BODY, timeout=30))]
        server.wait_for(1, 10)
        waiting = VERBS.get(waiter, lambda c: c.quit(timeout=5))
        threads.append(run("second", waiting))
        threads[1].join(0.1)
        assert threads[1].is_alive()
        connection.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert isinstance(seen["first"], DeliveryUnknownError)
    if waiter == "quit":
        assert seen["second"] is False
    else:
        assert type(seen["second"]) is UsageError
    assert connection.state is SessionState.CLOSED


@each_verb
def test_E190_NN23_F94_a_verb_out_of_the_body_of_a_mail_fails_at_once(verb: str) -> None:
    connection, transport = over(
        OK * 2 + GO, extensions=(*EVERYTHING[:-1], OFFERED), protocol=lmtp_or_smtp(verb), allow_plaintext_auth=True
    )
    met: list[BaseException] = []

    def body() -> Iterator[bytes]:
        yield b"x\r\n"
        try:
            VERBS[verb](connection)
        except BaseException as error:
            met.append(error)
            raise

    with pytest.raises(UsageError, match="middle of another call") as caught:
        connection.send(SENDER, ONE, body(), timeout=30)
    assert met == [caught.value]
    assert b"\r\n.\r\n" not in transport.written
    assert (transport.closed, transport.clock()) == (True, 0.0)


# --- fork, and what nobody closed -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("tls", [None, "implicit"], ids=["in clear", "TLS"])
def test_E195_F94a_NN7_in_a_forked_child_every_verb_refuses_and_nothing_is_written(
    tls: Literal["implicit"] | None, authority: TestAuthority
) -> None:
    options: dict[str, Any] = {"tls_config": TlsConfig(trust=authority.pem)} if tls else {}
    with LoopbackServer(tls=tls, ca=authority, auth={"u": "p"}, require_auth=False) as server:
        mode = TlsMode.IMPLICIT if tls else TlsMode.NONE
        connection = SmtpConnection.connect("127.0.0.1", server.port, mode, timeout=5, **options)
        octets = server.sessions[0].octets
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
            child = os.fork()
        if child == 0:
            os._exit(_in_the_child(connection))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert server.sessions[0].octets == octets
        assert server.sessions[0].closed_by is None
        assert connection.send(SENDER, ONE, BODY, timeout=5).all_delivered
        assert connection.quit(timeout=5) is True
        assert server.violations == []


def _in_the_child(connection: SmtpConnection) -> int:
    """How many things are not as they must be."""
    transport: Any = connection._driver.transport
    verbs: list[Verb] = [lambda c: c.quit(timeout=5), *VERBS.values()]
    wrong: int = sum(not _refuses(verb, connection) for verb in verbs)
    wrong += transport._sock.fileno() != -1
    with connection:
        pass
    connection.close()
    repr(connection)
    return wrong


def _refuses(verb: Verb, connection: SmtpConnection) -> bool:
    try:
        verb(connection)
    except UsageError as error:
        return "child" in str(error) or "LMTP" in str(error)
    except BaseException:
        return False
    return False


@pytest.mark.parametrize("tls", [None, "implicit"], ids=["in clear", "TLS"])
def test_F96_NN2_collection_takes_no_lock_writes_no_octet_and_closes(
    tls: Literal["implicit"] | None, authority: TestAuthority
) -> None:
    options: dict[str, Any] = {"tls_config": TlsConfig(trust=authority.pem)} if tls else {}
    with LoopbackServer(tls=tls, ca=authority) as server:
        mode = TlsMode.IMPLICIT if tls else TlsMode.NONE
        connection = SmtpConnection.connect("127.0.0.1", server.port, mode, timeout=5, **options)
        octets = server.sessions[0].octets
        assert connection._lock.acquire(timeout=1)  # whoever had it will never give it back
        with pytest.warns(ResourceWarning, match=f"127.0.0.1:{server.port}"):  # noqa: PT031  # collection may take both
            del connection
            gc.collect()
        server.wait_for_connections(0, 5)
        assert server.sessions[0].octets == octets
        assert server.sessions[0].closed_by == "client"


# --- the owner of the name in EHLO ------------------------------------------------------------------------------------


def test_KM8_F9_set_ehlo_domain_is_no_verb_of_the_wire() -> None:
    connection, transport = over(OK * 2 + GO, OK, hello("DSN"))
    held = Held(connection)
    began = time.perf_counter()
    connection.set_ehlo_domain("other.example.com")
    assert time.perf_counter() - began < 1.0
    assert held.let_go().all_delivered
    assert b"other.example.com" not in transport.written
    connection.rehlo(timeout=5)
    assert transport.written.endswith(b"EHLO other.example.com\r\n")
    assert connection.capabilities.lines == ("DSN",)
    connection.close()


def test_F10_rehlo_keeps_authentication_and_the_mails_of_the_session() -> None:
    said = (b"235 x\r\n", OK * 2 + GO, OK, hello("AUTH PLAIN", "DSN"), OK, OK, GO, OK)
    connection, transport = over(*said, extensions=("PIPELINING", "AUTH PLAIN"), allow_plaintext_auth=True)
    connection.auth_plain("u", "p", timeout=5)
    old = connection.capabilities
    assert connection.send(SENDER, ONE, BODY, timeout=5).all_delivered
    connection.rehlo(timeout=5)
    assert (connection.is_authenticated, connection.state) == (True, SessionState.MAIL_FROM)
    assert (old.lines, connection.capabilities.lines) == (("PIPELINING", "AUTH PLAIN"), ("AUTH PLAIN", "DSN"))  # E119
    with pytest.raises(UsageError):
        connection.auth_plain("u", "p", timeout=5)
    flights = transport.flights
    assert connection.send(SENDER, ONE, BODY, timeout=5).all_delivered
    assert transport.flights - flights == 4, "PIPELINING is not offered any more"
    connection.close()


@pytest.mark.parametrize(
    "credentials",
    [
        PlainAuth("u", "p"), LoginAuth("u", "p"), ScramAuth("u", "p"), XOAuth2Auth("u", "t"), OAuthBearerAuth("t"),
        PasswordAuth("u", "p"), ("u", "p"), lambda: PlainAuth("u", "p"),
    ],
    ids=["WM6 PLAIN", "WM6 LOGIN", "WM6 SCRAM", "WM6 XOAUTH2", "WM6 OAUTHBEARER", "WM5", "WM5 a pair", "F42a"],
)  # fmt: skip
def test_E35_F47_D5_any_refusal_of_auth_is_one_error_and_leaves_the_connection_usable(credentials: Any) -> None:
    connection, transport, sink = audited(
        b"454 4.7.0 later\r\n", b"535 5.7.8 no\r\n", OK, extensions=("ENHANCEDSTATUSCODES", OFFERED),
        allow_plaintext_auth=True,
    )  # fmt: skip
    for code, permanent in ((454, False), (535, True)):
        with pytest.raises(AuthenticationError) as caught:
            connection.auth(credentials, timeout=5)
        assert caught.value.reply is not None
        assert (caught.value.reply.code, caught.value.permanent) == (code, permanent)
        assert caught.value.stage.startswith("AUTH ")
        assert (connection.usable, connection.is_authenticated) == (True, False)
    assert transport.written.count(b"AUTH ") == 2
    assert "SessionAborted" not in names(sink)
    connection.noop(timeout=5)
    connection.close()


# --- hooks ----------------------------------------------------------------------------------------------------------


def test_F94_NN23_a_verb_out_of_a_hook_fails_at_once_and_the_call_goes_on() -> None:
    met: list[BaseException] = []

    class Asking:
        connection: SmtpConnection | None = None

        def _ask(self) -> None:
            if self.connection is not None:
                try:
                    self.connection.noop(timeout=30)
                except UsageError as error:
                    met.append(error)

        def on_event(self, event: object) -> None:
            self._ask()

        def check_sender(self, sender: object) -> None:
            self._ask()

        def check_recipients(self, recipients: object) -> None:
            self._ask()

        def check_message_size(self, size: int | None) -> None:
            self._ask()

    hook = Asking()
    connection, transport = over(OK * 2 + GO, OK, policy=hook, audit=hook)
    hook.connection = connection
    assert connection.send(SENDER, ONE, BODY, timeout=5).all_delivered
    assert len(met) == 7, "three of the policy, four events"
    assert all("middle of another call" in str(error) for error in met)
    assert b"NOOP" not in transport.written
    connection.close()


def test_F94_F42a_a_verb_out_of_a_token_callable_passes_as_it_is() -> None:
    connection, transport = over(OK, extensions=EVERYTHING, allow_plaintext_auth=True)

    def token() -> str:
        connection.noop(timeout=30)
        return "t"

    with pytest.raises(UsageError, match="middle of another call"):
        connection.auth_xoauth2("u", token, timeout=5)
    assert after_hello(transport) == b""
    connection.noop(timeout=5)
    connection.close()


# --- interrupts -------------------------------------------------------------------------------------------------------

INTERRUPTED: dict[str, tuple[Verb, tuple[Any, ...]]] = {
    "noop": (VERBS["noop"], (OK, OK)),
    "send": (VERBS["send"], (OK * 2 + GO, OK, OK)),
    "auth_plain": (VERBS["auth_plain"], (b"235 x\r\n", OK)),
    "rehlo": (VERBS["rehlo"], (hello("DSN"), OK)),
    "quit": (lambda c: c.quit(timeout=5), (BYE,)),
    "with": (lambda c: c.__exit__(None, None, None), (BYE,)),
    "close": (lambda c: c.close(), ()),
}


def interrupted_at(number: int, call: Callable[[], object]) -> bool:
    """KeyboardInterrupt where a handler of signals may run: on entry of a function, and behind a call of C.

    The so-manieth such point in smtpconn; False if there are not so many.
    """
    seen = 0

    def profile(frame: types.FrameType, event: str, argument: object) -> None:
        nonlocal seen
        module = str(frame.f_globals.get("__name__", ""))
        if event in ("call", "c_return") and module.startswith("smtpconn.") and "testing" not in module:
            seen += 1
            if seen == number:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return seen >= number


# One that hits a finalizer is dropped by Python itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("verb", INTERRUPTED)
def test_F93_an_interrupt_at_any_point_leaves_no_turn_taken(verb: str) -> None:
    """Other threads go on, or learn that the connection is dead; the owner can close it."""
    call, said = INTERRUPTED[verb]
    kept = []  # or the collection of the last one would be interrupted in place of this one
    for number in itertools.count(1):
        connection, transport = over(*said, extensions=EVERYTHING, allow_plaintext_auth=True, dry="eof")
        kept.append(connection)
        if not interrupted_at(number, functools.partial(call, connection)):
            connection.close()
            break
        met: list[SmtpError] = []
        thread = threading.Thread(target=_ask, args=(connection, met))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert not [error for error in met if isinstance(error, SmtpTimeoutError)], number
        connection.close()
        assert transport.closed, number
    assert number > 5


def _ask(connection: SmtpConnection, met: list[SmtpError]) -> None:
    try:
        connection.noop(timeout=5)
    except SmtpError as error:
        met.append(error)


# --- the table of states ----------------------------------------------------------------------------------------------

S = SessionState
MOVES: dict[SessionState, set[SessionState]] = {
    S.GREETING: {S.EHLO, S.QUIT, S.CLOSED},
    S.EHLO: {S.AUTHENTICATION, S.MAIL_FROM, S.QUIT, S.CLOSED},
    S.AUTHENTICATION: {S.STARTTLS, S.MAIL_FROM, S.RCPT_TO, S.EHLO, S.QUIT, S.CLOSED},
    S.STARTTLS: {S.EHLO, S.CLOSED},
    S.MAIL_FROM: {S.RCPT_TO, S.EHLO, S.QUIT, S.CLOSED},
    S.RCPT_TO: {S.DATA, S.MAIL_FROM, S.CLOSED},  # a caller cannot say QUIT in a transaction
    S.DATA: {S.MAIL_FROM, S.CLOSED},
    S.QUIT: {S.CLOSED},
    S.CLOSED: set(),
}


def failing_body() -> Iterator[bytes]:
    yield b"x\r\n"
    raise OSError("source")


def broken_bdat(connection: SmtpConnection) -> None:
    connection.send_bdat(SENDER, ONE, failing_body(), timeout=5)


SESSIONS: list[tuple[TlsMode, list[Any], list[Verb]]] = [
    (TlsMode.NONE, [b"554 no\r\n", BYE], []),
    (TlsMode.NONE, [EOF], []),
    (TlsMode.NONE, [GREETING, b"554 no\r\n", BYE], []),
    (TlsMode.NONE, [GREETING, b"x\r\n"], []),
    (TlsMode.NONE, [GREETING, hello(), BYE], [lambda c: c.quit(timeout=5)]),
    (TlsMode.NONE, [GREETING, hello()], []),
    (TlsMode.STARTTLS, [GREETING, hello("STARTTLS"), b"220 go\r\n", TLS, hello(), BYE], [lambda c: c.quit(timeout=5)]),
    (TlsMode.STARTTLS, [GREETING, hello("STARTTLS"), b"220 go\r\nX"], []),
    (TlsMode.NONE, [GREETING, hello("AUTH PLAIN"), b"235 ok\r\n", hello(), BYE],
     [VERBS["auth_plain"], VERBS["rehlo"], lambda c: c.quit(timeout=5)]),
    (TlsMode.NONE, [GREETING, hello(), hello()], [VERBS["rehlo"]]),
    (TlsMode.NONE, [GREETING, hello("PIPELINING"), SENT, OK, SENT, OK], [VERBS["send"], VERBS["send"]]),
    (TlsMode.NONE, [GREETING, hello(), b"550 no\r\n", OK, OK, b"550 no\r\n"], [VERBS["send"], VERBS["send"]]),
    (TlsMode.NONE, [GREETING, hello(), OK, OK, b"451 no\r\n"], [VERBS["send"]]),
    (TlsMode.NONE, [GREETING, hello(), OK, EOF], [VERBS["send"]]),
    (TlsMode.NONE, [GREETING, hello(), OK, OK, GO, EOF], [VERBS["send"]]),
    (TlsMode.NONE, [GREETING, hello(), OK, OK, GO, b"552 no\r\n"], [VERBS["send"]]),
    (TlsMode.NONE, [GREETING, hello("CHUNKING"), OK, OK, OK, OK, OK], [broken_bdat, VERBS["noop"]]),
    (TlsMode.NONE, [GREETING, hello("CHUNKING"), OK, OK, OK], [VERBS["send_bdat"]]),
]  # fmt: skip


def test_F97_E103_the_state_moves_as_the_table_says_and_every_move_of_it_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[tuple[SessionState, SessionState]] = set()

    class Recording(Session):
        _state = SessionState.GREETING

        @property
        def state(self) -> SessionState:
            return self._state

        @state.setter
        def state(self, state: SessionState) -> None:
            if state is not self._state:
                seen.add((self._state, state))
            self._state = state

    monkeypatch.setattr("smtpconn.conversation.Session", Recording)
    for mode, said, verbs in SESSIONS:
        transport = ScriptedTransport(said, when_dry="eof", tls=TlsInfo("TLSv1.3", "x", "mx.example.com", b""))
        config = TlsConfig(server_name="mx.example.com") if mode is TlsMode.STARTTLS else None
        with contextlib.suppress(SmtpError, OSError):
            connection = SmtpConnection.from_transport(
                transport, tls_mode=mode, tls_config=config, timeout=5, ehlo_domain="client.test",
                allow_plaintext_auth=True,
            )  # fmt: skip
            for verb in verbs:
                with contextlib.suppress(SmtpError, OSError):
                    verb(connection)
            connection.close()
            assert connection.state is SessionState.CLOSED
        assert transport.closed
    assert seen == {(start, end) for start, ends in MOVES.items() for end in ends}
