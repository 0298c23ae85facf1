"""All mails of a source through one pool, with a journal: what `smtpconn bulk` does between reading and showing.

Knows mails, verdicts and turns. Refuses to know options and how anything is shown. Its laws: the INTENT of a mail is in
the journal before the last octet in front of its end of data is given away, and no earlier, so that little is UNKNOWN
after a kill; its VERDICT is there before anybody is shown it; what was UNKNOWN is not sent; a mail that was begun
before a stop has its verdict.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from smtpconn import (
    ConnectionPool,
    InvalidInputError,
    Mail,
    MailOutcome,
    MailParams,
    RecipientResult,
    SmtpError,
)
from smtpconn.cli.exits import CommandError
from smtpconn.cli.sources import Letter, Source, Unusable
from smtpconn.cli.verdict_journal import JournalError, Settled, State, VerdictJournal
from smtpconn.protocol.body import canonical
from smtpconn.protocol.reply import Reply

_LOOK_AGAIN = 0.1  # seconds


class Shown(NamedTuple):
    """One recipient of one mail, for whoever watches."""

    name: str
    verdict: Settled
    reply: Reply | None
    text: str = ""


class Watcher(Protocol):
    """Who is told while it goes on. Nothing that it is told may raise."""

    def settled(self, shown: Shown) -> None:
        """A verdict is in the journal, or was there and needs somebody's attention."""
        ...

    def unusable(self, mail: Unusable) -> None:
        """This mail of the source cannot be sent."""
        ...

    def progress(self, done: int) -> None:
        """So many mails of the source are settled, or were given up for now."""
        ...


class _Content:
    """The octets of a mail, with the intent behind them.

    The library asks for what follows the octets before it writes the end of data, and does not write that if this
    raises. Each attempt reads it anew.
    """

    def __init__(self, octets: bytes, intend: Callable[[], None]) -> None:
        self._octets = octets
        self._intend = intend

    def __iter__(self) -> Iterator[bytes]:
        yield self._octets
        self._intend()


