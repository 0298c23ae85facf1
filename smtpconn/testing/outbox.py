"""Mails without a socket: a server in memory that takes what it is sent.

It knows the dialogue of a server with nothing to refuse but the recipients it was told to. It refuses to know sockets,
threads, time and faults (`LoopbackServer` has those), and the client library, whose transports have this shape.

Laws: every command is answered the moment it is written, so nothing ever waits; a mail is kept before it is answered.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Any, overload

from .captured import CapturedMail, SessionRecord
from .content import unstuff
from .envelope import EnvelopeError, Parameters, parse_forward_path, parse_reverse_path
from .options import DEFAULT_EXTENSIONS

__all__ = ["MemoryTransport", "Outbox"]


class Outbox(Sequence[CapturedMail]):
    """The mails that were sent, oldest first; a sequence of `CapturedMail`.

    Example::

        outbox = Outbox()
        connection = SmtpConnection.from_transport(outbox.transport(), tls_mode=TlsMode.NONE, timeout=10)
        ...
        assert outbox[0].recipients == ["somebody@example.com"]

    Attributes:
        pool: with the fixture `smtpconn_outbox`, a `ConnectionPool` whose connections end here; else None.
        offered: the extensions that are advertised.
    """

    def __init__(self, *, extensions: Sequence[str] = DEFAULT_EXTENSIONS) -> None:
        self.pool: Any = None
        self.offered = tuple(extensions)
        self._lock = threading.Lock()
        self._mails: list[CapturedMail] = []
        self._refused: dict[str, str] = {}
        self._sessions = 0

    def transport(self) -> MemoryTransport:
        """Return a connection to this outbox."""
        with self._lock:
            self._sessions += 1
            return MemoryTransport(self, self._sessions)

    def refuse(self, address: str, reply: str) -> None:
        """Refuse a recipient with this whole reply, from now on; the address is compared without case."""
        self._refused[address.casefold()] = reply

    def clear(self) -> None:
        """Forget the mails; what is refused stays so."""
        with self._lock:
            self._mails.clear()

    def refusal(self, recipient: str) -> str | None:
        """Return the reply that refuses this recipient, or None."""
        return self._refused.get(recipient.casefold())

    def keep(self, mail: CapturedMail) -> None:
        """Keep one mail."""
        with self._lock:
            self._mails.append(mail)

    @overload
    def __getitem__(self, index: int) -> CapturedMail: ...
    @overload
    def __getitem__(self, index: slice) -> list[CapturedMail]: ...
    def __getitem__(self, index: int | slice) -> CapturedMail | list[CapturedMail]:
        with self._lock:
            return self._mails[index]

    def __len__(self) -> int:
        with self._lock:
            return len(self._mails)

    def __repr__(self) -> str:
        return f"<Outbox: {len(self)} mails>"


class MemoryTransport:
    """A `Transport` to an `Outbox`; made by `Outbox.transport`. There is no TLS in memory, but it counts as secure."""

    secure = True
    tls: Any = None
    peer = "an outbox in memory"

    _params: Parameters
    _recipients: list[str]
    _rcpt_params: list[Parameters]

    def __init__(self, outbox: Outbox, index: int) -> None:
        self._outbox = outbox
        self._record = SessionRecord(index, self.peer)
        self._input = b""
        self._output = b"220 outbox.test\r\n"
        self._read: Callable[[], bool] = self._line
        self._closed = False
        self._chunk = (0, False)
        self._forget()

    # -- the protocol of transports

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        """Take all octets and answer what is complete."""
        self._check_open()
        self._input += bytes(octets)
        while self._read():
            pass
        return len(octets)

    def recv(self, limit: int, timeout: float | None) -> bytes:
        """Return what was answered; b"" behind QUIT. Raises `TimeoutError` where nothing is owed."""
        self._check_open()
        if not self._output and self._record.closed_by is None:
            raise TimeoutError("the outbox has nothing to say")
        octets, self._output = self._output[:limit], self._output[limit:]
        return octets

    def start_tls(self, config: Any, timeout: float | None) -> MemoryTransport:
        """There is no TLS in memory: raises `OSError`."""
        raise OSError(errno.EOPNOTSUPP, "an outbox has no TLS")

    def readable(self) -> bool:
        """Tell whether something was answered and not read."""
        self._check_open()
        return bool(self._output) or self._record.closed_by is not None

    def close(self) -> None:
        """Close; may be called twice."""
        self._closed = True
        self._record.closed_by = self._record.closed_by or "client"

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "this transport is closed")

    # -- what arrives: each tells whether it took something

    def _line(self) -> bool:
        line, end, rest = self._input.partition(b"\r\n")
        if not end:
            return False
        self._input = rest
        verb, _, argument = line.decode("utf-8", "replace").partition(" ")
        self._record.commands.append(verb.upper())
        self._record.lines.append(line.decode("utf-8", "replace"))
        try:
            self._obey(verb.upper(), argument)
        except EnvelopeError as error:
            self._say(error.reply)
        return True

    def _content(self) -> bool:
        content, end, rest = (b"\r\n" + self._input).partition(b"\r\n.\r\n")
        if not end:
            return False
        self._input, self._read = rest, self._line
        self._settle(unstuff(content + b"\r\n")[0], "DATA")
        return True

    def _octets(self) -> bool:
        count, last = self._chunk
        if len(self._input) < count:
            return False
        self._chunks += self._input[:count]
        self._input, self._read = self._input[count:], self._line
        if not self._recipients:
            self._say("503 5.5.1 No recipient")
        elif last:
            self._settle(self._chunks, "BDAT")
        else:
            self._say("250 2.0.0 Go on")
        return True

    # -- what is done about it

    def _obey(self, verb: str, argument: str) -> None:
        if verb in ("EHLO", "LHLO"):
            self._record.ehlo_domain = argument
            lines = ["outbox.test", *self._outbox.offered]
            self._say("\r\n".join(f"250{' ' if line is lines[-1] else '-'}{line}" for line in lines))
        elif verb == "MAIL":
            self._forget()
            self._sender, self._params = parse_reverse_path(argument, self._outbox.offered)
            self._record.transactions += 1
            self._say("250 2.1.0 Ok")
        elif verb == "RCPT":
            self._rcpt(argument)
        elif verb == "DATA":
            self._say("354 Go on" if self._recipients else "503 5.5.1 No recipient")
            self._read = self._content if self._recipients else self._line
        elif verb == "BDAT":
            size, _, last = argument.partition(" ")
            self._chunk = (int(size), last.upper() == "LAST")
            self._read = self._octets
        elif verb == "QUIT":
            self._record.closed_by = "QUIT"
            self._say("221 2.0.0 Bye")
        else:
            if verb == "RSET":
                self._forget()
            self._say("250 2.0.0 Ok" if verb in ("RSET", "NOOP") else "502 5.5.1 Not here")

    def _rcpt(self, argument: str) -> None:
        recipient, params = parse_forward_path(argument, self._outbox.offered, smtputf8="SMTPUTF8" in self._params)
        refusal = self._outbox.refusal(recipient)
        if refusal is None:
            self._recipients.append(recipient)
            self._rcpt_params.append(params)
        self._say(refusal or "250 2.1.5 Ok")

    def _settle(self, content: bytes, verb: str) -> None:
        queue_id = f"{self._record.index:05}-{self._record.transactions:05}"
        reply = f"250 2.0.0 Ok: queued as {queue_id}"
        self._outbox.keep(
            CapturedMail(
                sender=self._sender,
                recipients=self._recipients,
                mail_params=self._params,
                rcpt_params=self._rcpt_params,
                content=content,
                verb=verb,
                session=self._record,
                queue_id=queue_id,
                decisions=[(recipient, reply) for recipient in self._recipients],
            )
        )
        self._forget()
        self._say(reply)

    def _forget(self) -> None:
        self._sender = ""
        self._params = {}
        self._recipients = []
        self._rcpt_params = []
        self._chunks = b""

    def _say(self, reply: str) -> None:
        self._output += reply.encode() + b"\r\n"
