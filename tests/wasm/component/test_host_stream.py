"""The component over a stream of its host, which does TCP and TLS: what `send` does, and what comes back over WIT."""

from __future__ import annotations

import ast
import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from smtpconn.testing import LoopbackServer, TestAuthority

from . import build

if TYPE_CHECKING:
    from .host import Host

# The first test that needs the component waits until it is built and compiled.
pytestmark = pytest.mark.timeout(300)

SENDER, RECIPIENT = "a@example.com", "b@example.com"
BODY = b"Subject: x\r\n\r\n.hello\r\n"
USER, SECRET = "user", "p3ncil-secret"
Tls = Literal["implicit", "starttls"]
MODES: list[Tls] = ["implicit", "starttls"]


def config_of(server: LoopbackServer, tls_mode: str = "none", **changed: Any) -> dict[str, Any]:
    settings = {
        "host": "127.0.0.1",
        "port": server.port,
        "tls_mode": tls_mode,
        "protocol": server.protocol,
        "ehlo_domain": "client.example.com",
        "trust": None,
        "timeout": 20.0,
        "max_recipients": None,
        "max_message_octets": None,
    }
    return settings | changed


def mail_to(*recipients: str, message: bytes = BODY, chunking: bool = False) -> dict[str, Any]:
    return {
        "sender": SENDER,
        "recipients": list(recipients or (RECIPIENT,)),
        "message": message,
        "chunking": chunking,
    }


def account(mechanism: str, user: str = USER) -> dict[str, str]:
    return {"mechanism": mechanism, "user": user, "secret": SECRET}


# --- what is sent


