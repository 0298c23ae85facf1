"""Octets out, octets in: the `Transport` protocol, and sockets (TCP, Unix) with and without TLS behind it.

Knows system calls, readiness and the TLS record layer's manners; refuses to know SMTP, deadlines and retries. Its
laws: a socket is non-blocking for ever and waiting is done by poll; a timeout is for the one call; TimeoutError means
that this timeout passed (what the kernel calls ETIMEDOUT is a lost connection); an octet counts as sent once the
kernel, or the TLS object, took it; `b""` is the end of the stream and nothing else; closing writes nothing; after it
nothing is read or written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from smtpconn import connecting, dane
from smtpconn.protocol.errors import InvalidInputError, TlsError, UsageError
from smtpconn.readiness import READ, WRITE, Readable, as_loss, moment, retry, wait, wanted_by
from smtpconn.tls import HAVE_SSL, TlsConfig, TlsInfo
from smtpconn.tls_context import context_and_sessions, handshake_error, name_to_verify
from smtpconn.tls_sessions import Resumption

if TYPE_CHECKING:
    from smtpconn.resolve import SocketAddress

if HAVE_SSL:
    import ssl

_REPLACED = "replaced by its TLS transport"

_RECORD = 16_384  # octets of one TLS record: what one call hands over is taken whole or not at all
_LONGEST_SHUTDOWN = 0.1  # seconds that a system call which waits for nothing may take
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # programs restore SIGPIPE: a lost peer must not end them


class Transport(Protocol):
    """A reliable stream of octets in both directions; a caller may write his own. Used by one thread at a time.

    Optional attributes: `local_address` (the IP address to name in EHLO, or None), `peer` (text for messages),
    `abort()` (from another thread: wake a blocked `recv`, which then ends as a lost connection), `close_notify()`
    (F116), `forgo_resumption()` (a login is bound to the certificate, which must be the one of a full handshake).
    """

    @property
    def secure(self) -> bool:
        """True if what lies below is TLS or as good: credentials may pass in clear (F5)."""

    @property
    def tls(self) -> TlsInfo | None:
        """What the TLS handshake agreed on, or None."""

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        """Hand over what can be taken within `timeout` seconds (None: no limit); how many octets that were, at least 1.

        Raises:
            TimeoutError: not an octet was taken in time.
            OSError: the connection is lost.
        """

    def recv(self, limit: int, timeout: float | None) -> bytes:
        """1 to `limit` octets, or `b""` at the end of the stream.

        Raises:
            TimeoutError: nothing came in time.
            OSError: the connection is lost.
        """

    def start_tls(self, config: TlsConfig, timeout: float | None) -> Transport:
        """Do the handshake and give a new transport; this one is dead, whatever the outcome.

        Raises:
            TlsError: no TLS came about; `CertificateError` where a certificate is the reason.
            SmtpTimeoutError: the handshake took too long; `stage` is `tls`.
            UsageError: TLS is there already.
        """

    def readable(self) -> bool:
        """True if octets, the end of the stream, or an error are there; waits for nothing."""

    def close(self) -> None:
        """Release everything, for good. Silent, idempotent, writes nothing."""


class _Base:
    """What plain and TLS sockets share: the descriptor and its end."""

    def __init__(self, sock: socket.socket, peer: str, host: str | None) -> None:
        self._sock = sock
        self._host = host
        self._gone: str | None = None  # why no call is possible any more
        # `close` and `abort` may meet: without the lock, shutdown could hit a descriptor that another thread was just
        # given.
        self._ending = threading.RLock()
        self.peer = peer
        self.local_address = connecting.local_address(sock)

    def _fd(self) -> int:
        self._check_open()
        return self._sock.fileno()

    def _check_open(self) -> None:
        if self._gone is not None:
            raise OSError(errno.EBADF, f"the transport is {self._gone}")

    def close(self) -> None:
        """Release the socket, for good. Silent, idempotent, writes nothing: no close_notify, no shutdown."""
        self._gone = self._gone or "closed"
        with self._alone(), contextlib.suppress(OSError):
            self._sock.close()

    def abort(self) -> None:
        """From any thread: end the stream, so that a blocked `recv` or `send` wakes. The owner still closes."""
        with self._alone(), contextlib.suppress(OSError):
            # Not the method of SSLSocket: it drops the TLS object, and a later write would go out in clear (CL4).
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Bounded, because a forked child may inherit the lock held by a thread that it does not have.
        held = self._ending.acquire(timeout=_LONGEST_SHUTDOWN)
        try:
            yield
        finally:
            if held:
                self._ending.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.peer}{', ' + self._gone if self._gone else ''}>"


class SocketTransport(_Base):
    """A connected TCP or Unix stream socket, owned by this object."""

    secure = False
    tls: TlsInfo | None = None

    @classmethod
    def connect(
        cls, address: SocketAddress, *, timeout: float | None, source_address: tuple[str, int] | None = None
    ) -> SocketTransport:
        """Connect to one address. `source_address`: local IP address ("" for any) and port (or 0) to bind to; TCP only.

        Raises:
            TimeoutError: `timeout` seconds have passed.
            OSError: as the system says, for example ConnectionRefusedError.
        """
        at = moment(timeout)
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if source_address is not None and address.host is not None:
                sock.bind(source_address)
            connecting.connect(sock, address, at)
            return cls(sock, str(address), address.host)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError) and as_loss(error) is not error:
                raise as_loss(error) from None
            raise

    @classmethod
    def over(cls, sock: socket.socket, *, host: str | None = None) -> SocketTransport:
        """Take over a connected stream socket (`dial=`). `host`: the name for TLS, if its configuration names none.

        Raises:
            TypeError: not a `socket.socket`.
            InvalidInputError: it speaks TLS already, or is no connected stream socket. It is not closed then.
        """
        if not isinstance(sock, socket.socket):
            raise TypeError(f"a connected socket.socket is needed, not {type(sock).__name__}")
        if HAVE_SSL and isinstance(sock, ssl.SSLSocket):
            raise InvalidInputError("the socket speaks TLS already: give the plain one, or a Transport of your own")
        if sock.type != socket.SOCK_STREAM:
            raise InvalidInputError("the socket is not a stream socket")
        try:
            sock.setblocking(False)
            name = sock.getpeername()
        except OSError as error:
            raise InvalidInputError(f"the socket is not connected: {error.strerror}") from error
        return cls(sock, connecting.shown_peer(name, host), host)

    def __init__(self, sock: socket.socket, peer: str, host: str | None = None) -> None:
        super().__init__(sock, peer, host)
        self._readable = Readable(sock.fileno())
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # a tunnel's socket may refuse; it costs time only
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _check_open(self) -> None:
        if self._gone == _REPLACED:
            raise UsageError(f"the transport is {self._gone}")
        super()._check_open()

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        """See `Transport.send`."""
        if self._gone is not None:
            self._check_open()
        if not octets:
            return 0
        try:
            return self._sock.send(octets, _NO_SIGNAL)  # there is nearly always room
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise as_loss(error) from None
        try:
            return retry(lambda: self._sock.send(octets, _NO_SIGNAL), self._fd, WRITE, moment(timeout))
        except OSError as error:
            raise as_loss(error) from None

    def recv(self, limit: int, timeout: float | None) -> bytes:
        """See `Transport.recv`."""
        if self._gone is not None:
            self._check_open()
        at = moment(timeout)
        try:
            if not self._readable.within(timeout):  # first: a reply is rarely there already
                wait(self._fd(), READ, at)
            return self._sock.recv(limit)
        except (BlockingIOError, InterruptedError):
            pass  # a false alarm
        except OSError as error:
            raise as_loss(error) from None
        try:
            return retry(lambda: self._sock.recv(limit), self._fd, READ, at)
        except OSError as error:
            raise as_loss(error) from None

    def readable(self) -> bool:
        """See `Transport.readable`. A closed transport is: its error is there."""
        if self._gone is not None:
            if self._gone == "closed":
                return True
            self._check_open()
        return bool(self._readable.look(0))

    def start_tls(self, config: TlsConfig, timeout: float | None) -> TlsTransport:
        """See `Transport.start_tls`. After a failure the socket is closed."""
        at = moment(timeout)
        self._check_open()
        wrapped: ssl.SSLSocket | None = None
        resumption: Resumption | None = None
        try:
            server_name = name_to_verify(config, self._host)
            context, sessions = context_and_sessions(config)
            wrapped = _wrap(context, self._sock, server_name, self.peer)
            self._gone = _REPLACED
            if sessions is not None:
                resumption = sessions.begin(wrapped, (server_name, self.peer))
            retry(wrapped.do_handshake, wrapped.fileno, READ, at)
            verified_by = "PKIX"
            if config.tlsa is not None:
                verified_by = dane.verify(dane.chain_of(wrapped), config.tlsa, self.peer)
            return TlsTransport(wrapped, self.peer, server_name, verified_by, resumption)
        except BaseException as error:
            if wrapped is None:
                self.close()
                raise
            wrapped.close()
            if isinstance(error, OSError):
                if resumption is not None:
                    resumption.failed()
                raise handshake_error(error, config, server_name, self.peer) from error
            raise


def _wrap(context: ssl.SSLContext, sock: socket.socket, server_name: str, peer: str) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(
            sock, server_hostname=server_name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except OSError as error:  # the peer has gone already
        raise TlsError(f"TLS handshake with {peer} failed: {error.strerror}") from error


class TlsTransport(_Base):
    """A socket after its TLS handshake; made by `SocketTransport.start_tls`."""

    secure = True

    def __init__(
        self,
        sock: ssl.SSLSocket,
        peer: str,
        server_name: str,
        verified_by: str = "PKIX",
        resumption: Resumption | None = None,
    ) -> None:
        super().__init__(sock, peer, server_name)
        self._pending = sock.pending
        self._readable = Readable(sock.fileno())
        # Read by `readable`, for the next `recv`; b"" is the end of the stream, and stays: the socket may be silent.
        self._held: bytes | None = None
        self._failed: OSError | None = None  # what every later `recv` raises
        self._record_stuck = False  # a record is half written: OpenSSL would flush it with the next write
        self._resumption = resumption
        # The same until its ticket was kept.
        self._ticketless = resumption if resumption is not None and resumption.agreed(sock) else None
        cipher = sock.cipher()
        self.tls: TlsInfo | None = TlsInfo(
            version=sock.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=server_name,
            peer_certificate=sock.getpeercert(binary_form=True) or b"",
            verified_by=verified_by,
            resumed=resumption is not None and resumption.resumed,
        )

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        """See `Transport.send`. After a failure nothing more can be sent: half a record may be under way."""
        self._check_open()
        if self._record_stuck:
            raise OSError(errno.EPIPE, "an earlier write failed")
        if not octets:
            return 0
        record = octets if len(octets) <= _RECORD else memoryview(octets)[:_RECORD]
        self._record_stuck = True
        # The same buffer at every attempt: OpenSSL may hold a part of it encrypted already.
        try:
            try:
                taken = self._sock.send(record)  # there is nearly always room
            except OSError as error:
                if not wanted_by(error, WRITE):
                    raise
                taken = retry(lambda: self._sock.send(record), self._fd, WRITE, moment(timeout))
        except OSError as error:
            raise as_loss(error) from None
        self._record_stuck = False
        return taken

    def recv(self, limit: int, timeout: float | None) -> bytes:
        """See `Transport.recv`. An end without close_notify is an end too: a cut reply lacks its CRLF."""
        self._check_open()
        if self._failed is not None:
            raise self._failed
        held = self._held
        if held is not None:
            self._held = held[limit:] or (None if held else held)
            return held[:limit]
        at = moment(timeout)
        if self._ticketless is not None and self._ticketless.heard:  # a command is out: the server is busy with it
            self._ticketless.keep(cast("ssl.SSLSocket", self._sock))
            self._ticketless = None
        try:
            if self._is_silent(timeout):  # first: a reply is rarely there already
                wait(self._fd(), READ, at)
            octets = retry(lambda: self._read(limit), self._fd, READ, at)
        except OSError as error:
            lost = as_loss(error)
            if not isinstance(lost, TimeoutError):
                self._failed = lost
            raise lost from None
        if not octets:
            self._held = octets
        return octets

    def _is_silent(self, timeout: float | None) -> bool:
        """True if not an octet came within that time, of data or of anything else: OpenSSL reads no record ahead."""
        return not self._pending() and not self._readable.within(timeout)

    def _read(self, limit: int) -> bytes:
        try:
            octets = self._sock.recv(limit)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLEOFError:
            if _is_reset(self._sock):  # before 3.12 Python gives it the name of an end
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None
            return b""
        if octets and self._ticketless is not None:
            self._ticketless.heard = True
        return octets

    def readable(self) -> bool:
        """See `Transport.readable`. Decrypts what is there: a ticket or a key update is not data (EN5)."""
        if self._gone is not None or self._failed is not None or self._held is not None:
            return True
        if not self._pending() and not self._readable.look(0):
            return False
        try:
            self._held = self._read(_RECORD)
        except OSError as error:
            if wanted_by(error, READ):
                return False
            self._failed = as_loss(error)
        return True

    def start_tls(self, config: TlsConfig, timeout: float | None) -> Transport:
        """Raises UsageError: TLS is there already."""
        raise UsageError("TLS is active already")

    def close(self) -> None:
        """See `Transport.close`."""
        if self._ticketless is not None:
            self._ticketless.failed()
        super().close()

    def forgo_resumption(self) -> None:
        """See `Transport`: for an hour no session with this server is resumed, nor is this one."""
        if self._resumption is not None:
            self._resumption.forgo()

    def close_notify(self) -> None:
        """Tell the peer that this side is done (RFC 8446 section 6.1), without waiting; then only `close` is possible.

        For sessions that are in step: it writes nothing if a write failed before. Silent.
        """
        if self._gone is not None:
            return
        self._gone = "ended"  # `unwrap` may drop the TLS object: a later write would go out in clear
        if not self._record_stuck:
            with contextlib.suppress(OSError, ValueError):
                cast("ssl.SSLSocket", self._sock).unwrap()


# --- system calls ---


def _is_reset(sock: socket.socket) -> bool:
    """True if the connection is no more: after a FIN of the peer there is one, with one direction left."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False
