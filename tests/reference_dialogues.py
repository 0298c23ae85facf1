"""The reference dialogues of the fault list (faults 14): a server, what the client does there, a transport to spoil.

A `Dialogue` is played over a `Line`, which joins the client to a `ReferenceServer` in memory and can end it at any
octet of either direction, or fail any call of the client's. Nothing is judged here but what the server booked.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from smtpconn import (
    Delivery,
    ListAuditSink,
    Mail,
    Notify,
    Pipelining,
    PlainAuth,
    RcptParams,
    Recipient,
    ScramAuth,
    SmtpConnection,
    SmtpError,
    TlsConfig,
    TlsMode,
    XOAuth2Auth,
    attempt_of,
    chain,
)
from smtpconn.protocol import body
from smtpconn.protocol.audit import AuditEvent
from smtpconn.protocol.result import RecipientResult

from .reference_server import PASSWORD, ReferenceServer

TIMEOUT = 30.0
ADDRESSES = ("a@x.test", "b@x.test", "c@x.test")
GARBAGE = b"\x16\x03\x01 HTTP/1.1\r\n"
Ending = Literal["FIN", "RST", "stall", "garbage", "interrupt"]
ENDINGS: tuple[Ending, ...] = ("FIN", "RST", "stall", "garbage")
Spoilt = tuple[bytes | None, Ending | None]
Verdicts = tuple[RecipientResult, ...]


class Line:
    """A transport in memory. `cut`: how many octets of the server's arrive before `ending` happens.

    `late`: not before the server would say more, so that it has heard the rest of what the client writes. `takes`: how
    many of the client's octets are taken before writing ends in `ending`. `failing`: called before each call that can
    fail. `spoilt`: the number of a reply, the greeting is 0 -> what is said in its place, and how the line ends then,
    if it does.
    """

    def __init__(
        self,
        server: ReferenceServer,
        *,
        cut: int | None = None,
        ending: Ending = "FIN",
        late: bool = False,
        takes: int | None = None,
        failing: Callable[[str], None] | None = None,
        spoilt: Mapping[int, Spoilt] | None = None,
        secure: bool = False,
    ) -> None:
        self.server, self.cut, self.ending, self.late, self.takes = server, cut, ending, late, takes
        self.failing = failing or _nothing
        self.secure, self.tls = secure, None
        self.spoilt = spoilt or {}
        self.replies = 0
        self.said = 0
        self.taken = 0
        self.closed = False
        self.dead = False
        self.after_close = 0
        self.inbox = bytearray()
        self._say(server.greeting())

    def _say(self, octets: bytes) -> None:
        if not self.spoilt:
            self._pass_on(octets)
            return
        for reply in re.findall(rb"(?s)(?:[0-9]{3}-[^\n]*\n)*[0-9]{3} [^\n]*\n", octets):
            said, ending = self.spoilt.get(self.replies, (None, None))
            self.replies += 1
            self._pass_on(reply if said is None else said)
            if ending is not None and not self.dead:
                self.dead, self.ending = True, ending

    def inject(self, octets: bytes | None, ending: Ending | None) -> None:
        """Say something unasked, and perhaps end."""
        self.inbox += octets or b""
        if ending is not None:
            self.dead, self.ending = True, ending

    def _pass_on(self, octets: bytes) -> None:
        if self.dead:
            return
        if self.cut is not None and self.said + len(octets) >= self.cut + self.late:
            self.dead = True
            octets = octets[: self.cut - self.said]
            if self.ending == "garbage":
                octets += GARBAGE
        self.inbox += octets
        self.said += len(octets)

    def send(self, data: Any, timeout: float | None) -> int:
        """Take octets; the server hears them at once."""
        self._open("send")
        octets = bytes(data)
        if self.dead and self.ending == "RST":
            raise BrokenPipeError(errno.EPIPE, "gone")
        if self.takes is not None:
            octets = octets[: self.takes - self.taken]
            if not octets:
                if self.ending == "stall":
                    raise TimeoutError
                raise ConnectionResetError(errno.ECONNRESET, "gone")
        self.taken += len(octets)
        if not self.dead:
            self._say(self.server.hear(octets))
        return len(octets)

    def recv(self, size: int, timeout: float | None) -> bytes:
        """What has arrived, then how it ends."""
        self._open("recv")
        if self.inbox:
            octets = bytes(self.inbox[:size])
            del self.inbox[:size]
            return octets
        if self.dead and self.ending == "FIN":
            return b""
        if self.dead and self.ending == "RST":
            raise ConnectionResetError(errno.ECONNRESET, "gone")
        if self.dead and self.ending == "interrupt":
            raise KeyboardInterrupt
        raise TimeoutError

    def readable(self) -> bool:
        """Whether a read would not wait."""
        self._open("poll")
        return bool(self.inbox) or (self.dead and self.ending in ("FIN", "RST"))

    def start_tls(self, config: object, timeout: float | None) -> Line:
        """The same line, secured."""
        self._open("wrap")
        if self.dead:
            raise ConnectionResetError(errno.ECONNRESET, "gone in the handshake")
        self.server.secured()
        self.secure = True
        return self

    def close(self) -> None:
        """For ever."""
        self.closed = True

    def _open(self, call: str) -> None:
        if self.closed:
            self.after_close += 1
            raise OSError(errno.EBADF, "closed")
        self.failing(call)


class Trail(ListAuditSink):
    """An audit trail that can fail."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def on_event(self, event: AuditEvent) -> None:
        """Keep it, and then perhaps fail."""
        super().on_event(event)
        self.line.failing("audit")


