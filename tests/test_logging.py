"""`smtpconn.connection` and `smtpconn.wire` (users:LG1-LG7, features:F109, SY22, faults:SEC3-SEC5, NN16)."""

from __future__ import annotations

import base64
import logging
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectionPool,
    Delivery,
    LoginAuth,
    Mail,
    OAuthBearerAuth,
    PlainAuth,
    ScramAuth,
    SmtpConnection,
    SmtpError,
    TlsConfig,
    TlsMode,
    XOAuth2Auth,
)
from smtpconn.deadline import Budget
from smtpconn.journal import Journal
from smtpconn.protocol.sasl import Credentials
from smtpconn.testing import LoopbackServer, ScriptedTransport, TestAuthority

SENDER, RECIPIENT, NOBODY = "anna@example.com", "ben@example.net", "nobody@example.net"
BODY = b"Subject: x\r\n\r\nthe content\r\nMAIL FROM:<no-command@example.com>\r\nBDAT 3 LAST\r\n"
LOGGERS = ("smtpconn", "smtpconn.connection", "smtpconn.wire", "smtpconn.pool")
USER, PASSWORD = "user", "pass/word+sEcret%42"
TOKEN = "tOken/of+the.bearer%41~0123456789"

Emit = Callable[[logging.LogRecord], None]


class Listener(logging.Handler):
    """Keeps records; `emit` may be replaced by what a careless handler does."""

    def __init__(self, then: Emit | None = None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._then = then

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self._then is not None:
            self._then(record)

    def texts(self, logger: str) -> list[str]:
        """The messages without what all of them begin with."""
        return [
            record.getMessage().partition(": ")[2] for record in self.records if record.name == f"smtpconn.{logger}"
        ]


@contextmanager
def listening(*, wire: bool = True, then: Emit | None = None) -> Iterator[Listener]:
    """All of smtpconn at DEBUG; the wire only if asked for, by its own level."""
    handler, package, wired = Listener(then), logging.getLogger("smtpconn"), logging.getLogger("smtpconn.wire")
    before = package.level, wired.level
    package.setLevel(logging.DEBUG)
    if wire:
        wired.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        yield handler
    finally:
        package.removeHandler(handler)
        package.setLevel(before[0])
        wired.setLevel(before[1])


def connect(server: LoopbackServer, **options: Any) -> SmtpConnection:
    return SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5, ehlo_domain="me.test", **options)


def send(connection: SmtpConnection, recipients: Iterable[str] = (RECIPIENT,)) -> Any:
    return connection.send(SENDER, recipients, BODY, timeout=5)


# --- secrets ---------------------------------------------------------------------------------------------------------


