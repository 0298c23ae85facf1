"""A host name to addresses, before a deadline.

Knows the system's resolver (hosts file, nsswitch, search lists, containers: what a user expects), which cannot be
bounded; refuses to know connections, and MX, SRV and TLSA records, which are the matter of `smtpconn.finding`. Its
laws: numeric hosts and Unix sockets ask nobody; an address look-up runs in a short-lived daemon thread, at most one per
host name at a time, shared by all who ask for it meanwhile; a late result is dropped; nothing is cached (BR9).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from smtpconn.deadline import Deadline
from smtpconn.protocol.errors import InvalidInputError, ResolveError, SmtpTimeoutError

Resolver = Callable[[str], Iterable["tuple[int, Any]"]]
"""A host name to pairs of address family and socket address, in order of preference; raises OSError."""

_LONGEST_PATH = 107  # octets: sun_path less its NUL
_PERMANENT = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
_INTERNET = frozenset({int(socket.AF_INET), int(socket.AF_INET6)})


@dataclass(frozen=True)
class SocketAddress:
    """Where to connect: address family, the address as sockets take it, and the host it belongs to.

    `host` is the name that was resolved, or the IP address that was given; None for a Unix socket.
    """

    family: int
    sockaddr: Any
    host: str | None = None

    @property
    def ip(self) -> str | None:
        """The IP address, or None for a Unix socket."""
        return None if self.host is None else str(self.sockaddr[0])

    def __str__(self) -> str:
        if self.host is None:
            return str(self.sockaddr)
        ip, port = self.sockaddr[:2]
        return f"{_bracketed(ip)}:{port}" if self.host == ip else f"{self.host}:{port} ({ip})"


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def unix_address(path: str | os.PathLike[str]) -> SocketAddress:
    """The address of a Unix socket.

    Raises:
        TypeError: not a path.
        InvalidInputError: an empty path, above 107 octets, with a NUL or a character that hides a line end (IN3).
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"unix_socket must be a path, not {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError("unix_socket must be a path of str")
    text = str.__str__(text)  # an exact copy: a subclass may lie
    if "\0" in text or _DISGUISED.search(text):
        raise InvalidInputError(f"unix_socket must not have a NUL, a surrogate, a disguised line end: {text!a:.80}")
    if not 1 <= len(os.fsencode(text)) <= _LONGEST_PATH:
        raise InvalidInputError(f"unix_socket must have 1 to {_LONGEST_PATH} octets: {text!a:.80}")
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidInputError("unix_socket: this platform has no Unix sockets")
    return SocketAddress(int(socket.AF_UNIX), text)


# Surrogates, and characters whose low octet is CR or LF (hostile values V9 and V10).
_DISGUISED = re.compile("[\ud800-\udfff\u010a\u010d\u020a\u020d\u760a\u760d]")


def addresses(host: str, port: int, deadline: Deadline, *, resolver: Resolver | None = None) -> Sequence[SocketAddress]:
    """The addresses of a host, in the order of the system's preference; never empty. `host` is ASCII (`check_host`).

    Raises:
        ResolveError: `permanent` if the name does not exist or has no address.
        SmtpTimeoutError: the deadline passed first; `stage` is `resolve`.
    """
    numeric = _numeric(host, port)
    if numeric is not None:
        return (numeric,)
    look_up = _look_up(host, resolver or system_resolver, deadline)
    if look_up.error is not None:
        raise _failure(host, look_up.error) from look_up.error
    unique = dict.fromkeys((family, (sockaddr[0], port, *sockaddr[2:])) for family, sockaddr in look_up.found)
    if not unique:
        raise ResolveError(f"{host!r} has no addresses", permanent=True)
    return tuple(SocketAddress(family, sockaddr, host) for family, sockaddr in unique)


def _failure(host: str, error: Exception) -> ResolveError:
    if isinstance(error, UnicodeError):  # of the idna codec: a label too long, or an empty one
        return ResolveError(f"{host!r} is not a host name", permanent=True)
    permanent = isinstance(error, socket.gaierror) and error.errno in _PERMANENT
    reason = getattr(error, "strerror", None) or error
    return ResolveError(f"cannot resolve {host!r}: {reason}", permanent=permanent)


def _numeric(host: str, port: int) -> SocketAddress | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return SocketAddress(int(socket.AF_INET), (host, port), host)
    scope = ip.scope_id or "0"
    try:
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError as error:
        raise ResolveError(f"no such interface: {host!r}", permanent=True) from error
    return SocketAddress(int(socket.AF_INET6), (host.partition("%")[0], port, 0, index), host)


def system_resolver(host: str) -> list[tuple[int, Any]]:
    """`socket.getaddrinfo`, as the system is configured."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [(int(family), sockaddr) for family, _, _, _, sockaddr in found if int(family) in _INTERNET]


class _LookUp:
    """One look-up under way: what came of it is set before `done` is."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.found: tuple[tuple[int, Any], ...] = ()
        self.error: Exception | None = None

    def run(self, key: tuple[str, Resolver]) -> None:
        host, resolver = key
        error: Exception | None = None
        try:
            self.found = tuple(resolver(host))
        except Exception as failure:
            error = failure
        finally:
            self.end(key, error)

    def end(self, key: tuple[str, Resolver], error: Exception | None) -> None:
        with _lock:
            if _under_way.get(key) is self:
                del _under_way[key]
        self.error = error
        self.done.set()


_lock = threading.Lock()
_under_way: dict[tuple[str, Resolver], _LookUp] = {}


def _look_up(host: str, resolver: Resolver, deadline: Deadline) -> _LookUp:
    key = (host.lower(), resolver)
    with _lock:
        look_up = _under_way.get(key)
        fresh = look_up is None
        if look_up is None:
            look_up = _under_way[key] = _LookUp()
    if fresh:
        _start(look_up, key)
    rest = deadline.remaining()
    if not look_up.done.wait(None if rest is None else min(rest, threading.TIMEOUT_MAX)):
        raise SmtpTimeoutError(f"resolving {host!r} timed out", stage="resolve")
    return look_up


def _start(look_up: _LookUp, key: tuple[str, Resolver]) -> None:
    thread = threading.Thread(target=look_up.run, args=(key,), name=f"smtpconn resolving {key[0]}", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no threads here (WASI), none left, or the interpreter is about to end
        look_up.run(key)
    except BaseException:  # a signal's: whoever waits with us must not wait for a thread that never was
        look_up.end(key, InterruptedError("the look-up was interrupted"))
        raise


def _forget_look_ups() -> None:
    """In a forked child: the threads of the parent's look-ups do not exist here, nor does whoever held the lock."""
    global _lock
    _lock = threading.Lock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_look_ups)
