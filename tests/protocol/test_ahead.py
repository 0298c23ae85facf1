"""Run-ahead flights in the core: announced envelopes (PREFETCH), whole transactions in a flight (BURST).

A dialogue without a driver: `Ahead` does what the driver promises a flow, and when the replies run out or do not fit it
does what the driver does then: it closes the flow, and what was said besides is in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from smtpconn.protocol.burst import OCTETS, OWED, TRANSACTIONS, Burst, Outcome
from smtpconn.protocol.envelope import Outgoing
from smtpconn.protocol.errors import (
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    PermanentReplyError,
    ProtocolError,
    RecipientsRefusedError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.protocol.flow import Flow, Pipelining
from smtpconn.protocol.reply import MalformedReplyError, Reply
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.session import ProtocolName, Session, SessionState
from smtpconn.protocol.transaction import GROUP, Attempt

from .transactions import mail_of, said, session_of

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
LIMITS = ("PIPELINING", "CHUNKING")


class BrokenError(Exception):
    """The replies ran out, or the next one cannot stand where it is."""


@dataclass
class Ahead:
    """One session, what was written, and the server's replies to come."""

    session: Session
    replies: list[str | bytes]
    flights: list[bytes] = field(default_factory=list)
    taken: int | None = None  # octets of the next step that the transport takes

    def run(self, flow: Flow[SendResult | None]) -> SendResult | None:
        """Run a flow; `BrokenError` where the driver would raise, what the flow raises otherwise."""
        try:
            step = next(flow)
            while True:
                step = flow.send(self._perform(step.octets, step.expects, step.replies))
        except StopIteration as stop:
            result: SendResult | None = stop.value
            return result
        finally:
            flow.close()

    def _perform(self, octets: bytes | memoryview, expects: Sequence[object], count: int | None) -> list[Reply]:
        ledger, parser = self.session.ledger, self.session.parser
        for entry in expects:
            ledger.enter(entry)  # type: ignore[arg-type]  # entries, as a Step has them
        if octets:
            self.flights.append(bytes(octets))
        taken = len(octets) if self.taken is None else self.taken
        ledger.taken += taken
        ledger.handed = ledger.taken
        if taken < len(octets):
            raise BrokenError
        got: list[Reply] = []
        for _ in range(len(ledger.owed) if count is None else count):
            head = ledger.head()
            while (reply := parser.next_reply()) is None:
                if not self.replies:
                    raise BrokenError
                parser.feed(said(self.replies.pop(0)))
            if not head.kind.permits(reply.code):
                ledger.surplus = [reply, *self._rest()]
                raise BrokenError
            ledger.settle(reply)
            got.append(reply)
        if not ledger.owed and self.replies and self.replies[0] == "surplus":
            parser.feed(said(*self.replies[1:]))
            self.replies = []
        return got

    def _rest(self) -> list[Reply]:
        parser, rest = self.session.parser, []
        parser.feed(said(*self.replies))
        self.replies = []
        try:
            while (reply := parser.next_reply()) is not None:
                rest.append(reply)
        except MalformedReplyError:
            self.session.ledger.garbled = True
        return rest


def attempts(session: Session, count: int, *, chunking: bool = False, recipients: int = 1) -> list[Attempt]:
    """So many mails for this session."""
    mails = [mail_of(recipients, chunking=chunking) for _ in range(count)]
    return [Attempt(Outgoing(mail, session, None), session) for mail in mails]


ENVELOPE = ["250", "250", "354"]


def prefetched(
    session: Session, behind: Sequence[str | bytes], *, chunking: bool = False, recipients: int = 1
) -> tuple[Ahead, Attempt, Attempt, SendResult | SmtpError | BrokenError | None]:
    """Two mails: the first one's flight, its replies from the final one on; what became of the first."""
    first, second = attempts(session, 2, chunking=chunking, recipients=recipients)
    envelope = ["250"] * (1 + recipients) + ([] if chunking else ["354"])
    ahead = Ahead(session, [*envelope, *behind])
    try:
        return ahead, first, second, ahead.run(first.flow(Pipelining.PREFETCH, second))
    except (SmtpError, BrokenError) as error:
        return ahead, first, second, error


