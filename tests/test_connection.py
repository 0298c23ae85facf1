"""`SmtpConnection` over real sockets: opening, turns, time, forks, and its end. The wire is `smtpconn.testing`'s."""

from __future__ import annotations

import copy
import gc
import os
import pathlib
import pickle
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from smtpconn import (
    AuthenticationError,
    BoundedPolicy,
    ConnectError,
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    ListAuditSink,
    Mail,
    MailParams,
    PasswordAuth,
    PermanentReplyError,
    Pipelining,
    PlainAuth,
    PolicyError,
    ResolveError,
    ServiceUnavailableError,
    SessionState,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    StartTlsUnavailableError,
    Timeouts,
    TlsConfig,
    TlsError,
    TlsMode,
    TransientReplyError,
    UsageError,
    attempt_of,
)
from smtpconn.testing import LoopbackServer, Relay, TestAuthority

from .protocol.dialogue import rendered

SENDER, RECIPIENT = "a@example.com", "b@example.com"
BODY = b"Subject: x\r\n\r\nhello\r\n"


def connect(server: LoopbackServer | Relay, tls_mode: TlsMode = TlsMode.NONE, **options: Any) -> SmtpConnection:
    options.setdefault("timeout", 5)
    return SmtpConnection.connect("127.0.0.1", server.port, tls_mode, **options)


def send(connection: SmtpConnection, **options: Any) -> Any:
    options.setdefault("timeout", 5)
    return connection.send(SENDER, [RECIPIENT], options.pop("message", BODY), **options)


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_mail_goes_through_and_the_session_ends_with_quit(server: LoopbackServer) -> None:
    with connect(server) as connection:
        assert connection.capabilities.supports_pipelining
        assert send(connection).all_delivered
    assert server.sessions[0].commands == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]
    assert server.mails[0].content == BODY


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_tls_is_verified_before_any_smtp_command_of_the_session(
    tls: Literal["implicit", "starttls"], authority: TestAuthority
) -> None:
    """features:E20, E28."""
    mode = TlsMode.IMPLICIT if tls == "implicit" else TlsMode.STARTTLS
    with LoopbackServer(tls=tls, ca=authority) as server:
        config = TlsConfig(trust=authority.pem, server_name="localhost")
        with connect(server, mode, tls_config=config) as connection:
            assert connection.tls is not None
            assert send(connection).all_delivered
        with pytest.raises(TlsError) as refused:
            connect(server, mode, tls_config=TlsConfig(trust=TestAuthority().pem, server_name="localhost"))
        assert refused.value.permanent
        assert server.sessions[1].commands in ([], ["EHLO", "STARTTLS"])


def test_starttls_that_is_not_offered_ends_with_nothing_but_quit(server: LoopbackServer) -> None:
    """features:E22, faults:ST1."""
    with pytest.raises(StartTlsUnavailableError):
        connect(server, TlsMode.STARTTLS)
    assert server.sessions[0].commands == ["EHLO", "QUIT"]


@pytest.mark.parametrize("injected", [b"250 x\r\n", b"X\r\n", b"fragment"])
def test_octets_behind_the_220_to_starttls_are_an_attack(injected: bytes, authority: TestAuthority) -> None:
    """features:E26, faults:AK7, TI: also a fragment without CRLF."""
    with LoopbackServer(tls="starttls", ca=authority) as server:
        server.reply("STARTTLS", b"220 go\r\n" + injected)
        with pytest.raises(StartTlsInjectionError) as refused:
            connect(server, TlsMode.STARTTLS, tls_config=TlsConfig(trust=authority.pem, server_name="localhost"))
        assert refused.value.octets == len(injected)
        assert server.sessions[0].commands == ["EHLO", "STARTTLS"]


def test_a_refused_greeting_is_raised_and_answered_by_quit(server: LoopbackServer) -> None:
    """features:E1, faults:A4/5yz."""
    server.reply("greeting", "554 5.3.2 no")
    with pytest.raises(PermanentReplyError) as refused:
        connect(server)
    assert refused.value.stage == "greeting"
    server.wait_for_connections(0, 5)
    assert server.sessions[0].commands == ["QUIT"]


def test_a_421_greeting_means_service_unavailable(server: LoopbackServer) -> None:
    server.reply("greeting", "421 4.7.0 too many connections")
    with pytest.raises(ServiceUnavailableError) as refused:
        connect(server)
    assert refused.value.stage == "greeting"
    assert refused.value.scope == "service"
    server.wait_for_connections(0, 5)
    assert server.sessions[0].commands == []