class Mailing:
    """One run over a source. `newlines`: as of `Mail`; `chunking`: by BDAT."""

    def __init__(
        self, source: Source, journal: VerdictJournal, watcher: Watcher, *, newlines: str, chunking: bool
    ) -> None:
        self._source = source
        self._journal = journal
        self._watcher = watcher
        self._newlines = newlines
        self._chunking = chunking
        self._stopped = False  # an Event could be locked by the very thread that a signal interrupts
        self._looked_at = 0  # mails of the source that were counted, in its order
        self._done = 0
        self.tally: Counter[State] = Counter()
        self.earlier: Counter[State] = Counter()
        self.mails = 0
        self.unusable = 0
        self.fault: SmtpError | None = None
        self.refusal: SmtpError | None = None
        self.journal_error: JournalError | None = None
        self.source_error: CommandError | None = None

    def stop(self) -> None:
        """Begin nothing more. May be called by a signal handler."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """True once `stop` was called."""
        return self._stopped

    def run(self, pool: ConnectionPool, *, retries: int, wait: float) -> None:
        """Every mail, and up to `retries` turns more for what may be delivered later, `wait` seconds apart."""
        for turn in range(retries + 1):
            if turn:
                self._pause(wait)
            if self.stopped:
                return
            self._turn(pool)
            if self.journal_error is not None or self.source_error is not None or self.stopped:
                return
            if self.fault is not None and self.fault.permanent:
                return
            if self.fault is None and not self.tally[State.LATER]:
                return

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_AGAIN))

    def abandon(self) -> None:
        """The run was cut off: what has an intent and no verdict is UNKNOWN."""
        for intent in self._journal.pending:
            for recipient in intent.recipients:
                self._count(State.OPEN, -1)
                self._count(State.UNKNOWN, 1)
                self._show_unknown(intent.name, recipient, "cut off before its verdict")

    def finish(self) -> None:
        """What the journal knows as UNKNOWN, and the source has no more."""
        for (_, recipient), name in self._journal.unknown.items():
            self._count(State.UNKNOWN, 1)
            self.earlier[State.UNKNOWN] += 1
            self._show_unknown(name, recipient, "left by an earlier run, of a mail that is not there now")

    def _show_unknown(self, name: str, recipient: str, text: str) -> None:
        self._watcher.settled(Shown(name, Settled(recipient, State.UNKNOWN), None, text))

    # --- one turn ---

    def _turn(self, pool: ConnectionPool) -> None:
        self._done, self.fault = 0, None
        with pool.send_many(self._mails(), ordered=False) as outcomes:
            try:
                for outcome in outcomes:
                    self._settle(outcome)
            except SmtpError as error:
                self.fault = error
            except JournalError as error:
                self.journal_error = error
            except CommandError as error:  # the source ends where it cannot be read any further
                self.source_error = error

    def _mails(self) -> Iterator[Mail]:
        """What is to be sent, while it is asked for: in the thread that settles."""
        for number, found in enumerate(self._source, 1):
            if self.stopped:
                return
            is_new = number > self._looked_at
            self._looked_at = max(self._looked_at, number)
            mail = None if isinstance(found, Unusable) else self._mail(found, is_new=is_new)
            if isinstance(found, Unusable) and is_new:
                self._refuse(found)
            if mail is None:
                self._advance()
            else:
                yield mail

    def _mail(self, letter: Letter, *, is_new: bool) -> Mail | None:
        """The mail for those of its recipients who may get it."""
        try:
            mail = Mail(
                letter.sender,
                list(dict.fromkeys(letter.recipients)),
                b"",
                params=MailParams(smtputf8=True if letter.international else None),
            )
            octets = canonical(letter.octets, self._newlines)
        except InvalidInputError as error:
            if is_new:
                self._refuse(Unusable(letter.name, str(error)))
            return None
        assert mail.recipients is not None
        states = {each.address: self._journal.state(letter.key, each.address) for each in mail.recipients}
        if is_new:
            self._look_at(letter, states)
        wanted = [address for address, state in states.items() if state in (State.OPEN, State.LATER)]
        if not wanted:
            return None
        content = _Content(octets, lambda: self._journal.intend(letter.key, letter.name, wanted))
        return Mail(
            letter.sender,
            wanted,
            content,
            params=mail.params,
            size=len(octets),
            chunking=self._chunking,
            tag=letter,
        )

    def _look_at(self, letter: Letter, states: dict[str, State]) -> None:
        """Count a mail that is met for the first time, with what earlier runs have done for it."""
        self.mails += 1
        for address, state in states.items():
            self._count(state, 1)
            if state is not State.OPEN:
                self.earlier[state] += 1
            if state is State.UNKNOWN:
                self._journal.unknown.pop((letter.key, address), None)
                self._show_unknown(letter.name, address, "left by an earlier run, and not sent again")
            elif state is State.REFUSED:
                verdict = Settled(address, state)
                self._watcher.settled(Shown(letter.name, verdict, None, "refused in an earlier run"))

    def _settle(self, outcome: MailOutcome) -> None:
        """Journal first, then the tally, then people."""
        error = outcome.error
        if isinstance(error, JournalError):
            self.stop()
            self.journal_error = error
            return
        if error is not None and not isinstance(error, SmtpError):
            raise error
        letter: Letter = outcome.mail.tag
        if error is not None and self.refusal is None:
            self.refusal = error
        results = outcome.recipients
        verdicts = [_settled(entry, error) for entry in results]
        before = [self._journal.state(letter.key, each.recipient) for each in verdicts]
        self._journal.settle(letter.key, letter.name, verdicts)
        self._advance()
        text = "" if error is None else f"{type(error).__name__}: {error}"
        for old, verdict, entry in zip(before, verdicts, results, strict=True):
            self._count(old, -1)
            self._count(verdict.state, 1)
            self._watcher.settled(Shown(letter.name, verdict, entry.reply, text))

    def _refuse(self, mail: Unusable) -> None:
        self.mails += 1
        self.unusable += 1
        self._watcher.unusable(mail)

    def _count(self, state: State, number: int) -> None:
        self.tally[state] += number

    def _advance(self) -> None:
        self._done += 1
        self._watcher.progress(self._done)

    @property
    def left(self) -> int:
        """Mails of the source that were not even looked at."""
        return 0 if self.source_error is not None else self._source.count() - self._looked_at


def _settled(entry: RecipientResult, error: SmtpError | None) -> Settled:
    """The verdict for one recipient, and whether another attempt has a point, in this run or in another one."""
    code = entry.reply.code if entry.reply else None
    enhanced = str(entry.reply.enhanced) if entry.reply and entry.reply.enhanced else None
    state = State[entry.delivery.name] if entry.delivery.name in State.__members__ else State.LATER
    if state is not State.LATER:
        return Settled(entry.address, state, code, enhanced)
    permanent = entry.permanent if entry.reply is not None else error is not None and error.permanent
    if not permanent:
        return Settled(entry.address, State.LATER, code, enhanced, final=False)
    # What the configuration, the login or another server would change is tried again by the next run.
    final = entry.reply is not None and (error is None or error.scope in ("recipient", "message"))
    return Settled(entry.address, State.REFUSED, code, enhanced, final=final)
