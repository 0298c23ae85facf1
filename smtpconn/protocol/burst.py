"""Whole BDAT transactions in one flight, one or several (`Pipelining.BURST`).

Knows pipelining LV9 and faults BU1-BU5: how much shares a flight, whose replies come when, and what each mail gets when
the flight breaks. Its law: a commit point stands in front of the reply to its own MAIL, so a mail that was handed over
and has no reply is in doubt, whatever was said of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from smtpconn.protocol import commands
from smtpconn.protocol.errors import ProtocolError, ServiceUnavailableError, SmtpError, SmtpTimeoutError
from smtpconn.protocol.flow import Flow, Step
from smtpconn.protocol.ledger import END, LMTP_END, RSET, Entry
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.protocol.session import Session, SessionState
from smtpconn.protocol.transaction import GROUP, Attempt

TRANSACTIONS, OWED, OCTETS = 32, 128, 262_144  # CN5

Outcome = SendResult | SmtpError


class Burst:
    """Transactions that share a flight. `add` while there is room, then run `flow`, then ask for `outcomes`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.attempts: list[Attempt] = []
        self._lines = self._owed = self._octets = 0

    def add(self, attempt: Attempt) -> bool:
        """Take this mail into the flight, if it may go in one and there is room (LV9)."""
        content = attempt.outgoing.content
        if content is None or not attempt.outgoing.chunking or not attempt.fits_one_group:
            return False
        lines = len(commands.rset()) + attempt.outgoing.envelope_size + len(commands.bdat(len(content), last=True))
        recipients = len(attempt.rcpts)
        owed = 2 + recipients + (recipients if self.session.is_lmtp else 1)
        if self.attempts and (
            len(self.attempts) >= TRANSACTIONS
            or self._lines + lines > GROUP
            or self._owed + owed > OWED
            or self._octets + len(content) > OCTETS
        ):
            return False
        if len(content) > OCTETS or owed > OWED:
            return False
        self.attempts.append(attempt)
        self._lines += lines
        self._owed += owed
        self._octets += len(content)
        return True

    def flow(self) -> Flow[None]:
        """Write everything, then take the replies transaction by transaction (EN6)."""
        session = self.session
        entries: list[Entry] = []
        parts: list[bytes] = []
        size = 0
        for place, attempt in enumerate(self.attempts):
            lines, owed = self._opening(attempt, first=not session.mails and not place)
            content = attempt.outgoing.content
            assert content is not None, "only mails of known length are taken"
            chunk = attempt.whole_chunk(content)
            parts += [lines, commands.bdat(len(chunk), last=True), chunk]
            size += sum(map(len, parts[-3:]))
            end = Entry(LMTP_END if session.is_lmtp else END, size)
            end.more = attempt.fan_out
            attempt.ends = [end]
            attempt.in_burst = True
            entries += [*owed, *attempt.ends]
        first = len(self.attempts[0].envelope)
        yield Step(b"".join(parts), entries, END.stage, replies=first, droppable=True, ahead=True)
        session.mails += len(self.attempts)
        for place, attempt in enumerate(self.attempts):
            session.ledger.head()  # fans out
            behind = self.attempts[place + 1 : place + 2]
            owed_next = sum([len(following.envelope) for following in behind])
            yield Step(b"", (), END.stage, replies=len(attempt.ends) + owed_next, ahead=True)
        session.state = SessionState.MAIL_FROM
        session.rset_owed = not self.attempts[-1].has_delivered
        self._look_for_surplus()

    @staticmethod
    def _opening(attempt: Attempt, *, first: bool) -> tuple[bytes, list[Entry]]:
        """RSET, but for a connection's first MAIL (RE2, RE3), MAIL, and every RCPT."""
        lines = [attempt.outgoing.mail_line, *attempt.outgoing.rcpt_lines]
        if not first:
            attempt.rset = Entry(RSET)
            lines.insert(0, commands.rset())
        return b"".join(lines), attempt.envelope

    def _look_for_surplus(self) -> None:
        """BU4: replies beyond the count shift those of every transaction."""
        surplus, cut, garbage = self.session.surplus("octets behind a burst")
        garbled = cut or garbage
        if surplus and not garbled and all(reply.code in (421, 221) for reply in surplus):
            self.session.closing = surplus[-1]
        elif surplus or garbled:
            shift = None if garbled else sum(reply.code not in (421, 221) for reply in surplus)
            self._judge_shift(surplus, shift, garbled)

    def _judge_shift(self, surplus: Sequence[Reply], shift: int | None, garbled: bool) -> None:
        """BU4: which mails could have another reply than the one that was read, and would it change their verdict?"""
        self.session.flightless = "a flight out of step"
        entries = [entry for attempt in self.attempts for entry in (*attempt.envelope, *attempt.ends)]
        replies = [entry.reply for entry in entries if entry.reply is not None] + list(surplus)
        for attempt in self.attempts:
            if not any(self.session.ledger.committed(entry) for entry in attempt.ends):
                continue  # BU1: nobody can have taken it
            own = [entry.reply for entry in attempt.entries if entry.reply is not None]
            others: Sequence[Reply] = ()
            if attempt.answered:
                last = entries.index(attempt.ends[-1]) + 1
                others = replies[last:] if shift is None else replies[last : last + shift]
                final = [own[-1], *others]
                if not self.session.is_lmtp and not garbled and all(reply.code >= 400 for reply in final):
                    continue  # refused, whichever of them is its reply
            agreed = not garbled and all(reply.is_positive for reply in (*own, *others))
            attempt.contaminated = attempt.contaminated or not agreed

    def results(self) -> tuple[RecipientResult, ...]:
        """What is known of the recipients of all mails, in order."""
        return tuple(entry for attempt in self.attempts for entry in attempt.results())

    def outcomes(self, fault: SmtpError | None) -> list[Outcome]:
        """What becomes of each mail; `fault` is what the flow raised."""
        ledger = self.session.ledger
        if fault is not None and (ledger.surplus or ledger.garbled):
            in_step = not ledger.owed and not ledger.garbled
            self._judge_shift(ledger.surplus, len(ledger.surplus) if in_step else None, ledger.garbled)
        outcomes = [self._outcome(attempt, fault) for attempt in self.attempts]
        for before, attempt, outcome in zip(self.attempts, self.attempts[1:], outcomes[1:], strict=False):
            if isinstance(outcome, SmtpError) and not attempt.answered:
                start = before.ends[0].end if before.ends else None
                outcome._untouched = start is None or ledger.handed <= start
        return outcomes

    def _outcome(self, attempt: Attempt, fault: SmtpError | None) -> Outcome:
        try:
            if not attempt.contaminated and (fault is None or attempt.answered):
                return attempt.burst_conclusion()
            error: SmtpError = ProtocolError("a flight out of step") if fault is None else copy.copy(fault)
        except SmtpError as refusal:
            error = refusal
        closing = self.session.closing
        if closing is not None and isinstance(error, SmtpTimeoutError) and not attempt.answered:
            error = ServiceUnavailableError(f"the server closes the connection: {closing}", reply=closing)
        return attempt.explained(error)