def forms(secret: str) -> set[str]:
    """The secret in plain, what base64 of any text around it has in it (3 alignments), and in percent form."""
    octets, found = secret.encode(), {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret)}
    found.add("".join(f"%{octet:02X}" for octet in octets))
    for before in range(3):
        text = base64.b64encode(b"\0" * before + octets + b"\0\0").decode()
        found.add(text[(0, 2, 3)[before] : (before + len(octets)) * 4 // 3])
    return found


def rendered(records: Iterable[logging.LogRecord]) -> str:
    """All that a formatter of any kind could show of the records."""
    formatter = logging.Formatter("%(message)s %(pathname)s")
    return "\n".join(f"{formatter.format(record)} {vars(record)!r}" for record in records)


MECHANISMS: dict[str, tuple[Callable[[str], Credentials], list[str]]] = {
    "PLAIN": (lambda secret: PlainAuth(USER, secret), ["C: AUTH PLAIN ***", "S: 235 ***"]),
    "LOGIN": (
        lambda secret: LoginAuth(USER, secret),
        ["C: AUTH LOGIN", "S: 334 ***", "C: ***", "S: 334 ***", "C: ***", "S: 235 ***"],
    ),
    "SCRAM-SHA-256": (
        lambda secret: ScramAuth(USER, secret),
        ["C: AUTH SCRAM-SHA-256 ***", "S: 334 ***", "C: ***", "S: 334 ***", "C: ***", "S: 235 ***"],
    ),
    "SCRAM-SHA-256-PLUS": (
        lambda secret: ScramAuth(USER, secret, channel_binding="tls-server-end-point"),
        ["C: AUTH SCRAM-SHA-256-PLUS ***", "S: 334 ***", "C: ***", "S: 334 ***", "C: ***", "S: 235 ***"],
    ),
    "XOAUTH2": (lambda secret: XOAuth2Auth(USER, secret), ["C: AUTH XOAUTH2 ***", "S: 235 ***"]),
    "OAUTHBEARER": (lambda secret: OAuthBearerAuth(secret, user=USER), ["C: AUTH OAUTHBEARER ***", "S: 235 ***"]),
}


@contextmanager
def private_server(authority: TestAuthority) -> Iterator[tuple[LoopbackServer, dict[str, Any]]]:
    """A server with STARTTLS and every mechanism, and how to connect to it."""
    with LoopbackServer(tls="starttls", ca=authority, auth={USER: PASSWORD}, tokens={USER: TOKEN}) as server:
        config = TlsConfig(trust=authority.pem, server_name="localhost")
        yield server, {"timeout": 10, "tls_config": config, "ehlo_domain": "me.test"}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_secret_is_in_a_record_of_a_whole_session_SY22_SEC3_SEC4(mechanism: str, authority: TestAuthority) -> None:
    made, exchange = MECHANISMS[mechanism]
    secret = TOKEN if "OAUTH" in mechanism else PASSWORD
    with private_server(authority) as (server, options), listening() as log:
        options["credentials"] = made(secret)
        with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.STARTTLS, **options) as connection:
            assert send(connection).all_delivered
    shown = rendered(log.records)
    assert not [form for form in forms(secret) if form in shown]
    wire = log.texts("wire")
    start = next(index for index, text in enumerate(wire) if text.startswith("C: AUTH"))
    assert wire[start : start + len(exchange)] == exchange
    assert wire[start + len(exchange)].startswith("C: MAIL")
    assert f"AUTH {mechanism} done" in log.texts("connection")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_secret_is_in_a_record_of_a_refused_AUTH_SY22(mechanism: str, authority: TestAuthority) -> None:
    made, _ = MECHANISMS[mechanism]
    wrong = f"{PASSWORD[::-1]}wrong"
    with private_server(authority) as (server, options), listening() as log:
        options["credentials"] = made(wrong)
        with pytest.raises(AuthenticationError):
            SmtpConnection.connect("127.0.0.1", server.port, TlsMode.STARTTLS, **options)
    shown = rendered(log.records)
    assert not [form for form in forms(wrong) if form in shown]
    assert "S: 535" in shown


@pytest.mark.parametrize(
    "quoted",
    [PASSWORD, base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()],
    ids=["the password", "the line"],
)
def test_a_server_that_echoes_the_secret_is_not_quoted_SEC3(quoted: str, server: LoopbackServer) -> None:
    server.auth = {USER: PASSWORD}
    server.reply("AUTH", f"535 5.7.8 AUTH PLAIN {quoted} is wrong")
    with listening() as log, pytest.raises(AuthenticationError):
        connect(server, credentials=PlainAuth(USER, PASSWORD), allow_plaintext_auth=True)
    assert not [form for form in forms(PASSWORD) if form in rendered(log.records)]
    assert "S: 535 5.7.8 AUTH PLAIN *** is wrong" in log.texts("wire")


def test_a_password_of_a_URL_is_in_no_record_in_percent_form_SY22(server: LoopbackServer) -> None:
    server.auth = {USER: PASSWORD}
    url = f"smtp://{USER}:{urllib.parse.quote(PASSWORD, safe='')}@127.0.0.1:{server.port}?auth=plain"
    with listening() as log, SmtpConnection.from_url(url, timeout=5, allow_plaintext_auth=True) as connection:
        assert send(connection).all_delivered
    assert not [form for form in forms(PASSWORD) if form in rendered(log.records)]


# --- who may see what ------------------------------------------------------------------------------------------------


def test_a_root_logger_at_DEBUG_does_not_turn_the_wire_log_on_LG4(server: LoopbackServer) -> None:
    root, handler = logging.getLogger(), Listener()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    try:
        with connect(server) as connection:
            send(connection)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert {record.name for record in handler.records if record.name.startswith("smtpconn")} == {"smtpconn.connection"}
    assert "example" not in rendered(handler.records)


@pytest.mark.parametrize(("configured", "level"), [("NOTSET", "WARNING"), ("DEBUG", "DEBUG"), ("ERROR", "ERROR")])
def test_the_wire_log_starts_at_WARNING_unless_the_application_was_earlier_LG4(configured: str, level: str) -> None:
    code = (
        f"import logging; wire = logging.getLogger('smtpconn.wire'); wire.setLevel('{configured}'); import smtpconn\n"
        "print(logging.getLevelName(wire.level), [type(h).__name__ for h in logging.getLogger('smtpconn').handlers])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == f"{level} ['NullHandler']\n"


def test_addresses_and_server_text_are_in_the_wire_log_only_LG4(lmtp_server: LoopbackServer) -> None:
    """features:F109, C13: also where the reason of a close is a reply that quotes an address."""
    server = lmtp_server
    server.refuse(NOBODY, f"550 5.1.1 <{NOBODY}> unknown here")
    server.reply("MAIL", f"421 4.3.2 <{SENDER}> must wait", nth=2)
    server.reply("RCPT", f"354 <{RECIPIENT}> out of place", nth=3)

    def opened() -> SmtpConnection:
        options: dict[str, Any] = {"timeout": 5, "ehlo_domain": "me.test"}
        return SmtpConnection.connect_lmtp("127.0.0.1", server.port, TlsMode.NONE, **options)

    with listening() as log:
        with opened() as connection:
            assert [entry.delivery for entry in send(connection, [RECIPIENT, NOBODY]).recipients] == [
                Delivery.DELIVERED,
                Delivery.NOT_DELIVERED,
            ]
            with pytest.raises(SmtpError):
                send(connection)
        with opened() as connection, pytest.raises(SmtpError):
            send(connection)
    seen = {name: rendered(record for record in log.records if record.name == name) for name in LOGGERS}
    assert "example" not in seen["smtpconn.connection"]
    assert "the content" not in rendered(log.records)
    for address in (SENDER, RECIPIENT, NOBODY):
        assert address in seen["smtpconn.wire"]
    assert "no-command" not in rendered(log.records)


def test_the_text_of_a_server_is_escaped_and_cut_SEC5(server: LoopbackServer) -> None:
    server.reply("VRFY", b"250-\x1b[31m\xe2\x80\xaered\r\n250 " + b"x" * 2_000 + b"\r\n")
    with listening() as log, connect(server) as connection:
        connection.vrfy("somebody", timeout=5)
    replies = log.texts("wire")[-4:-2]
    assert replies[0] == "S: 250-\\x1b[31m\\u202ered"
    assert len(replies[1]) == len("S: ") + 500
    assert all(record.getMessage().isprintable() for record in log.records)


# --- the records -----------------------------------------------------------------------------------------------------


def test_the_connection_log_tells_a_life_in_order_LG2(authority: TestAuthority) -> None:
    with private_server(authority) as (server, options), listening(wire=False) as log:
        server.refuse(NOBODY, "550 5.1.1 no such user")
        options["credentials"] = PlainAuth(USER, PASSWORD)
        with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.STARTTLS, **options) as connection:
            send(connection, [RECIPIENT, NOBODY])
            with pytest.raises(SmtpError):
                send(connection, [NOBODY])
            tls = connection.tls
    assert tls is not None
    told = [text.partition(" in ")[0].partition(" after ")[0].partition(", ")[0] for text in log.texts("connection")]
    assert told == [
        "connected",
        "EHLO done",
        f"TLS {tls.version}",
        "EHLO done",
        "AUTH PLAIN done",
        "mail settled",
        "mail settled",
        "closed",
    ]
    texts = log.texts("connection")
    assert tls.cipher in texts[2]
    assert texts[5].endswith("1 delivered, 1 not delivered, 0 unknown, 250")
    assert texts[6].endswith("0 delivered, 1 not delivered, 0 unknown: RecipientsRefusedError (RCPT), 550")
    assert texts[7].endswith(": QUIT")
    assert {record.levelno for record in log.records} == {logging.DEBUG}
    number = connection.connection_id
    begins = [record.getMessage().partition(" to ")[0] for record in log.records]
    assert begins == [f"connection {number} use {use}" for use in (0, 0, 0, 0, 0, 1, 2, 2)]


ATTRIBUTES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("connected", {"smtp_stage": "connect", "smtp_use": 0}, set()),
    ("EHLO done", {"smtp_stage": "EHLO", "smtp_use": 0}, set()),
    (
        "mail settled",
        {"smtp_delivery": "delivered", "smtp_recipients": 2, "smtp_use": 1, "smtp_code": 250, "smtp_enhanced": "2.6.0"},
        {"smtp_seconds"},
    ),
    (
        "mail settled",
        {
            "smtp_delivery": "not delivered",
            "smtp_recipients": 1,
            "smtp_use": 2,
            "smtp_stage": "MAIL",
            "smtp_code": 451,
            "smtp_enhanced": "4.7.1",
        },
        {"smtp_seconds"},
    ),
    ("closed", {"smtp_use": 2}, {"smtp_seconds"}),
]


