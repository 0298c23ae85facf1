"""The one-shot send: its configuration, its outcome, and the five kinds of its failures."""

from __future__ import annotations

import base64
import dataclasses
import socket
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from smtpconn import (
    AuthenticationError,
    BoundedPolicy,
    CertificateError,
    ConnectError,
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    Mail,
    PasswordAuth,
    PlainAuth,
    PolicyError,
    ProtocolError,
    RecipientsRefusedError,
    ReplyError,
    ResolveError,
    ScramAuth,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsUnavailableError,
    TlsConfig,
    TlsError,
    TlsMode,
    UsageError,
    attempt_of,
)
from smtpconn.oneshot import ErrorKind, Failure, SendConfig, failure_of, send_once
from smtpconn.testing import LoopbackServer, ScriptedTransport, TestAuthority

SENDER, RECIPIENT = "a@example.com", "b@example.com"
BODY = b"Subject: x\r\n\r\nhello\r\n"
USER, PASSWORD = "user", "p3ncil-secret"


def config_of(server: LoopbackServer, tls_mode: TlsMode = TlsMode.NONE, **options: Any) -> SendConfig:
    return SendConfig(host="127.0.0.1", port=server.port, tls_mode=tls_mode, protocol=server.protocol, **options)


def mail_to(*recipients: str, **options: Any) -> Mail:
    return Mail(SENDER, recipients or (RECIPIENT,), BODY, **options)


def failed(call: Callable[[], object]) -> tuple[Failure, Exception]:
    try:
        call()
    except (SmtpError, TypeError) as error:
        return failure_of(error), error
    raise AssertionError("nothing was raised")


# --- the way


@pytest.mark.parametrize("chunking", [False, True])
def test_F117_SY29_one_call_connects_logs_in_sends_and_says_quit(authority: TestAuthority, chunking: bool) -> None:
    with LoopbackServer(tls="starttls", ca=authority, auth={USER: PASSWORD}) as server:
        server.reply("end of data", "250 2.0.0 Ok: queued as 4XyZ12abc")
        config = config_of(server, TlsMode.STARTTLS, trust=authority.pem, ehlo_domain="client.example.com")
        outcome = send_once(config, mail_to(chunking=chunking), timeout=10, credentials=(USER, PASSWORD))
    [mail], [session] = server.mails, server.sessions
    assert (mail.sender, mail.recipients, mail.content) == (SENDER, [RECIPIENT], BODY)
    assert mail.verb == ("BDAT" if chunking else "DATA")
    assert (outcome.code, outcome.text) == (250, "2.0.0 Ok: queued as 4XyZ12abc")
    assert outcome.queue_id == "4XyZ12abc"
    assert [(entry.address, entry.delivery) for entry in outcome.recipients] == [(RECIPIENT, Delivery.DELIVERED)]
    assert session.commands == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", mail.verb, "QUIT"]
    assert (session.ehlo_domain, session.user) == ("client.example.com", USER)
    assert server.violations == []


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_E109_custom_roots_replace_the_bundled_ones_and_nothing_takes_their_place(
    authority: TestAuthority, tls: Literal["implicit", "starttls"]
) -> None:
    mode = TlsMode(tls)
    stranger = TestAuthority("a stranger")
    with LoopbackServer(tls=tls, ca=authority) as server:
        assert send_once(config_of(server, mode, trust=authority.pem), mail_to(), timeout=10).code == 250
        for config in (config_of(server, mode), config_of(server, mode, trust=stranger.pem)):
            failure, error = failed(lambda config=config: send_once(config, mail_to(), timeout=10))  # type: ignore[misc]  # bound now
            assert isinstance(error, CertificateError)
            assert failure.kind is ErrorKind.IO
    assert len(server.mails) == 1


def test_the_trust_is_what_the_names_say(authority: TestAuthority) -> None:
    bundled = SendConfig(host="mx.example.com.", port=465, tls_mode=TlsMode.IMPLICIT)
    assert bundled.host == "mx.example.com"
    assert bundled.tls_config == TlsConfig(trust="certifi", server_name="mx.example.com")
    custom = dataclasses.replace(bundled, trust=authority.pem)
    assert custom.tls_config == TlsConfig(trust=authority.pem, server_name="mx.example.com")
    assert dataclasses.replace(bundled, tls_mode=TlsMode.NONE).tls_config is None