def verdicts(attempt: Attempt) -> list[Delivery]:
    return [entry.delivery for entry in attempt.results()]


# --- PREFETCH


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("chunking", [False, True])
def test_PL6_the_next_envelope_stands_behind_the_end_of_data(protocol: ProtocolName, chunking: bool) -> None:
    session = session_of(*LIMITS, protocol=protocol)
    behind = ["250", "250", "250", "250", *([] if chunking else ["354"])]
    ahead, first, second, result = prefetched(session, behind, chunking=chunking)
    assert isinstance(result, SendResult)
    assert ahead.flights[1].endswith(
        b"RSET\r\nMAIL FROM:<s@client.test>\r\nRCPT TO:<a@x.test>\r\n" + (b"" if chunking else b"DATA\r\n")
    )
    assert (verdicts(first), second.announced, session.state) == ([DL], True, SessionState.RCPT_TO)
    assert session.rset_owed
    assert ahead.flights[0].startswith(b"MAIL")
    ahead.replies = ["250"]
    assert isinstance(ahead.run(second.flow(Pipelining.PREFETCH)), SendResult)
    assert (verdicts(second), len(ahead.flights), session.mails, session.nonmail) == ([DL], 3, 2, 0)


def test_RE2_RE6_a_single_mail_has_its_reset_too_and_one_behind_a_failure_is_counted() -> None:
    session = session_of(*LIMITS)
    session.mails = 1
    (only,) = attempts(session, 1)
    ahead = Ahead(session, ["250", *ENVELOPE, "250"])
    ahead.run(only.flow(Pipelining.PREFETCH))
    assert ahead.flights[0].startswith(b"RSET\r\nMAIL")
    assert session.nonmail == 0
    _, first, _, result = prefetched(session, ["451", "250", *ENVELOPE])
    assert isinstance(result, BrokenError)  # its own RSET is one reply more
    session = session_of(*LIMITS)
    _, first, second, result = prefetched(session, ["451", "250", *ENVELOPE])
    assert isinstance(result, TransientReplyError)
    assert (verdicts(first), second.announced, session.nonmail) == ([ND], True, 1)


def test_a_large_chunk_goes_in_three_writes_of_one_flight() -> None:
    session = session_of(*LIMITS)
    mail = mail_of(1, b"x" * 20_000 + b"\r\n", chunking=True)
    first = Attempt(Outgoing(mail, session, None), session)
    (second,) = attempts(session, 1)
    ahead = Ahead(session, ["250", "250", "250", "250", *ENVELOPE])
    assert isinstance(ahead.run(first.flow(Pipelining.PREFETCH, second)), SendResult)
    assert [flight[:10] for flight in ahead.flights] == [b"MAIL FROM:", b"BDAT 20002", b"xxxxxxxxxx", b"RSET\r\nMAIL"]