def test_records_carry_their_attributes_and_no_others_LG3(server: LoopbackServer) -> None:
    server.reply("end of data", "250 2.6.0 taken", nth=1)
    server.reply("MAIL", "451 4.7.1 later", nth=2)
    with listening(wire=False) as log, connect(server) as connection:
        send(connection, [RECIPIENT, NOBODY])
        with pytest.raises(SmtpError):
            send(connection)
    for record, (text, exact, measured) in zip(log.records, ATTRIBUTES, strict=True):
        assert record.getMessage().partition(": ")[2].startswith(text)
        found = {name: value for name, value in vars(record).items() if name.startswith("smtp_")}
        seconds = {name: found.pop(name) for name in measured}
        assert all(0.0 <= value < 60.0 for value in seconds.values())
        where = {"smtp_connection": connection.connection_id, "smtp_endpoint": f"127.0.0.1:{server.port}"}
        assert found == {**exact, **where}


def test_the_wire_log_has_one_record_per_line_and_content_by_its_length_LG2(server: LoopbackServer) -> None:
    server.extensions = ("PIPELINING", "CHUNKING")
    length = len(BODY)
    with listening() as log, connect(server) as connection:
        send(connection)
        connection.send_bdat(SENDER, [RECIPIENT], BODY, timeout=5)
        connection.send_bdat(SENDER, [RECIPIENT], [BODY, BODY], timeout=5)
    envelope = [f"C: MAIL FROM:<{SENDER}>", f"C: RCPT TO:<{RECIPIENT}>"]
    shown = [text if text.startswith("C:") else text[:7] for text in log.texts("wire")]
    assert shown == [
        *["S: 220 ", "C: EHLO me.test", "S: 250-", "S: 250-", "S: 250 "],
        *[*envelope, "C: DATA", "S: 250 ", "S: 250 ", "S: 354 "],
        *[f"C: ({length + 3} octets of content)", "S: 250 "],
        *[*envelope, "S: 250 ", "S: 250 "],
        *[f"C: BDAT {length} LAST", f"C: ({length} octets of content)", "S: 250 "],
        *[*envelope, "S: 250 ", "S: 250 "],
        *[f"C: BDAT {2 * length} LAST", f"C: ({2 * length} octets of content)", "S: 250 "],
        *["C: QUIT", "S: 221 "],
    ]
    wire = [record for record in log.records if record.name == "smtpconn.wire"]
    accepted = next(record for record in wire if " S: 354" in record.getMessage())
    assert vars(accepted)["smtp_code"] == 354
    assert vars(accepted)["smtp_stage"] == "DATA"
    assert "smtp_code" not in vars(wire[1])