class Lock:
    """A connection's lock, each use of which can fail."""

    def __init__(self, lock: Any, line: Line) -> None:
        self.lock, self.line = lock, line

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Fail, or take it."""
        self.line.failing("lock")
        return bool(self.lock.acquire(blocking, timeout))

    def release(self) -> None:
        """Give it back."""
        self.lock.release()


def _nothing(call: str) -> None:
    """Nothing fails."""


@dataclass
class Outcome:
    """A mail's name, and what the library said became of each of its recipients."""

    name: str
    recipients: Verdicts
    error: BaseException | None = None


@dataclass
class Played:
    """What came of a dialogue."""

    line: Line
    audit: Trail
    most_in_doubt: int = 1
    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    connection: SmtpConnection | None = None

    def verdicts(self) -> Iterator[tuple[str, str, Delivery]]:
        """Mail, address, verdict: one for each recipient given."""
        for outcome in self.outcomes:
            for entry in outcome.recipients:
                yield outcome.name, str(entry.address), entry.delivery

    def send(self, mails: Sequence[Mail], between: Callable[[int], None] | None = None) -> None:
        """Send the mails in one batch, keep their verdicts. What is no outcome of a mail passes on.

        `between` is called with the number of outcomes so far, once each is there.
        """
        assert self.connection is not None
        begun = len(self.outcomes)
        batch = self.connection.send_many(mails, timeout=TIMEOUT)
        try:
            for outcome in batch:
                if outcome.error is not None:
                    self.errors.append(outcome.error)
                self.outcomes.append(Outcome(str(outcome.mail.tag), outcome.recipients, outcome.error))
                if between is not None:
                    between(len(self.outcomes))
        except BaseException as error:
            verdict = attempt_of(error)
            if verdict is not None:
                told = list(verdict.recipients)  # of one mail, or of all those of a burst
                for cut_off in mails[len(self.outcomes) - begun :]:
                    own, told = told[: len(cut_off.recipients or ())], told[len(cut_off.recipients or ()) :]
                    if own:
                        self.outcomes.append(Outcome(str(cut_off.tag), tuple(own), error))
            raise
        finally:
            batch.close()


Make = Callable[[Line], Mail]


def mail(
    name: str, recipients: Sequence[str | Recipient] = ADDRESSES, *, chunking: bool = False, stream: bool = False
) -> Make:
    """A mail that its first line names; as a stream it comes in three pieces, each of which can fail."""

    def make(line: Line) -> Mail:
        message: Any = _pieces(text, line) if stream else text
        return Mail("s@client.test", recipients, message, chunking=chunking, tag=name)

    text = f"Message-ID: {name}\r\n\r\n.dot\r\ntext".encode()
    return make


