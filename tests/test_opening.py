"""Opening a connection, clause by clause: what is written, what is raised, and that nothing stays open or is kept."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

import pytest

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ConnectError,
    ConnectionLostError,
    ConnectionPool,
    Credentials,
    Delivery,
    ExtensionUnavailableError,
    InvalidInputError,
    MailParams,
    PasswordAuth,
    PermanentReplyError,
    ProtocolError,
    Reply,
    ScramAuth,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    StartTlsUnavailableError,
    TlsConfig,
    TlsError,
    TlsInfo,
    TlsMode,
    TransientReplyError,
    UsageError,
    opening,
)
from smtpconn.deadline import Budget
from smtpconn.handshake import secure
from smtpconn.testing import EOF, TLS, LoopbackServer, ScriptedTransport, TestAuthority

from .test_feature_rows import BODY, BYE, GREETING, OK, RECIPIENTS, SENDER, hello, over
from .test_transport import _fill_backlog

NONE, STARTTLS, IMPLICIT = TlsMode.NONE, TlsMode.STARTTLS, TlsMode.IMPLICIT
EHLO, LHLO, HELO = b"EHLO client.test\r\n", b"LHLO client.test\r\n", b"HELO client.test\r\n"
START, QUIT = b"STARTTLS\r\n", b"QUIT\r\n"
INFO = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "mx.example.com", b"")
DEMANDED = TlsConfig(server_name="mx.example.com")


def opened(transport: Any, tls_mode: TlsMode = NONE, **options: Any) -> SmtpConnection:
    if tls_mode is STARTTLS:
        options.setdefault("tls_config", DEMANDED)
    options = {"timeout": 5, "ehlo_domain": "client.test", **options}
    return SmtpConnection.from_transport(transport, tls_mode=tls_mode, **options)


def offering_tls(*said: Any) -> list[Any]:
    return [GREETING, hello("STARTTLS"), *said]


# --- what goes wrong: the mode, what the server says, the error, its stage, `permanent`, the octets written ----------

FAILURES: list[tuple[Any, ...]] = [
    ("E1 F6 554", NONE, [b"554 no\r\n", BYE], PermanentReplyError, "greeting", True, QUIT),
    ("F6 450", NONE, [b"450 later\r\n", BYE], TransientReplyError, "greeting", False, QUIT),
    ("F6 421", NONE, [b"421 busy\r\n"], ServiceUnavailableError, "greeting", False, b""),
    ("E111 250 as greeting", NONE, [b"250 hello\r\n"], ProtocolError, "greeting", None, b""),
    ("E111 200 as greeting", NONE, [b"200 hello\r\n"], ProtocolError, "greeting", None, b""),
    ("E6 F24", NONE, [GREETING, (b"250-a\r\n", EOF)], ConnectionLostError, "EHLO", None, EHLO),
    ("E7 F22", NONE, [GREETING, b"250-x\r\n251 y\r\n"], ProtocolError, "EHLO", None, EHLO),
    ("E112 251 to EHLO", NONE, [GREETING, b"251 x\r\n"], ProtocolError, "EHLO", None, EHLO),
    ("E112 299 to EHLO", NONE, [GREETING, b"299 x\r\n"], ProtocolError, "EHLO", None, EHLO),
    ("F8 another 5yz", NONE, [GREETING, b"554 x\r\n", BYE], PermanentReplyError, "EHLO", True, EHLO + QUIT),
    ("E4b F12", STARTTLS, [GREETING, b"502 x\r\n", BYE], StartTlsUnavailableError, "EHLO", True, EHLO + QUIT),
    ("E22 F12", STARTTLS, [GREETING, hello("STARTTLSX"), BYE], StartTlsUnavailableError, "STARTTLS", True, EHLO + QUIT),
    ("E23 502", STARTTLS, offering_tls(b"502 x\r\n", BYE), TlsError, "STARTTLS", True, EHLO + START + QUIT),
    ("E23 454", STARTTLS, offering_tls(b"454 x\r\n", BYE), TlsError, "STARTTLS", False, EHLO + START + QUIT),
    ("F13 ST4 250", STARTTLS, offering_tls(b"250 x\r\n", BYE), TlsError, "STARTTLS", True, EHLO + START + QUIT),
    ("F13 421", STARTTLS, offering_tls(b"421 x\r\n"), ServiceUnavailableError, "STARTTLS", False, EHLO + START),
    ("F13 221", STARTTLS, offering_tls(b"221 x\r\n"), ServiceUnavailableError, "STARTTLS", None, EHLO + START),
]


@pytest.mark.parametrize(
    ("mode", "said", "error", "stage", "permanent", "written"), [pytest.param(*row[1:], id=row[0]) for row in FAILURES]
)
def test_an_opening_that_fails_writes_no_more_than_it_must_and_closes(
    mode: TlsMode, said: list[Any], error: type[SmtpError], stage: str, permanent: bool | None, written: bytes
) -> None:
    transport = ScriptedTransport(said)
    with pytest.raises(error) as caught:
        opened(transport, mode)
    found = caught.value
    assert type(found) is error
    assert (found.stage, found.delivery) == (stage, Delivery.NOT_DELIVERED)
    if permanent is not None:
        assert found.permanent is permanent
        assert found.reply is not None or error is StartTlsUnavailableError
    if error is StartTlsUnavailableError:
        assert found.extension == "STARTTLS"
        assert isinstance(found, TlsError)  # C24
    assert transport.written == written
    assert (transport.closed, transport.tls_starts) == (True, [])
    transport.assert_finished()


def test_E4c_LMTP_falls_back_neither_to_HELO_nor_to_EHLO_F8() -> None:
    transport = ScriptedTransport([GREETING, b"502 x\r\n", BYE])
    with pytest.raises(PermanentReplyError) as caught:
        opened(transport, protocol="lmtp")
    assert caught.value.stage == "LHLO"
    assert transport.written == LHLO + QUIT
    assert transport.closed


@pytest.mark.parametrize("mode", [NONE, IMPLICIT])
def test_E4a_E122_F8_a_session_by_HELO_has_no_extension_in_clear_and_under_implicit_TLS(mode: TlsMode) -> None:
    said = [GREETING, b"502 x\r\n", b"250 mx.example.com\r\n", OK, OK, b"354 go\r\n", OK]
    transport = ScriptedTransport(said, secure=mode is IMPLICIT, tls=INFO if mode is IMPLICIT else None)
    connection = opened(transport, mode)
    assert transport.written == EHLO + HELO
    assert (connection.capabilities.lines, connection.capabilities.is_esmtp) == ((), False)
    with pytest.raises(ExtensionUnavailableError) as caught:
        connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5, params=MailParams(ret="FULL"))
    assert caught.value.extension == "DSN"
    assert transport.written == EHLO + HELO
    assert connection.send(SENDER, RECIPIENTS[:1], BODY, timeout=5).all_delivered
    assert transport.flights == 6, "one command in each"
    connection.close()


@pytest.mark.parametrize("code", [500, 501, 502, 504, 550])
def test_E113_F8_no_HELO_where_credentials_need_AUTH(code: int) -> None:
    """A pool's, too."""
    transport = ScriptedTransport([GREETING, b"%d x\r\n" % code, BYE])
    with pytest.raises(ExtensionUnavailableError) as caught:
        opened(transport, credentials=("user", "secret"))
    assert (caught.value.extension, caught.value.stage) == ("AUTH", "EHLO")
    assert transport.written == EHLO + QUIT
    with LoopbackServer() as server:
        server.reply("EHLO", f"{code} x")
        with (
            ConnectionPool("127.0.0.1", server.port, NONE, timeout=5, credentials=("user", "secret")) as pool,
            pytest.raises(ExtensionUnavailableError) as refused,
        ):
            pool.send(SENDER, RECIPIENTS, BODY)
        assert refused.value.extension == "AUTH"
        assert server.sessions[0].commands == ["EHLO", "QUIT"]


