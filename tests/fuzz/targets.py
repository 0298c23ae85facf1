"""What is fuzzed: functions of octets that raise `AssertionError`, or anything unforeseen, where an invariant breaks.

`run` plays them: by atheris, which follows coverage, or by a loop that mutates the corpora beside this module.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from smtpconn import Mail, SmtpConnection, TlsMode
from smtpconn.protocol import body
from smtpconn.protocol.errors import Delivery, DeliveryUnknownError, InvalidInputError, SmtpError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.pump import Pump
from smtpconn.protocol.reply import MAX_LINE, MAX_LINES, MAX_REPLY, MalformedReplyError, Reply, ReplyParser
from smtpconn.protocol.session import Session
from smtpconn.protocol.transaction import Attempt

REPLY = re.compile(rb"(?:([2-5][0-9][0-9])-[^\r\n\0]*\r\n)*([2-5][0-9][0-9])(?: [^\r\n\0]*)?\r\n")
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LEVELS = (Pipelining.OFF, Pipelining.GROUPED)
PIECES = 64  # of a long input at most, or the splitting takes all the time
EXECUTIONS: Counter[str] = Counter()  # what a run has done, for its last line


def _parsed(pieces: list[bytes], limit: int = MAX_REPLY) -> tuple[list[bytes], int | None, int]:
    EXECUTIONS["parser"] += 1
    parser = ReplyParser()
    parser.limit = limit
    found: list[bytes] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (reply := parser.next_reply()) is not None:
                found.append(reply.raw)
    except MalformedReplyError as error:
        return found, error.offset, -1
    return found, None, parser.pending


def _pieces(octets: bytes, size: int) -> list[bytes]:
    size = max(size, len(octets) // PIECES)
    return [octets[at : at + size] for at in range(0, len(octets), size)]


def reply(octets: bytes) -> None:
    """P4: any split, the grammar, the caps, and no exception but one."""
    found, offset, pending = whole = _parsed([octets])
    assert whole == _parsed(_pieces(octets, 1 + (len(octets) % 7)))
    if len(octets) < 400:
        assert whole == _parsed([octets[at : at + 1] for at in range(len(octets))])
    _limited(octets, found, offset)
    used = b"".join(found)
    assert octets.startswith(used)
    for raw in found:
        match = REPLY.fullmatch(raw)
        assert match is not None
        assert {line[:3] for line in raw[:-2].split(b"\r\n")} == {raw[:3]}
        assert len(raw) <= MAX_REPLY
        assert raw.count(b"\r\n") <= MAX_LINES
        assert max(map(len, raw.split(b"\r\n"))) <= MAX_LINE - 2
        answer = Reply(int(raw[:3]), raw, wants_enhanced=True)
        assert not UNSAFE.search(f"{answer!r}{answer}{answer.text}{answer.message}")
        assert Reply.from_dict(answer.to_dict()) == answer
    if offset is None:
        assert pending == len(octets) - len(used)
        assert not REPLY.match(octets, len(used))
    else:
        assert len(used) <= offset <= len(octets)


def _limited(octets: bytes, found: list[bytes], offset: int | None) -> None:
    """P4: a smaller cap ends the stream at its own octet, in front of the first reply that is longer."""
    limit = 5 + sum(octets[:8]) % 60
    fitting, stop, pending = whole = _parsed([octets], limit)
    assert whole == _parsed(_pieces(octets, 1 + (len(octets) % 5)), limit)
    assert fitting == list(itertools.takewhile(lambda raw: len(raw) <= limit, found))
    used = sum(map(len, fitting))
    if stop is None:
        assert pending == len(octets) - used <= limit
        assert offset is None
    elif stop != offset:
        assert stop == used + limit


def ehlo(octets: bytes) -> None:
    """P6: any lines are capabilities, the same each time, and nothing in them is a number that is not ASCII."""
    texts = [re.sub(rb"[\r\n\0]", b"", line) for line in octets.split(b"\n")] or [b""]
    raw = b"".join(b"250-" + text + b"\r\n" for text in texts[:-1]) + b"250 " + texts[-1] + b"\r\n"
    answer = Reply(250, raw)
    found = ServerCapabilities.parse(answer)
    assert found == ServerCapabilities.from_dict(found.to_dict())
    assert len(found.lines) <= 256
    assert not UNSAFE.search(repr(found))
    words = [line.split(b" ") for line in texts[1:257]]
    named = {next(filter(None, line), b"").upper() for line in words if any(line)}
    for keyword in found.extensions:
        assert re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", keyword)
        assert keyword.encode() in named or (keyword == "AUTH" and any(name.startswith(b"AUTH=") for name in named))
    for mechanism in found.auth_mechanisms:
        assert re.fullmatch(r"[A-Z0-9_-]{1,20}", mechanism)
        assert mechanism.encode() in raw.upper()
    for number in (found.size_limit, found.hold_for_maximum, found.deliver_by_minimum, *found.limits.values()):
        assert number is None or str(number).encode() in raw


def stuffing(octets: bytes) -> None:
    """P2, P3: canonical or refused at the same offset whatever the split; stuffed, it comes back."""
    size = 1 + len(octets) % 5
    for newlines in ("strict", "crlf"):
        try:
            plain = body.canonical(octets, newlines)
        except InvalidInputError as error:
            _refused_alike(octets, size, newlines, error.offset)
            continue
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", plain)
        wire = body.stuffed(plain) + body.ending(plain)
        assert wire == _streamed(octets, size, newlines)
        assert wire.find(b"\r\n.\r\n") in (len(wire) - 5, -1)
        expected = plain if plain.endswith(b"\r\n") else plain + b"\r\n"
        assert unstuffed(wire) == expected


def _streamed(octets: bytes, size: int, newlines: str) -> bytes:
    canonicaliser, stuffer = body.Canonicaliser(newlines), body.DotStuffer()
    wire = b"".join(stuffer.process_chunk(canonicaliser.process(piece)) for piece in _pieces(octets, size))
    canonicaliser.finish()
    return wire + stuffer.finish()


def _refused_alike(octets: bytes, size: int, newlines: str, offset: int | None) -> None:
    try:
        _streamed(octets, size, newlines)
    except InvalidInputError as error:
        found = error.offset
    else:
        raise AssertionError("a stream passes what the whole does not")
    assert found == offset


def unstuffed(wire: bytes) -> bytes:
    """RFC 5321 section 4.5.2, transcribed: lines until the one with a single dot; a leading dot is deleted."""
    lines: list[bytes] = []
    for line in wire.split(b"\r\n"):
        if line == b".":
            return b"".join(lines)
        lines.append((line[1:] if line.startswith(b".") else line) + b"\r\n")
    raise AssertionError("no end of data")


def session(octets: bytes) -> None:
    """P8: a server that says anything, to a client that sends two mails and leaves.

    The first octet chooses protocol, level and way; the rest is said as it is asked for. Nothing but `SmtpError` is
    raised; a verdict is what the replies read allow: DELIVERED by a 2yz, UNKNOWN only behind an end of data, and
    NOT_DELIVERED in front of it or by a refusal; once the session is dead nothing can be written.
    """
    head, said = (octets[0], octets[1:]) if octets else (0, b"")
    lmtp, level, chunking, size = bool(head & 1), LEVELS[head >> 1 & 1], bool(head & 4), 1 + (head >> 3)
    peer = _Peer(Session("lmtp" if lmtp else "smtp", "client.test"), said, size)
    pump = peer.pump
    peer.play(lambda: pump.start(pump.session.greet()))
    peer.play(lambda: pump.start(pump.session.hello()))
    for number in range(2):
        peer.mail(Mail("s@client.test", ["a@x.test", "b@x.test"], b".dot\r\n", chunking=chunking, tag=number), level)
    peer.play(lambda: pump.start(pump.session.quit()))


class _Peer:
    """Feeds what is said, in pieces of one size, when somebody waits for it."""

    def __init__(self, session: Session, said: bytes, size: int) -> None:
        self.pump = Pump(session)
        self.said, self.size = said, size
        self.wrote = 0

    def play(self, begin: Callable[[], Any]) -> BaseException | None:
        """Run one flow to its end."""
        pump, dead = self.pump, not self.pump.usable
        before = self.wrote
        try:
            begin()
            while not pump.finished:
                while part := pump.to_write(1 + 4 * self.size):
                    self.wrote += len(part)
                    pump.wrote(len(part))
                    if not self.said:
                        pump.ended()  # perhaps in the middle of a body
                if not pump.finished:
                    self._hear()
            pump.result()
        except SmtpError as error:
            raised: BaseException | None = error
        else:
            raised = None
        assert not dead or self.wrote == before, "a dead session writes"
        shown = str(raised)
        assert not UNSAFE.search(shown)
        assert len(shown) <= 500
        return raised

    def _hear(self) -> None:
        piece, self.said = self.said[: self.size], self.said[self.size :]
        if piece:
            self.pump.received(piece)
        else:
            self.pump.ended()

    def mail(self, mail: Mail, level: Pipelining) -> None:
        """One mail and its verdicts."""
        begun: list[Attempt] = []
        error = self.play(lambda: begun.append(self.pump.start_mail(mail, pipelining=level)))
        for attempt in begun:
            results = attempt.results()
            assert len(results) == 2
            doubt = [entry for entry in results if entry.delivery is Delivery.UNKNOWN]
            assert bool(doubt) == isinstance(error, DeliveryUnknownError)
            for entry in results:
                if entry.delivery is Delivery.DELIVERED:
                    assert entry.reply is not None
                    assert entry.reply.is_positive
                ends = [end.end for end in attempt.ends if end.end is not None]
                taken = self.pump.session.ledger.taken
                if entry.delivery is not Delivery.NOT_DELIVERED:
                    assert taken >= min(ends)
                elif entry.reply is None:
                    assert all(taken < end for end in ends), "nothing proves it"


class _Stream:
    """A transport: says what there is to say in pieces of one size (0: line by line), then ends; keeps what is written.

    More at once than the replies that are owed would be the end: by line a conversation goes far, by octet slowly.
    """

    tls = None
    secure = False

    def __init__(self, said: bytes, size: int) -> None:
        self.said, self.size = said, size
        self.written = b""
        self.closed = False

    def send(self, data: Any, timeout: float | None) -> int:
        """All of it, always."""
        assert not self.closed, "a closed connection writes"
        self.written += bytes(data)
        return len(data)

    def recv(self, size: int, timeout: float | None) -> bytes:
        """The next piece."""
        assert not self.closed, "a closed connection reads"
        end = self.size or (self.said.find(b"\n") + 1 or len(self.said))
        piece, self.said = self.said[:end], self.said[end:]
        return piece

    def readable(self) -> bool:
        """Only the end shows itself unasked."""
        return not self.said

    def start_tls(self, config: object, timeout: float | None) -> _Stream:
        """Nobody asks for it."""
        raise AssertionError("TLS where there is none")

    def close(self) -> None:
        """For ever."""
        self.closed = True


def batch(octets: bytes) -> None:
    """P8, with commands that run ahead: a batch of three mails to a server that says anything.

    The first octet chooses protocol, level, way and the size of the pieces. Each mail has one outcome, an `SmtpError`
    or a result. One that is not NOT_DELIVERED was written to its end; of one that is, the end was not written or a
    reply refused it. PREFETCH leaves one mail in doubt at most.
    """
    head, said = (octets[0], octets[1:]) if octets else (0, b"")
    level, chunking = list(Pipelining)[head >> 1 & 3], bool(head & 8)
    stream = _Stream(said, (head >> 4) * (head >> 7))
    try:
        connection = SmtpConnection.from_transport(
            stream,
            protocol="lmtp" if head & 1 else "smtp",
            tls_mode=TlsMode.NONE,
            timeout=30.0,
            ehlo_domain="client.test",
            pipelining=level,
        )
    except SmtpError:
        assert stream.closed
        return
    mails = [
        Mail("s@client.test", ["a@x.test", "b@x.test"], f".m{number}\r\n".encode(), chunking=chunking, tag=number)
        for number in range(3)
    ]
    with connection, connection.send_many(mails, timeout=30.0) as outcomes:
        told = list(outcomes)
    assert stream.closed
    assert [outcome.mail.tag for outcome in told] == [0, 1, 2]
    doubtful = 0
    for outcome in told:
        assert outcome.error is None or isinstance(outcome.error, SmtpError)
        verdicts = [entry.delivery for entry in outcome.recipients]
        assert len(verdicts) == 2
        doubtful += Delivery.UNKNOWN in verdicts
        last = f".m{outcome.mail.tag}\r\n".encode()
        if set(verdicts) != {Delivery.NOT_DELIVERED}:
            assert last in stream.written
        for entry in outcome.recipients:
            if entry.delivery is Delivery.DELIVERED:
                assert entry.reply is not None
                assert entry.reply.is_positive
            elif entry.delivery is Delivery.NOT_DELIVERED and entry.reply is None and level is not Pipelining.BURST:
                assert (last if chunking else last + b".\r\n") not in stream.written, "nothing proves it"
        assert outcome.retry_safe == (set(verdicts) == {Delivery.NOT_DELIVERED})
    assert doubtful <= (3 if level is Pipelining.BURST else 1)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "reply": reply,
    "ehlo": ehlo,
    "stuffing": stuffing,
    "session": session,
    "batch": batch,
}