@pytest.mark.parametrize(
    ("behind", "chunking", "expected", "announced"),
    [
        pytest.param(["250", "250", *ENVELOPE, "surplus", "250"], False, [DL], True, id="PS behind the 354"),
        pytest.param(["250", "250", "250", "250", "surplus", "250"], True, [DL], True, id="AL one 250 too many"),
        pytest.param(["250", "451", "250", "250", "surplus", "250"], True, [UN], True, id="AL a 451 behind r0"),
        pytest.param(["250", "250", "250", "250", "surplus", "451"], True, [DL], True, id="AL a 451 at the end"),
        pytest.param(["550", "250", "250", "250", "surplus", "250"], True, [UN], True, id="AL 550 or 250"),
        pytest.param(["550", "451", "250", "250", "surplus", "250"], True, [ND], True, id="AL 550 or 451"),
        pytest.param(["250", "250", "250", "250", "451", "surplus", "354"], False, [DL], True, id="AL 354 one late"),
        pytest.param(["250", "451", "250", "250", "451", "surplus", "354"], False, [UN], True, id="AL 354 late, 451"),
        pytest.param(["250", "250", "250", "250", "451", "surplus", b"x\n"], False, [UN], True, id="AL garbage"),
        pytest.param(["250", "250", "250", "250", "451", "surplus", b"25"], False, [UN], True, id="AL cut"),
        pytest.param(["250", "250", "250", "250", "surplus", "421"], True, [DL], True, id="a farewell"),
        pytest.param(["250", "250", "250", "250", "250", "354"], False, [DL], False, id="AL 250 for DATA, 354 behind"),
        pytest.param(["250", "451", "250", "250", "250", "354"], False, [UN], False, id="AL 451 r1, 354 behind"),
        pytest.param(["250", "250", "250", "250", "250"], False, [DL], False, id="AL 250 for DATA, no 354"),
        pytest.param(["250", "250", "354"], False, [UN], False, id="AL 354 early"),
        pytest.param(["250", "354"], True, [UN], False, id="AL 354 for RSET"),
        pytest.param(["250", "250"], False, [DL], False, id="PF5 cut behind RSET"),
        pytest.param(["550", "250"], False, [ND], False, id="PF5 refused, cut"),
        pytest.param([], False, [UN], False, id="PF5 nothing came"),
    ],
)  # fmt: skip
def test_PL17_PF5_PF6_what_the_first_mail_gets(
    behind: list[str | bytes], chunking: bool, expected: list[Delivery], announced: bool
) -> None:
    session = session_of(*LIMITS)
    _, first, second, outcome = prefetched(session, behind, chunking=chunking)
    if isinstance(outcome, BrokenError):
        fault = ConnectionLostError("gone")
        if first.answered:
            try:
                outcome = first.cut_off(second)
            except SmtpError as error:
                outcome = first.explained(error)
        else:
            outcome = first.explained(fault)
    elif isinstance(outcome, SmtpError):
        outcome = first.explained(outcome)
    assert outcome is not None
    assert [entry.delivery for entry in outcome.recipients] == expected
    assert isinstance(outcome, DeliveryUnknownError) == (expected == [UN])
    assert second.announced is announced


@pytest.mark.parametrize(
    ("finals", "behind", "expected"),
    [
        (["250", "250"], ["250", "250", "250", "250", "surplus", "250"], [DL, DL]),
        (["250", "450"], ["250", "250", "250", "250", "surplus", "250"], [UN, UN]),
        (["250", "450"], ["250", "250", "250", "250"], [DL, ND]),
    ],
)
def test_PF6_over_LMTP_all_or_none(finals: list[str], behind: list[str], expected: list[Delivery]) -> None:
    session = session_of(*LIMITS, protocol="lmtp")
    _, first, _, _ = prefetched(session, [*finals, *behind], chunking=True, recipients=2)
    assert verdicts(first) == expected


@pytest.mark.parametrize(
    ("behind", "flightless", "unanswered"),
    [
        (["250", "503", "503", "503"], "503 to MAIL behind an end of data", True),
        (["250", "250", "500", "503"], "500 to RCPT behind an end of data", False),
        (["250", "250", "250", "502"], "502 to DATA behind an end of data", False),
        (["502", "250", "250", "354"], "502 to RSET behind an end of data", None),
        (["250", "550", "503", "503"], None, None),
        (["250", "250", "550", "503"], None, None),
        (["451", "250", "250", "354"], None, None),
    ],
)
def test_FB1_FB4_a_refusal_that_speaks_of_the_flight(
    behind: list[str], flightless: str | None, unanswered: bool | None
) -> None:
    session = session_of(*LIMITS)
    ahead, first, second, result = prefetched(session, ["250", *behind])
    assert isinstance(result, SendResult)
    ahead.replies = ["250"]
    error: SmtpError | None = None
    try:
        ahead.run(second.flow(Pipelining.PREFETCH))
    except SmtpError as raised:
        error = raised
    assert session.flightless == flightless
    if unanswered is not None:
        assert isinstance(error, ProtocolError)
        assert error.permanent is None
        assert (error._unanswered, session.condemned) == (unanswered, flightless)
    else:
        assert not isinstance(error, ProtocolError)
        assert session.condemned is None
    assert session.retiring == (behind[0] != "250")
    assert verdicts(first) == [DL]