def _pieces(text: bytes, line: Line) -> Iterator[bytes]:
    for piece in (text[:20], text[20:], b"\r\nend\r\n"):
        line.failing("body read")
        yield piece


@dataclass(frozen=True)
class Dialogue:
    """A server, how the client connects, and what it does."""

    name: str
    act: Callable[[Played], None]
    server: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    secure: bool = False
    chunk: int = body.CHUNK
    in_doubt: int = 1  # mails, at most

    def play(self, **spoilt: Any) -> Played:
        """Run it to its end, or to where the line ends it. Only what is no `Exception` passes on in `errors`."""
        line = Line(ReferenceServer(**self.server), secure=self.secure, **spoilt)
        played = Played(line, Trail(line), self.in_doubt)
        options: dict[str, Any] = {"tls_mode": TlsMode.NONE, **self.options}
        usual = body.CHUNK, chain.SLOW
        body.CHUNK, chain.SLOW = self.chunk, math.inf  # a machine that pauses must not cut a burst in two
        try:
            played.connection = SmtpConnection.from_transport(
                line, timeout=TIMEOUT, ehlo_domain="client.test", audit=played.audit, **options
            )
            played.connection._lock = Lock(played.connection._lock, line)  # type: ignore[assignment]  # to fail in it
            self.act(played)
            played.connection.quit(timeout=TIMEOUT)
        except BaseException as error:
            played.errors.append(error)
        finally:
            body.CHUNK, chain.SLOW = usual
        line.failing = _nothing
        if played.connection is not None:
            played.connection.close()
        return played


def _sends(*mails: Make) -> Callable[[Played], None]:
    def act(played: Played) -> None:
        for make in mails:
            played.send([make(played.line)])

    return act


def _batch(*mails: Make) -> Callable[[Played], None]:
    return lambda played: played.send([make(played.line) for make in mails])


def _asks(played: Played) -> None:
    connection = played.connection
    assert connection is not None
    connection.vrfy("alice", timeout=TIMEOUT)
    connection.expn("list", timeout=TIMEOUT)
    connection.help(timeout=TIMEOUT)
    connection.noop(timeout=TIMEOUT)
    connection.rehlo(timeout=TIMEOUT)


_ONE = ADDRESSES[:1]
_REFUSED = dict.fromkeys(ADDRESSES, "550 nobody")
_TWICE = ("a@x.test", "a@x.test", Recipient("a@x.test", params=RcptParams(notify=[Notify.NEVER])), "b@x.test")
_PREFETCH = {"pipelining": Pipelining.PREFETCH}
_BURST = {"pipelining": Pipelining.BURST}
_STARTTLS = {"tls_mode": TlsMode.STARTTLS, "tls_config": TlsConfig(server_name="reference.test")}