def test_a_closed_port_is_a_connect_error_that_names_the_place() -> None:
    """features:E30, E108, F107: the text says what was tried, and the system's error is the cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectError, match=f"^connect to 127.0.0.1:{port} failed: ") as refused:
        SmtpConnection.connect("127.0.0.1", port, TlsMode.NONE, timeout=5)
    assert isinstance(refused.value.__cause__, ConnectionRefusedError)
    assert refused.value.retry_safe


def test_the_next_address_is_tried_when_the_first_one_refuses(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """features:E115, F115, within one deadline."""
    found = [(socket.AF_INET, 1, 6, "", (ip, 0)) for ip in ("127.0.0.77", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_keywords: found)
    with SmtpConnection.connect("two.example.com", server.port, TlsMode.NONE, timeout=5) as connection:
        assert send(connection).all_delivered


def test_a_name_without_addresses_is_a_resolve_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_keywords: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ResolveError) as refused:
        SmtpConnection.connect("no.such.example", 25, TlsMode.NONE, timeout=5)
    assert refused.value.permanent
    assert refused.value.stage == "resolve"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("mail.example.com", 0), InvalidInputError),
        (("mail.example.com", -1), InvalidInputError),
        (("mail.example.com", 65_536), InvalidInputError),
        (("mail.example.com", 25.0), TypeError),
        (("[::1]", 25), InvalidInputError),
        (("a..example.com", 25), InvalidInputError),
        (("x" * 64 + ".example.com", 25), InvalidInputError),
        ((".".join(["x" * 63] * 4), 25), InvalidInputError),
        (("mail.example.com\r\n", 25), InvalidInputError),
        (("mail.example.com", 70_000), InvalidInputError),
        (("mail.example.com", True), TypeError),
        (("mail.example.com", "25"), TypeError),
        (("bücher.example", 25), InvalidInputError),
        (("", 25), InvalidInputError),
        ((None, 25), InvalidInputError),
        ((b"mail", 25), TypeError),
    ],
)
def test_F1_bad_places_are_refused_before_any_query_and_any_socket(
    arguments: tuple[Any, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults:IN1, IN2, features:E129."""
    monkeypatch.setattr(socket, "socket", _no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", _no_socket)
    with pytest.raises(error):
        SmtpConnection.connect(*arguments, TlsMode.NONE, timeout=5)


def _no_socket(*_args: object, **_keywords: object) -> None:
    pytest.fail("a socket was made")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tls_config": TlsConfig()}, InvalidInputError),
        ({"ehlo_domain": ""}, InvalidInputError),
        ({"ehlo_domain": "a b"}, InvalidInputError),
        ({"ehlo_domain": "mail\r\nRSET"}, InvalidInputError),
        ({"credentials": object()}, TypeError),
        ({"credentials": ("user", "")}, InvalidInputError),
        ({"source_address": "127.0.0.1"}, TypeError),
        ({"source_address": ("localhost", 0)}, InvalidInputError),
        ({"dial": 5}, TypeError),
        ({"pipelining": 1}, TypeError),
        ({"policy": object()}, TypeError),
        ({"audit": object()}, TypeError),
        ({"policy": BoundedPolicy}, TypeError),
        ({"audit": ListAuditSink}, TypeError),
        ({"allow_plaintext_auth": 1}, TypeError),
        ({"timeout": None}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": 0}, InvalidInputError),
        ({"timeout": -1}, InvalidInputError),
        ({"timeout": float("nan")}, InvalidInputError),
        ({"timeout": float("inf")}, InvalidInputError),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_options_are_refused_before_any_socket(
    options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """features:E130, E2, E3, E191, faults:IN4, IN5, IN20."""
    monkeypatch.setattr(socket, "socket", _no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", _no_socket)
    with pytest.raises(error):
        SmtpConnection.connect("mail.example.com", 25, TlsMode.NONE, **{"timeout": 5, **options})


@pytest.mark.parametrize(
    ("given", "kind"), [("anna", "str"), (b"anna", "bytes"), (["anna", "secret"], "list"), (5, "int")]
)
def test_credentials_of_a_wrong_type_are_called_by_their_type(given: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"^credentials must be .*, not {kind}$"):
        SmtpConnection.connect("mail.example.com", 25, TlsMode.NONE, timeout=5, credentials=given)
    with pytest.raises(TypeError, match=f"^credentials must be .*, not {kind}$"):
        ConnectionPool("mail.example.com", 25, TlsMode.NONE, credentials=given)


@pytest.mark.parametrize("hook", ["policy", "audit"])
def test_a_class_whose_methods_need_no_instance_is_a_hook(hook: str) -> None:
    class Hook:
        @staticmethod
        def check_sender(sender: object) -> None: ...

        @staticmethod
        def check_recipients(recipients: object) -> None: ...

        @classmethod
        def check_message_size(cls, size: int | None) -> None: ...

        @classmethod
        def on_event(cls, event: object) -> None: ...

    ConnectionPool("mail.example.com", 25, TlsMode.NONE, **{hook: Hook})  # type: ignore[arg-type]  # by its name


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("mail.example.com", 25), {}),
        (("mail.example.com", 25), {"timeout": 5}),
        (("mail.example.com", 25, TlsMode.NONE), {}),
    ],
)
def test_what_smtplib_has_taught_is_answered_with_the_way_to_open_a_connection(
    arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"SmtpConnection\.connect\(host, port, tls_mode, timeout=\.\.\.\)"):
        SmtpConnection(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("127.0.0.1", 25), {}, InvalidInputError),
        (("127.0.0.1", 24), {"unix_socket": "/run/lmtp"}, InvalidInputError),
        (("127.0.0.1",), {"unix_socket": "/run/lmtp"}, InvalidInputError),
        ((None, 24), {"unix_socket": "/run/lmtp"}, InvalidInputError),
        ((), {}, InvalidInputError),
        ((None, 24), {}, InvalidInputError),
        (("127.0.0.1",), {}, TypeError),
        ((), {"unix_socket": ""}, InvalidInputError),
        ((), {"unix_socket": "a\0b"}, InvalidInputError),
        ((), {"unix_socket": "x" * 108}, InvalidInputError),
        ((), {"unix_socket": b"/run/lmtp"}, TypeError),
        ((), {"unix_socket": "/run/lmtp", "tls_config": TlsConfig()}, InvalidInputError),
        ((), {"unix_socket": "/run/lmtp", "tls_mode": TlsMode.IMPLICIT}, InvalidInputError),
        ((), {"unix_socket": "/run/lmtp", "tls_mode": TlsMode.STARTTLS, "tls_config": TlsConfig()}, InvalidInputError),
    ],
)
def test_lmtp_needs_a_host_or_a_unix_socket_and_not_port_25(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """features:E128, F2, F3, F112: without a host name there is no name to verify."""
    monkeypatch.setattr(socket, "socket", _no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", _no_socket)
    with pytest.raises(error):
        SmtpConnection.connect_lmtp(*arguments, timeout=5, **options)


def test_F2_a_path_of_107_octets_is_dialled(tmp_path: pathlib.Path) -> None:
    path = f"{tmp_path}/"
    path += "x" * (107 - len(path.encode()))
    with LoopbackServer(protocol="lmtp", unix_socket=path) as server:
        with SmtpConnection.connect_lmtp(unix_socket=pathlib.Path(path), timeout=5) as connection:
            assert connection.send_lmtp(SENDER, [RECIPIENT], BODY, timeout=5).all_delivered
        assert server.sessions[0].commands[0] == "LHLO"


def test_source_address_and_dial_are_used(server: LoopbackServer) -> None:
    """users:U31, U32."""
    dialled: list[tuple[str, int]] = []

    def dial(host: str, port: int, timeout: float | None) -> socket.socket:
        dialled.append((host, port))
        return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)

    with SmtpConnection.connect("mail.example.com", 2525, TlsMode.NONE, timeout=5, dial=dial) as connection:
        assert send(connection).all_delivered
    assert dialled == [("mail.example.com", 2525)]
    with connect(server, source_address=("127.0.0.2", 0)) as connection:
        assert send(connection).all_delivered


def test_a_dialled_socket_that_cannot_be_used_is_closed() -> None:
    """users:U32: whoever makes a socket for us does not have to close it after a failure of ours."""
    unconnected = socket.socket()
    with pytest.raises(InvalidInputError):
        SmtpConnection.connect("mail.example.com", 25, TlsMode.NONE, timeout=5, dial=lambda *_: unconnected)
    assert unconnected.fileno() == -1


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(TimeoutError("slow"), SmtpTimeoutError), (OSError("no proxy"), ConnectError), (LookupError("own"), LookupError)],
)
def test_an_error_of_the_system_in_dial_is_one_of_connect_and_another_passes(
    raised: Exception, kind: type[Exception]
) -> None:
    """users:U32, features:E108."""

    def dial(host: str, port: int, timeout: float | None) -> socket.socket:
        raise raised

    with pytest.raises(kind) as caught:
        SmtpConnection.connect("mail.example.com", 25, TlsMode.NONE, timeout=5, dial=dial)
    assert raised in (caught.value, caught.value.__cause__)
    assert getattr(caught.value, "stage", "connect") == "connect"