def test_PL7_DT14_a_lone_dot_opens_the_next_flight() -> None:
    session = session_of(*LIMITS)
    ahead, _, second, result = prefetched(session, ["250", "250", "250", "550", "354"])
    assert isinstance(result, SendResult)
    (third,) = attempts(session, 1)
    ahead.replies = ["554", "250", *ENVELOPE]
    with pytest.raises(RecipientsRefusedError):
        ahead.run(second.flow(Pipelining.PREFETCH, third))
    assert ahead.flights[-1].startswith(b".\r\nRSET\r\nMAIL FROM")
    assert (third.announced, session.condemned, session.state) == (True, None, SessionState.RCPT_TO)
    assert third.begun
    ahead.replies = ["250"]
    assert isinstance(ahead.run(third.flow(Pipelining.PREFETCH)), SendResult)


def test_LV6_an_envelope_that_needs_two_groups_is_not_announced() -> None:
    session = session_of(*LIMITS)
    small, large = (
        Attempt(Outgoing(mail_of(recipients=[f"u{number}@x.test" for number in range(count)]), session, None), session)
        for count in (100, 300)
    )
    assert small.fits_one_group
    assert not large.fits_one_group
    assert not small.begun


# --- BURST


def burst_of(session: Session, count: int, *, recipients: int = 1) -> Burst:
    burst = Burst(session)
    for attempt in attempts(session, count, chunking=True, recipients=recipients):
        assert burst.add(attempt)
    return burst


def played(burst: Burst, replies: Sequence[str | bytes], fault: SmtpError | None = None) -> tuple[Ahead, list[Outcome]]:
    """The burst against these replies; where they end too early, the driver raises `fault`."""
    ahead = Ahead(burst.session, list(replies))
    try:
        ahead.run(burst.flow())
    except BrokenError:
        return ahead, burst.outcomes(fault or ConnectionLostError("gone"))
    return ahead, burst.outcomes(None)


def kinds(outcomes: Sequence[Outcome]) -> list[tuple[type, list[Delivery]]]:
    return [(type(outcome), [entry.delivery for entry in outcome.recipients]) for outcome in outcomes]


GOOD = (SendResult, [DL])