@pytest.mark.parametrize("mechanism", ["password", "scram-sha256", "plain", "login"])
@pytest.mark.parametrize("tls", MODES)
def test_SY27_SY29_both_tls_modes_and_auth_over_a_stream_of_the_host(
    host: Host, authority: TestAuthority, tls: Tls, mechanism: str
) -> None:
    """features:SY19, SY26, F114: SCRAM by the PBKDF2 in pure Python."""
    with LoopbackServer(tls=tls, ca=authority, auth={USER: SECRET}) as server:
        tag, outcome = host.send(config_of(server, tls, trust=authority.pem), account(mechanism), mail_to())
    assert tag == "ok", outcome
    [mail], [session] = server.mails, server.sessions
    assert (mail.sender, mail.recipients, mail.content) == (SENDER, [RECIPIENT], BODY)
    assert (session.user, session.tls is not None, session.closed_by) == (USER, True, "QUIT")
    greeting = ["EHLO", "STARTTLS", "EHLO"] if tls == "starttls" else ["EHLO"]
    assert session.commands == [*greeting, "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]
    assert server.violations == []


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_a_bearer_token_goes_the_same_way(host: Host, authority: TestAuthority, mechanism: str) -> None:
    with LoopbackServer(tls="implicit", ca=authority, tokens={USER: SECRET}) as server:
        tag, outcome = host.send(config_of(server, "implicit", trust=authority.pem), account(mechanism), mail_to())
    assert tag == "ok", outcome
    assert server.sessions[0].user == USER


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_SY27_data_and_bdat_over_smtp_and_lmtp(host: Host, protocol: Literal["smtp", "lmtp"], chunking: bool) -> None:
    with LoopbackServer(protocol=protocol) as server:
        server.reply("end of data", "250 2.0.0 Ok: queued as 4XyZ12abc")
        tag, outcome = host.send(config_of(server), None, mail_to(chunking=chunking))
    assert tag == "ok", outcome
    assert (outcome["code"], outcome["text"]) == (250, "2.0.0 Ok: queued as 4XyZ12abc")
    assert outcome["queue_id"] == "4XyZ12abc"
    assert outcome["recipients"] == [
        {"address": RECIPIENT, "delivery": "delivered", "code": 250, "text": "2.0.0 Ok: queued as 4XyZ12abc"}
    ]
    assert (server.mails[0].verb, server.mails[0].content) == ("BDAT" if chunking else "DATA", BODY)
    assert server.violations == []


def test_SY27_lmtp_gives_a_verdict_for_each_recipient(host: Host, lmtp_server: LoopbackServer) -> None:
    lmtp_server.refuse("no@example.com", "550 5.1.1 unknown")
    lmtp_server.refuse("full@example.com", "452 4.2.2 full", when="data")
    recipients = (RECIPIENT, "no@example.com", "full@example.com")
    tag, outcome = host.send(config_of(lmtp_server), None, mail_to(*recipients))
    assert tag == "ok", outcome
    assert [(entry["address"], entry["delivery"], entry["code"]) for entry in outcome["recipients"]] == [
        (RECIPIENT, "delivered", 250),
        ("no@example.com", "not-delivered", 550),
        ("full@example.com", "not-delivered", 452),
    ]


def test_a_mail_larger_than_a_slice_arrives_whole(host: Host, server: LoopbackServer) -> None:
    body = b"Subject: x\r\n\r\n" + b"".join(b"%d %s\r\n" % (n, b"x" * 60) for n in range(2_000))
    tag, outcome = host.send(config_of(server), None, mail_to(message=body))
    assert tag == "ok", outcome
    assert server.mails[0].content == body


@pytest.mark.parametrize("delivery", ["whole", "line", "octet"])
def test_replies_in_pieces_are_the_same_replies(host: Host, delivery: Literal["whole", "line", "octet"]) -> None:
    with LoopbackServer(delivery=delivery) as server:
        tag, outcome = host.send(config_of(server), None, mail_to())
    assert tag == "ok", outcome
    assert len(server.mails) == 1


# --- TLS is a demand


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("trust", ["bundled", "another authority", "another name"])
def test_SY27_SY25_after_an_untrusted_certificate_no_octet_of_smtp_follows(
    host: Host, authority: TestAuthority, tls: Tls, trust: str
) -> None:
    """features:E28."""
    roots = {"bundled": None, "another authority": TestAuthority("another").pem, "another name": authority.pem}[trust]
    certificate = authority.issue("mx.example.com") if trust == "another name" else None
    with LoopbackServer(tls=tls, ca=authority, certificate=certificate, auth={USER: SECRET}) as server:
        tag, failure = host.send(config_of(server, tls, trust=roots), account("plain"), mail_to())
        server.wait_for_connections(0, 10)
    assert (tag, failure["kind"], failure["delivery"]) == ("err", "io", "not-delivered")
    assert "certificate" in failure["text"]
    [session] = server.sessions
    assert session.commands == (["EHLO", "STARTTLS"] if tls == "starttls" else [])
    assert session.octets == (len(b"EHLO client.example.com\r\nSTARTTLS\r\n") if tls == "starttls" else 0)


def test_octets_behind_the_220_to_starttls_are_an_attack(host: Host, authority: TestAuthority) -> None:
    with LoopbackServer(tls="starttls", ca=authority) as server:
        server.reply("STARTTLS", b"220 go\r\n250 injected\r\n")
        tag, failure = host.send(config_of(server, "starttls", trust=authority.pem), None, mail_to())
    assert (tag, failure["kind"]) == ("err", "io")
    assert "followed the 220" in failure["text"]
    assert server.mails == []


# --- the five kinds


class Case(NamedTuple):
    kind: str
    code: int | None = None
    rule: tuple[str, str, str] | None = None  # method of the server, stage, what it does there
    config: dict[str, Any] = {}  # noqa: RUF012  # never changed
    mechanism: str | None = None
    mail: dict[str, Any] = {}  # noqa: RUF012  # never changed
    delivery: str = "not-delivered"
    words: str = ""


IO, PROTOCOL, INVALID = "io", "protocol", "invalid-input"
CASES = {
    "io: no such name": Case(IO, config={"host": "no-such-host.invalid"}),
    "io: connection lost": Case(IO, rule=("fault", "MAIL", "EOF")),
    "io: silence": Case(IO, rule=("fault", "MAIL", "silence"), config={"timeout": 0.5}, words="deadline"),
    "io: no STARTTLS": Case(IO, config={"tls_mode": "starttls"}),
    "io: no TLS": Case(IO, config={"tls_mode": "implicit"}),
    "protocol: malformed": Case(PROTOCOL, rule=("fault", "MAIL", "malformed")),
    "protocol: refused": Case(PROTOCOL, 550, rule=("reply", "MAIL", "550 5.7.1 not you"), words="not you"),
    "protocol: nobody": Case(PROTOCOL, 550, rule=("reply", "RCPT", "550 5.1.1 unknown")),
    "protocol: 421": Case(PROTOCOL, 421, rule=("reply", "MAIL", "421 4.3.2 later")),
    "protocol: in doubt": Case(PROTOCOL, rule=("fault", "end of data", "EOF"), delivery="unknown"),
    "auth-rejected": Case("auth-rejected", 535, mechanism="scram-sha256"),
    "invalid-input: a secret in clear": Case(INVALID, mechanism="plain", words="TLS"),
    "invalid-input: host": Case(INVALID, config={"host": "a b"}),
    "invalid-input: port": Case(INVALID, config={"port": 0}),
    "invalid-input: EHLO domain": Case(INVALID, config={"ehlo_domain": "a\r\nRSET"}),
    "invalid-input: timeout": Case(INVALID, config={"timeout": 0.0}),
    "invalid-input: trust": Case(INVALID, config={"tls_mode": "implicit", "trust": b"no PEM"}),
    "invalid-input: trust without TLS": Case(INVALID, config={"trust": b"no PEM"}),
    "invalid-input: recipients": Case(INVALID, mail={"recipients": []}),
    "invalid-input: sender": Case(INVALID, mail={"sender": "a@b>\r\nRSET"}),
    "invalid-input: bare LF": Case(INVALID, mail={"message": b"a\nb"}),
    "policy-rejected: recipients": Case("policy-rejected", config={"max_recipients": 0}),
    "policy-rejected: size": Case("policy-rejected", config={"max_message_octets": 5}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_SY29_each_kind_of_failure_comes_back_over_wit_without_a_secret(host: Host, case: Case) -> None:
    with LoopbackServer(auth={USER: "another"} if case.mechanism else None) as server:
        if case.rule is not None:
            method, stage, what = case.rule
            getattr(server, method)(stage, what)
        credentials = account(case.mechanism) if case.mechanism else None
        tag, failure = host.send(config_of(server) | case.config, credentials, mail_to() | case.mail)
        server.wait_for_connections(0, 10)
    assert tag == "err", failure
    assert (failure["kind"], failure["code"], failure["delivery"]) == (case.kind, case.code, case.delivery)
    assert case.words in failure["text"]
    assert len(server.mails) == (case.delivery == "unknown")
    shown = repr(failure)
    for secret in (SECRET, base64.b64encode(SECRET.encode()).decode()):
        assert secret not in shown
    if case.kind == "invalid-input" and not case.mechanism and not case.mail.get("message"):
        assert server.sessions == []


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_closed_port_is_io(host: Host, server: LoopbackServer, deaf_port: int) -> None:
    tag, failure = host.send(config_of(server, port=deaf_port), None, mail_to())
    assert (tag, failure["kind"], failure["permanent"]) == ("err", "io", None)
    assert "refused" in failure["text"]


def test_L13_E109_too_many_roots_are_refused_whole(host: Host, authority: TestAuthority) -> None:
    with LoopbackServer(tls="implicit", ca=authority) as server:
        tag, failure = host.send(config_of(server, "implicit", trust=authority.pem * 65), None, mail_to())
        assert (tag, failure["kind"]) == ("err", "invalid-input")
        assert server.sessions == []
        tag, outcome = host.send(config_of(server, "implicit", trust=authority.pem * 64), None, mail_to())
        assert tag == "ok", outcome


# --- what the component is


def test_SY0_4_the_documented_world_is_built_from_its_own_module_alone(componentize: str, tmp_path: Path) -> None:
    """What docs/howto/wasm.rst shows: modules are imported by their own names, not by the lazy ones."""
    wasm = build.build(componentize, tmp_path, world="one-shot", module="mailer")
    assert wasm.read_bytes()[:4] == b"\0asm"
    guest = ast.parse((build.HERE / "mailer.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(guest) if isinstance(node, ast.ImportFrom)}
    assert "smtpconn.oneshot" in imported
    assert "smtpconn" not in imported
    assert not [node for node in ast.walk(guest) if isinstance(node, ast.Import) and node not in guest.body]


def test_SY0_3_what_the_guest_lacks_is_really_missing_there(host: Host) -> None:
    lacking = ["ssl", "dns", "certifi", "cryptography"]
    version, missing = host.call("python", [*lacking, "smtpconn.connection", "smtpconn.oneshot", "hmac"])
    assert version.startswith("3.")
    assert missing == lacking


def test_a_guest_of_this_host_has_no_network_of_its_own(host: Host, server: LoopbackServer) -> None:
    tag, failure = host.send(config_of(server), None, mail_to(), "send-over-sockets")
    assert (tag, failure["kind"]) == ("err", "io")
    assert server.sessions == []