# --- STARTTLS ---------------------------------------------------------------------------------------------------------

X25 = b"250 PIPELINING SIZE AUTH\r\n"[:23] + b"\r\n"
INJECTIONS = [
    pytest.param((b"220 go\r\nX\r\n",), 3, id="E26 in one read"),
    pytest.param((b"220 go\r\n" + X25,), 25, id="E26 a line of 25"),
    pytest.param((b"220 go\r\nfrag",), 4, id="E26 no CRLF"),
    pytest.param((b"220 go\r\n", b"X\r\n"), 3, id="F14 ST10 in the kernel's buffer"),
    pytest.param((b"220 go\r\nab", b"c", b"def\r\n"), 8, id="F14 in both"),
    pytest.param((b"220 go\r\n", b"250 x\r\n", EOF), 7, id="F14 and an end"),
    pytest.param((b"220-a\r\n220 b\r\n\0",), 1, id="F14 behind two lines"),
]


@pytest.mark.parametrize(("said", "count"), INJECTIONS)
def test_octets_behind_the_220_are_counted_and_no_upgrade_is_tried(said: tuple[Any, ...], count: int) -> None:
    transport = ScriptedTransport(offering_tls(said), delivery="whole")
    with pytest.raises(StartTlsInjectionError) as caught:
        opened(transport, STARTTLS)
    assert caught.value.octets == count
    assert (transport.written, transport.tls_starts, transport.closed) == (EHLO + START, [], True)