DIALOGUES = [
    Dialogue("RD1", _sends(mail("m1", _ONE)), {"offers": ("SIZE",)}),
    Dialogue("RD2", _sends(mail("m1"))),
    Dialogue("RD3", _sends(mail("m1")), {"refuse": {"b@x.test": "550 nobody"}}),
    Dialogue("RD4", _sends(mail("m1")), {"refuse": _REFUSED, "data_anyway": True}),
    Dialogue("RD5", _sends(mail("m1", chunking=True)), {"offers": ("PIPELINING", "CHUNKING")}),
    Dialogue(
        "RD6",
        _sends(mail("m1", chunking=True, stream=True)),
        {"offers": ("PIPELINING", "CHUNKING")},
        chunk=16,
    ),
    Dialogue(
        "RD7",
        _sends(mail("m1")),
        {"lmtp": True, "final": ("250 yes", "450 later", "550 no")},
        {"protocol": "lmtp"},
    ),
    Dialogue(
        "RD8",
        _sends(mail("m1", _TWICE, chunking=True)),
        {"lmtp": True, "offers": ("PIPELINING", "CHUNKING", "DSN")},
        {"protocol": "lmtp"},
    ),
    Dialogue(
        "RD9",
        _sends(mail("m1", _ONE)),
        {"offers": ("PIPELINING", "STARTTLS", "AUTH PLAIN")},
        {**_STARTTLS, "credentials": PlainAuth("user", PASSWORD)},
    ),
    Dialogue(
        "RD10",
        _sends(mail("m1", _ONE)),
        {"offers": ("PIPELINING", "AUTH SCRAM-SHA-256")},
        {"tls_mode": TlsMode.IMPLICIT, "credentials": ScramAuth("user", PASSWORD)},
        secure=True,
    ),
    Dialogue(
        "RD11",
        _sends(mail("m1", _ONE)),
        {"offers": ("AUTH XOAUTH2",)},
        {"tls_mode": TlsMode.IMPLICIT, "credentials": XOAuth2Auth("user", PASSWORD.replace(" ", "-"))},
        secure=True,
    ),
    Dialogue("RD12", _sends(mail("m1", _ONE)), {"hello": {"EHLO": "502 no"}}),
    Dialogue("RD13", _sends(mail("m1"), mail("m2")), {"final": ("451 later",)}),
    Dialogue("RD6-DATA", _sends(mail("m1", stream=True))),
    Dialogue("RD14-GROUPED", _batch(mail("m1"), mail("m2"), mail("m3"))),
    Dialogue("RD14", _batch(mail("m1"), mail("m2"), mail("m3")), options=_PREFETCH),
    Dialogue(
        "RD14-refused",
        _batch(mail("m1"), mail("m2", ["b@x.test"]), mail("m3"), mail("m4", stream=True), mail("m5")),
        {"refuse": {"b@x.test": "550 nobody"}, "data_anyway": True, "final": ("250 yes", "451 later")},
        _PREFETCH,
    ),
    Dialogue(
        "RD15",
        _batch(mail("m1", chunking=True), mail("m2", chunking=True), mail("m3", chunking=True)),
        {"lmtp": True, "offers": ("PIPELINING", "CHUNKING"), "final": ("250 yes", "450 later", "550 no")},
        {"protocol": "lmtp", **_PREFETCH},
    ),
    Dialogue(
        "RD15-BURST",
        _batch(mail("m1"), mail("m2"), mail("m3")),
        {"lmtp": True, "offers": ("PIPELINING", "CHUNKING"), "final": ("250 yes", "450 later", "550 no")},
        {"protocol": "lmtp", **_BURST},
        in_doubt=3,
    ),
    Dialogue(
        "RD14-BURST",
        _batch(mail("m1"), mail("m2", ["b@x.test"]), mail("m3"), mail("m4", stream=True), mail("m5")),
        {
            "refuse": {"b@x.test": "550 nobody"},
            "offers": ("PIPELINING", "CHUNKING"),
            "final": ("250 yes", "554 no", "451 later"),
        },
        _BURST,
        in_doubt=3,
    ),
    Dialogue("RD16", _asks),
]


def judge(played: Played) -> None:
    """G-T-1: what the library says agrees with what the server booked, and nothing outlives the dialogue."""
    line = played.line
    booked = line.server.booked
    for name, address, verdict in played.verdicts():
        if verdict is Delivery.DELIVERED:
            assert (name, address) in booked, f"{name} to {address} said DELIVERED, and the server has it not"
        if verdict is Delivery.NOT_DELIVERED:
            assert (name, address) not in booked, f"{name} to {address} said NOT_DELIVERED, and the server has it"
    told = {(name, address) for name, address, _ in played.verdicts()}
    assert booked <= told, f"nobody was told of {booked - told}"
    in_doubt = {name for name, _, verdict in played.verdicts() if verdict is Delivery.UNKNOWN}
    assert len(in_doubt) <= played.most_in_doubt, f"{in_doubt} in doubt"
    assert line.closed
    assert not line.after_close, "something was tried on a closed line"
    for error in played.errors:
        assert PASSWORD not in f"{error!r} {error}"


def foreign(played: Played) -> list[BaseException]:
    """What was raised that is no `SmtpError` (BR12)."""
    return [error for error in played.errors if not isinstance(error, SmtpError)]


def attempts(played: Played) -> int:
    """How many mails were begun: not refused on this side of the line."""
    return sum(getattr(outcome.error, "stage", "") not in ("input", "lock") for outcome in played.outcomes)


def settled(played: Played) -> int:
    """How many attempts said on the audit trail what became of them (BR26)."""
    return sum(type(event).__name__ == "MailSettled" for event in played.audit.events)