def test_chunks_in_one_flight_are_no_lines_SEC4(server: LoopbackServer) -> None:
    """A message made of commands, larger than a chunk: its octets share a flight with the BDAT lines."""
    message = b"RCPT TO:<spy@example.com>\r\n" * 8_000
    with listening() as log, connect(server) as connection:
        parts = [message[at : at + 10_000] for at in range(0, len(message), 10_000)]
        assert connection.send_bdat(SENDER, [RECIPIENT], parts, timeout=10).all_delivered
    wire = log.texts("wire")
    lines = [text for text in wire if text.startswith("C: BDAT")]
    assert len(lines) > 2
    lengths = [int(text.split()[1][1:]) for text in wire if text.startswith("C: (")]
    assert lengths == [int(text.split()[2]) for text in lines]
    assert sum(lengths) == len(message)
    assert "spy@" not in rendered(log.records)


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_a_message_larger_than_a_write_is_no_lines_SEC4(chunking: bool, server: LoopbackServer) -> None:
    message = b"RCPT TO:<spy@example.com>\r\n" * 8_000
    with listening() as log, connect(server) as connection:
        verb = connection.send_bdat if chunking else connection.send
        assert verb(SENDER, [RECIPIENT], message, timeout=10).all_delivered
    lengths = [int(text.split()[1][1:]) for text in log.texts("wire") if text.startswith("C: (")]
    assert sum(lengths) == len(message) + (0 if chunking else len(b".\r\n"))
    assert "spy@" not in rendered(log.records)