def starttls(connection: SmtpConnection, budget: Budget) -> Reply:
    """STARTTLS in the hands of an adapter, whose caller may catch the error, go on, and send his password."""
    return secure(connection._driver, DEMANDED, budget, connection._publish)


def test_F14_who_goes_on_behind_an_injection_has_no_connection() -> None:
    transport = ScriptedTransport(offering_tls((b"220 go\r\n", b"X\r\n"), OK), delivery="whole")
    connection = opened(transport)
    with pytest.raises(StartTlsInjectionError):
        connection.converse(starttls, timeout=5)
    assert transport.closed
    with pytest.raises(ConnectionLostError):
        connection.noop(timeout=5)
    assert transport.written == EHLO + START


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConnectionResetError("reset"), TlsError),
        (SmtpTimeoutError("late", stage="tls"), SmtpTimeoutError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["BR12 OSError", "an error of ours", "an interrupt"],
)
def test_what_a_transport_of_the_callers_raises_in_its_handshake_ends_the_connection(
    raised: BaseException, kind: type[BaseException]
) -> None:
    """faults:BR12. An error of the system becomes one of ours."""

    class Stumbling(ScriptedTransport):
        def start_tls(self, config: TlsConfig, timeout: float | None) -> NoReturn:
            raise raised

    transport = Stumbling(offering_tls(b"220 go\r\n"))
    connection = opened(transport)
    with pytest.raises(kind) as caught:
        connection.converse(starttls, timeout=5)
    assert raised in (caught.value, caught.value.__cause__)
    assert (transport.written, transport.closed) == (EHLO + START, True)


def test_E20_E21_F15_F17_only_what_was_said_under_TLS_counts() -> None:
    clear = hello("STARTTLS", "AUTH PLAIN", "PIPELINING", "ENHANCEDSTATUSCODES")
    said: list[Any] = [
        GREETING,
        clear,
        b"220 2.0.0 go\r\n",
        TLS,
        hello("AUTH LOGIN"),
        b"334 \r\n",
        b"334 \r\n",
        b"235 2.7.0 x\r\n",
        b"550 5.1.1 x\r\n",
    ]
    transport = ScriptedTransport(said, tls=INFO)
    connection = opened(transport, STARTTLS, credentials=PasswordAuth("user", "pass"))
    assert transport.written == EHLO + START + EHLO + b"AUTH LOGIN\r\ndXNlcg==\r\ncGFzcw==\r\n"
    assert len(transport.tls_starts) == 1
    assert connection.capabilities.lines == ("AUTH LOGIN",)
    assert connection.is_authenticated
    assert connection.vrfy("x", timeout=5).enhanced is None  # E27
    connection.close()


