"""A loopback SMTP or LMTP server for tests: strict, quick, and able to fail on demand.

It knows listening, threads and what a test asks of the server as an object. It refuses to know the dialogue (`session`)
and anything of the client library.

Laws: it listens on loopback or a Unix socket only; every thread and descriptor is gone when `stop` returns; what tests
read (`mails`, `sessions`, `ledger`) is complete the moment the client has its reply.
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from .captured import Books, CapturedMail, Ledger, SessionRecord
from .faults import Decision, Rule, make_fault_rule, make_reply_rule, reply_octets
from .identity import Identity
from .options import ServerOptions
from .session import Session, Site
from .wire import Wire, reset_on_close

__all__ = ["LoopbackServer"]

_JOIN = 10.0  # seconds in which a session must notice that its socket was shut down


class LoopbackServer(ServerOptions):
    """A running server, as a context manager or by `start` and `stop`.

    The keywords are the attributes of `ServerOptions`. Example::

        with LoopbackServer(auth={"user": "secret"}) as server:
            server.refuse("nobody@example.com", "550 5.1.1 No such user")
            ...  # send through server.host, server.port
            assert server.mails[0].recipients == ["somebody@example.com"]
    """

    def __post_init__(self) -> None:
        """Check the options; nothing listens before `start`."""
        super().__post_init__()
        self._books = Books(self.keep)
        self._identity = Identity(self)
        self._site = Site(self, self._books, self._identity.context, self._identity.certificate)
        self._lock = threading.Lock()
        self._live: dict[threading.Thread, Wire] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._directory: str | None = None

    # -- life

    def start(self) -> LoopbackServer:
        """Listen and serve; returns itself."""
        if self._listener is not None:
            raise RuntimeError("the server is running")
        if self.tls:
            self._identity.context()  # certificates are made before the first client waits for one
        self._site.stopping.clear()
        self._listener = self._listen()
        self._waker, wake = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener, wake), name=f"{self.protocol}-accept", daemon=True
        )
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Drop every connection and stop listening; may be called twice. What was captured stays."""
        self._halt(reset=False)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def restart(self, *, reset: bool = False) -> None:
        """Drop every connection (by RST if asked) and listen again on the same port; rules and captured mails stay."""
        self._halt(reset=reset)
        self.start()

    def __enter__(self) -> LoopbackServer:
        return self.start() if self._listener is None else self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = self.unix_socket or f"{self.host}:{self.port}"
        state = "running" if self._listener is not None else "stopped"
        return f"<LoopbackServer {self.protocol} {where} {state}, {self.received} mails>"

    # -- where it is

    @property
    def url(self) -> str:
        """URL for `ConnectionPool.from_url`, with user, password and `trust=` where they apply.

        Raises `ValueError` for SMTP on a Unix socket, which has no URL.
        """
        if isinstance(self.unix_socket, str):
            if self.protocol != "lmtp":
                raise ValueError("there is no URL for SMTP on a Unix socket")
            return f"lmtp+unix://{quote(self.unix_socket)}"
        query: list[str] = []
        if self.protocol == "lmtp":
            scheme = "lmtp"
            query += [f"tls={self.tls}"] if self.tls else []
        else:
            scheme = {None: "smtp", "implicit": "smtps", "starttls": "submission"}[self.tls]
        user = ""
        if self.auth:
            name, secret = next(iter(self.auth.items()))
            user = f"{quote(name, safe='')}:{quote(secret, safe='')}@"
            query += [] if self.tls else ["allow_plaintext_auth=true"]
        if self.tls and self.ca is not None:
            query.append(f"trust={quote(str(self.ca.path))}")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}" + ("?" + "&".join(query) if query else "")

    @property
    def django_options(self) -> dict[str, Any]:
        """OPTIONS of Django's MAILERS for `smtpconn.contrib.django.EmailBackend`."""
        options: dict[str, Any] = {"timeout": 10}
        if isinstance(self.unix_socket, str):
            options["unix_socket"] = self.unix_socket
        else:
            options |= {"host": self.host, "port": self.port}
        if self.protocol == "lmtp":
            options["protocol"] = "lmtp"
        if self.tls:
            options["use_ssl" if self.tls == "implicit" else "use_tls"] = True
            options["trust"] = str(self.ca.path) if self.ca else "system"
        if self.auth:
            options["username"], options["password"] = next(iter(self.auth.items()))
            if not self.tls:
                options["allow_plaintext_auth"] = True
        return options

    # -- what it saw

    @property
    def mails(self) -> list[CapturedMail]:
        """Messages it took responsibility for, oldest first; a copy."""
        with self._books.changed:
            return list(self._books.mails)

    @property
    def sessions(self) -> list[SessionRecord]:
        """Connections, oldest first; a copy of the list, the records are live."""
        with self._books.changed:
            return list(self._books.sessions)

    @property
    def violations(self) -> list[str]:
        """Violations of all sessions."""
        return [sentence for session in self.sessions for sentence in session.violations]

    @property
    def ledger(self) -> Ledger:
        """What it took responsibility for, by message id."""
        return self._books.ledger

    @property
    def received(self) -> int:
        """Number of mails since the last `clear`, kept or not."""
        return self._books.received

    @property
    def connections_now(self) -> int:
        """Open connections."""
        return self._books.connections_now

    @property
    def connections_peak(self) -> int:
        """The most connections that were ever open at once."""
        return self._books.connections_peak

    @property
    def connections_total(self) -> int:
        """Connections accepted since the start."""
        return self._books.connections_total

    def wait_for(self, n: int, timeout: float) -> list[CapturedMail]:
        """Wait until `n` mails have come since the last `clear`; raises `TimeoutError` after `timeout` seconds."""
        return self._books.wait_for(n, timeout)

    def wait_for_connections(self, n: int, timeout: float) -> None:
        """Wait until exactly `n` connections are open; raises `TimeoutError` after `timeout` seconds."""
        with self._books.changed:
            if not self._books.changed.wait_for(lambda: self._books.connections_now == n, timeout):
                raise TimeoutError(f"{self._books.connections_now} connections are open, not {n}, after {timeout} s")

    def clear(self) -> None:
        """Forget mails, closed sessions and the ledger; rules stay (`clear_rules`)."""
        self._books.clear()

    # -- what it shall do

    def refuse(self, address: str, reply: str, *, when: str = "RCPT") -> None:
        """Refuse a recipient with this reply, from now on.

        Args:
            address: the forward-path without brackets, compared without case; `"<address>"` means a sender, at MAIL.
            reply: the whole reply, `"550 5.1.1 No such user"`.
            when: "RCPT", or "data" for the final reply: in LMTP this recipient's, in SMTP the message's.
        """
        if when not in ("RCPT", "data"):
            raise ValueError(f"when is 'RCPT' or 'data', not {when!r}")
        book = self._site.refused if when == "RCPT" else self._site.refused_finally
        book[address.casefold()] = Decision(reply_octets(reply))

    def reply(
        self,
        stage: str,
        text: str | bytes,
        nth: int | Collection[int] | None = None,
        recipient: str | None = None,
        *,
        close: bool | None = None,
    ) -> Rule:
        """Send this instead of the reply at `stage`.

        Args:
            stage: see `faults.STAGES`; `"AUTH PLAIN"` limits to a mechanism; the LAST chunk is `"end of data"`.
            text: lines of a reply, or octets that are sent as they are.
            nth: which replies of this stage, counted from now over all connections, from 1; None: all.
            recipient: only for this recipient (RCPT, and end of data in LMTP).
            close: close the connection behind it; by default for a 421.
        """
        return self._site.rules.add(make_reply_rule(stage, text, nth, recipient, close))

    def fault(
        self,
        stage: str,
        kind: str,
        nth: int | Collection[int] | None = None,
        recipient: str | None = None,
        *,
        after: int = 0,
    ) -> Rule:
        """Fail at `stage`.

        Args:
            stage: as in `reply`, and `"connect"`, `"tls"`, `"body"`.
            kind: a fault of the specification (faults 2): RST, EOF, EOF-ragged (no close_notify), silence, drip, 421,
                4yz, 5yz, wrong-class, malformed, oversize, surplus, cut-reply, cut-reply-RST. At the end of data all
                but 421, 4yz and 5yz come after the booking; with `-unbooked` behind the name before it.
            nth: as in `reply`.
            recipient: as in `reply`.
            after: at `"body"`: once more than so many octets of the content came.
        """
        return self._site.rules.add(make_fault_rule(stage, kind, nth, recipient, after))

    def clear_rules(self) -> None:
        """Forget everything that `refuse`, `reply` and `fault` asked for."""
        self._site.rules.clear()
        self._site.refused.clear()
        self._site.refused_finally.clear()

    def close_idle(self, reply: str | bytes | None = None) -> int:
        """Close every connection that waits for a command outside a transaction, with this last word if any.

        Returns how many. Their clients can read the end of the stream as soon as this returns.
        """
        octets = reply_octets(reply) if reply else b""
        with self._lock:
            wires = list(self._live.values())
        return sum(wire.dismiss(octets) for wire in wires)

    # -- inside

    def _listen(self) -> socket.socket:
        if self.unix_socket:
            if self.unix_socket is True:
                self._directory = tempfile.mkdtemp(prefix="smtpconn-")
                self.unix_socket = str(Path(self._directory) / "socket")
            with contextlib.suppress(FileNotFoundError):
                Path(self.unix_socket).unlink()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address: Any = self.unix_socket
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            address = (self.host, self.port)
        try:
            if self.socket_buffer:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.socket_buffer)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.socket_buffer)
            listener.bind(address)
            listener.listen(512)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        if not self.unix_socket:
            self.port = listener.getsockname()[1]
        return listener

    def _accept(self, listener: socket.socket, wake: socket.socket) -> None:
        with wake, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while all(key.fileobj is listener for key, _ in selector.select()):
                try:
                    sock, peer = listener.accept()
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError:
                    time.sleep(0.01)  # out of descriptors: the clients' ends will go first
                    continue
                self._admit(sock, peer)

    def _admit(self, sock: socket.socket, peer: object) -> None:
        sock.settimeout(self.idle_timeout)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:  # a session ends here and in the books at once, or it would count as one that is open
            record = self._books.open_session(peer, lambda: sum(wire.hung_up for wire in self._live.values()))
            wire = Wire(sock, record, self.delivery, self.rtt, self._site.stopping)
            thread = threading.Thread(
                target=self._serve, args=(wire, record), name=f"{self.protocol}-{record.index}", daemon=True
            )
            self._live[thread] = wire
        thread.start()

    def _serve(self, wire: Wire, record: SessionRecord) -> None:
        try:
            Session(self._site, wire, record).run()
        finally:
            with self._lock:
                self._live.pop(threading.current_thread(), None)
                self._books.close_session()

    def _halt(self, *, reset: bool) -> None:
        listener, acceptor, waker = self._listener, self._acceptor, self._waker
        if listener is None or acceptor is None or waker is None:
            return
        self._site.stopping.set()
        waker.close()
        acceptor.join(_JOIN)
        if reset:
            self._reset_backlog(listener)
        listener.close()
        if isinstance(self.unix_socket, str):
            Path(self.unix_socket).unlink(missing_ok=True)
        with self._lock:
            live = dict(self._live)
        for wire in live.values():
            wire.kill(reset=reset)
        for thread in live:
            thread.join(_JOIN)
            if thread.is_alive():
                raise RuntimeError(f"the session {thread.name} does not end")
        self._listener = self._acceptor = self._waker = None

    @staticmethod
    def _reset_backlog(listener: socket.socket) -> None:
        """Connections that nobody accepted yet are reset by hand; closing the listener does so only on some systems."""
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                reset_on_close(sock)
                sock.close()
