"""Connecting a socket that does not block: begin, wait, and learn what came of it; the names of its ends.

Knows connect() and its manners; refuses to know whose socket it is. TimeoutError means that the caller's time has
passed.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from smtpconn.readiness import WRITE, rest_until, wait

if TYPE_CHECKING:
    from smtpconn.resolve import SocketAddress

_BACKLOG_PAUSE = 0.01  # seconds between two tries to enter the full queue of a Unix socket's listener
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS)})


def connect(sock: socket.socket, address: SocketAddress, at: float | None) -> None:
    """Connect before that monotonic moment. Raises TimeoutError, or OSError as the system says."""
    code = sock.connect_ex(address.sockaddr)
    while code == errno.EAGAIN and address.host is None:  # Linux: the queue of the Unix socket's listener is full
        rest = rest_until(at)
        if rest is not None and rest <= 0.0:
            raise TimeoutError("timed out")
        time.sleep(_BACKLOG_PAUSE if rest is None else min(rest, _BACKLOG_PAUSE))
        code = sock.connect_ex(address.sockaddr)
    if code in _UNDER_WAY:
        wait(sock.fileno(), WRITE, at)
        code = 0
    finish(sock, address, code)


def begin(sock: socket.socket, address: SocketAddress) -> bool:
    """Begin to connect to an Internet address; True if that is done already. Raises OSError as the system says."""
    code = sock.connect_ex(address.sockaddr)
    if code in _UNDER_WAY:
        return False
    finish(sock, address, code)
    return True


def finish(sock: socket.socket, address: SocketAddress, code: int = 0) -> None:
    """Learn what came of it, once the socket is writable. Raises OSError as the system says."""
    code = code or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    if address.host is not None and sock.getsockname() == sock.getpeername():
        # Nobody listens, and the kernel picked the very port that was dialled: the "server" would be ourselves.
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def local_address(sock: socket.socket) -> str | None:
    """The IP address of our end, without a scope, or None."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        name = sock.getsockname()
    except OSError:
        return None
    return str(name[0]).partition("%")[0]


def shown_peer(name: Any, host: str | None) -> str:
    """The other end in words: `name` is what `getpeername` says, `host` what was dialled."""
    if not isinstance(name, tuple):  # a Unix socket: a path, octets of the abstract namespace, or nothing
        return host or (name if isinstance(name, str) and name else "Unix socket")
    ip = f"[{name[0]}]" if ":" in str(name[0]) else str(name[0])
    return f"{host} via {ip}:{name[1]}" if host else f"{ip}:{name[1]}"
