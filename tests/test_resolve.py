from __future__ import annotations

import copy
import os
import pathlib
import pickle
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn import resolve
from smtpconn.deadline import Deadline
from smtpconn.protocol.errors import ConnectError, InvalidInputError, ResolveError, SmtpTimeoutError
from smtpconn.resolve import SocketAddress, addresses, unix_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


def soon() -> Deadline:
    return Deadline.after(10)


@pytest.fixture(autouse=True)
def _nothing_is_left_under_way() -> Iterator[None]:
    yield
    end = time.monotonic() + 5
    while resolve._under_way and time.monotonic() < end:
        threading.Event().wait(0.001)
    assert not resolve._under_way


class Held:
    """A resolver that answers when it is let go, and counts its callers."""

    def __init__(self, answer: list[tuple[int, Any]] | Exception) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, host: str) -> list[tuple[int, Any]]:
        self.asked.append(host)
        self.threads.append(threading.current_thread())
        self.entered.set()
        assert self.let_go.wait(20)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


ONE = [(V4, ("192.0.2.1", 0))]


# --- numeric hosts ---


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", SocketAddress(V4, ("192.0.2.1", 25), "192.0.2.1")),
        ("2001:db8::1", SocketAddress(V6, ("2001:db8::1", 25, 0, 0), "2001:db8::1")),
        ("fe80::1%7", SocketAddress(V6, ("fe80::1", 25, 0, 7), "fe80::1%7")),
    ],
)
def test_BR9_a_numeric_host_asks_nobody(host: str, expected: SocketAddress) -> None:
    def nobody(host: str) -> list[tuple[int, Any]]:
        raise AssertionError("asked")

    assert addresses(host, 25, Deadline.after(0), resolver=nobody) == (expected,)


def test_a_scope_may_be_the_name_of_an_interface_that_exists() -> None:
    index, name = socket.if_nameindex()[0]
    [found] = addresses(f"fe80::1%{name}", 25, soon())
    assert found.sockaddr == ("fe80::1", 25, 0, index)
    with pytest.raises(ResolveError, match="no such interface") as caught:
        addresses("fe80::1%no-such-interface", 25, soon())
    assert caught.value.permanent is True


# --- names ---


def test_the_order_is_the_systems_the_port_is_ours_and_doubles_are_one() -> None:
    answer = [(V6, ("2001:db8::1", 0, 0, 3)), (V4, ("192.0.2.1", 0)), (V4, ("192.0.2.1", 0)), (V4, ("192.0.2.2", 0))]
    found = addresses("mx.example.test", 587, soon(), resolver=lambda host: answer)
    assert [(each.family, each.sockaddr) for each in found] == [
        (V6, ("2001:db8::1", 587, 0, 3)),
        (V4, ("192.0.2.1", 587)),
        (V4, ("192.0.2.2", 587)),
    ]
    assert {each.host for each in found} == {"mx.example.test"}
    assert [each.ip for each in found] == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]


def test_the_systems_resolver_knows_localhost() -> None:
    found = addresses("localhost", 25, soon())
    assert {each.ip for each in found} <= {"127.0.0.1", "::1"}
    assert {each.sockaddr[1] for each in found} == {25}


def test_the_system_is_asked_through_getaddrinfo_for_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def getaddrinfo(host: str, port: None, **keywords: Any) -> list[Any]:
        asked.append((host, port, keywords))
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
            (99, socket.SOCK_STREAM, 6, "", b"an address of no family that we know"),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    [found] = addresses("mx.example.test", 25, soon())
    assert found.sockaddr == ("192.0.2.1", 25)
    assert asked == [("mx.example.test", None, {"type": socket.SOCK_STREAM})]


# --- faults A1 ---


def _raising(error: Exception) -> Callable[[str], list[tuple[int, Any]]]:
    def resolver(host: str) -> list[tuple[int, Any]]:
        raise error

    return resolver


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True),
        (socket.gaierror(socket.EAI_NODATA, "No address associated with hostname"), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), False),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure"), False),
        (socket.gaierror("no number"), False),
        (OSError(2, "No such file or directory"), False),
        (UnicodeError("encoding with 'idna' codec failed"), True),
        (ValueError("embedded null character"), False),
    ],
    ids=lambda value: str(value),
)
def test_A1_what_the_resolver_says_becomes_a_resolve_error_with_its_cause(error: Exception, permanent: bool) -> None:
    with pytest.raises(ResolveError, match=r"mx\.example\.test") as caught:
        addresses("mx.example.test", 25, soon(), resolver=_raising(error))
    assert caught.value.permanent is permanent
    assert caught.value.stage == "resolve"
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, ConnectError)


def test_F115_no_addresses_is_a_resolve_error() -> None:
    with pytest.raises(ResolveError, match="has no addresses") as caught:
        addresses("mx.example.test", 25, soon(), resolver=lambda host: [])
    assert caught.value.permanent is True


def test_a_name_that_cannot_be_asked_for_is_a_resolve_error_and_no_unicode_error() -> None:
    with pytest.raises(ResolveError) as caught:
        addresses("x" * 64 + "..example.test", 25, soon())
    assert caught.value.permanent is True


def test_A1_silence_ends_with_the_deadline_and_the_late_result_is_dropped() -> None:
    resolver = Held(ONE)
    begin = time.monotonic()
    with pytest.raises(SmtpTimeoutError, match=r"mx\.example\.test") as caught:
        addresses("mx.example.test", 25, Deadline.after(0.05), resolver=resolver)
    assert 0.04 < time.monotonic() - begin < 2
    assert caught.value.stage == "resolve"
    [thread] = resolver.threads
    assert thread.daemon
    resolver.let_go.set()
    thread.join(10)
    assert not thread.is_alive()


