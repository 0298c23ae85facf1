"""faults:P8: conversations of random mails with random servers, legal and illegal; the server's own book is the judge.

One machine plays a connection over a line in memory: mails one by one and in batches at every level of pipelining, by
DATA and BDAT, from octets and streams, sources that break, batches that are left, the small verbs; the server refuses
what it likes, and the line spoils any reply it likes. `Witness` is the server: it books, names in each reply the
command that it answers, and notes what no server may hear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smtpconn import (
    Delivery,
    Mail,
    Pipelining,
    SmtpConnection,
    SmtpError,
    TlsMode,
)
from smtpconn.protocol import body
from smtpconn.protocol.audit import MailSettled

# The tests meet the package as it is installed: the directory above `tests` is not on sys.path.
from ..reference_dialogues import (  # noqa: TID252  # there is no absolute name
    GARBAGE,
    TIMEOUT,
    Line,
    Outcome,
    Played,
    Trail,
)
from ..reference_server import ReferenceServer  # noqa: TID252  # there is no absolute name

ADDRESSES = ("a@x.test", "b@x.test", "c@x.test")
LEVELS = list(Pipelining)
ALONE = re.compile(rb"(?:EHLO|LHLO|HELO|NOOP|VRFY|EXPN|HELP|QUIT|DATA)\b")
REPLY = re.compile(rb"(?s)(?:[0-9]{3}-[^\n]*\n)*[0-9]{3} [^\n]*\n")
STRAYS = (b"250 stray\r\n", b"550 stray\r\n", b"354 stray\r\n")
MALFORMED = (b"25x ok\r\n", b"250 bare\n", b"250-a\r\n251 b\r\n", b"\r\n", b"199 no\r\n", b"250 \0\r\n", GARBAGE)
CLOSINGS = (b"421 closing\r\n", b"221 closing\r\n")


class Witness(ReferenceServer):
    """Names the command in each of its replies, and keeps what it should never have heard."""

    def begin(self, *, alone: bool) -> None:
        """`alone`: nothing may stand behind an end of data in one write (BR13)."""
        self.alone = alone
        self.wrongs: list[str] = []
        self.owes_rset = False
        self.begun = False  # a first MAIL was heard
        self.ways: set[bytes] = set()
        self.name = "nobody"
        self.stops_here = False

    def hear(self, octets: bytes) -> bytes:
        """As the parent, and the last command of a group is checked."""
        self._late = 0
        return super().hear(octets)

    def _command(self, line: bytes) -> bytes | None:
        verb = line.partition(b" ")[0]
        if ALONE.match(line) and self._buffer:
            self.wrongs.append(f"{line!r} is followed by {bytes(self._buffer[:20])!r}")
        getattr(self, f"_check_{verb.decode().lower()}", self._nothing_to_check)(line)
        answer = super()._command(line)
        return answer if answer is None or verb == b"BDAT" else self._tagged(answer, line)

    def _tagged(self, answer: bytes, line: bytes) -> bytes:
        path = re.search(rb"<([^>]*)>", line)
        verb = line.partition(b" ")[0].decode()
        if verb in ("EHLO", "LHLO", "HELO"):
            return answer
        whom = path[1].decode() if path and verb == "RCPT" else ""
        return answer[:-2] + f" [{verb} {self.name} {whom}]\r\n".encode()

    def _nothing_to_check(self, line: bytes) -> None:
        """Legal at any time."""

    def _check_mail(self, line: bytes) -> None:
        path = re.search(rb"<(\w+)@", line)
        assert path is not None
        if self.owes_rset:
            self.wrongs.append(f"{line!r} without RSET behind the failure of {self.name}")
        self.name = path[1].decode()
        self.owes_rset = self.begun = True
        self.ways = set()

    def _check_rset(self, line: bytes) -> None:
        if not self.begun:
            self.wrongs.append("RSET before the first transaction")  # D8
        self.owes_rset = False

    def _check_ehlo(self, line: bytes) -> None:
        self.owes_rset = False

    _check_lhlo = _check_helo = _check_ehlo

    def _check_data(self, line: bytes) -> None:
        self._by(b"DATA")

    def _check_bdat(self, line: bytes) -> None:
        self._by(b"BDAT")

    def _by(self, way: bytes) -> None:
        self.ways.add(way)
        if len(self.ways) > 1:
            self.wrongs.append(f"DATA and BDAT in the transaction of {self.name}")

    def _read_chunk(self) -> bytes | None:
        answer = super()._read_chunk()
        if answer == b"250 chunk\r\n":
            return answer[:-2] + f" [BDAT {self.name} ]\r\n".encode()
        return answer

    def _take(self, content: bytes) -> bytes:
        recipients = list(self._recipients)
        if self.alone and self._buffer:
            self.wrongs.append(f"the end of data is followed by {bytes(self._buffer[:20])!r}")
        replies = super()._take(content).splitlines()
        if any(reply.startswith(b"2") for reply in replies):
            self.owes_rset = False
        for place, reply in enumerate(replies):
            whom = recipients[place] if self.lmtp and recipients else ""
            replies[place] = reply + f" [END {self.name} {whom}]".encode()
        return b"".join(reply + b"\r\n" for reply in replies)


class Recorded(Line):
    """A line that keeps what was written, and says one thing too many: `strays`, in front of the n-th reply."""

    written = b""

    def __init__(self, server: ReferenceServer) -> None:
        self.strays: dict[int, bytes] = {}
        super().__init__(server, spoilt={-1: (None, None)})  # nothing, but replies are counted

    def _say(self, octets: bytes) -> None:
        for reply in REPLY.findall(octets):
            if self.replies in self.strays:
                self._pass_on(self.strays[self.replies])
            super()._say(reply)

    def send(self, data: Any, timeout: float | None) -> int:
        """As the parent."""
        count = super().send(data, timeout)
        self.written += bytes(data[:count])
        return count


class BrokenError(Exception):
    """The caller's own source has failed."""