def test_PL8_a_burst_is_one_flight_and_the_first_mail_of_a_connection_has_no_reset() -> None:
    session = session_of(*LIMITS)
    burst = burst_of(session, 2)
    ahead, outcomes = played(burst, ["250"] * 7)
    assert len(ahead.flights) == 1
    assert ahead.flights[0].startswith(b"MAIL FROM")
    assert ahead.flights[0].count(b"RSET\r\n") == 1
    assert kinds(outcomes) == [GOOD, GOOD]
    assert [entry.delivery for entry in burst.results()] == [DL, DL]
    assert (session.mails, session.rset_owed, session.state) == (2, False, SessionState.MAIL_FROM)
    assert burst.attempts[0].entries[-1].reply is not None


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        pytest.param(["250", "250", "451", *["250"] * 4], [(TransientReplyError, [ND]), GOOD], id="DT19"),
        pytest.param(["550", "503", "503", *["250"] * 4], [(PermanentReplyError, [ND]), GOOD], id="DT6 DT21"),
        pytest.param(["250", "550", "554", *["250"] * 4], [(RecipientsRefusedError, [ND]), GOOD], id="DT9 DT21"),
        pytest.param(["250", "550", "250", *["250"] * 4], [(DeliveryUnknownError, [UN]), GOOD], id="DT20 RCPT"),
        pytest.param(["550", "503", "250", *["250"] * 4], [(DeliveryUnknownError, [UN]), GOOD], id="DT20 MAIL"),
        pytest.param(["550", "250", "554", *["250"] * 4], [(PermanentReplyError, [ND]), GOOD], id="DT11"),
        pytest.param(["503", "503", "503", *["250"] * 4], [(ProtocolError, [ND]), GOOD], id="FB1(c)"),
        pytest.param(["250", "250", "502", *["250"] * 4], [(PermanentReplyError, [ND]), GOOD], id="FB1(d)"),
        pytest.param(["250", "250", "250", "451", "250", "250", "250"], [GOOD, GOOD], id="RS"),
        pytest.param(["250", "250"], [(DeliveryUnknownError, [UN])] * 2, id="cut in front of END"),
        pytest.param(["250", "250", "250"], [GOOD, (DeliveryUnknownError, [UN])], id="cut behind END"),
        pytest.param(["550"], [(ConnectionLostError, [ND]), (DeliveryUnknownError, [UN])], id="BU3"),
        pytest.param(
            ["250", "250", "250", "451", "451"],
            [GOOD, (DeliveryUnknownError, [UN])],
            id="BU3 with a refused RSET",
        ),
        pytest.param(["550", "250"], [(DeliveryUnknownError, [UN])] * 2, id="BU3 a recipient behind a refused MAIL"),
        pytest.param([*["250"] * 7, "surplus", "250"], [GOOD, GOOD], id="BU4 one 250 too many"),
        pytest.param(
            ["250", "250", "451", *["250"] * 4, "surplus", "250"],
            [(DeliveryUnknownError, [UN]), GOOD],
            id="BU4 451 or 250",
        ),
        pytest.param(
            ["250", "250", "250", "451", "250", "250", "250", "surplus", "250"],
            [(DeliveryUnknownError, [UN])] * 2,
            id="BU4 250 or 451",
        ),
        pytest.param(
            ["250", "250", "451", "451", "250", "250", "250", "surplus", "250"],
            [(TransientReplyError, [ND]), (DeliveryUnknownError, [UN])],
            id="BU4 451 or 451",
        ),
        pytest.param([*["250"] * 7, "surplus", b"x\n"], [(DeliveryUnknownError, [UN])] * 2, id="BU4 garbage"),
        pytest.param(
            [*["250"] * 6, "451", "surplus", b"x\n"], [(DeliveryUnknownError, [UN])] * 2, id="BU4 451 or garbage"
        ),
        pytest.param([*["250"] * 7, "surplus", "421"], [GOOD, GOOD], id="a farewell behind it"),
        pytest.param(["250", "250", "250", "354"], [(DeliveryUnknownError, [UN])] * 2, id="BU4 a 354"),
    ],
)
def test_BU1_to_BU4_what_each_mail_of_a_burst_gets(
    replies: list[str | bytes], expected: list[tuple[type, list[Delivery]]]
) -> None:
    session = session_of(*LIMITS)
    _, outcomes = played(burst_of(session, 2), replies)
    assert kinds(outcomes) == expected


@pytest.mark.parametrize("bye", ["421", "221"])
def test_PL17_a_farewell_behind_a_burst_closes_and_does_not_mark(bye: str) -> None:
    session = session_of(*LIMITS)
    played(burst_of(session, 2), [*["250"] * 7, "surplus", bye])
    assert session.closing is not None
    assert session.flightless is None


def test_BU1_octets_that_came_in_front_of_a_burst_leave_nobody_in_doubt() -> None:
    session = session_of(*LIMITS)
    burst = burst_of(session, 2)
    next(burst.flow())  # and nothing of it is written
    session.ledger.garbled = True
    assert kinds(burst.outcomes(ProtocolError("no reply"))) == [(ProtocolError, [ND])] * 2


def test_over_LMTP_nobody_in_doubt_is_shown_the_reply_to_another() -> None:
    """faults:G-T-4."""
    session = session_of(*LIMITS, protocol="lmtp")
    burst = burst_of(session, 1, recipients=3)
    with pytest.raises(BrokenError):
        Ahead(session, ["250", "250", "550", "250", "250"]).run(burst.flow())
    session.ledger.garbled = True
    (outcome,) = burst.outcomes(ProtocolError("no reply"))
    assert kinds([outcome]) == [(DeliveryUnknownError, [UN] * 3)]
    own = [entry.reply for entry in burst.results()]
    assert [reply and reply.code for reply in own] == [250, 550, None]


def test_BU2_a_farewell_and_the_end_directly_behind_it() -> None:
    session = session_of(*LIMITS)
    burst = burst_of(session, 3)
    session.ledger.farewell = True
    _, outcomes = played(burst, ["250"] * 3, SmtpTimeoutError("late"))
    assert [verdict for _, verdict in kinds(outcomes)] == [[DL], [ND], [ND]]