def test_lmtp_gives_one_verdict_per_recipient_and_no_error(lmtp_server: LoopbackServer) -> None:
    lmtp_server.refuse("no@example.com", "550 5.1.1 unknown")
    lmtp_server.refuse("full@example.com", "452 4.2.2 full", when="data")
    mail = mail_to("full@example.com", "no@example.com", RECIPIENT)
    outcome = send_once(config_of(lmtp_server), mail, timeout=10)
    assert [(entry.delivery, entry.reply and entry.reply.code) for entry in outcome.recipients] == [
        (Delivery.NOT_DELIVERED, 452),
        (Delivery.NOT_DELIVERED, 550),
        (Delivery.DELIVERED, 250),
    ]
    assert outcome.code == 250
    assert lmtp_server.mails[0].recipients == [RECIPIENT]


def test_lmtp_that_refuses_everybody_is_an_outcome_with_the_first_refusal(lmtp_server: LoopbackServer) -> None:
    lmtp_server.refuse(RECIPIENT, "452 4.2.2 full", when="data")
    outcome = send_once(config_of(lmtp_server), mail_to(), timeout=10)
    assert (outcome.code, outcome.text, outcome.queue_id) == (452, "4.2.2 full", None)


ONE_MAIL = r"""
    S: 220 mx.example.com ESMTP
    C: EHLO client.example.com
    S: 250 mx.example.com
    C: MAIL FROM:<a@example.com>
    S: 250 ok
    C: RCPT TO:<b@example.com>
    S: 250 ok
    C: DATA
    S: 354 go ahead
    C: <content>
    S: 250 2.0.0 Ok: queued as 4XyZ12abc
    C: QUIT
    S: 221 bye
"""


@pytest.mark.parametrize("delivery", ["whole", "line", "octet", "coalesced"])
def test_a_given_transport_is_used_and_closed(delivery: Any) -> None:
    transport = ScriptedTransport(ONE_MAIL, delivery=delivery)
    config = SendConfig(host="mx.example.com", port=25, tls_mode=TlsMode.NONE, ehlo_domain="client.example.com")
    outcome = send_once(config, mail_to(), timeout=10, transport=transport)
    assert (outcome.code, outcome.queue_id) == (250, "4XyZ12abc")
    transport.assert_finished()
    assert transport.closed


def test_a_given_transport_starts_tls_with_the_trust_and_the_name_of_the_configuration(
    authority: TestAuthority,
) -> None:
    start = "S: 220 mx\nC: <line>\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\nC: <TLS>\n"
    transport = ScriptedTransport(start, start_tls_error=CertificateError("not trusted"))
    config = SendConfig(host="mx.example.com", port=587, tls_mode=TlsMode.STARTTLS, trust=authority.pem)
    with pytest.raises(CertificateError):
        send_once(config, mail_to(), timeout=10, transport=transport)
    [(asked, _)] = transport.tls_starts
    assert asked == TlsConfig(trust=authority.pem, server_name="mx.example.com")
    assert transport.written.endswith(b"STARTTLS\r\n")


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# --- the configuration


@pytest.mark.parametrize(
    ("options", "raised"),
    [
        ({"host": ""}, InvalidInputError),
        ({"host": "a b"}, InvalidInputError),
        ({"host": None}, InvalidInputError),
        ({"host": b"mx"}, TypeError),
        ({"port": 0}, InvalidInputError),
        ({"port": 65_536}, InvalidInputError),
        ({"port": True}, TypeError),
        ({"port": "25"}, TypeError),
        ({"tls_mode": "starttls"}, TypeError),
        ({"protocol": "esmtp"}, InvalidInputError),
        ({"protocol": "lmtp", "port": 25}, InvalidInputError),
        ({"ehlo_domain": "a b"}, InvalidInputError),
        ({"ehlo_domain": "x\r\nRSET"}, InvalidInputError),
        ({"trust": "system"}, InvalidInputError),
        ({"trust": b""}, InvalidInputError),
        ({"trust": 1}, TypeError),
        ({"trust": None}, TypeError),
    ],
)
def test_F117_a_configuration_is_validated_at_birth(options: dict[str, Any], raised: type[Exception]) -> None:
    given: dict[str, Any] = {"host": "mx.example.com", "port": 2525, "tls_mode": TlsMode.STARTTLS, **options}
    failure, error = failed(lambda: SendConfig(**given))
    assert isinstance(error, raised)
    assert failure.kind is ErrorKind.INVALID_INPUT


def test_a_configuration_is_frozen_and_shows_no_trust(authority: TestAuthority) -> None:
    config = SendConfig(host="mx.example.com", port=465, tls_mode=TlsMode.IMPLICIT, trust=authority.pem)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 25  # type: ignore[misc]  # what is tested
    assert "CERTIFICATE" not in repr(config)
    assert hash(config) == hash(dataclasses.replace(config))