@pytest.mark.parametrize(
    ("refusal", "stage"), [(b"502 x\r\n", "EHLO"), (b"550 x\r\n", "EHLO")], ids=["ST13 502", "ST13 550"]
)
def test_F8_F15_no_HELO_behind_STARTTLS(refusal: bytes, stage: str) -> None:
    transport = ScriptedTransport(offering_tls(b"220 go\r\n", TLS, refusal, BYE), tls=INFO)
    with pytest.raises(PermanentReplyError) as caught:
        opened(transport, STARTTLS)
    assert caught.value.stage == stage
    assert transport.written == EHLO + START + EHLO + QUIT
    assert transport.closed


def test_ST14_AUTH_that_was_offered_before_TLS_only_is_not_offered() -> None:
    said: list[Any] = [GREETING, hello("STARTTLS", "AUTH PLAIN"), b"220 go\r\n", TLS, hello("PIPELINING"), BYE]
    transport = ScriptedTransport(said, tls=INFO)
    with pytest.raises(ExtensionUnavailableError) as caught:
        opened(transport, STARTTLS, credentials=("user", "pass"))
    assert caught.value.extension == "AUTH"
    assert transport.written == EHLO + START + EHLO + QUIT


def test_F11_STARTTLS_over_what_is_secure_already_is_refused_and_never_sent() -> None:
    transport = ScriptedTransport([GREETING, hello("STARTTLS"), BYE], secure=True, tls=INFO)
    with pytest.raises(UsageError):
        opened(transport, STARTTLS)
    assert START not in transport.written
    assert transport.closed


FAULTY: dict[str, dict[str, Any]] = {
    "untrusted": {"self_signed": True},
    "expired": {"expired": True},
    "wrong name": {"names": "other.example.com"},
}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_E28_SY24_no_command_goes_to_a_server_whose_certificate_is_not_good(
    mode: Literal["implicit", "starttls"], fault: str, authority: TestAuthority
) -> None:
    tls_mode = IMPLICIT if mode == "implicit" else STARTTLS
    with LoopbackServer(tls=mode, ca=authority, certificate=authority.issue(**FAULTY[fault])) as server:
        with pytest.raises(CertificateError) as caught:
            SmtpConnection.connect(
                "127.0.0.1", server.port, tls_mode, timeout=5, tls_config=TlsConfig(trust=authority.pem)
            )
        assert caught.value.permanent is True
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        server.wait_for_connections(0, 5)
        assert server.sessions[0].commands == ([] if mode == "implicit" else ["EHLO", "STARTTLS"])
        assert server.sessions[0].tls is None


def test_E29_implicit_TLS_to_a_server_that_speaks_in_clear() -> None:
    with LoopbackServer() as server:
        with pytest.raises(TlsError) as caught:
            SmtpConnection.connect("127.0.0.1", server.port, IMPLICIT, timeout=5)
        assert not isinstance(caught.value, CertificateError)
        server.wait_for_connections(0, 5)
        assert not {"EHLO", "HELO", "QUIT"} & set(server.sessions[0].commands)


def test_E129_the_dot_behind_a_host_is_dropped_for_SNI_and_for_the_check(authority: TestAuthority) -> None:
    with LoopbackServer(tls="implicit", ca=authority, certificate=authority.issue("localhost")) as server:
        config = TlsConfig(trust=authority.pem)
        with SmtpConnection.connect("localhost.", server.port, IMPLICIT, timeout=5, tls_config=config) as connection:
            assert connection.tls is not None
            assert connection.tls.server_name == "localhost"
        assert server.sessions[0].tls is not None
        assert server.sessions[0].tls.server_name == "localhost"


# --- a given transport ------------------------------------------------------------------------------------------------