def test_the_ehlo_domain_is_what_was_asked_for_and_changes_with_rehlo(server: LoopbackServer) -> None:
    """features:F9, F10."""
    with connect(server, ehlo_domain="client.example.com") as connection:
        assert server.sessions[0].ehlo_domain == "client.example.com"
        before = connection.capabilities
        connection.set_ehlo_domain("[192.0.2.1]")
        connection.rehlo(timeout=5)
        assert server.sessions[0].ehlo_domain == "[192.0.2.1]"
        assert connection.capabilities is not before
        with pytest.raises(InvalidInputError):
            connection.set_ehlo_domain("a b")


# --- AUTH ------------------------------------------------------------------------------------------------------------


def test_secrets_do_not_travel_without_tls_unless_the_caller_says_so() -> None:
    """D12, features:E140, E141."""
    with LoopbackServer(auth={"user": "secret"}, mechanisms=("PLAIN", "LOGIN")) as server:
        with connect(server) as connection:
            with pytest.raises(UsageError, match="allow_plaintext_auth"):
                connection.auth_plain("user", "secret", timeout=5)
            assert connection.usable
        assert "AUTH" not in server.sessions[0].commands
        with connect(server, credentials=("user", "secret"), allow_plaintext_auth=True) as connection:
            assert connection.is_authenticated


