"""Rows at C that the shell proves: over a scripted transport, so that they run wherever the core does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import pytest

from smtpconn import (
    Delivery,
    ListAuditSink,
    PasswordAuth,
    PermanentReplyError,
    ServiceUnavailableError,
    SessionState,
    SmtpConnection,
    TlsMode,
    UsageError,
)
from smtpconn.testing import ScriptedTransport

SENDER, RECIPIENT = "a@example.com", "b@example.com"
BODY = b"Subject: x\r\n\r\nhello\r\n"
GREETING, OK, BYE = b"220 mx\r\n", b"250 ok\r\n", b"221 bye\r\n"
SENT = OK * 2 + b"354 go\r\n"

Verb = Callable[[SmtpConnection], object]
VERBS: dict[str, Verb] = {
    "send": lambda c: c.send(SENDER, [RECIPIENT], BODY, timeout=5),
    "send_bdat": lambda c: c.send_bdat(SENDER, [RECIPIENT], BODY, timeout=5),
    "noop": lambda c: c.noop(timeout=5),
    "vrfy": lambda c: c.vrfy("x", timeout=5),
    "expn": lambda c: c.expn("x", timeout=5),
    "help": lambda c: c.help(timeout=5),
    "reset": lambda c: c.reset(timeout=5),
    "rehlo": lambda c: c.rehlo(timeout=5),
    "auth_plain": lambda c: c.auth_plain("u", "p", timeout=5),
}


def over(
    *said: Any, offers: str = "CHUNKING", protocol: Literal["smtp", "lmtp"] = "smtp", **options: Any
) -> tuple[SmtpConnection, ScriptedTransport]:
    """A connection whose peer says `said`, one item to each flight behind the EHLO."""
    hello = f"250-mx\r\n250-PIPELINING\r\n250 {offers}\r\n".encode()
    transport = ScriptedTransport([GREETING, hello, *said], secure=True)
    options = {"timeout": 5, "tls_mode": TlsMode.IMPLICIT, "ehlo_domain": "client.test", **options}
    return SmtpConnection.from_transport(transport, protocol=protocol, **options), transport


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("end", ["quit", "close"])
def test_E93_a_verb_after_the_end_is_a_usage_error_without_an_octet(verb: str, end: str) -> None:
    connection, transport = over(BYE)
    if end == "quit":
        assert connection.quit(timeout=5) is True
    else:
        connection.close()
    written = transport.written
    with pytest.raises(UsageError):
        VERBS[verb](connection)
    assert connection.state is SessionState.CLOSED
    assert transport.written == written == b"EHLO client.test\r\n" + (b"QUIT\r\n" if end == "quit" else b"")


@pytest.mark.parametrize("verb", VERBS)
def test_E89_a_verb_after_a_421_says_so_without_an_octet(verb: str) -> None:
    connection, transport = over(b"421 4.3.2 shutting down\r\n")
    with pytest.raises(ServiceUnavailableError):
        connection.noop(timeout=5)
    written = transport.written
    with pytest.raises(ServiceUnavailableError) as again:
        VERBS[verb](connection)
    assert again.value.reply.code == 421
    assert transport.written == written
    connection.close()


@pytest.mark.parametrize("chunking", [False, True])
def test_E81_send_lmtp_is_for_LMTP_and_send_is_the_same_there(chunking: bool) -> None:
    connection, transport = over(BYE)
    for verb in (connection.send_lmtp, connection.send_lmtp_bdat):
        with pytest.raises(UsageError):
            verb(SENDER, [RECIPIENT], BODY, timeout=5)
    connection.quit(timeout=5)
    assert transport.written == b"EHLO client.test\r\nQUIT\r\n"
    wires = []
    for name in ("send_bdat", "send_lmtp_bdat") if chunking else ("send", "send_lmtp"):
        replies = (OK * 2, OK) if chunking else (SENT, OK)
        connection, transport = over(*replies, BYE, protocol="lmtp")
        result = getattr(connection, name)(SENDER, [RECIPIENT], BODY, timeout=5)
        assert [entry.delivery for entry in result.recipients] == [Delivery.DELIVERED]
        connection.quit(timeout=5)
        wires.append(transport.written)
    assert wires[0] == wires[1]


@pytest.mark.parametrize(("answer", "refused"), [(OK, False), (b"502 5.5.1 no\r\n", True)])
def test_E202_a_reset_is_written_at_once_and_a_refused_one_closes(answer: bytes, refused: bool) -> None:
    connection, transport = over(answer, BYE)
    if refused:
        with pytest.raises(PermanentReplyError):
            connection.reset(timeout=5)
    else:
        connection.reset(timeout=5)
    assert transport.written == b"EHLO client.test\r\nRSET\r\n"
    assert connection.usable is not refused
    connection.quit(timeout=5)


def test_E96_E99_the_events_of_a_clean_session_stand_in_order() -> None:
    sink = ListAuditSink()
    credentials = PasswordAuth("user", "secret")
    connection, _ = over(b"235 yes\r\n", SENT, OK, BYE, offers="AUTH PLAIN", audit=sink, credentials=credentials)
    connection.send(SENDER, [RECIPIENT], BODY, timeout=5)
    connection.quit(timeout=5)
    assert [type(event).__name__ for event in sink.events] == [
        "Connected", "GreetingReceived", "EhloCompleted", "AuthCompleted", "MailFromAccepted", "RecipientAccepted",
        "MessageAccepted", "MailSettled", "QuitCompleted",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", [name for name in vars(SmtpConnection) if name.startswith("send")])
def test_E78_parameters_of_a_recipient_have_no_list_of_their_own(verb: str) -> None:
    parameters = inspect.signature(getattr(SmtpConnection, verb)).parameters
    assert not [name for name in parameters if "rcpt" in name or name.startswith("recipient_")]
    assert ("recipients" in parameters) is (verb != "send_many")