# --- BR9: one look-up per name at a time ---


def test_BR9_callers_of_one_name_share_one_look_up_whatever_case_and_port() -> None:
    resolver = Held(ONE)
    found: list[Any] = []

    def ask(host: str, port: int) -> None:
        found.append(addresses(host, port, soon(), resolver=resolver))

    callers = [
        threading.Thread(target=ask, args=(host, port))
        for host, port in [("mx.test", 25), ("MX.test", 587), ("mx.TEST", 465)]
    ]
    for caller in callers:
        caller.start()
    assert resolver.entered.wait(10)
    with pytest.raises(SmtpTimeoutError):  # a short deadline of its own, on the shared look-up
        addresses("mx.test", 25, Deadline.after(0.01), resolver=resolver)
    other = Held(ONE)
    other.let_go.set()
    addresses("other.test", 25, soon(), resolver=other)  # another name does not wait
    resolver.let_go.set()
    for caller in callers:
        caller.join(10)
    assert len(resolver.asked) == 1
    assert sorted(each[0].sockaddr[1] for each in found) == [25, 465, 587]


def test_BR9_a_shared_failure_is_an_error_of_each_callers_own() -> None:
    resolver = Held(socket.gaierror(socket.EAI_AGAIN, "later"))
    caught: list[ResolveError] = []

    def ask() -> None:
        try:
            addresses("mx.test", 25, soon(), resolver=resolver)
        except ResolveError as error:
            caught.append(error)

    callers = [threading.Thread(target=ask) for _ in range(3)]
    for caller in callers:
        caller.start()
    assert resolver.entered.wait(10)
    resolver.let_go.set()
    for caller in callers:
        caller.join(10)
    assert len({id(error) for error in caught}) == 3
    assert {error.permanent for error in caught} == {False}


def test_BR9_nothing_is_cached() -> None:
    resolver = Held(ONE)
    resolver.let_go.set()
    for _ in range(3):
        addresses("mx.test", 25, soon(), resolver=resolver)
    assert len(resolver.asked) == 3


def test_BR9_where_threads_cannot_start_the_resolver_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    resolver = Held(ONE)
    resolver.let_go.set()
    [found] = addresses("mx.test", 25, soon(), resolver=resolver)
    assert found.sockaddr == ("192.0.2.1", 25)
    assert resolver.threads == [threading.current_thread()]


def test_KI_an_interrupt_while_the_thread_starts_strands_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            addresses("mx.test", 25, soon(), resolver=lambda host: ONE)
    assert addresses("mx.test", 25, soon(), resolver=lambda host: ONE)[0].ip == "192.0.2.1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_LE6_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    held = Held(ONE)

    def resolver(host: str) -> list[tuple[int, Any]]:
        return held(host) if os.getpid() == parent else ONE

    parent = os.getpid()
    with pytest.raises(SmtpTimeoutError):
        addresses("mx.test", 25, Deadline.after(0.05), resolver=resolver)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if addresses("mx.test", 25, Deadline.after(5), resolver=resolver)[0].ip == "192.0.2.1" else 2
        finally:
            os._exit(code)
    held.let_go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.threads[0].join(10)


# --- SocketAddress ---


@pytest.mark.parametrize(
    ("address", "text", "ip"),
    [
        (SocketAddress(V4, ("192.0.2.1", 25), "192.0.2.1"), "192.0.2.1:25", "192.0.2.1"),
        (SocketAddress(V6, ("2001:db8::1", 25, 0, 0), "2001:db8::1"), "[2001:db8::1]:25", "2001:db8::1"),
        (SocketAddress(V4, ("192.0.2.1", 25), "mx.test"), "mx.test:25 (192.0.2.1)", "192.0.2.1"),
        (SocketAddress(int(socket.AF_UNIX), "/run/lmtp"), "/run/lmtp", None),
    ],
)
def test_an_address_shows_what_is_dialled(address: SocketAddress, text: str, ip: str | None) -> None:
    assert str(address) == text
    assert address.ip == ip
    assert hash(address) == hash(copy.copy(address))
    assert pickle.loads(pickle.dumps(address)) == address  # noqa: S301 - our own octets


# --- Unix sockets: F2, IN3 ---


@pytest.mark.parametrize("path", ["/run/lmtp", "relative", " ", "/tab\there", "/\u00fc\u4e2d", "x" * 107, "/\x1b[31m"])
def test_IN3_any_path_that_a_socket_may_have_is_taken(path: str) -> None:
    for given in (path, pathlib.Path(path)):
        address = unix_address(given)
        assert address == SocketAddress(int(socket.AF_UNIX), str(given))
        assert address.host is None


@pytest.mark.parametrize(
    "path",
    ["", "\0abstract", "/a\0b", "x" * 108, "\u00fc" * 54, "/\ud800", "/\u760d", "/\u760a", "/\u010a", "/\u020d"],
    ids=ascii,
)
def test_IN3_a_path_that_no_socket_can_have_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError, match="unix_socket") as caught:
        unix_address(path)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 200


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"/run/lmtp"


@pytest.mark.parametrize("path", [None, 5, b"/run/lmtp", ["/run/lmtp"], True, BytesPath()], ids=repr)
def test_IN3_a_wrong_type_is_a_type_error(path: Any) -> None:
    with pytest.raises(TypeError, match="unix_socket"):
        unix_address(path)


def test_V18_a_lying_str_subclass_is_copied_to_what_it_holds() -> None:
    class Lying(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "/other"

    found = unix_address(Lying("/run/lmtp")).sockaddr
    assert found == "/run/lmtp"
    assert type(found) is str


def test_a_platform_without_unix_sockets_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(InvalidInputError, match="no Unix sockets"):
        unix_address("/run/lmtp")