def test_trust_without_TLS_is_refused(authority: TestAuthority) -> None:
    with pytest.raises(InvalidInputError, match=r"TlsMode\.NONE"):
        SendConfig(host="mx.example.com", port=25, tls_mode=TlsMode.NONE, trust=authority.pem)


def _padded(pem: bytes, octets: int) -> bytes:
    return pem + b"#" * (octets - len(pem) - 1) + b"\n"


TOO_MUCH: dict[str, Callable[[bytes], bytes]] = {
    "L13 65 blocks": lambda pem: pem * 65,
    "L13 one octet more than 256 KiB": lambda pem: _padded(pem, 256 * 1024 + 1),
    "E109 one bad block of two": lambda pem: pem + pem.replace(b"MII", b"M!I"),
    "E109 a boundary behind it": lambda pem: pem + b"-----BEGIN CERTIFICATE-----\n",
    "E109 no certificate": lambda pem: b"no certificate at all, but cGFzc3dvcmQtMTIzNDU2Nzg5MA==\n",
}


@pytest.mark.parametrize("fault", TOO_MUCH, ids=[*TOO_MUCH])
def test_E109_L13_roots_are_taken_whole_or_not_at_all_and_never_echoed(authority: TestAuthority, fault: str) -> None:
    octets = TOO_MUCH[fault](authority.pem)
    with LoopbackServer(tls="implicit", ca=authority) as server:
        failure, error = failed(lambda: config_of(server, TlsMode.IMPLICIT, trust=octets))
    assert isinstance(error, InvalidInputError)
    assert failure.kind is ErrorKind.INVALID_INPUT
    words = {line.decode() for line in octets.split() if len(line) > 12 and b"-----" not in line}
    assert not [word for word in words if word[:40] in failure.text + repr(error)]
    assert server.sessions == []


def test_L13_64_blocks_and_256_KiB_are_taken(authority: TestAuthority) -> None:
    for octets in (authority.pem * 64, _padded(authority.pem, 256 * 1024)):
        assert SendConfig(host="mx.example.com", port=465, tls_mode=TlsMode.IMPLICIT, trust=octets).trust == octets


def test_wrong_arguments_of_the_call_are_type_errors(server: LoopbackServer) -> None:
    wrong: Any
    for wrong in (None, {"host": "127.0.0.1"}):
        with pytest.raises(TypeError, match="SendConfig"):
            send_once(wrong, mail_to(), timeout=5)
    for wrong in (None, BODY):
        with pytest.raises(TypeError, match="Mail"):
            send_once(config_of(server), wrong, timeout=5)
    for wrong in (None, True, "5"):
        with pytest.raises(TypeError, match="timeout"):
            send_once(config_of(server), mail_to(), timeout=wrong)
    assert server.sessions == []


# --- the five kinds (E204)


class Case:
    """A way to fail: what the server is told to do, what the caller asks, and what must come of it."""

    def __init__(
        self, name: str, kind: ErrorKind, raised: type[Exception], *, code: int | None = None, **how: Any
    ) -> None:
        self.name, self.kind, self.raised, self.code, self.how = name, kind, raised, code, how