class Bare:
    """What the protocol demands of a transport, and not an attribute more; `secure` is missing."""

    tls = None

    def __init__(self, inner: ScriptedTransport) -> None:
        self.inner = inner

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        return self.inner.send(octets, timeout)

    def recv(self, limit: int, timeout: float | None) -> bytes:
        return self.inner.recv(limit, timeout)

    def start_tls(self, config: TlsConfig, timeout: float | None) -> Any:
        return self.inner.start_tls(config, timeout)

    def readable(self) -> bool:
        return self.inner.readable()

    def close(self) -> None:
        self.inner.close()


def test_F5_F9a_a_transport_that_says_nothing_of_itself_is_not_secure_and_has_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named(monkeypatch, "undotted")
    inner = ScriptedTransport([GREETING, hello("AUTH PLAIN")])
    connection = opened(Bare(inner), ehlo_domain=None)
    assert inner.written == b"EHLO localhost\r\n"
    with pytest.raises(UsageError, match="allow_plaintext_auth"):
        connection.auth_plain("user", "pass", timeout=5)
    assert connection.usable
    connection.close()
    assert inner.closed


@pytest.mark.parametrize("missing", ["send", "recv", "start_tls", "readable", "close", "tls"])
def test_IN24_what_is_no_transport_is_a_type_error_and_not_touched(missing: str) -> None:
    members = {name: value for name, value in vars(Bare).items() if name != missing and not name.startswith("__")}
    broken: Any = type("Broken", (), members)()
    with pytest.raises(TypeError, match=f"no .*{missing}"):
        opened(broken)


def test_D11_implicit_TLS_over_a_given_transport_is_no_wish() -> None:
    transport = ScriptedTransport([GREETING])
    with pytest.raises(InvalidInputError, match="past its handshake"):
        opened(transport, IMPLICIT)
    assert (transport.written, transport.closed) == (b"", False)


def test_D11_STARTTLS_over_a_given_transport_needs_a_name_to_verify() -> None:
    for config in (None, TlsConfig()):
        transport = ScriptedTransport([GREETING])
        with pytest.raises(InvalidInputError, match="server_name"):
            opened(transport, STARTTLS, tls_config=config)
        assert (transport.written, transport.closed) == (b"", False)


# --- the name in EHLO -------------------------------------------------------------------------------------------------


def named(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """The machine has this name from here on, and DNS must not be asked; the list grows with each question for it."""
    asked: list[str] = []

    def gethostname() -> str:
        asked.append(name)
        return name

    def query(*_: Any) -> Any:
        raise AssertionError("a DNS query")

    monkeypatch.setattr(socket, "gethostname", gethostname)
    for function in ("getfqdn", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(socket, function, query)
    opening._own_name.cache_clear()
    return asked


@pytest.fixture(autouse=True)
def own_name_is_asked_anew() -> Iterator[None]:
    yield
    opening._own_name.cache_clear()


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("worker-1.example.com", True),
        ("under_score.example.com", True),
        ("undotted", False),
        ("", False),
        ("a..example.com", False),
        ("-a.example.com", False),
        ("a-.example.com", False),
        ("x" * 64 + ".example.com", False),
        (".".join(["x" * 63] * 5), False),
        ("b\u00fccher.example.com", False),
        ("a b.example.com", False),
        ("mail\r\nRSET.example.com", False),
        ("[192.0.2.1]", False),
    ],
)
def test_F9a_the_machines_name_is_said_if_it_is_a_domain_with_a_dot(
    name: str, valid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, name)
    assert opening.ehlo_domain(None, "192.0.2.1") == (name if valid else "[192.0.2.1]")
    assert opening.ehlo_domain(None, "2001:db8::1") == (name if valid else "[IPv6:2001:db8::1]")
    assert opening.ehlo_domain(None, None) == (name if valid else "localhost")
    assert opening.ehlo_domain("given.example.com", "192.0.2.1") == "given.example.com"
    transport = ScriptedTransport([GREETING, hello()])
    opened(transport, ehlo_domain=None).close()
    assert transport.written == f"EHLO {name if valid else 'localhost'}\r\n".encode()


def test_F9a_the_machine_is_asked_for_its_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = named(monkeypatch, "worker-1.example.com")
    for _ in range(3):
        opened(ScriptedTransport([GREETING, hello()]), ehlo_domain=None).close()
    assert asked == ["worker-1.example.com"]