def test_a_reply_that_answers_nothing_is_in_the_wire_log(server: LoopbackServer) -> None:
    server.reply("MAIL", "421 4.3.2 shutting down")
    with listening() as log, connect(server) as connection, pytest.raises(SmtpError):
        send(connection)
    assert "S: 421 4.3.2 shutting down" in log.texts("wire")


def test_what_the_server_said_before_a_write_failed_is_in_the_wire_log_BR16() -> None:
    turns = [b"220 hi\r\n", b"250 me\r\n", b"421 4.3.2 shutting down\r\n"]
    accepted = len(b"EHLO me.test\r\n") + 5
    transport = ScriptedTransport(turns, accept=accepted, then=ConnectionResetError)
    with listening() as log:
        connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="me.test")
        with pytest.raises(SmtpError):
            connection.noop(timeout=5)
    assert log.texts("wire")[-2:] == ["C: NOOP", "S: 421 4.3.2 shutting down"]


def test_a_QUIT_whose_reply_nobody_awaits_is_in_the_wire_log(server: LoopbackServer) -> None:
    with listening() as log:
        connection = connect(server)
        connection.leave(None)
    assert log.texts("wire")[-1] == "C: QUIT"
    assert log.texts("connection")[-1].endswith(": QUIT")


def _quits(connection: SmtpConnection, server: LoopbackServer) -> None:
    connection.quit(timeout=5)


def _closes(connection: SmtpConnection, server: LoopbackServer) -> None:
    connection.close()


def _is_told_421(connection: SmtpConnection, server: LoopbackServer) -> None:
    server.reply("NOOP", f"421 4.3.2 <{SENDER}>")
    with pytest.raises(SmtpError):
        connection.noop(timeout=5)


def _loses_the_line(connection: SmtpConnection, server: LoopbackServer) -> None:
    server.fault("NOOP", "EOF")
    with pytest.raises(SmtpError):
        connection.noop(timeout=5)


def _is_told_nonsense(connection: SmtpConnection, server: LoopbackServer) -> None:
    server.reply("NOOP", f"354 <{SENDER}>")
    with pytest.raises(SmtpError):
        connection.noop(timeout=5)


def _is_refused_a_reset(connection: SmtpConnection, server: LoopbackServer) -> None:
    server.reply("RSET", "500 5.5.1 what?")
    with pytest.raises(SmtpError):
        connection.reset(timeout=5)