IO, PROTOCOL = ErrorKind.IO, ErrorKind.PROTOCOL
CASES = [
    Case("E204 io: resolve", IO, ResolveError, host="no-such-host.invalid"),
    Case("E204 io: TLS", IO, TlsError, mode=TlsMode.IMPLICIT),
    Case("E204 io: no STARTTLS", IO, StartTlsUnavailableError, mode=TlsMode.STARTTLS),
    Case("E204 io: connection lost", IO, ConnectionLostError, fault=("MAIL", "EOF")),
    Case("E204 io: silence", IO, SmtpTimeoutError, fault=("MAIL", "silence"), timeout=0.5),
    Case("E204 protocol: malformed", PROTOCOL, ProtocolError, fault=("MAIL", "malformed")),
    Case("E204 protocol: a refused sender", PROTOCOL, ReplyError, code=550, reply=("MAIL", "550 5.7.1 no")),
    Case("E204 protocol: 421", PROTOCOL, ServiceUnavailableError, code=421, reply=("greeting", "421 later")),
    Case("E204 protocol: no extension", PROTOCOL, ExtensionUnavailableError, extensions=("PIPELINING",), chunking=True),
    Case("E204 protocol: no recipient", PROTOCOL, RecipientsRefusedError, code=550, reply=("RCPT", "550 5.1.1 no")),
    Case("E204 protocol: in doubt", PROTOCOL, DeliveryUnknownError, fault=("end of data", "EOF")),
    Case("E204 auth-rejected", ErrorKind.AUTH_REJECTED, AuthenticationError, code=535, credentials=ScramAuth),
    Case("E204 invalid-input: usage", ErrorKind.INVALID_INPUT, UsageError, credentials=PlainAuth),
    Case("E204 invalid-input: a type", ErrorKind.INVALID_INPUT, TypeError, credentials=lambda user, secret: [secret]),
    Case("E204 policy-rejected", ErrorKind.POLICY_REJECTED, PolicyError, policy=BoundedPolicy(max_recipients=0)),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_E204_F117_each_family_of_errors_is_its_kind_and_shows_no_secret(case: Case) -> None:
    how = dict(case.how)
    options = {"extensions": how["extensions"]} if "extensions" in how else {}
    make = how.get("credentials", PasswordAuth)
    with LoopbackServer(auth={USER: "another"} if "credentials" in how else None, **options) as server:
        if "fault" in how:
            server.fault(*how["fault"])
        if "reply" in how:
            server.reply(*how["reply"])
        failure, error = failed(
            lambda: send_once(
                dataclasses.replace(
                    config_of(server, how.get("mode", TlsMode.NONE)), host=how.get("host", "127.0.0.1")
                ),
                mail_to(chunking=how.get("chunking", False)),
                timeout=how.get("timeout", 10),
                credentials=make(USER, PASSWORD) if "credentials" in how else None,
                policy=how.get("policy"),
            )
        )
        server.wait_for_connections(0, 5)
    assert isinstance(error, case.raised), error
    assert (failure.kind, failure.code) == (case.kind, case.code)
    in_doubt = case.raised is DeliveryUnknownError
    assert failure.delivery is (Delivery.UNKNOWN if in_doubt else Delivery.NOT_DELIVERED)
    assert len(server.mails) == in_doubt
    shown = repr(failure) + repr(error)
    for secret in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode()):
        assert secret not in shown


def test_E204_a_closed_port_is_io(deaf_port: int) -> None:
    config = SendConfig(host="127.0.0.1", port=deaf_port, tls_mode=TlsMode.NONE)
    failure, error = failed(lambda: send_once(config, mail_to(), timeout=5))
    assert isinstance(error, ConnectError)
    assert (failure.kind, failure.delivery) == (ErrorKind.IO, Delivery.NOT_DELIVERED)


def _leaves(cls: type[SmtpError]) -> Iterator[type[SmtpError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _leaves(below)


def test_F117_every_error_of_the_library_has_a_kind() -> None:
    made = {cls: cls.__new__(cls) for cls in _leaves(SmtpError) if cls.__module__.startswith("smtpconn.")}
    for error in made.values():
        SmtpError.__init__(error, "text")
    kinds = {cls.__name__: failure_of(error).kind for cls, error in made.items()}
    assert {name for name, kind in kinds.items() if kind is ErrorKind.IO} == {
        "ConnectError", "ResolveError", "TlsError", "CertificateError", "StartTlsInjectionError",
        "StartTlsUnavailableError", "ConnectionLostError", "SmtpTimeoutError",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind is ErrorKind.INVALID_INPUT} == {
        "InvalidInputError",
        "UsageError",
    }
    assert kinds["AuthenticationError"] is ErrorKind.AUTH_REJECTED
    assert kinds["PolicyError"] is ErrorKind.POLICY_REJECTED
    assert kinds["DeliveryUnknownError"] is kinds["ServiceUnavailableError"] is ErrorKind.PROTOCOL


def test_an_interrupted_call_leaves_nothing_open(server: LoopbackServer) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send_once(config_of(server), Mail(SENDER, [RECIPIENT], interrupted()), timeout=5)
    server.wait_for_connections(0, 5)
    assert server.mails == []


def test_what_cuts_off_the_QUIT_says_that_the_mail_was_delivered(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(connection: SmtpConnection, budget: object) -> None:
        connection.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(SmtpConnection, "leave", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        send_once(config_of(server), mail_to(), timeout=5)
    attempt = attempt_of(raised.value)
    assert attempt is not None
    assert (attempt.delivery, attempt.cut_off) == (Delivery.DELIVERED, True)
    assert [entry.address for entry in attempt.recipients] == server.mails[0].recipients