def test_no_refusal_of_auth_leaves_the_password_in_a_traceback() -> None:
    """faults:SEC3, features:E151."""
    with LoopbackServer(auth={"user": "right"}) as server, connect(server, allow_plaintext_auth=True) as connection:
        for verb in (connection.auth_plain, connection.auth_login, connection.auth_scram):
            with pytest.raises(AuthenticationError) as refused:
                verb("user", "hunter2-wrong", timeout=5)
            shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
            frames = [frame for frame in shown.stack if f"{os.sep}smtpconn{os.sep}" in frame.filename]
            assert frames
            assert not [frame for frame in frames if "hunter2" in str(frame.locals)]
            assert "hunter2" not in repr(vars(refused.value))


@pytest.mark.parametrize("credentials", [("user", "hunter2"), ("", "hunter2"), ("user", "hunter2", "x")], ids=len)
def test_no_failure_of_connect_leaves_the_password_in_a_traceback(credentials: Any) -> None:
    """faults:SEC2: a tuple is taken for a `PasswordAuth` at the door."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    calls: list[Callable[[], object]] = [
        lambda: SmtpConnection.connect("127.0.0.1", port, TlsMode.NONE, timeout=5, credentials=credentials),
        lambda: SmtpConnection.connect_lmtp("127.0.0.1", port, TlsMode.NONE, timeout=5, credentials=credentials),
        lambda: SmtpConnection.from_url(f"smtp://127.0.0.1:{port}", timeout=5, credentials=credentials),
        lambda: SmtpConnection.connect("127.0.0.1", port, TlsMode.NONE, timeout=-1, credentials=credentials),
    ]
    for call in calls:
        with pytest.raises((SmtpError, TypeError)) as refused:
            call()
        shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        frames = [frame for frame in shown.stack if f"{os.sep}smtpconn{os.sep}" in frame.filename]
        assert frames
        assert not [frame for frame in frames if "hunter2" in str(frame.locals)]


def test_a_token_callable_is_asked_once_and_what_it_raises_passes() -> None:
    """features:E143, faults:NN18."""
    asked: list[str] = []

    def token() -> str:
        asked.append("asked")
        raise LookupError("vault")

    options: dict[str, Any] = {"tokens": {"user": "abc"}, "mechanisms": ("XOAUTH2", "OAUTHBEARER")}
    with LoopbackServer(**options) as server, connect(server, allow_plaintext_auth=True) as connection:
        with pytest.raises(LookupError, match="vault"):
            connection.auth_xoauth2("user", token, timeout=5)
        assert asked == ["asked"]
        assert connection.usable
        connection.auth_xoauth2("user", lambda: "abc", timeout=5)
        assert connection.is_authenticated
        with pytest.raises(UsageError, match="already"):
            connection.auth_xoauth2("user", token, timeout=5)
        assert asked == ["asked"], "nor where AUTH is not possible"


@pytest.mark.parametrize("given", [("user", "hunter2"), "hunter2", None], ids=["a pair", "a password", "nothing"])
def test_a_callable_that_returns_no_credentials_is_refused_and_what_it_returned_is_in_no_frame(given: Any) -> None:
    """faults:SEC2, SEC3."""
    with LoopbackServer(auth={"user": "secret"}) as server, connect(server, allow_plaintext_auth=True) as connection:
        with pytest.raises(TypeError, match="must return a credentials object") as refused:
            connection.auth(lambda: given, timeout=5)
        assert connection.usable
        where: dict[str, Any] = {"timeout": 5, "allow_plaintext_auth": True}
        pool = ConnectionPool(server.host, server.port, TlsMode.NONE, credentials=lambda: given, **where)
        with pool, pytest.raises(TypeError, match="must return a credentials object") as refused_by_pool:
            pool.noop()
    assert "hunter2" not in rendered(refused.value) + rendered(refused_by_pool.value)


def test_a_demanded_auth_that_no_mechanism_can_do_is_refused_locally(server: LoopbackServer) -> None:
    with pytest.raises(ExtensionUnavailableError) as refused:
        connect(server, credentials=PlainAuth("user", "secret"), allow_plaintext_auth=True)
    assert refused.value.extension == "AUTH"
    assert server.sessions[0].commands == ["EHLO", "QUIT"]


# --- flights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 50])
def test_a_mail_costs_two_flights_on_a_reused_connection(server: LoopbackServer, count: int) -> None:
    """Issue A 3, pipelining:RT10, PL1, PL2: counted by a relay that delays each way, no tolerance."""
    recipients = [f"r{number}@example.com" for number in range(count)]
    with Relay(server, delay=0.01) as relay, connect(relay) as connection:
        assert connection.send(SENDER, recipients, BODY, timeout=5).all_delivered
        for _ in range(5):
            before = relay.flights
            assert connection.send(SENDER, recipients, BODY, timeout=5).all_delivered
            assert relay.flights - before == 2


@pytest.mark.parametrize(("count", "flights"), [(1, 4), (3, 6)])
@pytest.mark.parametrize("how", ["OFF", "not offered"])
def test_lock_step_costs_one_flight_per_command(count: int, flights: int, how: str) -> None:
    """pipelining:RT9, PL4: 3 + recipients."""
    extensions = ["8BITMIME"] if how == "not offered" else None
    options = {} if extensions is None else {"extensions": extensions}
    level = Pipelining.OFF if how == "OFF" else Pipelining.GROUPED
    recipients = [f"r{number}@example.com" for number in range(count)]
    with LoopbackServer(**options) as server:  # type: ignore[arg-type]  # one option
        with Relay(server, delay=0.01) as relay, connect(relay, pipelining=level) as connection:
            before = relay.flights
            assert connection.send(SENDER, recipients, BODY, timeout=5).all_delivered
            assert relay.flights - before == flights
        assert server.violations == []


def test_a_failed_mail_adds_no_flight_for_its_rset(server: LoopbackServer) -> None:
    """pipelining:RT8, PL10."""
    server.reply("end of data", "451 4.3.0 later", nth=1)
    with Relay(server, delay=0.01) as relay, connect(relay) as connection:
        with pytest.raises(TransientReplyError):
            send(connection)
        before = relay.flights
        assert send(connection).all_delivered
        assert relay.flights - before == 2
    assert server.sessions[0].commands.count("RSET") == 1


# --- turns -----------------------------------------------------------------------------------------------------------


@contextmanager
def held_up(server: LoopbackServer, connection: SmtpConnection) -> Iterator[threading.Thread]:
    """Another thread is in the middle of a send, waiting for the final reply."""
    server.fault("end of data", "silence", nth=1)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            send(connection, timeout=30)
        except BaseException as error:  # handed to the test's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    server.wait_for(1, 5)
    yield thread
    connection.close()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(failures[0], DeliveryUnknownError)


def test_a_second_thread_waits_for_its_turn_within_its_deadline_and_repr_never_waits() -> None:
    """features:E192, E102, F94, F95, faults:NN5."""
    with LoopbackServer() as server:
        connection = connect(server)
        with held_up(server, connection):
            started = time.monotonic()
            with pytest.raises(SmtpTimeoutError) as refused:
                send(connection, timeout=0.1)
            assert time.monotonic() - started < 1.0
            assert refused.value.stage == "lock"
            assert refused.value.retry_safe
            assert [entry.delivery for entry in refused.value.recipients] == [Delivery.NOT_DELIVERED]
            assert "<locked>" in repr(connection)
            assert connection.capabilities.supports_pipelining
            assert connection.state is SessionState.DATA


def test_eight_threads_on_one_connection_never_interleave(server: LoopbackServer) -> None:
    """features:SY1, users:U27."""
    with connect(server) as connection:

        def work(number: int) -> None:
            for count in range(50):
                body = f"X-Id: {number}.{count}\r\n\r\n{number}\r\n".encode()
                assert connection.send(
                    f"s{number}@example.com", [f"r{number}@example.com"], body, timeout=30
                ).all_delivered

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(server.mails) == 400
    for mail in server.mails:
        number = mail.content.split()[-1].decode()
        assert (mail.sender, list(mail.recipients)) == (f"s{number}@example.com", [f"r{number}@example.com"])


def test_a_verb_called_from_the_body_of_a_mail_fails_at_once(server: LoopbackServer) -> None:
    """features:E190, faults:NN23: the send ends as one whose source failed."""
    with connect(server) as connection:

        def body() -> Iterator[bytes]:
            yield b"x\r\n"
            connection.noop(timeout=5)

        with pytest.raises(UsageError, match="middle of another call"):
            send(connection, message=body())
        assert not connection.usable
    assert server.mails == []


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_dripping_server_cannot_stretch_the_deadline() -> None:
    """features:F92, users:U13, faults:AK12."""
    with LoopbackServer() as server:
        server.fault("greeting", "drip")
        started = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as refused:
            connect(server, timeout=0.5)
        assert 0.4 < time.monotonic() - started < 0.6
        assert refused.value.stage == "greeting"


def test_a_phase_of_timeouts_has_its_own_limit() -> None:
    with LoopbackServer() as server:
        server.fault("MAIL", "silence")
        connection = connect(server)
        with pytest.raises(SmtpTimeoutError) as refused:
            send(connection, timeout=Timeouts(mail=0.2))
        assert refused.value.stage == "MAIL"
        assert refused.value.delivery is Delivery.NOT_DELIVERED
        assert not connection.usable


def test_killing_the_server_after_the_end_of_data_leaves_the_mail_unknown(server: LoopbackServer) -> None:
    """Issue A 6, faults:B5/EOF (UX): one recipient was refused, and stays so."""
    server.fault("end of data", "EOF")
    server.refuse("no@example.com", "550 5.1.1 no")
    connection = connect(server)
    with pytest.raises(DeliveryUnknownError) as unknown:
        connection.send(SENDER, [RECIPIENT, "no@example.com"], BODY, timeout=5)
    assert [entry.delivery for entry in unknown.value.recipients] == [Delivery.UNKNOWN, Delivery.NOT_DELIVERED]
    assert not unknown.value.retry_safe
    assert isinstance(unknown.value.__cause__, ConnectionLostError)
    assert not isinstance(unknown.value, TimeoutError)
    assert connection.is_shutting_down
    with pytest.raises(ConnectionLostError, match="dead"):
        send(connection)


def test_an_interrupt_in_mid_exchange_passes_with_its_verdict_and_poisons() -> None:
    """D5, faults:B4/async-exc (KI): `attempt_of` says what became of the mail."""
    with LoopbackServer() as server:
        audit = ListAuditSink()
        connection = connect(server, audit=audit)

        def body() -> Iterator[bytes]:
            yield b"x\r\n"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as stopped:
            send(connection, message=body())
        verdict = attempt_of(stopped.value)
        assert verdict is not None
        assert verdict.delivery is Delivery.NOT_DELIVERED
        assert verdict.retry_safe
        assert not connection.usable
        assert [type(event).__name__ for event in audit.events[-2:]] == ["MailSettled", "SessionAborted"]
        assert attempt_of(ValueError()) is None


# --- the end ---------------------------------------------------------------------------------------------------------


def test_verbs_after_quit_and_after_close_are_usage_errors(server: LoopbackServer) -> None:
    """features:E93, F90."""
    ends: list[Callable[[SmtpConnection], object]] = [lambda c: c.quit(timeout=5), lambda c: c.close()]
    verbs: list[Callable[[SmtpConnection], object]] = [
        send,
        lambda c: c.noop(timeout=5),
        lambda c: c.vrfy("x", timeout=5),
        lambda c: c.rehlo(timeout=5),
    ]
    for end in ends:
        connection = connect(server)
        end(connection)
        assert connection.state is SessionState.CLOSED
        for verb in verbs:
            with pytest.raises(UsageError):
                verb(connection)
        assert connection.quit(timeout=5) is False
        connection.close()


def test_after_a_421_every_verb_says_so_without_an_octet(server: LoopbackServer) -> None:
    """features:E89, F93a, BR25."""
    server.reply("MAIL", "421 4.3.2 shutting down")
    connection = connect(server)
    with pytest.raises(ServiceUnavailableError):
        send(connection)
    assert connection.is_shutting_down
    octets = server.sessions[0].octets
    with pytest.raises(ServiceUnavailableError) as again:
        connection.noop(timeout=5)
    assert again.value.reply.code == 421
    assert server.sessions[0].octets == octets
    connection.close()


@pytest.mark.parametrize("answer", ["500 5.5.1 what", None])
def test_quit_never_raises_and_always_closes(answer: str | None) -> None:
    """features:E90, E91."""
    with LoopbackServer() as server:
        if answer is None:
            server.fault("QUIT", "silence")
        else:
            server.reply("QUIT", answer)
        connection = connect(server)
        assert connection.quit(timeout=0.3) is False
        assert connection.state is SessionState.CLOSED


def test_leaving_with_does_not_mask_the_exception_of_its_body(server: LoopbackServer) -> None:
    """features:E194, users:U26."""
    server.fault("QUIT", "RST")
    cause = ValueError("the body's own")
    with pytest.raises(ValueError, match="own") as raised, connect(server):
        raise cause
    assert raised.value is cause
    assert raised.value.__context__ is None


def test_an_unclosed_connection_warns_and_closes(server: LoopbackServer) -> None:
    """features:F96."""
    connection = connect(server)
    with pytest.warns(ResourceWarning, match=str(server.port)):  # noqa: PT031  # collection may take both statements
        del connection
        gc.collect()
    server.wait_for_connections(0, 5)
    assert server.sessions[0].commands == ["EHLO"]


def test_a_connection_is_not_pickled_or_copied(server: LoopbackServer) -> None:
    """features:F121, faults:NN15."""
    with connect(server) as connection:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="SmtpConnection"):
                attempt(connection)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_writes_nothing_and_the_parents_session_lives(server: LoopbackServer) -> None:
    """features:E195, F94a, faults:NN7."""
    with connect(server) as connection:
        assert send(connection).all_delivered
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                send(connection)
            except UsageError:
                connection.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert send(connection).all_delivered
    assert len(server.mails) == 2


# --- verbs -----------------------------------------------------------------------------------------------------------


def test_vrfy_expn_and_help_return_what_the_server_says_and_noop_raises_a_refusal(server: LoopbackServer) -> None:
    """features:E87, E88, E196."""
    server.reply("VRFY", "550 5.1.1 no such user", nth=1)
    server.reply("NOOP", "500 5.5.1 what", nth=1)
    with connect(server) as connection:
        assert connection.vrfy("nobody", timeout=5).code == 550
        assert connection.vrfy("somebody", timeout=5).code == 252
        assert connection.expn("list", timeout=5).code == 550
        assert connection.help(timeout=5).code == 214
        with pytest.raises(PermanentReplyError):
            connection.noop(timeout=5)
        connection.noop(timeout=5)
        connection.reset(timeout=5)
        for hostile in ("", "a\r\nRSET", "a\0"):
            with pytest.raises(InvalidInputError):
                connection.vrfy(hostile, timeout=5)


def test_a_refused_reset_closes(server: LoopbackServer) -> None:
    """features:E202."""
    server.reply("RSET", "502 5.5.1 no")
    connection = connect(server)
    with pytest.raises(PermanentReplyError):
        connection.reset(timeout=5)
    assert not connection.usable


def test_send_lmtp_is_for_lmtp_and_send_follows_the_protocol(
    server: LoopbackServer, lmtp_server: LoopbackServer
) -> None:
    """features:E81, F74, F50."""
    with connect(server) as connection:
        octets = server.sessions[0].octets
        for verb in (connection.send_lmtp, connection.send_lmtp_bdat):
            with pytest.raises(UsageError) as refused:
                verb(SENDER, [RECIPIENT], BODY, timeout=5)
            assert [entry.delivery for entry in refused.value.recipients] == [Delivery.NOT_DELIVERED]
            recipients: Any = RECIPIENT
            with pytest.raises(TypeError):  # F50: types and values first
                verb(SENDER, recipients, BODY, timeout=5)
            with pytest.raises(InvalidInputError):
                verb(SENDER, [RECIPIENT], b"bare\n", timeout=5)
            with pytest.raises(InvalidInputError):
                verb(SENDER, [RECIPIENT], BODY, timeout=-1)
        assert server.sessions[0].octets == octets
        assert send(connection).all_delivered
    where = ("127.0.0.1", lmtp_server.port, TlsMode.NONE)
    lmtp_server.refuse("full@example.com", "452 4.2.2 full", when="data")
    with SmtpConnection.connect_lmtp(*where, timeout=5) as connection:
        for send_by in (connection.send, connection.send_bdat, connection.send_lmtp, connection.send_lmtp_bdat):
            result = send_by(SENDER, [RECIPIENT, "full@example.com"], BODY, timeout=5)
            assert [entry.delivery for entry in result.recipients] == [Delivery.DELIVERED, Delivery.NOT_DELIVERED]
            assert result.reply is None


def test_send_many_yields_one_outcome_for_each_mail_in_order(server: LoopbackServer) -> None:
    server.refuse("no@example.com", "550 5.1.1 no")
    mails = [
        Mail(SENDER, [RECIPIENT], BODY, tag="first"),
        Mail(SENDER, ["no@example.com"], BODY, tag="second"),
        Mail(SENDER, [RECIPIENT], iter([b"bare\n"]), tag="third", chunking=True),
        Mail(SENDER, [RECIPIENT], BODY, tag="fourth", chunking=True),
    ]
    with connect(server) as connection, connection.send_many(iter(mails), timeout=5) as outcomes:
        found = list(outcomes)
    assert [(outcome.index, outcome.mail.tag) for outcome in found] == list(
        enumerate(["first", "second", "third", "fourth"])
    )
    assert [outcome.delivery for outcome in found] == [
        Delivery.DELIVERED,
        Delivery.NOT_DELIVERED,
        Delivery.NOT_DELIVERED,
        Delivery.DELIVERED,
    ]
    assert isinstance(found[2].error, InvalidInputError)


def test_a_policy_refuses_before_the_first_octet(server: LoopbackServer) -> None:
    """features:E94, E178, F98."""

    class OnlyExampleOrg:
        def check_sender(self, sender: object) -> None:
            if not str(sender).endswith("@example.org"):
                raise PolicyError("not our domain")

        def check_recipients(self, recipients: object) -> None:
            """Anybody."""

        def check_message_size(self, size: int | None) -> None:
            """Anything."""

    with connect(server, policy=OnlyExampleOrg()) as connection:
        with pytest.raises(PolicyError):
            send(connection)
        assert connection.send("a@example.org", [RECIPIENT], BODY, timeout=5).all_delivered
    assert server.sessions[0].commands == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


def test_the_audit_of_a_session_is_in_order_and_names_nobody(authority: TestAuthority) -> None:
    """features:E96, E99, E100."""
    audit = ListAuditSink()
    with LoopbackServer(tls="starttls", ca=authority, auth={"user": "secret"}) as server:
        config = TlsConfig(trust=authority.pem, server_name="localhost")
        options: dict[str, Any] = {"tls_config": config, "credentials": PasswordAuth("user", "secret"), "audit": audit}
        with connect(server, TlsMode.STARTTLS, **options) as connection:
            assert send(connection).all_delivered
    assert [type(event).__name__ for event in audit.events] == [
        "Connected", "GreetingReceived", "EhloCompleted", "TlsUpgraded", "EhloCompleted", "AuthCompleted",
        "MailFromAccepted", "RecipientAccepted", "MessageAccepted", "MailSettled", "QuitCompleted",
    ]  # fmt: skip
    shown = repr(audit.events)
    assert not [secret for secret in ("secret", "user", RECIPIENT, SENDER, "hello") if secret in shown]


def test_an_audit_sink_that_raises_changes_nothing(server: LoopbackServer, caplog: pytest.LogCaptureFixture) -> None:
    """features:E187, F103, faults:NN16: each failure is logged and dropped."""

    class Broken:
        def on_event(self, event: object) -> None:
            raise RuntimeError("full disk")

    with connect(server, audit=Broken()) as connection:
        assert send(connection).all_delivered
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [RuntimeError] * 8
    assert {record.levelname for record in caplog.records if record.exc_info} == {"WARNING"}


def test_eight_bit_and_size_are_decided_by_what_the_server_offers() -> None:
    """features:E168, E207."""
    with LoopbackServer(extensions=["PIPELINING"]) as server, connect(server) as connection:
        with pytest.raises(ExtensionUnavailableError) as refused:
            send(connection, message="grüße\r\n".encode())
        assert refused.value.extension == "8BITMIME"
        with pytest.raises(ExtensionUnavailableError):
            send(connection, params=MailParams(ret="FULL"))
        assert send(connection).all_delivered
    with LoopbackServer(size_limit=100) as server, connect(server) as connection:
        with pytest.raises(ExtensionUnavailableError) as refused:
            send(connection, message=b"x" * 101)
        assert refused.value.extension == "SIZE"