def _closes_in_the_middle(connection: SmtpConnection, server: LoopbackServer) -> None:
    def body() -> Iterator[bytes]:
        yield b"x\r\n"
        connection.close()
        yield b"y\r\n"

    with pytest.raises(SmtpError):
        connection.send(SENDER, [RECIPIENT], body(), timeout=5)


@pytest.mark.parametrize(
    ("end", "reason", "code"),
    [
        (_closes_in_the_middle, "by its owner, ConnectionLostError (body)", None),
        (_quits, "QUIT", None),
        (_closes, "by its owner", None),
        (_is_told_421, "the server said 421", 421),
        (_loses_the_line, "ConnectionLostError (NOOP)", None),
        (_is_told_nonsense, "ProtocolError (NOOP)", None),
        (_is_refused_a_reset, "a refused RSET", None),
    ],
)
def test_a_connection_says_once_why_it_is_closed_LG2(
    end: Callable[[SmtpConnection, LoopbackServer], None], reason: str, code: int | None, server: LoopbackServer
) -> None:
    with listening(wire=False) as log:
        connection = connect(server)
        end(connection, server)
        connection.close()
    closed = [record for record in log.records if ": closed after " in record.getMessage()]
    assert [record.getMessage().partition(" s: ")[2] for record in closed] == [reason]
    assert vars(closed[0]).get("smtp_code") == code


# --- handlers that fail, and the price -------------------------------------------------------------------------------


def _raising(record: logging.LogRecord) -> None:
    raise RuntimeError("a handler without handleError")


class FailingSink:
    """An `AuditSink` that fails."""

    def on_event(self, event: object) -> None:
        raise LookupError("sink")


def test_a_handler_that_raises_changes_nothing_NN16_LG5(server: LoopbackServer) -> None:
    server.refuse(NOBODY, "550 5.1.1 no such user")
    with listening(then=_raising) as log, connect(server, audit=FailingSink()) as connection:
        result = send(connection, [RECIPIENT, NOBODY])
        assert [entry.delivery for entry in result.recipients] == [Delivery.DELIVERED, Delivery.NOT_DELIVERED]
        with pytest.raises(SmtpError):
            send(connection, [NOBODY])
        connection.noop(timeout=5)
        assert connection.usable
    assert server.sessions[0].commands[-2:] == ["NOOP", "QUIT"]
    assert {record.name for record in log.records} == {"smtpconn.connection", "smtpconn.wire"}


def test_a_handler_of_the_pools_records_that_raises_changes_nothing_NN16_LG5(server: LoopbackServer) -> None:
    """Two connections are retired on the way, and one goes stale: each makes a record."""
    options: dict[str, Any] = {"timeout": 5, "max_size": 1, "max_messages": 2}
    with listening(then=_raising) as log, ConnectionPool(server.host, server.port, TlsMode.NONE, **options) as pool:
        for place in range(5):
            if place == 3:
                server.close_idle()
            assert pool.send("a@example.com", ["b@example.com"], b"x\r\n").delivery is Delivery.DELIVERED
        assert pool.stats().opened == 3
    assert len(server.mails) == 5
    assert [record for record in log.records if record.name == "smtpconn.pool"]


def test_a_record_factory_that_raises_changes_nothing_NN16(server: LoopbackServer) -> None:
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *_, **__: 1 / 0)  # type: ignore[arg-type]  # what it is about
    try:
        with listening(), connect(server) as connection:
            assert send(connection).all_delivered
    finally:
        logging.setLogRecordFactory(factory)


def test_nothing_but_a_hook_that_failed_is_above_DEBUG_and_nothing_above_WARNING_LG6(server: LoopbackServer) -> None:
    with listening() as log, connect(server, audit=FailingSink()) as connection:
        send(connection)
    loud = [record for record in log.records if record.levelno > logging.DEBUG]
    assert loud
    assert {(record.levelno, record.getMessage().partition(": ")[2]) for record in loud} == {
        (logging.WARNING, "an AuditSink failed")
    }
    assert all(record.exc_info and record.exc_info[0] is LookupError for record in loud)


