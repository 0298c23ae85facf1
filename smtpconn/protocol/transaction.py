"""One mail as one flow. SMTP and LMTP, DATA and BDAT, lock-step and pipelined are expressions inside it.

Knows the decisions of pipelining section 6 (DT1-DT22): which octets share a flight, what each reply means for the mail,
for its recipients and for the session. An `Attempt` keeps its entries of the ledger; every verdict is a function of
what was settled there and of the octets taken, so it is the same whatever ended the flow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smtpconn.protocol import body, commands
from smtpconn.protocol.envelope import missing_end
from smtpconn.protocol.errors import ProtocolError
from smtpconn.protocol.flow import Flow, Pipelining, Step, groups
from smtpconn.protocol.ledger import CHUNK, DATA, DOT, END, LMTP_END, MAIL, RCPT, RSET, Entry
from smtpconn.protocol.result import SendResult, refusal
from smtpconn.protocol.session import SessionState, used_up
from smtpconn.protocol.verdicts import UNKNOWN_COMMAND, Verdicts, code_of, is_positive, is_refused

GROUP = 4_096  # octets of commands without an answer (CN1): a blocking write cannot dead-lock
WINDOW = 4  # BDAT chunks of a stream without an answer (CN4)

_OUT_OF_STEP = 503  # BR10: client and server do not agree about the state
_NO_FLIGHT = frozenset({500, 502, 503})  # FB1(c)


class Attempt(Verdicts):
    """One mail on one session. `flow` is its conversation; `results` its verdicts, at any moment."""

    # --- the conversation ---

    def flow(self, level: Pipelining, following: Attempt | None = None) -> Flow[SendResult]:
        """Send the mail. Raises a `ReplyError` or `RecipientsRefusedError` for a refusal (LMTP: of the whole mail).

        `following`: the mail whose envelope is written behind this one's end of data (PREFETCH); its own `flow` goes on
        from there.
        """
        grouped = level > Pipelining.OFF and self.session.capabilities.supports_pipelining
        if not self.announced:
            yield from self._envelope(grouped, always_reset=level >= Pipelining.PREFETCH)
        if not self._wants_content(following):
            return (yield from self._leave(following))
        self.session.state = SessionState.DATA
        if self.outgoing.chunking:
            yield from self._chunks(grouped, following)
        else:
            yield from self._data(following)
        try:
            return self._concluded(following)
        finally:
            if following is not None:
                following.take_note()

    def _envelope(self, grouped: bool, *, always_reset: bool) -> Flow[None]:
        """RSET if owed (at PREFETCH and BURST always, RE2), MAIL, every RCPT, and DATA.

        In groups of at most GROUP octets, or one by one.
        """
        session = self.session
        lines, entries = self._envelope_lines()
        if session.mails and (session.rset_owed or always_reset):
            self.rset = Entry(RSET)
            session.nonmail += session.rset_owed  # servers allow one behind a delivered message (RE6)
            if session.rset_alone:
                yield Step(commands.rset(), (self.rset,), RSET.stage)
                self._notice_used_up(self.rset)
            else:
                lines.insert(0, commands.rset())
                entries.insert(0, self.rset)
        for octets, group in groups(lines, entries, GROUP if grouped else 0):
            first = group[0]
            if self._is_pointless(first):
                return
            if self.mail in group[:2]:
                session.mails += 1
                session.rset_owed = True
                self.rset_folded = first is self.rset
            yield Step(octets, group, first.kind.stage)
            self._follow(group)

    def _envelope_lines(self) -> tuple[list[bytes], list[Entry]]:
        outgoing = self.outgoing
        lines, entries = [outgoing.mail_line, *outgoing.rcpt_lines], [self.mail, *self.rcpts]
        if not outgoing.chunking:
            self.data = Entry(DATA, announced=self.mail.announced)
            lines.append(commands.data())
            entries.append(self.data)
        return lines, entries

    # --- running ahead ---

    @property
    def fits_one_group(self) -> bool:
        """True if the whole envelope, RSET and DATA included, fits one group (LV6)."""
        return len(commands.rset()) + self.outgoing.envelope_size + len(commands.data()) <= GROUP

    def announcement(self) -> tuple[bytes, list[Entry]]:
        """RSET and the envelope, to be written behind the end of data in front of it (LV6)."""
        self.rset = Entry(RSET, announced=True)
        for entry in (self.mail, *self.rcpts):
            entry.announced = True
        lines, entries = self._envelope_lines()
        return b"".join([commands.rset(), *lines]), [self.rset, *entries]

    def take_note(self) -> None:
        """The flight that announced this mail is over, and the mail in front of it is concluded."""
        session = self.session
        self.announced = self.rset_folded = True
        session.mails += 1
        session.nonmail += session.rset_owed  # RE6: the RSET in front of it
        session.rset_owed = True
        if is_refused(self.rset):
            session.retiring = True  # RE5: from here on nothing runs ahead on this connection
        self._follow(self.envelope)

    def _is_pointless(self, first: Entry) -> bool:
        """True if the group that begins with this entry must not be written.

        MAIL is refused, a RCPT was answered 503 (BR10), or only DATA is left and nobody accepted.
        """
        if self.mail.reply is None:
            return False
        if not self.mail.reply.is_positive or self.out_of_step:
            return True
        return first is self.data and not any(is_positive(entry) for entry in self.rcpts)

    def _follow(self, entries: Sequence[Entry]) -> None:
        """Take note of what a group settled: the state, a 503, a session that is used up (DT2)."""
        for entry in entries:
            reply = entry.reply
            if reply is None or reply.code < 400:
                continue
            if entry.kind is RCPT and reply.code == _OUT_OF_STEP:
                self.out_of_step = self.out_of_step or entry
            self._notice_used_up(entry)
        if is_positive(self.mail):
            self.session.state = SessionState.RCPT_TO
        elif self.mail.reply is not None:
            self.session.state = SessionState.MAIL_FROM

    def _wants_content(self, following: Attempt | None) -> bool:
        """Judge the replies to the envelope: True if the content follows, False if it is to be left; or raises."""
        session = self.session
        if self._condemn_surplus() and following is None and not self.announced:
            self.refuse_surplus()
        if is_refused(self.rset):
            session.retiring = True  # RE5: MAIL clears the buffers, too (RFC 5321 section 4.1.1.2)
        if self.announced:
            self._refuse_flight()
        if not is_positive(self.mail):
            return False
        if self.out_of_step is not None:
            self._raise_refused(self.out_of_step)
        self._note_accepted()
        if not self.accepted:
            return False
        if self.data is not None and code_of(self.data) >= 400:
            self._raise_refused(self.data)
        return True

    def _leave(self, following: Attempt | None) -> Flow[SendResult]:
        """MAIL or every recipient is refused: the (LMTP) result, or raises."""
        yield from self._leave_data(following)
        if not is_positive(self.mail):
            self._raise_mail_refused()
        if following is None or not following.announced:
            self.session.state = SessionState.MAIL_FROM
        if self.session.is_lmtp:
            return SendResult(self.results())
        raise refusal(self.results())

    def fan_out(self) -> Sequence[Entry]:
        """In a burst: the envelope is answered, and so it is known how many final replies there are (LG4).

        Gives those beside the first.
        """
        self._follow(self.envelope)
        if is_refused(self.rset):
            self.session.retiring = True  # RE5
        if is_positive(self.mail):
            self._note_accepted()
        elif any(map(is_positive, self.rcpts)):
            self.session.condemn("a RCPT accepted without a MAIL")
        if self.session.is_lmtp:
            self.ends += [Entry(LMTP_END) for _ in range(len(self.accepted) - 1)]
        return self.ends[1:]

    def burst_conclusion(self) -> SendResult:
        """The result of a transaction that was written whole, all of its replies read; raises the refusal of it."""
        session = self.session
        if not self.accepted and any(map(is_positive, self.ends)):
            self.contaminated = True
            session.condemn("a message accepted without a recipient")
            raise ProtocolError("the server took a message whose envelope it had refused", stage=END.stage)
        self._refuse_flight()
        if not is_positive(self.mail):
            self._raise_refused(self.mail)
        if not self.accepted:
            if session.is_lmtp:
                return SendResult(self.results())
            raise refusal(self.results())
        if any(code_of(entry) in UNKNOWN_COMMAND for entry in self.ends):
            session.flightless = "BDAT is unknown"  # FB1(d)
        return self.conclusion()

    def _refuse_flight(self) -> None:
        """FB1(c), FB4: 500, 502 or 503 behind an end of data speaks of the flight, not of the mail."""
        if code_of(self.rset) in _NO_FLIGHT:
            self.session.flightless = f"{code_of(self.rset)} to RSET behind an end of data"
        refused = [entry for entry in (self.mail, *self.rcpts, self.data) if entry and code_of(entry) in _NO_FLIGHT]
        if is_positive(self.mail) and self.data in refused and not any(map(is_positive, self.rcpts)):
            refused.remove(self.data)  # DT16: nobody was accepted
        if not refused or (not is_positive(self.mail) and self.mail not in refused):
            return
        reply = refused[0].reply
        session, stage = self.session, refused[0].kind.stage
        session.flightless = f"{code_of(refused[0])} to {stage} behind an end of data"
        session.condemn(session.flightless)
        session.state = SessionState.MAIL_FROM
        error = ProtocolError(f"{stage} behind an end of data answered {reply}", stage=stage, reply=reply)
        error._unanswered = refused[0] is self.mail
        raise error

    def _leave_data(self, following: Attempt | None) -> Flow[None]:
        """Leave an unwanted 354.

        By a lone dot where that is harmless (RFC 2920 section 3.1), else by closing (DT7, DT13, DT14).
        """
        if not is_positive(self.mail) and any(is_positive(entry) for entry in self.rcpts):
            self.session.condemn("a RCPT accepted without a MAIL")  # an older envelope: AK23
        if self.data is None or not 300 <= code_of(self.data) <= 399:
            return
        if not is_positive(self.mail) and (code_of(self.mail) == _OUT_OF_STEP or is_refused(self.rset)):
            self.session.condemn("DATA accepted, maybe for an older envelope: a dot could deliver it")
        if self.session.condemned:
            return
        if self.session.is_lmtp:
            self.session.condemn("DATA accepted without a recipient")  # how many replies a dot gets is undefined
            return
        dot = Entry(DOT)
        if following is None:
            yield Step(body.TERMINATOR, (dot,), DOT.stage)
        else:
            envelope, entries = following.announcement()
            yield Step(body.TERMINATOR + envelope, (dot, *entries), DOT.stage, ahead=True)
            following.take_note()
        if is_positive(dot):
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

    def _commit(self, octets: bytes, stage: str, following: Attempt | None, *, droppable: bool = False) -> Step:
        """What ends with the commit point, and the envelope that follows behind it (BR13, PF1)."""
        ends = self._expect_end(len(octets))
        if following is None:
            return Step(octets, ends, stage, droppable=droppable)
        envelope, entries = following.announcement()
        return Step(octets + envelope, [*ends, *entries], stage, droppable=droppable, ahead=True)

    def _data(self, following: Attempt | None) -> Flow[None]:
        """The body and the dot. The tail of the body may share the terminator's slice."""
        content = self.outgoing.content
        if content is None:
            yield from self._data_stream(following)
            return
        end = body.ending(content)
        if len(content) <= body.PIECE:
            stuffed = body.stuffed(content)
        elif body.begins_lines_with_dots(content):
            stuffed = yield from self._all_but_the_last_piece(content)
        else:
            stuffed = content
        whole = len(stuffed) - len(stuffed) % body.SLICE
        if whole:
            yield Step(memoryview(stuffed)[:whole], (), "body")
        yield self._commit(stuffed[whole:] + end, "body", following)

    def _all_but_the_last_piece(self, content: bytes) -> Flow[bytes]:
        """Stuff and write a large message piece by piece, without a copy of the whole; gives the last piece."""
        stuffer, last = body.DotStuffer(), (len(content) - 1) // body.PIECE * body.PIECE
        for begin in range(0, last, body.PIECE):
            yield Step(stuffer.process_chunk(content[begin : begin + body.PIECE]), (), "body")
        return stuffer.process_chunk(content[last:])

    def _data_stream(self, following: Attempt | None) -> Flow[None]:
        """Whole slices, however small the pieces of the source are: a write for each line would cost a packet each."""
        stuffer, source = body.DotStuffer(), self.outgoing.source()
        held = bytearray()
        while (octets := self._pull(source)) is not None:
            held += stuffer.process_chunk(octets)
            whole = len(held) - len(held) % body.SLICE
            if whole:
                yield Step(bytes(held[:whole]), (), "body")
                del held[:whole]
        yield self._commit(bytes(held) + stuffer.finish(), "body", following)

    def _chunks(self, grouped: bool, following: Attempt | None) -> Flow[None]:
        """BDAT (RFC 3030). Bytes are one LAST chunk.

        A stream goes in windows, LAST alone after every earlier 2yz (EN8).
        """
        content = self.outgoing.content
        if content is not None:
            yield from self._last_chunk(self.whole_chunk(content), following)
            return
        source = self.outgoing.source()
        held = self._chunk(source)
        while held is not None:
            window: list[bytes] = []
            while len(window) < (WINDOW if grouped else 1):
                chunk = self._chunk(source)
                if chunk is None:
                    break
                window.append(held)
                held = chunk
            if not window:
                break
            yield from self._window(window)
        yield from self._last_chunk(held or b"", following)

    def whole_chunk(self, content: bytes) -> bytes:
        """The octets of a message of known length as one chunk."""
        return content if self.outgoing.is_binary else content + missing_end(content)

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
            if not is_positive(entry):
                self._condemn_surplus()
                if code_of(entry) in UNKNOWN_COMMAND:
                    self.session.condemn("BDAT is unknown: its octets may be taken for commands")
                self._raise_refused(entry)

    def _last_chunk(self, chunk: bytes, following: Attempt | None) -> Flow[None]:
        line = commands.bdat(len(chunk), last=True)
        if len(chunk) <= body.SLICE:
            yield self._commit(line + chunk, END.stage, following, droppable=True)
            return
        yield Step(line, self._expect_end(len(line) + len(chunk)), END.stage, replies=0, droppable=True)
        if following is None:
            yield Step(memoryview(chunk), (), END.stage)
            return
        yield Step(memoryview(chunk), (), END.stage, replies=0)
        envelope, entries = following.announcement()
        yield Step(envelope, entries, END.stage, ahead=True)

    def _pull(self, source: Iterator[bytes]) -> bytes | None:
        """The next octets of the caller's source.

        It failed: BDAT goes on after RSET; DATA must close, because ending early would commit a message cut short
        (BR19).
        """
        try:
            return next(source, None)
        except Exception as error:
            self.session.source_error = error
            self.source_failed = True
            if self.outgoing.chunking:
                self.session.state = SessionState.MAIL_FROM
            else:
                self.session.condemn("a message cut short by its source")
            raise

    def _condemn_surplus(self) -> bool:
        """D5: one reply too many, and nobody knows whose reply is whose; where content follows the look says so."""
        surplus = bool(self.session.parser.pending)
        if surplus:
            self.session.condemn("octets that answer no command")
        return surplus

    def _notice_used_up(self, entry: Entry) -> None:
        """BR23: a refusal that says that the session is used up ends it, wherever the mail goes from here."""
        if entry.reply is not None and used_up(entry.kind, entry.reply):
            self.session.closing = entry.reply

    # --- the outcome ---

    def _concluded(self, following: Attempt | None) -> SendResult:
        """All replies of the flight are in: the result, or the refusal of the whole mail."""
        session = self.session
        session.state = SessionState.MAIL_FROM
        if following is None or not (following.data and 300 <= code_of(following.data) <= 399):
            # AN2: with the 354 at its place the flight is aligned, and what stands behind it is the next mail's
            self.look_for_surplus(following)
        if self.all_deliver:
            session.rset_owed = False
            return self.conclusion()
        if self.has_delivered:
            session.rset_owed = False
        for entry in self.ends:
            self._notice_used_up(entry)
        return self.conclusion()
