"""One mail as one flow. SMTP and LMTP, DATA and BDAT, lock-step and pipelined are expressions inside it.

Knows the decisions of pipelining section 6 (DT1-DT22): which octets share a flight, what each reply means for the mail,
for its recipients and for the session. An `Attempt` keeps its entries of the ledger; every verdict is a function of
what was settled there and of the octets taken, so it is the same whatever ended the flow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smtpconn.protocol import body, commands
from smtpconn.protocol.envelope import Outgoing, missing_end
from smtpconn.protocol.errors import Delivery, DeliveryUnknownError, ProtocolError, SmtpError
from smtpconn.protocol.flow import Flow, Pipelining, Step
from smtpconn.protocol.ledger import CHUNK, DATA, DOT, END, LMTP_END, MAIL, RCPT, RSET, Entry
from smtpconn.protocol.reply import MalformedReplyError, Reply
from smtpconn.protocol.result import RecipientResult, SendResult, refusal
from smtpconn.protocol.session import Session, SessionState, used_up

GROUP = 4_096  # octets of commands without an answer (CN1): a blocking write cannot dead-lock
WINDOW = 4  # BDAT chunks of a stream without an answer (CN4)

_Verdict = tuple[Delivery, "Reply | None", "str | None"]
_OUT_OF_STEP = 503  # BR10: client and server do not agree about the state
_UNKNOWN_COMMAND = frozenset({500, 502, 504})


class Attempt:
    """One mail on one session. `flow` is its conversation; `results` its verdicts, at any moment."""

    def __init__(self, outgoing: Outgoing, session: Session) -> None:
        self.outgoing = outgoing
        self.session = session
        self.rset: Entry | None = None
        self.mail = Entry(MAIL)
        self.rcpts = [Entry(RCPT) for _ in outgoing.rcpt_lines]
        self.data: Entry | None = None
        self.chunks: list[Entry] = []
        self.ends: list[Entry] = []
        self.rset_folded = False  # RSET shares a flight with MAIL
        self.accepted: dict[int, int] = {}  # the place of each accepted RCPT -> its position among them
        self.out_of_step: Entry | None = None  # the first RCPT that was answered 503
        self.misaligned = False  # a surplus reply: whose reply is whose is not known any more

    # --- the conversation ---

    def flow(self, level: Pipelining) -> Flow[SendResult]:
        """Send the mail. Raises a `ReplyError` or `RecipientsRefusedError` for a refusal (LMTP: of the whole mail)."""
        grouped = level > Pipelining.OFF and self.session.capabilities.supports_pipelining
        yield from self._envelope(grouped)
        if (yield from self._envelope_refused()):
            return SendResult(self.results())
        self.session.state = SessionState.DATA
        if self.outgoing.chunking:
            yield from self._chunks(grouped)
        else:
            yield from self._data()
        return self._concluded()

    def _envelope(self, grouped: bool) -> Flow[None]:
        """RSET if owed, MAIL, every RCPT, and DATA: in groups of at most GROUP octets, or one by one."""
        session = self.session
        lines: list[tuple[bytes, Entry]] = []
        if session.rset_owed and session.mails:
            self.rset = Entry(RSET)
            session.nonmail += 1
            if session.rset_alone:
                yield Step(commands.rset(), (self.rset,), RSET.stage)
                self._notice_used_up(self.rset)
            else:
                lines.append((commands.rset(), self.rset))
        lines.append((self.outgoing.mail_line, self.mail))
        lines.extend(zip(self.outgoing.rcpt_lines, self.rcpts, strict=True))
        if not self.outgoing.chunking:
            self.data = Entry(DATA)
            lines.append((commands.data(), self.data))
        for group in _groups(lines, GROUP if grouped else 0):
            if self._is_pointless(group):
                return
            entries = [entry for _, entry in group]
            if self.mail in entries:
                session.mails += 1
                session.rset_owed = True
                self.rset_folded = entries[0] is self.rset
            yield Step(b"".join([line for line, _ in group]), entries, entries[0].kind.stage)
            self._follow(entries)

    def _is_pointless(self, group: Sequence[tuple[bytes, Entry]]) -> bool:
        """True if this group must not be written.

        MAIL is refused, a RCPT was answered 503 (BR10), or only DATA is left and nobody accepted.
        """
        if self.mail.reply is None:
            return False
        if not self.mail.reply.is_positive or self.out_of_step:
            return True
        return group[0][1] is self.data and not any(_is_positive(entry) for entry in self.rcpts)

    def _follow(self, entries: Sequence[Entry]) -> None:
        """Take note of what a group settled: the state, a 503, a session that is used up (DT2)."""
        for entry in entries:
            if entry.kind is RCPT and _code(entry) == _OUT_OF_STEP:
                self.out_of_step = self.out_of_step or entry
            self._notice_used_up(entry)
        if _is_positive(self.mail):
            self.session.state = SessionState.RCPT_TO
        elif self.mail.reply is not None:
            self.session.state = SessionState.MAIL_FROM

    def _envelope_refused(self) -> Flow[bool]:
        """Judge the replies to the envelope.

        False if the content follows, True if the (LMTP) result stands, else raises.
        """
        session = self.session
        self._condemn_surplus()
        if _is_refused(self.rset):
            session.retiring = True  # RE5: MAIL clears the buffers, too (RFC 5321 section 4.1.1.2)
        if not _is_positive(self.mail):
            yield from self._leave_data()
            self._raise_mail_refused()
        if self.out_of_step is not None:
            self._raise_refused(self.out_of_step)
        places = [place for place, entry in enumerate(self.rcpts) if _is_positive(entry)]
        self.accepted = {place: position for position, place in enumerate(places)}
        if not self.accepted:
            yield from self._leave_data()
            session.state = SessionState.MAIL_FROM
            if session.is_lmtp:
                return True
            raise refusal(self.results())
        if self.data is not None and _code(self.data) >= 400:
            self._raise_refused(self.data)
        return False

    def _leave_data(self) -> Flow[None]:
        """Leave an unwanted 354.

        By a lone dot where that is harmless (RFC 2920 section 3.1), else by closing (DT7, DT13, DT14).
        """
        if not _is_positive(self.mail) and any(_is_positive(entry) for entry in self.rcpts):
            self.session.condemn("a RCPT accepted without a MAIL")  # an older envelope: AK23
        if self.data is None or not 300 <= _code(self.data) <= 399:
            return
        if not _is_positive(self.mail) and (_code(self.mail) == _OUT_OF_STEP or _is_refused(self.rset)):
            self.session.condemn("DATA accepted, maybe for an older envelope: a dot could deliver it")
        if self.session.condemned:
            return
        if self.session.is_lmtp:
            self.session.condemn("DATA accepted without a recipient")  # how many replies a dot gets is undefined
            return
        reply = (yield Step(body.TERMINATOR, (Entry(DOT),), DOT.stage))[0]
        if reply.is_positive:
            self.session.condemn("a message accepted without a recipient")

    def _raise_mail_refused(self) -> None:
        reply = self.mail.reply
        assert reply is not None
        self.session.state = SessionState.MAIL_FROM
        if reply.code == _OUT_OF_STEP and self.rset_folded:
            # FB6: this server cannot take MAIL behind RSET in one flight. That speaks of the flight, not of the mail.
            self.session.condemn("503 to MAIL behind RSET")
            error = ProtocolError(f"MAIL behind RSET answered {reply}", stage=MAIL.stage, reply=reply)
            error._unanswered = error._rset_alone = True
            raise error
        self._raise_refused(self.mail)

    def _raise_refused(self, entry: Entry) -> None:
        """Raise the refusal of this entry for the whole mail."""
        assert entry.reply is not None
        if entry.reply.code == _OUT_OF_STEP:
            self.session.condemn(f"503 to {entry.kind.stage}")
        self.session.state = SessionState.MAIL_FROM
        raise self.session.refusal(entry.kind, entry.reply)

    # --- the content ---

    def _expect_end(self, offset: int) -> list[Entry]:
        """The entries of the end of data: one, or over LMTP one for each accepted RCPT (RFC 2033 section 4.2)."""
        kind, count = (LMTP_END, len(self.accepted)) if self.session.is_lmtp else (END, 1)
        self.ends = [Entry(kind, offset) for _ in range(count)]
        return self.ends

    def _data(self) -> Flow[None]:
        """The body and the dot. The tail of the body may share the terminator's slice; nothing follows (BR13)."""
        content = self.outgoing.content
        if content is None:
            yield from self._data_stream()
            return
        stuffed, end = body.stuffed(content), body.ending(content)
        whole = len(stuffed) - len(stuffed) % body.SLICE
        if whole:
            yield Step(memoryview(stuffed)[:whole], (), "body")
        last = stuffed[whole:] + end
        yield Step(last, self._expect_end(len(last)), "body")

    def _data_stream(self) -> Flow[None]:
        """Whole slices, however small the pieces of the source are: a write for each line would cost a packet each."""
        stuffer, source = body.DotStuffer(), self.outgoing.source()
        held = bytearray()
        while (octets := self._pull(source)) is not None:
            held += stuffer.process_chunk(octets)
            whole = len(held) - len(held) % body.SLICE
            if whole:
                yield Step(bytes(held[:whole]), (), "body")
                del held[:whole]
        last = bytes(held) + stuffer.finish()
        yield Step(last, self._expect_end(len(last)), "body")

    def _chunks(self, grouped: bool) -> Flow[None]:
        """BDAT (RFC 3030). Bytes are one LAST chunk.

        A stream goes in windows, LAST alone after every earlier 2yz (EN8).
        """
        content = self.outgoing.content
        if content is not None:
            yield from self._last_chunk(content + (b"" if self.outgoing.is_binary else missing_end(content)))
            return
        source = self.outgoing.source()
        held = self._chunk(source)
        while held is not None:
            window: list[bytes] = []
            while len(window) < (WINDOW if grouped else 1):
                following = self._chunk(source)
                if following is None:
                    break
                window.append(held)
                held = following
            if not window:
                break
            yield from self._window(window)
        yield from self._last_chunk(held or b"")

    def _chunk(self, source: Iterator[bytes]) -> bytes | None:
        """The next chunk of a stream, or None at its end."""
        chunk = bytearray()  # a list of small pieces would take many times their octets
        while len(chunk) < body.CHUNK and (octets := self._pull(source)) is not None:
            chunk += octets
        return bytes(chunk) if chunk else None

    def _window(self, window: list[bytes]) -> Flow[None]:
        """Write the chunks, which are let go one by one, then read their replies."""
        entries = [Entry(CHUNK) for _ in window]
        self.chunks.extend(entries)
        for entry in entries:
            chunk = window.pop(0)
            replies = len(entries) if entry is entries[-1] else 0
            yield Step(commands.bdat(len(chunk), last=False) + chunk, (entry,), CHUNK.stage, replies=replies)
        for entry in entries:
            if not _is_positive(entry):
                self._condemn_surplus()
                if _code(entry) in _UNKNOWN_COMMAND:
                    self.session.condemn("BDAT is unknown: its octets may be taken for commands")
                self._raise_refused(entry)

    def _last_chunk(self, chunk: bytes) -> Flow[None]:
        line = commands.bdat(len(chunk), last=True)
        ends = self._expect_end(len(line) + len(chunk))
        if len(chunk) <= body.SLICE:
            yield Step(line + chunk, ends, END.stage, droppable=True)
            return
        yield Step(line, ends, END.stage, replies=0, droppable=True)
        yield Step(memoryview(chunk), (), END.stage)

    def _pull(self, source: Iterator[bytes]) -> bytes | None:
        """The next octets of the caller's source.

        It failed: BDAT goes on after RSET; DATA must close, because ending early would commit a message cut short
        (BR19).
        """
        try:
            return next(source, None)
        except Exception as error:
            self.session.source_error = error
            if self.outgoing.chunking:
                self.session.state = SessionState.MAIL_FROM
            else:
                self.session.condemn("a message cut short by its source")
            raise

    def _condemn_surplus(self) -> None:
        """D5: one reply too many, and nobody knows whose reply is whose; where content follows the look says so."""
        if self.session.parser.pending:
            self.session.condemn("octets that answer no command")

    def _notice_used_up(self, entry: Entry) -> None:
        """BR23: a refusal that says that the session is used up ends it, wherever the mail goes from here."""
        if entry.reply is not None and used_up(entry.kind, entry.reply):
            self.session.closing = entry.reply

    # --- the outcome ---

    def _concluded(self) -> SendResult:
        """All final replies are in: the result, or the refusal of the whole mail."""
        session = self.session
        session.state = SessionState.MAIL_FROM
        self._look_for_surplus()
        if any(_delivers(entry) for entry in self.ends):
            session.rset_owed = False
        for entry in self.ends:
            self._notice_used_up(entry)
        if self.misaligned:
            raise ProtocolError("replies that answer nothing followed the final reply", stage=END.stage)
        if self.outgoing.chunking and any(_code(entry) in _UNKNOWN_COMMAND for entry in self.ends):
            session.condemn("BDAT is unknown: its octets may be taken for commands")
        first = self.ends[0]
        if not session.is_lmtp and not _is_positive(first):
            assert first.reply is not None
            raise session.refusal(END, first.reply)
        return SendResult(self.results(), None if session.is_lmtp else first.reply)

    def _look_for_surplus(self) -> None:
        """OS and LS: octets behind the final reply end the session.

        They leave the verdict in doubt where it could be theirs.
        """
        parser = self.session.parser
        if not parser.pending:
            return
        self.session.condemn("octets behind the final reply")
        replies: list[Reply] = []
        garbage = False
        try:
            while (reply := parser.next_reply()) is not None:
                replies.append(reply)
        except MalformedReplyError:
            garbage = True
        cut = bool(parser.pending) and not garbage  # what a reply cut short says is not known: it may be a yes
        if not cut and not garbage and all(reply.code in (421, 221) for reply in replies):
            self.session.closing = replies[-1]
            return
        success = not cut and not garbage and all(reply.is_positive for reply in replies)
        if self.session.is_lmtp or _delivers(self.ends[0]):
            self.misaligned = not success or not all(_delivers(entry) for entry in self.ends)
        else:
            self.misaligned = cut or any(reply.is_positive and reply.code != 221 for reply in replies)

    def results(self) -> tuple[RecipientResult, ...]:
        """What is known of every recipient given, in order."""
        verdicts = [self._verdict(place) for place in range(len(self.rcpts))]
        pairs = zip(self.outgoing.recipients, self.outgoing.given, strict=True)
        return tuple(RecipientResult(recipient, *verdicts[place]) for recipient, place in pairs)

    def _verdict(self, place: int) -> _Verdict:
        refused = self._refused_by(place)
        if refused is not None:
            return Delivery.NOT_DELIVERED, refused.reply, refused.kind.stage
        end = self._end_of(place)
        if end is None or (end.reply is None and not self.session.ledger.committed(end)):
            return Delivery.NOT_DELIVERED, None, None
        if end.reply is None or self.misaligned:
            return Delivery.UNKNOWN, end.reply, end.kind.stage
        return Delivery.DELIVERED if _delivers(end) else Delivery.NOT_DELIVERED, end.reply, end.kind.stage

    def _refused_by(self, place: int) -> Entry | None:
        """The first entry whose refusal says that this recipient cannot have the mail."""
        for entry in (self.mail, self.rcpts[place], self.data, *self.chunks):
            if entry is not None and entry.reply is not None and entry.reply.code >= 400:
                return entry
        return None

    def _end_of(self, place: int) -> Entry | None:
        if not self.ends or place not in self.accepted:
            return None
        return self.ends[self.accepted[place]] if self.session.is_lmtp else self.ends[0]

    def explained(self, error: SmtpError) -> SmtpError:
        """The error with this attempt's verdicts; `DeliveryUnknownError` from it where a recipient's is UNKNOWN."""
        results = self.results()
        if any(entry.delivery is Delivery.UNKNOWN for entry in results):
            unknown = DeliveryUnknownError(
                f"the end of data was handed over, and whether the server took the mail is not known: {error}",
                reply=error.reply,
                recipients=results,
            )
            unknown.__cause__ = error
            return unknown
        error.recipients = results
        return error


def _is_positive(entry: Entry) -> bool:
    return entry.reply is not None and entry.reply.is_positive


def _is_refused(entry: Entry | None) -> bool:
    return entry is not None and _code(entry) >= 400


def _delivers(entry: Entry) -> bool:
    """True if this final reply takes responsibility: 2yz, but 221 is a farewell (BR2)."""
    return _is_positive(entry) and _code(entry) != 221


def _code(entry: Entry) -> int:
    return entry.reply.code if entry.reply is not None else 0


def _groups(lines: Sequence[tuple[bytes, Entry]], limit: int) -> Iterator[list[tuple[bytes, Entry]]]:
    """Whole lines in groups of at most `limit` octets; a line is never split, and goes alone where it is longer."""
    group: list[tuple[bytes, Entry]] = []
    size = 0
    for line in lines:
        if group and size + len(line[0]) > limit:
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line[0])
    yield group