def _blocked_at(record_number: int) -> tuple[set[Delivery], bytes, int]:
    """An LMTP mail whose time is used up by the handler of that record: verdicts, octets written, records made."""
    now, seen = 0.0, 0

    def block(record: logging.LogRecord) -> None:
        nonlocal now, seen
        if seen == record_number:
            now += 1_000.0
        seen += 1

    ok = b"250 ok\r\n"
    greeted = (b"220 hi\r\n", b"250-me\r\n250 PIPELINING\r\n")
    transport = ScriptedTransport([*greeted, (ok, ok, ok, ok, b"354 go\r\n"), (ok, ok, ok)], delivery="whole")
    connection = SmtpConnection.from_transport(
        transport, tls_mode=TlsMode.NONE, protocol="lmtp", timeout=5, ehlo_domain="me.test"
    )
    mail = Mail(SENDER, [f"r{number}@example.com" for number in range(3)], BODY)
    with listening(then=block):
        try:
            entries = connection.send_mail(mail, Budget.of(60, lambda: now)).recipients
        except SmtpError as error:
            entries = error.recipients
    connection.close()
    assert len(entries) == 3
    return {entry.delivery for entry in entries}, transport.written, seen


def test_a_handler_that_blocks_past_the_deadline_leaves_no_mail_in_doubt_LG5() -> None:
    """Whichever record it is: the mail is delivered to all, or provably to nobody because its end was not written.

    Every reply comes in a read of its own, so that one that is still to be read would be found too late.
    """
    _, _, records = _blocked_at(-1)
    assert records > 10
    outcomes: set[Delivery] = set()
    for number in range(records):
        verdicts, written, _ = _blocked_at(number)
        assert verdicts == {Delivery.DELIVERED if written.endswith(b"\r\n.\r\n") else Delivery.NOT_DELIVERED}
        outcomes |= verdicts
    assert outcomes == {Delivery.NOT_DELIVERED, Delivery.DELIVERED}


def test_an_interrupt_inside_a_handler_gives_the_turn_back(server: LoopbackServer) -> None:
    """A handler is where a signal may arrive, too: also at the record of the close the lock is released."""

    def interrupt(record: logging.LogRecord) -> None:
        if ": closed after" in record.getMessage():
            raise KeyboardInterrupt

    connection = connect(server)
    with listening(then=interrupt), pytest.raises(KeyboardInterrupt):
        connection.close()
    with pytest.raises(SmtpError, match="closed"):
        connection.noop(timeout=5)


def test_no_record_is_made_while_a_lock_of_the_pool_is_held_LG5(server: LoopbackServer) -> None:
    """A handler that asks the pool would wait for itself."""
    pool = ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=5, max_size=2, max_messages=2)
    asked = [0]

    def ask(record: logging.LogRecord) -> None:
        pool.stats()
        asked[0] += 1

    with listening(then=ask):
        for _ in range(3):
            pool.send(SENDER, [RECIPIENT], BODY)
        for outcome in pool.send_many([Mail(SENDER, [RECIPIENT], BODY) for _ in range(4)], concurrency=2):
            assert outcome.result is not None
        pool.invalidate()
        pool.send(SENDER, [RECIPIENT], BODY)
        pool.close()
    assert asked[0] > 50


def test_logging_that_is_off_formats_nothing_and_asks_twice_per_mail_LG7(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("formatted")

    asked: list[str] = []
    ask = logging.Logger.isEnabledFor

    def counted(logger: logging.Logger, level: int) -> bool:
        asked.append(logger.name)
        return ask(logger, level)

    assert not logging.getLogger("smtpconn.connection").isEnabledFor(logging.DEBUG)
    for name in ("_write", "_note", "writing", "heard", "settled"):
        monkeypatch.setattr(Journal, name, never)
    with connect(server) as connection:
        monkeypatch.setattr(logging.Logger, "isEnabledFor", counted)
        assert send(connection).all_delivered
        assert sorted(asked) == ["smtpconn.connection", "smtpconn.wire"]
