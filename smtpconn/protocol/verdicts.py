"""What became of one mail: the replies it awaits, and every verdict as a function of those that were read.

Knows the commit point, the ways in which a flight can be out of step (PF6), and what a loss leaves in doubt; refuses to
know what is written when (`transaction` and `burst` do). The verdicts are the same whatever ended the conversation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from smtpconn.protocol.envelope import Outgoing
from smtpconn.protocol.errors import Delivery, DeliveryUnknownError, ProtocolError, SmtpError
from smtpconn.protocol.ledger import END, MAIL, RCPT, Entry
from smtpconn.protocol.reply import MalformedReplyError, Reply
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.protocol.session import Session

UNKNOWN_COMMAND = frozenset({500, 502, 504})  # to BDAT: its octets may be taken for commands

_POSITIVE = frozenset(range(200, 300))
_TAKEN = _POSITIVE - {221}  # that one is a farewell (BR2)

_Verdict = tuple[Delivery, "Reply | None", "str | None"]


class Verdicts:
    """The entries of one mail, and what they say of each recipient, at any moment."""

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
        self.in_burst = False  # its message was written before the reply to its MAIL
        self.contaminated = False  # the end of data was accepted though the envelope was not (DT20)
        self.announced = False  # its envelope was written behind the end of data in front of it
        self.out_of_step: Entry | None = None  # the first RCPT that was answered 503
        self.source_failed = False  # the caller's body source raised
        self.misaligned = False  # a surplus reply: whose reply is whose is not known any more

    @property
    def envelope(self) -> list[Entry]:
        """The entries of its envelope, in order."""
        return [entry for entry in (self.rset, self.mail, *self.rcpts, self.data) if entry is not None]

    @property
    def entries(self) -> list[Entry]:
        """All entries of its, in order."""
        return [*self.envelope, *self.chunks, *self.ends]

    def _note_accepted(self) -> None:
        """The replies to the RCPTs are in."""
        accepted = self.accepted = {}
        for place, entry in enumerate(self.rcpts):
            if entry.reply is not None and entry.reply.code in _POSITIVE:
                accepted[place] = len(accepted)

    @property
    def begun(self) -> bool:
        """True if octets of it may have been written."""
        return self.mail.reply is not None or self.mail in self.session.ledger.owed

    @property
    def answered(self) -> bool:
        """True if every final reply was read."""
        return bool(self.ends) and all(entry.reply is not None for entry in self.ends)

    @property
    def has_delivered(self) -> bool:
        """True if somebody got the mail."""
        return any(map(delivers, self.ends))

    @property
    def all_deliver(self) -> bool:
        """True if every final reply was read and takes responsibility."""
        ends = self.ends
        return bool(ends) and delivers(ends[0]) and (len(ends) == 1 or all(map(delivers, ends)))

    def is_in_doubt(self, others: Sequence[Reply], *, unread: bool, garbage: bool) -> bool:
        """OS, LS, PF6: could one of these replies be the final one, and would it change the verdict?"""
        if self.session.is_lmtp or delivers(self.ends[0]):
            success = not unread and not garbage and all(reply.is_positive for reply in others)
            return not success or not all(delivers(entry) for entry in self.ends)
        return unread or any(reply.is_positive and reply.code != 221 for reply in others)

    def conclusion(self) -> SendResult:
        """The result by the final replies, which are all there; raises the refusal of the whole mail."""
        session = self.session
        if self.misaligned:
            raise ProtocolError("replies that answer nothing followed the final reply", stage=END.stage)
        if self.outgoing.chunking and any(code_of(entry) in UNKNOWN_COMMAND for entry in self.ends):
            session.condemn("BDAT is unknown: its octets may be taken for commands")
        first = self.ends[0]
        if not session.is_lmtp and not delivers(first):
            assert first.reply is not None
            raise session.refusal(END, first.reply)
        return SendResult(self.results(), None if session.is_lmtp else first.reply)

    def cut_off(self, following: Verdicts) -> SendResult:
        """The flight broke behind this mail's final replies: the result by these (PF5), or by what it showed (PF6)."""
        ledger = self.session.ledger
        if ledger.surplus or ledger.garbled:
            self.judge_shift(following)
        return self.conclusion()

    def look_for_surplus(self, following: Verdicts | None) -> None:
        """OS and LS: octets behind the final reply end the session.

        They leave the verdict in doubt where it could be theirs.
        """
        if not self.session.parser.pending:
            return
        replies, cut, garbage = self.session.surplus("octets behind the final reply")
        if not cut and not garbage and all(reply.code in (421, 221) for reply in replies):
            self.session.closing = replies[-1]
        elif following is None:
            self.misaligned = self.is_in_doubt(replies, unread=cut, garbage=garbage)
        else:
            self.session.ledger.surplus += replies
            self.session.ledger.garbled = cut or garbage
            self.judge_shift(following)

    def judge_shift(self, following: Verdicts) -> None:
        """PF6: a reply too many or too few. The true final reply is one of a window that the shift tells."""
        ledger = self.session.ledger
        self.session.flightless = "a flight out of step"
        entries = [*self.ends, *following.envelope]
        read = [entry.reply for entry in entries if entry.reply is not None] + ledger.surplus
        others = read[len(self.ends) :]
        go_on = next((place for place, reply in enumerate(read) if 300 <= reply.code <= 399), None)
        shift: int | None = None
        if following.data is not None and go_on is not None:
            shift = go_on - entries.index(following.data)
        elif not ledger.garbled and go_on is None and (following.data is None or following.data.reply is not None):
            shift = sum(reply.code not in (421, 221) for reply in ledger.surplus)
        if shift is None:
            self.misaligned = self.is_in_doubt(others, unread=False, garbage=ledger.garbled)
        else:
            self.misaligned = shift < 0 or self.is_in_doubt(others[:shift], unread=False, garbage=False)

    def results(self) -> tuple[RecipientResult, ...]:
        """What is known of every recipient given, in order."""
        outgoing, ends, count = self.outgoing, self.ends, len(self.rcpts)
        stands = not (self.contaminated or self.misaligned or self.chunks or is_refused(self.data))
        if stands and is_positive(self.mail) and len(self.accepted) == count and self.all_deliver:
            # Everybody has it: most mails are so, and no question is to be asked about each recipient.
            if not self.session.is_lmtp:
                reply, stage = ends[0].reply, END.stage
                return tuple([RecipientResult(to, Delivery.DELIVERED, reply, stage) for to in outgoing.recipients])
            replies = [ends[place].reply for place in outgoing.given]
            many = itertools.repeat
            return tuple(map(RecipientResult, outgoing.recipients, many(Delivery.DELIVERED), replies, many(END.stage)))
        of_all = self._first_refused((self.data, *self.chunks))
        verdicts = [self._verdict(place, self._refused_by(place, of_all)) for place in range(count)]
        pairs = zip(outgoing.recipients, outgoing.given, strict=True)
        return tuple([RecipientResult(recipient, *verdicts[place]) for recipient, place in pairs])

    def _verdict(self, place: int, refused: Entry | None) -> _Verdict:
        end = self._end_of(place)
        handed_over = end is not None and end.reply is None and self.session.ledger.committed(end)
        if self.contaminated or (refused is not None and handed_over and self._is_contradicted):
            return Delivery.UNKNOWN, self._doubtful(place).reply, END.stage  # maybe for an older envelope (BR17, BU3)
        if refused is not None:
            return Delivery.NOT_DELIVERED, refused.reply, refused.kind.stage
        if end is None or (end.reply is None and (not handed_over or self._is_dismissed)):
            return Delivery.NOT_DELIVERED, None, None
        if end.reply is None or self.misaligned:
            return Delivery.UNKNOWN, end.reply, end.kind.stage
        return Delivery.DELIVERED if delivers(end) else Delivery.NOT_DELIVERED, end.reply, end.kind.stage

    @property
    def _is_dismissed(self) -> bool:
        """BU2: the server said goodbye in front of this end of data, and ended: it takes commands in order."""
        return self.in_burst and self.session.ledger.farewell and self.ends[0].reply is None

    def _doubtful(self, place: int) -> Entry:
        """Whose reply is shown for a recipient in doubt: over LMTP never that of another recipient."""
        if not self.session.is_lmtp or not self.accepted:
            return self.ends[0]
        return self.ends[self.accepted[place]] if place in self.accepted else self.rcpts[place]

    @property
    def _is_contradicted(self) -> bool:
        """Refusals that prove nothing: RSET was refused, too, or a recipient accepted behind the refused MAIL.

        The latter is no answer of a server that has no sender: a reply may be missing or one too many.
        """
        return is_refused(self.rset) or (is_refused(self.mail) and any(map(is_positive, self.rcpts)))

    def _refused_by(self, place: int, of_all: Entry | None) -> Entry | None:
        """The first entry whose refusal says that this recipient cannot have the mail; `of_all` stands behind RCPT."""
        return self._first_refused((self.mail, self.rcpts[place])) or of_all

    @staticmethod
    def _first_refused(entries: Sequence[Entry | None]) -> Entry | None:
        for entry in entries:
            if entry is not None and entry.reply is not None and entry.reply.code >= 400:
                return entry
        return None

    def _end_of(self, place: int) -> Entry | None:
        if self.in_burst and place not in self.accepted:
            return self.ends[0]
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

    def refuse_surplus(self) -> None:
        """Octets stand behind the replies to the envelope: raise, unless the content would follow (the look says so).

        BR4: a refusal in this group may be another command's, and nobody shall bounce for it. A server that refuses and
        says goodbye is in step.
        """
        if is_positive(self.mail) and any(map(is_positive, self.rcpts)) and code_of(self.data) < 400:
            return
        try:
            surplus = self.session.parser.next_reply()
        except MalformedReplyError:
            surplus = None
        if surplus is None or surplus.code not in (421, 221):
            stage = next(entry.kind.stage for entry in reversed(self.envelope) if entry.reply is not None)
            raise ProtocolError(f"{stage}: the replies to the envelope do not fit its commands", stage=stage)


def is_positive(entry: Entry) -> bool:
    """True if a 2yz was read."""
    return entry.reply is not None and entry.reply.code in _POSITIVE


def is_refused(entry: Entry | None) -> bool:
    """True if a 4yz or 5yz was read."""
    return entry is not None and entry.reply is not None and entry.reply.code >= 400


def delivers(entry: Entry) -> bool:
    """True if this final reply takes responsibility: 2yz, but 221 is a farewell (BR2)."""
    return entry.reply is not None and entry.reply.code in _TAKEN


def code_of(entry: Entry | None) -> int:
    """The code that was read, or 0."""
    return entry.reply.code if entry is not None and entry.reply is not None else 0