def test_F9a_without_a_name_the_address_of_the_own_end_or_localhost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "undotted")
    with LoopbackServer(host="::1") as server, SmtpConnection.connect("::1", server.port, NONE, timeout=5):
        assert server.sessions[0].ehlo_domain == "[IPv6:::1]"
    with (
        LoopbackServer(protocol="lmtp", unix_socket=True) as server,
        SmtpConnection.connect_lmtp(unix_socket=str(server.unix_socket), timeout=5),
    ):
        assert server.sessions[0].ehlo_domain == "localhost"


# --- several addresses ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(ip: str, port: int, greeting: bytes) -> Iterator[None]:
    """A server at this address that greets so, and answers everything else with 221."""

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(OSError):
            accepted.settimeout(10)
            accepted.sendall(greeting)
            while accepted.recv(4_096):
                accepted.sendall(BYE)

    with socket.create_server((ip, port)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        found: int = free.getsockname()[1]
        return found


def resolving_to(monkeypatch: pytest.MonkeyPatch, *ips: str) -> None:
    found = [(socket.AF_INET, 1, 6, "", (ip, 0)) for ip in ips]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


ADDRESSES = [
    pytest.param((None, None), ConnectError, ["127.0.0.2): Connection refused", "127.0.0.3): Connection refused"],
                 id="F115 nobody listens"),
    pytest.param((None, b"554 no\r\n"), PermanentReplyError, ["554 no", "127.0.0.2): Connection refused"],
                 id="F115 F6 nobody listens, then 554"),
    pytest.param((b"450 later\r\n", None), TransientReplyError, ["450 later", "127.0.0.3): Connection refused"],
                 id="F115 F6 450, then nobody listens"),
    pytest.param((b"450 later\r\n", b"554 no\r\n"), PermanentReplyError, ["refused: 554 no", "127.0.0.2): 450"],
                 id="F115 450, then 554"),
    pytest.param((b"554 no\r\n", b"450 later\r\n"), TransientReplyError, ["refused: 450", "127.0.0.2): 554 no"],
                 id="F115 554, then 450"),
    pytest.param((None, b"421 busy\r\n"), ServiceUnavailableError, ["421 busy", "127.0.0.2): Connection refused"],
                 id="F115 F6 nobody listens, then 421"),
    pytest.param((b"554 no\r\n", b"hello\r\n"), ProtocolError, ["hello", "127.0.0.2): 554 no"],
                 id="F115 554, then what is no greeting"),
]  # fmt: skip


@pytest.mark.parametrize(("greetings", "error", "words"), ADDRESSES)
def test_the_last_error_is_raised_and_names_the_earlier_ones(
    greetings: tuple[bytes | None, ...], error: type[SmtpError], words: list[str], port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.3")
    with contextlib.ExitStack() as stack:
        for ip, greeting in zip(("127.0.0.2", "127.0.0.3"), greetings, strict=True):
            if greeting is not None:
                stack.enter_context(answering(ip, port, greeting))
        with pytest.raises(error) as caught:
            SmtpConnection.connect("two.example.com", port, NONE, timeout=5, ehlo_domain="client.test")
    assert type(caught.value) is error
    for each in words:
        assert str(caught.value).count(each) == 1, str(caught.value)


def test_F6_a_421_for_a_greeting_leads_to_no_other_address(server: LoopbackServer, monkeypatch: Any) -> None:
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with answering("127.0.0.2", server.port, b"421 busy\r\n"), pytest.raises(ServiceUnavailableError):
        SmtpConnection.connect("two.example.com", server.port, NONE, timeout=5)
    assert server.sessions == []


def test_F115_a_dead_address_does_not_eat_the_time_of_the_next(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with (
        socket.create_server(("127.0.0.2", server.port), backlog=0) as silent,
        contextlib.ExitStack() as stack,
    ):
        for sock in _fill_backlog(silent.getsockname(), socket.AF_INET):
            stack.enter_context(sock)
        with SmtpConnection.connect("two.example.com", server.port, NONE, timeout=1.0) as connection:
            connection.noop(timeout=5)
        resolving_to(monkeypatch, "127.0.0.2")
        with pytest.raises(SmtpTimeoutError) as caught:
            SmtpConnection.connect("one.example.com", server.port, NONE, timeout=0.1)
        assert caught.value.stage == "connect"


# --- AUTH -------------------------------------------------------------------------------------------------------------


def test_F49_SEC2_a_connection_keeps_no_credentials() -> None:
    given: list[Credentials] = [PasswordAuth("user", "secret"), PasswordAuth("user", "secret")]
    kept = [weakref.ref(credentials) for credentials in given]
    options: dict[str, Any] = {"extensions": ("AUTH PLAIN",), "allow_plaintext_auth": True}
    first, _ = over(b"235 ok\r\n", credentials=given[0], **options)
    second, _ = over(b"235 ok\r\n", **options)
    second.auth(given[1], timeout=5)
    given.clear()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert [connection.is_authenticated for connection in (first, second)] == [True, True]
    first.close()
    second.close()


def test_WM5_a_pair_is_a_PasswordAuth_for_auth_and_for_connect() -> None:
    for options in ({"credentials": ("user", "pass")}, {}):
        connection, transport = over(b"235 ok\r\n", extensions=("AUTH PLAIN",), allow_plaintext_auth=True, **options)
        if not options:
            connection.auth(("user", "pass"), timeout=5)
        assert transport.written.endswith(b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n")  # E32
        assert connection.is_authenticated
        connection.close()


def test_E142_F47_one_mechanism_is_tried_once_and_a_connect_that_is_refused_says_QUIT(server: LoopbackServer) -> None:
    server.auth, server.mechanisms = {"user": "right"}, ("PLAIN", "LOGIN", "SCRAM-SHA-256")
    options: dict[str, Any] = {"timeout": 5, "allow_plaintext_auth": True}
    with pytest.raises(AuthenticationError) as caught:
        SmtpConnection.connect("127.0.0.1", server.port, NONE, credentials=PasswordAuth("user", "wrong"), **options)
    assert caught.value.permanent is True
    server.wait_for_connections(0, 5)
    assert server.sessions[0].commands == ["EHLO", "AUTH", "QUIT"]
    assert server.sessions[0].lines[1].startswith("AUTH SCRAM-SHA-256")
    with SmtpConnection.connect("127.0.0.1", server.port, NONE, **options) as connection:
        with pytest.raises(AuthenticationError):
            connection.auth(PasswordAuth("user", "wrong"), timeout=5)
        assert connection.usable
        connection.auth(PasswordAuth("user", "right"), timeout=5)
        assert connection.is_authenticated
    assert server.sessions[1].commands == ["EHLO", "AUTH", "AUTH", "QUIT"]
    with ConnectionPool(
        "127.0.0.1", server.port, credentials=PasswordAuth("user", "wrong"), tls_mode=NONE, **options
    ) as pool:
        with pytest.raises(AuthenticationError):
            pool.noop()
        server.wait_for_connections(0, 5)
    assert server.sessions[2].commands == ["EHLO", "AUTH", "QUIT"]
    assert len(server.sessions) == 3


def test_F49b_a_unix_socket_is_no_exception() -> None:
    with LoopbackServer(protocol="lmtp", unix_socket=True, auth={"u": "p"}, mechanisms=("PLAIN",)) as server:
        with pytest.raises(UsageError, match="allow_plaintext_auth"):
            SmtpConnection.connect_lmtp(unix_socket=str(server.unix_socket), timeout=5, credentials=("u", "p"))
        server.wait_for_connections(0, 5)
        assert server.sessions[0].commands == ["LHLO", "QUIT"]


BINDINGS = [
    pytest.param({}, "auto", "SCRAM-SHA-256-PLUS", id="E153 auto"),
    pytest.param({}, "tls-server-end-point", "SCRAM-SHA-256-PLUS", id="E153 demanded"),
    pytest.param({}, None, "SCRAM-SHA-256", id="E156 None with it"),
    pytest.param({"hash_algorithm": "sha384"}, "auto", "SCRAM-SHA-256-PLUS", id="E153 SHA-384"),
    pytest.param({"key": "rsa"}, "auto", "SCRAM-SHA-256-PLUS", id="E153 RSA"),
]


@pytest.mark.parametrize(("certificate", "channel_binding", "mechanism"), BINDINGS)
@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_F44_a_server_that_computes_the_binding_itself_accepts_ours(
    mode: Literal["implicit", "starttls"], certificate: dict[str, Any], channel_binding: str | None, mechanism: str,
    authority: TestAuthority,
) -> None:  # fmt: skip
    issued = authority.issue(**certificate)
    with LoopbackServer(tls=mode, ca=authority, certificate=issued, auth={"user": "pencil"}) as server:
        connection = SmtpConnection.connect(
            "127.0.0.1", server.port, IMPLICIT if mode == "implicit" else STARTTLS, timeout=10,
            tls_config=TlsConfig(trust=authority.pem),
            credentials=ScramAuth("user", "pencil", channel_binding=channel_binding),
        )  # fmt: skip
        assert connection.is_authenticated
        connection.quit(timeout=5)
        (line,) = [line for line in server.sessions[0].lines if line.startswith("AUTH ")]
        assert line.split()[1] == mechanism
        assert server.violations == []


def test_F44_E156_a_demanded_binding_that_cannot_be_had_is_refused_before_the_first_octet() -> None:
    for extensions in (("AUTH PLAIN SCRAM-SHA-256",), ("AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS",)):
        connection, transport = over(extensions=extensions)
        with pytest.raises(ExtensionUnavailableError) as caught:
            connection.auth(ScramAuth("u", "p", channel_binding="tls-server-end-point"), timeout=5)
        assert caught.value.extension == "AUTH"
        assert transport.written == EHLO
        assert connection.usable
        connection.close()


@pytest.mark.parametrize(
    ("said", "extensions", "gs2"),
    [
        pytest.param(True, "AUTH SCRAM-SHA-256", b"eSws", id="E154 TLS, a binding, no -PLUS"),
        pytest.param(False, "AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS", b"biws", id="E155 no TLS"),
    ],
)
def test_what_auto_says_of_the_channel(said: bool, extensions: str, gs2: bytes, authority: TestAuthority) -> None:
    info = TlsInfo("TLSv1.3", "x", "mx.example.com", authority.issue().der)
    transport = ScriptedTransport([GREETING, hello(extensions), b"535 no\r\n"], secure=said, tls=info)
    connection = opened(transport, IMPLICIT if said else NONE)
    with pytest.raises(AuthenticationError):
        connection.auth(ScramAuth("u", "p", channel_binding="auto"), timeout=5)
    line = transport.written.removeprefix(EHLO)
    assert line.startswith(b"AUTH SCRAM-SHA-256 " + gs2)
    connection.close()


# --- the kit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["whole", "line", "octet", "coalesced"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_SY30_F118_a_whole_session_goes_through_however_the_replies_are_cut(
    protocol: Literal["smtp", "lmtp"], delivery: Any, authority: TestAuthority
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "tls": "starttls", "ca": authority, "auth": {"user": "pencil"}}
    with LoopbackServer(delivery=delivery, **options) as server:
        connect = SmtpConnection.connect if protocol == "smtp" else SmtpConnection.connect_lmtp
        with connect(
            "127.0.0.1", server.port, STARTTLS, timeout=10, tls_config=TlsConfig(trust=authority.pem),
            credentials=PasswordAuth("user", "pencil"),
        ) as connection:  # fmt: skip
            assert connection.send(SENDER, RECIPIENTS, BODY, timeout=10).all_delivered
            assert connection.send_bdat(SENDER, RECIPIENTS, BODY, timeout=10).all_delivered
            assert connection.expn("list", timeout=5).code == 550
        assert server.violations == []
        assert [mail.content for mail in server.mails] == [BODY, BODY]