def test_a_time_out_of_a_burst_behind_a_farewell_says_that_the_server_closes() -> None:
    session = session_of(*LIMITS)
    burst = burst_of(session, 1)
    ahead = Ahead(session, ["250"])
    with pytest.raises(BrokenError):
        ahead.run(burst.flow())
    session.parser.feed(b"421 bye\r\n")
    session.closing = session.parser.next_reply()
    (outcome,) = burst.outcomes(SmtpTimeoutError("late"))
    assert isinstance(outcome, DeliveryUnknownError)
    assert isinstance(outcome.__cause__, ServiceUnavailableError)


def test_LG4_over_LMTP_the_end_fans_out_when_it_is_at_the_head() -> None:
    session = session_of(*LIMITS, protocol="lmtp")
    burst = burst_of(session, 2, recipients=3)
    replies = ["250", "250", "550", "250", "250", "450", "250", "250", "550", "550", "550", "554"]
    _, outcomes = played(burst, replies)
    assert kinds(outcomes) == [(SendResult, [DL, ND, ND]), (SendResult, [ND, ND, ND])]
    session = session_of(*LIMITS, protocol="lmtp")
    _, outcomes = played(burst_of(session, 1, recipients=3), ["250", "250", "250", "250", "250"])
    assert kinds(outcomes) == [(DeliveryUnknownError, [DL, UN, UN])]


def test_a_burst_that_was_cut_while_it_was_written() -> None:
    """faults:BU1: what was not handed over whole is not delivered."""
    session = session_of(*LIMITS)
    burst = burst_of(session, 2)
    ahead = Ahead(session, [], taken=150)
    with pytest.raises(BrokenError):
        ahead.run(burst.flow())
    assert session.ledger.in_doubt
    outcomes = burst.outcomes(ConnectionLostError("gone"))
    assert kinds(outcomes) == [(DeliveryUnknownError, [UN]), (ConnectionLostError, [ND])]


def test_LV9_CN5_what_goes_into_a_burst() -> None:
    session = session_of(*LIMITS)

    def attempt(message: object = b"x\r\n", *, chunking: bool = True, recipients: int = 1) -> Attempt:
        given = [f"u{number}@x.test" for number in range(recipients)]
        return Attempt(Outgoing(mail_of(message=message, chunking=chunking, recipients=given), session, None), session)

    assert not Burst(session).add(attempt([b"a stream\r\n"]))
    assert not Burst(session).add(attempt(chunking=False))
    assert not Burst(session).add(attempt(b"x" * (OCTETS + 1)))
    assert not Burst(session).add(attempt(recipients=OWED))
    full = Burst(session)
    assert sum(full.add(attempt()) for _ in range(TRANSACTIONS + 1)) == TRANSACTIONS
    heavy = Burst(session)
    assert [heavy.add(attempt(b"x" * 100_000)) for _ in range(3)] == [True, True, False]
    wordy = Burst(session)
    long = [f"{'x' * 59}{number}@x.test" for number in range(10)]
    mails = [mail_of(recipients=long, chunking=True) for _ in range(5)]
    added = [wordy.add(Attempt(Outgoing(mail, session, None), session)) for mail in mails]
    assert added == [True] * 4 + [False]
    assert 3_072 < 4 * len("".join(f"RCPT TO:<{address}>\r\n" for address in long)) < GROUP, "CN1"
    busy = Burst(session)
    assert [busy.add(attempt(recipients=40)) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("code", "marks"), [("500", True), ("502", True), ("504", True), ("503", False), ("552", False)]
)
def test_FB1_d_a_server_that_does_not_know_BDAT_gets_no_further_burst(code: str, marks: bool) -> None:
    session = session_of(*LIMITS)
    played(burst_of(session, 1), ["250", "250", code])
    assert (session.flightless is not None, session.condemned is not None) == (marks, marks)


def test_a_retiring_session_after_a_refused_reset() -> None:
    session = session_of(*LIMITS)
    session.mails = 1
    _, outcomes = played(burst_of(session, 1), ["502", "250", "250", "250"])
    assert kinds(outcomes) == [GOOD]
    assert session.retiring
    assert session.flightless == "502 to RSET behind an end of data"