def _stream(pieces: list[bytes], breaks: bool) -> Iterator[bytes]:
    yield from pieces
    if breaks:
        raise BrokenError


OFFERS = st.lists(st.sampled_from(["PIPELINING", "PIPELINING", "CHUNKING", "CHUNKING", "SIZE"]), unique=False).map(
    lambda offers: tuple(dict.fromkeys(offers))
)
SPEC = st.fixed_dictionaries(
    {
        "recipients": st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True),
        "chunking": st.booleans(),
        "stream": st.sampled_from(["", "", "", "sound", "breaks"]),
    }
)
REFUSALS = st.sampled_from(["450 later", "550 no", "503 sequence", "421 closing", "502 what"])
AHEAD = st.integers(0, 9)


class Conversation(RuleBasedStateMachine):
    """faults:P8: a connection, and a new one when it is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.frozen: int | None = None  # octets that the line had when the connection died
        self.judged = 0
        body.CHUNK = 32

    def teardown(self) -> None:
        """The process goes on."""
        body.CHUNK = 65_536
        if self.connection is not None:
            self.connection.close()
            assert self.line.closed

    @initialize(lmtp=st.booleans(), offers=OFFERS, level=st.sampled_from(LEVELS), anyway=st.booleans())
    def connect(self, lmtp: bool, offers: tuple[str, ...], level: Pipelining, anyway: bool) -> None:
        self.lmtp, self.level, self.chunks = lmtp, level, "CHUNKING" in offers
        self.server = Witness(offers=offers, lmtp=lmtp, data_anyway=anyway, refuse={}, scripted={})
        self.server.begin(alone=level <= Pipelining.GROUPED or "PIPELINING" not in offers)
        self.line = Recorded(self.server)
        self.spoilt = self.shifted = False
        self.frozen = None
        self.played = Played(self.line, Trail(self.line))
        self.judged = 0
        self.left = False  # a burst was left: what nobody asked for any more is on the audit trail only
        self.connection: SmtpConnection | None = SmtpConnection.from_transport(
            self.line,
            protocol="lmtp" if lmtp else "smtp",
            tls_mode=TlsMode.NONE,
            timeout=TIMEOUT,
            ehlo_domain="client.test",
            pipelining=level,
            audit=self.played.audit,
        )
        self.played.connection = self.connection

    # --- what the server will do ---

    @rule(address=st.sampled_from(ADDRESSES), reply=st.one_of(st.none(), REFUSALS))
    def a_recipient_is_refused_from_now_on(self, address: str, reply: str | None) -> None:
        refuse: Any = self.server.refuse
        refuse.pop(address, None)
        if reply is not None:
            refuse[address] = reply

    @rule(ahead=AHEAD, reply=REFUSALS)
    def a_command_will_be_refused(self, ahead: int, reply: str) -> None:
        scripted: Any = self.server.scripted
        scripted[self.server.said + ahead] = reply

    @rule(replies=st.lists(st.sampled_from(["250 yes", "450 later", "550 no"]), max_size=4))
    def the_ends_of_data_are_answered(self, replies: list[str]) -> None:
        self.server.finals = list(replies)

    # --- what the line will do: cut and garble as often as it likes, or one reply too many or too few ---

    def spoil(self, ahead: int, said: bytes | None, ending: Any) -> None:
        spoilt: Any = self.line.spoilt
        spoilt[self.line.replies + ahead] = (said, ending)
        self.spoilt = True

    @precondition(lambda self: not self.shifted)
    @rule(ahead=AHEAD, said=st.sampled_from(MALFORMED), ending=st.sampled_from([None, "FIN", "RST"]))
    def a_reply_will_be_garbled(self, ahead: int, said: bytes, ending: str | None) -> None:
        self.spoil(ahead, said, ending)

    @precondition(lambda self: not self.shifted)
    @rule(
        ahead=AHEAD,
        said=st.sampled_from([None, b"", b"2", b"250", b"250-a\r\n250 b"]),
        ending=st.sampled_from(["FIN", "RST", "stall", "garbage"]),
    )
    def the_line_will_end(self, ahead: int, said: bytes | None, ending: str) -> None:
        self.spoil(ahead, said, ending)

    @precondition(lambda self: not self.spoilt)
    @rule(ahead=AHEAD, stray=st.sampled_from(STRAYS))
    def a_stray_reply_will_come(self, ahead: int, stray: bytes) -> None:
        self.line.strays[self.line.replies + ahead] = stray
        self.spoilt = self.shifted = True

    @precondition(lambda self: not self.spoilt and (self.level <= Pipelining.GROUPED or not self.chunks))
    @rule(ahead=AHEAD)
    def a_reply_will_be_swallowed(self, ahead: int) -> None:
        """Behind run-ahead BDAT no 354 stands at its place to betray it: there a server has to be trusted so far."""
        self.spoil(ahead, b"", None)
        self.shifted = True

    @precondition(lambda self: not self.shifted)
    @rule(said=st.sampled_from([*STRAYS, *CLOSINGS, *MALFORMED, None]), ending=st.sampled_from([None, "FIN", "RST"]))
    def something_comes_unasked(self, said: bytes | None, ending: Any) -> None:
        if said is not None or ending is not None:
            self.line.inject(said, ending)
            self.spoilt = True
            self.shifted |= said in STRAYS

    # --- what the client does ---

    def mail(self, spec: dict[str, Any]) -> Mail:
        self.count += 1
        name = f"m{self.count}"
        text = f"Message-ID: {name}\r\n\r\n.dot\r\n..\r\ntext, and so on for a chunk or two".encode()
        message: Any = text
        if spec["stream"]:
            message = _stream([text[:20], text[20:30], text[30:]], spec["stream"] == "breaks")
        chunking = spec["chunking"] and self.connection_.capabilities.supports_chunking
        return Mail(f"{name}@client.test", spec["recipients"], message, chunking=chunking, tag=name)

    @property
    def connection_(self) -> SmtpConnection:
        assert self.connection is not None
        return self.connection

    @rule(specs=st.lists(SPEC, min_size=1, max_size=4))
    def send_a_batch(self, specs: list[dict[str, Any]]) -> None:
        self.played.send([self.mail(spec) for spec in specs])

    @rule(spec=SPEC)
    def send_a_mail(self, spec: dict[str, Any]) -> None:
        mail = self.mail(spec)
        connection = self.connection_
        verb = connection.send_bdat if mail.chunking else connection.send
        assert mail.recipients is not None
        assert mail.message is not None
        try:
            result = verb(mail.sender or "", mail.recipients, mail.message, timeout=TIMEOUT)
        except BrokenError:
            return  # without a record: nothing can have been booked, which `judge` sees
        except SmtpError as error:
            self.played.outcomes.append(Outcome(str(mail.tag), error.recipients, error))
        else:
            self.played.outcomes.append(Outcome(str(mail.tag), result.recipients))

    @rule(specs=st.lists(SPEC, min_size=2, max_size=4), after=st.integers(0, 2))
    def leave_a_batch(self, specs: list[dict[str, Any]], after: int) -> None:
        """PF9: what was announced and not sent is nobody's."""
        batch = self.connection_.send_many([self.mail(spec) for spec in specs], timeout=TIMEOUT)
        with batch:
            for number, outcome in enumerate(batch):
                self.played.outcomes.append(Outcome(str(outcome.mail.tag), outcome.recipients, outcome.error))
                if number == after:
                    self.left = self.level is Pipelining.BURST
                    break

    @rule(verb=st.sampled_from(["noop", "reset", "rehlo", "help"]))
    def ask(self, verb: str) -> None:
        self.server.begun |= verb == "reset"  # the caller's own
        try:
            getattr(self.connection_, verb)(timeout=TIMEOUT)
        except SmtpError as error:
            self.attributed(error.reply, f"[{ {'reset': 'RSET', 'rehlo': 'EHLO'}.get(verb, verb.upper()) } ")

    @rule()
    def say_goodbye(self) -> None:
        self.connection_.quit(timeout=TIMEOUT)
        assert self.line.closed

    @precondition(lambda self: not self.connection_.usable)
    @rule(lmtp=st.booleans(), offers=OFFERS, level=st.sampled_from(LEVELS), anyway=st.booleans())
    def connect_again(self, lmtp: bool, offers: tuple[str, ...], level: Pipelining, anyway: bool) -> None:
        self.connection_.close()
        self.connect(lmtp, offers, level, anyway)

    # --- what holds ---

    def attributed(self, reply: Any, *tags: str) -> None:
        """G-T-4: the reply is to one of these commands, or the server's goodbye."""
        if reply is None or self.shifted or reply.code in (421, 221):
            return
        assert any(tag in reply.text for tag in tags), (reply, tags)

    @invariant()
    def verdicts_agree_with_the_book(self) -> None:
        """G-T-1, G-T-2."""
        booked = self.server.booked
        for outcome in self.played.outcomes[self.judged :]:
            for entry in outcome.recipients:
                key = (outcome.name, str(entry.address))
                if entry.delivery is Delivery.DELIVERED:
                    assert key in booked, f"{key} said DELIVERED, and the server has it not"
                elif entry.delivery is Delivery.NOT_DELIVERED:
                    assert key not in booked, f"{key} said NOT_DELIVERED, and the server has it"
                else:
                    assert self.spoilt, f"{key} is UNKNOWN on a sound line"
                    assert f"Message-ID: {outcome.name}\r\n".encode() in self.line.written
                name = f"{outcome.name} "
                whom = str(entry.address)
                end = f"[END {name}{whom}]" if self.lmtp else f"[END {name}]"
                self.attributed(
                    entry.reply, end, f"[RCPT {name}{whom}]", f"[MAIL {name}", f"[DATA {name}", f"[BDAT {name}"
                )
        self.judged = len(self.played.outcomes)
        told = {(name, address) for name, address, _ in self.played.verdicts()}
        assert self.left or booked <= told, f"nobody was told of {booked - told}"

    @invariant()
    def the_audit_trail_agrees_with_the_book(self) -> None:
        """BR26."""
        settled = [event for event in self.played.audit.events if isinstance(event, MailSettled)]
        sure = sum(event.delivered for event in settled)
        assert sure <= len(self.server.booked) <= sure + sum(event.unknown for event in settled)

    @invariant()
    def nothing_was_said_that_no_server_may_hear(self) -> None:
        assert self.server.wrongs == []
        assert not self.line.after_close

    @invariant()
    def the_dead_write_nothing(self) -> None:
        """D5, BR14: from the moment the connection is dead the octets stand still."""
        if self.frozen is not None:
            assert self.line.taken == self.frozen
        elif self.line.closed:
            assert not self.connection_.usable
            self.frozen = self.line.taken

    @invariant()
    def only_smtp_errors_and_the_callers_own(self) -> None:
        """BR12."""
        assert [error for error in self.played.errors if not isinstance(error, (SmtpError, BrokenError))] == []


Conversation.TestCase.settings = settings(max_examples=400, stateful_step_count=16)
TestConversation = Conversation.TestCase
pytestmark = pytest.mark.timeout(600)  # it is all of the examples that take their time, not one
