"""The server's side of a mail transaction: MAIL, RCPT, DATA, BDAT, and the end of data.

It knows which command is due, what the content must look like, and when responsibility moves. It refuses to know how
replies are changed or travel; for that it has its session.

Laws: a message is booked before its reply is written, and only if that reply is positive (or a fault that says so); a
transaction that failed stays open until RSET, as in real servers (servers 4); a refused chunk is read and dropped, and
so is every chunk behind it until RSET (RFC 3030 2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .captured import CapturedMail
from .content import objections, unstuff
from .envelope import EnvelopeError, parse_forward_path, parse_reverse_path
from .faults import Decision, reply_octets, unasked
from .wire import SessionOver

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Transaction"]

_BDAT = re.compile(r"([0-9]{1,18})(?:( LAST))?", re.IGNORECASE)
_TERMINATOR = b"\r\n.\r\n"
_PIECE = 1 << 20
_NO_VALID_RECIPIENTS = b"503 5.5.1 No valid recipients\r\n"


class Transaction:
    """Envelope and content under way on one connection.

    Attributes:
        open: MAIL was accepted and neither RSET nor an end of data came since.
        rset_in_flight: number of the flight in which the last RSET came.
        reset_refused: True after an RSET that was not obeyed: who wrote MAIL behind it in one flight could not know.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._mails = 0  # MAIL commands on this connection, refused ones, too
        self._domains: set[str] = set()
        self._marked = 0
        self.rset_in_flight = 0
        self.forget()

    def forget(self) -> None:
        """Start afresh, as after RSET."""
        self.open = False
        self._sender = ""
        self._params: dict[str, str | None] = {}
        self._recipients: list[str] = []
        self._rcpt_params: list[dict[str, str | None]] = []
        self._chunks: list[bytes] | None = None
        self._chunk_octets = 0
        self._chunk_failed = False
        self._attempted = False
        self.reset_refused = False

    def mark_flight(self) -> None:
        """Count the present flight as one of a mail transaction."""
        record = self._session.record
        if record.flights != self._marked:
            self._marked = record.flights
            record.mail_flights += 1

    # -- MAIL and RCPT

    def mail(self, argument: str) -> None:
        """MAIL FROM."""
        self.mark_flight()
        session = self._session
        if "lenient-mail" in session.quirks and (self.open or self._chunk_failed):
            self.forget()
        attempted_before, self._attempted = self._attempted, True
        self._mails += 1
        try:
            self._check_mail(attempted_before)
            sender, params = parse_reverse_path(argument, session.offered)
            limit = session.options.size_limit
            if limit is not None and int(params.get("SIZE") or 0) > limit:
                raise EnvelopeError("552 5.3.4 Message too big", broken=False)
        except EnvelopeError as error:
            self._refuse("MAIL", error)
            return
        refused = session.site.refused.get(f"<{sender.casefold()}>")
        decision = session.decide("MAIL", refused.octets if refused else b"250 2.1.0 Ok\r\n")
        if decision.positive:
            self.open, self._sender, self._params = True, sender, params
            session.record.transactions += 1
        session.emit(decision)

    def _check_mail(self, attempted_before: bool) -> None:
        session, options = self._session, self._session.options
        if not session.hello:
            raise EnvelopeError("503 5.5.1 Say hello first")
        if self.open:
            raise EnvelopeError("503 5.5.1 Nested MAIL, RSET first", broken=not self.reset_refused)
        demanded = options.require_auth
        if demanded is None:
            demanded = bool(options.auth or options.tokens)
        if demanded and session.record.user is None:
            raise EnvelopeError("530 5.7.0 Authentication required", broken=False)
        most = min(n for n in (options.max_messages, options.limits.get("MAILMAX"), 1 << 60) if n is not None)
        if self._mails > most:
            raise EnvelopeError("421 4.7.0 Too many messages in this connection", broken="MAILMAX" in options.limits)
        if "503-mail-behind-rset" in session.quirks and self.rset_in_flight == session.record.flights:
            raise EnvelopeError("503 5.5.1 Nested MAIL command", broken=False)

    def rcpt(self, argument: str) -> None:
        """RCPT TO."""
        self.mark_flight()
        session = self._session
        if not self.open or self._chunks is not None:
            self._out_of_order("RCPT", b"503 5.5.1 Need MAIL\r\n" if not self.open else b"503 5.5.1 Only BDAT now\r\n")
            return
        try:
            recipient, params = parse_forward_path(argument, session.offered, smtputf8="SMTPUTF8" in self._params)
            self._check_limits(recipient)
        except EnvelopeError as error:
            self._refuse("RCPT", error)
            return
        refused = session.site.refused.get(recipient.casefold())
        decision = session.decide("RCPT", refused.octets if refused else b"250 2.1.5 Ok\r\n", recipient)
        if decision.positive:
            self._recipients.append(recipient)
            self._rcpt_params.append(params)
        session.emit(decision)

    def _check_limits(self, recipient: str) -> None:
        options = self._session.options
        most = options.max_recipients
        announced = options.limits.get("RCPTMAX")
        if announced is not None and len(self._recipients) >= announced:
            raise EnvelopeError("452 4.5.3 Too many recipients")
        if most is not None and len(self._recipients) >= most:
            raise EnvelopeError("452 4.5.3 Too many recipients", broken=False)
        if "RCPTDOMAINMAX" in options.limits:
            self._domains.add(recipient.rpartition("@")[2].lower())
            if len(self._domains) > options.limits["RCPTDOMAINMAX"]:
                raise EnvelopeError("452 4.5.3 Too many domains")

    # -- DATA

    def data(self, argument: str) -> None:
        """DATA, and the content behind a 354."""
        self.mark_flight()
        session = self._session
        default = b"354 End data with <CRLF>.<CRLF>\r\n"
        if argument:
            session.violation("DATA with an argument")
            default = b"501 5.5.4 Syntax: DATA\r\n"
        elif not self.open:
            if not self._attempted:
                session.violation("DATA without MAIL")
            default = b"503 5.5.1 Need MAIL\r\n"
        elif self._chunks is not None:
            session.violation("DATA after BDAT")
            default = b"503 5.5.1 Only BDAT now\r\n"
        elif self._params.get("BODY") == "BINARYMIME":
            session.violation("DATA for BODY=BINARYMIME")
            default = b"503 5.6.1 BINARYMIME needs BDAT\r\n"
        elif not self._recipients and "354-without-recipients" not in session.quirks:
            default = _NO_VALID_RECIPIENTS
        decision = session.decide("DATA", default)
        session.emit(decision)
        if decision.octets.startswith(b"3"):
            content = self._read_content()
            if session.wire.lockstep and session.wire.pending():
                session.ahead("the end of data")
            self._finish(content, "DATA")

    def _read_content(self) -> bytes:
        """Read up to the lone dot; dot-stuffing removed."""
        wire = self._session.wire
        fault = self._body_fault()
        # A virtual CRLF in front makes the first line one like all others.
        buffer = bytearray(b"\r\n")
        start = 0
        while True:
            piece = wire.read_some(_PIECE)
            if not piece:
                raise SessionOver("client")
            self.mark_flight()
            buffer += piece
            if fault and len(buffer) - 2 > fault[1]:
                self._strike(fault[0])
                fault = None
            end = buffer.find(_TERMINATOR, start)
            if end >= 0:
                break
            start = max(0, len(buffer) - 4)
        if end + 5 < len(buffer):
            wire.give_back(bytes(buffer[end + 5 :]))
        content, stuffed = unstuff(bytes(buffer[: end + 2]))
        if not stuffed:
            self._session.violation("a line that begins with a dot was not stuffed")
        return content

    # -- BDAT

    def bdat(self, argument: str) -> None:
        """BDAT, and its chunk."""
        self.mark_flight()
        session = self._session
        if "CHUNKING" not in session.offered:
            session.violation("BDAT without CHUNKING")
            session.emit(Decision(b"502 5.5.1 Command not implemented\r\n"))
            return
        match = _BDAT.fullmatch(argument)
        if match is None:
            # The chunk's size is unknown: what follows would be run as commands.
            session.violation("bad syntax of BDAT")
            session.emit(Decision(b"521 5.5.4 Syntax: BDAT size [LAST]\r\n", ending="EOF"))
            return
        if "run-refused-chunks" in session.quirks and not self._recipients:
            session.emit(Decision(b"502 5.5.1 Missing RCPT TO command\r\n"))
            return
        size, last = int(match[1]), match[2] is not None
        chunk = self._read_chunk(size)
        if session.wire.lockstep and session.wire.pending():
            session.ahead("BDAT")
        refusal = self._refuse_chunk(size)
        if not refusal:
            if self._chunks is None:
                self._chunks = []
            self._chunks.append(chunk)
            self._chunk_octets += size
            if last:
                self._finish(b"".join(self._chunks), "BDAT")
                return
        stage, reply = "end of data" if last else "BDAT", refusal or b"250 2.0.0 %d octets\r\n" % size
        # LMTP: whatever is said to the last chunk is said once for each recipient (RFC 2033 section 4.2)
        each: list[str | None] = [None]
        if last and session.options.protocol == "lmtp" and self._recipients:
            each = [*self._recipients]
        for decision in [session.decide(stage, reply, recipient) for recipient in each]:
            if not decision.positive:
                self._chunk_failed = True
            session.emit(decision)

    def _refuse_chunk(self, size: int) -> bytes:
        limit = self._session.options.size_limit
        if self._chunk_failed:
            return b"503 5.5.1 Previous data chunk failed, issue RSET first\r\n"
        if not self.open:
            if not self._attempted:
                self._session.violation("BDAT without MAIL")
            return b"503 5.5.1 Need MAIL\r\n"
        if not self._recipients:
            return _NO_VALID_RECIPIENTS
        if limit is not None and self._chunk_octets + size > limit:
            return b"552 5.3.4 Message too big\r\n"
        return b""

    def _read_chunk(self, size: int) -> bytes:
        wire = self._session.wire
        fault = self._body_fault() if size else None
        limit = self._session.options.size_limit
        pieces: list[bytes] = []
        taken = 0
        while taken < size:
            piece = wire.read_some(size - taken)
            if not piece:
                raise SessionOver("client")
            self.mark_flight()
            taken += len(piece)
            if limit is None or taken <= limit:
                pieces.append(piece)
            if fault and taken > fault[1]:
                self._strike(fault[0])
                fault = None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- the end of data

    def _finish(self, content: bytes, verb: str) -> None:
        session = self._session
        behind = session.wire.pending()
        if behind and "die-behind-end-of-data" in session.quirks:
            session.end("EOF")
        body = (self._params.get("BODY") or "7BIT").upper()
        for objection in objections(content, body, smtputf8="SMTPUTF8" in self._params):
            session.violation(f"{objection}, sent by {verb}")
        decisions = self._decide_finally(content)
        accepted = [i for i, (_, decision) in enumerate(decisions) if decision.positive and self._recipients]
        if accepted:
            self._book(content, verb, decisions, accepted)
        self.forget()
        for _, decision in decisions:
            session.emit(decision)
        if behind:
            self._misbehave_behind()

    def _decide_finally(self, content: bytes) -> list[tuple[str, Decision]]:
        """Decide for each recipient; outside LMTP, and where there is none, one decision for all."""
        session, options = self._session, self._session.options
        default = b"250 2.0.0 Ok: queued as %s\r\n" % self._queue_id.encode()
        if not self._recipients:
            default = b"554 5.5.1 No valid recipients\r\n"
        elif options.size_limit is not None and len(content) > options.size_limit:
            default = b"552 5.3.4 Message too big\r\n"
        if options.protocol != "lmtp" or not self._recipients:
            refusals = [session.site.refused_finally.get(r.casefold()) for r in self._recipients]
            refusal = next((decision for decision in refusals if decision), None)
            return [("", session.decide("end of data", refusal.octets if refusal else default))]
        decisions: list[tuple[str, Decision]] = []
        dead = False
        for index, recipient in enumerate(self._recipients):
            if "merge-duplicates" in session.quirks and recipient in self._recipients[:index]:
                continue
            refusal = session.site.refused_finally.get(recipient.casefold())
            reply = refusal.octets if refusal else default
            if reply is default and reply.startswith(b"250"):
                reply = b"250 2.1.5 <%s> delivered, id=%s\r\n" % (recipient.encode(), self._queue_id.encode())
            decision = session.decide("end of data", reply, recipient)
            if dead:  # the server died, or said 421, at an earlier recipient: it takes nothing behind that
                decision.positive = False
            dead = dead or bool(decision.ending and not decision.positive)
            decisions.append((recipient, decision))
        return decisions

    @property
    def _queue_id(self) -> str:
        record = self._session.record
        return f"{record.index:05}-{record.transactions:05}"

    def _book(
        self, content: bytes, verb: str, decisions: list[tuple[str, Decision]], accepted: list[int]
    ) -> None:
        if len(decisions) == 1 and decisions[0][0] == "":
            recipients, params = self._recipients, self._rcpt_params
            decided = [(recipient, _booked_text(decisions[0][1])) for recipient in recipients]
        else:
            taken = {decisions[i][0] for i in accepted}
            kept = [i for i, recipient in enumerate(self._recipients) if recipient in taken]
            if len(decisions) == len(self._recipients):
                kept = accepted
            recipients = [self._recipients[i] for i in kept]
            params = [self._rcpt_params[i] for i in kept]
            decided = [(r, _booked_text(d)) for r, d in decisions]
        session = self._session
        session.site.books.book(
            CapturedMail(
                sender=self._sender, recipients=recipients, mail_params=self._params, rcpt_params=params,
                content=content, verb=verb, session=session.record, queue_id=self._queue_id, decisions=decided,
            )
        )  # fmt: skip

    def _misbehave_behind(self) -> None:
        session = self._session
        if "swallow-behind-end-of-data" in session.quirks:
            session.wire.discard()
        elif "503-behind-end-of-data" in session.quirks:
            for _ in range(session.wire.discard().count(b"\n")):
                session.emit(Decision(b"503 5.5.1 Not now\r\n"))

    # -- shared

    def _refuse(self, stage: str, error: EnvelopeError) -> None:
        if error.broken:
            self._session.violation(f"{stage}: {error.reply}")
        octets = reply_octets(error.reply)
        self._session.emit(self._session.decide(stage, octets, closing=octets.startswith(b"421")))

    def _out_of_order(self, verb: str, reply: bytes) -> None:
        if not self._attempted or self._chunks is not None:
            self._session.violation(f"{verb} out of order")
        self._session.answer(verb, reply)

    def _body_fault(self) -> tuple[str, int] | None:
        session = self._session
        rule = session.site.rules.match(("body",))
        if rule is not None:
            return rule.kind, rule.after
        if session.options.fault_rate:
            kind = session.draw("body")
            if kind is not None:
                return kind, 0
        return None

    def _strike(self, kind: str) -> None:
        """Do what a fault at stage `body` asks for; returns if the body goes on."""
        session = self._session
        decision = unasked(kind)
        if decision.octets:
            session.wire.queue(decision.octets)
            session.wire.flush()
        if decision.ending:
            session.end(decision.ending, in_body=True)


def _booked_text(decision: Decision) -> str:
    """Say what was decided, whatever became of the reply: a positive decision begins with 2, no other does."""
    text = decision.text
    if decision.positive:
        return text if text.startswith("2") and not decision.ending else "250 booked, reply withheld"
    return "not booked" if text.startswith("2") or not text else text
