"""One mail as one flow, as tables: capabilities, the mail and the replies -> flights, verdicts, the session."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from smtpconn.protocol import body
from smtpconn.protocol.envelope import Outgoing
from smtpconn.protocol.errors import (
    Delivery,
    DeliveryUnknownError,
    InvalidInputError,
    PermanentReplyError,
    PolicyError,
    ProtocolError,
    RecipientsRefusedError,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.ledger import Entry
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.params import Notify, RcptParams
from smtpconn.protocol.policy import BoundedPolicy
from smtpconn.protocol.session import ProtocolName, SessionState
from smtpconn.protocol.transaction import GROUP, Attempt

from .transactions import BODY, DL, ND, UN, OutOfRepliesError, Talk, converse, mail_of, session_of

OFF, GROUPED = Pipelining.OFF, Pipelining.GROUPED
MAIL = b"MAIL FROM:<s@client.test>\r\n"
A, B, C = (b"RCPT TO:<%s@x.test>\r\n" % name for name in (b"a", b"b", b"c"))
DATA, RSET, DOT = b"DATA\r\n", b"RSET\r\n", b".\r\n"
WIRE = BODY + DOT
LAST = b"BDAT %d LAST\r\n" % len(BODY) + BODY


# --- what is written: RT8, RT9, RT10, LV3, E67, E68 ---


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize(
    ("level", "chunking", "count", "offered", "flights"),
    [
        (GROUPED, False, 1, ("PIPELINING", "CHUNKING"), [MAIL + A + DATA, WIRE]),
        (GROUPED, False, 3, ("PIPELINING", "CHUNKING"), [MAIL + A + B + C + DATA, WIRE]),
        (GROUPED, True, 1, ("PIPELINING", "CHUNKING"), [MAIL + A, LAST]),
        (GROUPED, True, 3, ("PIPELINING", "CHUNKING"), [MAIL + A + B + C, LAST]),
        (Pipelining.PREFETCH, False, 1, ("PIPELINING", "CHUNKING"), [MAIL + A + DATA, WIRE]),
        (GROUPED, False, 1, ("CHUNKING",), [MAIL, A, DATA, WIRE]),
        (GROUPED, True, 3, ("CHUNKING",), [MAIL, A, B, C, LAST]),
        (OFF, False, 1, ("PIPELINING", "CHUNKING"), [MAIL, A, DATA, WIRE]),
        (OFF, False, 3, ("PIPELINING", "CHUNKING"), [MAIL, A, B, C, DATA, WIRE]),
        (OFF, True, 1, ("PIPELINING", "CHUNKING"), [MAIL, A, LAST]),
        (OFF, True, 3, ("PIPELINING", "CHUNKING"), [MAIL, A, B, C, LAST]),
    ],
)
def test_RT9_RT10_PL4_the_octets_are_the_same_at_every_level_and_only_the_waits_differ(
    protocol: ProtocolName,
    level: Pipelining,
    chunking: bool,
    count: int,
    offered: tuple[str, ...],
    flights: list[bytes],
) -> None:
    """features:E67, E68."""
    session = session_of(*offered, protocol=protocol)
    ends = count if protocol == "lmtp" else 1
    replies = ["250"] * (1 + count) + ([] if chunking else ["354"]) + ["250"] * ends
    talk = converse(session, mail_of(count, chunking=chunking), replies, level=level)
    assert talk.flights == flights
    assert talk.error is None
    assert talk.result is not None
    assert talk.result.all_delivered
    assert (talk.result.reply is None) == (protocol == "lmtp")
    assert session.state is SessionState.MAIL_FROM
    assert not session.rset_owed
    assert session.mails == 1
    assert session.condemned is None


@pytest.mark.parametrize(
    ("message", "wire", "chunk"),
    [
        (b"", b"\r\n.\r\n", b"BDAT 0 LAST\r\n"),
        (b"a", b"a\r\n.\r\n", b"BDAT 3 LAST\r\na\r\n"),
        (b"a\r\n", b"a\r\n.\r\n", b"BDAT 3 LAST\r\na\r\n"),
        (b".a\r\n..b\r\n", b"..a\r\n...b\r\n.\r\n", b"BDAT 9 LAST\r\n.a\r\n..b\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n", b"BDAT 9 LAST\r\na\r\n.\r\nb\r\n"),
    ],
    ids=["E171", "E61", "E61-ended", "E60", "E62"],
)
@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
def test_E60_E61_E62_E65_E170_E171_bytes_and_streams_make_the_same_octets(
    message: bytes, wire: bytes, chunk: bytes, as_stream: bool, chunking: bool
) -> None:
    given: Any = [message[at : at + 1] for at in range(len(message))] if as_stream else message
    replies = ["250", "250", "250"] if chunking else ["250", "250", "354", "250"]
    talk = converse(session_of(), mail_of(message=given, chunking=chunking), replies)
    assert talk.flights[1] == (chunk if chunking else wire)
    assert talk.verdicts == [DL]


def test_E64_a_body_of_many_slices_goes_out_whole_and_the_last_step_holds_the_end() -> None:
    message = b".\r\n" * 10_000
    talk = converse(session_of(), mail_of(message=message), ["250", "250", "354", "250"])
    assert talk.flights[1] == b"..\r\n" * 10_000 + DOT
    streamed = converse(session_of(), mail_of(message=[message]), ["250", "250", "354", "250"])
    assert streamed.flights == talk.flights


def test_E174_a_bytes_message_of_any_size_is_one_LAST_chunk() -> None:
    message = b"x" * 1_000_000 + b"\r\n"
    talk = converse(session_of(), mail_of(message=message, chunking=True), ["250", "250", "250"])
    assert talk.flights[1] == b"BDAT 1000002 LAST\r\n" + message


@pytest.mark.parametrize(("recipients", "flights"), [(50, 2), (100, 2), (1_000, 11)])
def test_PL2_groups_are_whole_lines_of_at_most_4096_octets_and_DATA_is_in_the_last(
    recipients: int, flights: int
) -> None:
    """features:C6."""
    addresses = [f"{number:013}@example.test" for number in range(recipients)]
    mail = mail_of(recipients=addresses)
    talk = converse(session_of(), mail, ["250"] * (1 + recipients) + ["354", "250"])
    groups = talk.flights[:-1]
    assert all(line.endswith(b"\r\n") for line in groups)
    assert {len(line) for line in b"".join(groups).splitlines(keepends=True)[1:-1]} == {38}
    assert len(talk.flights) == flights
    assert max(map(len, groups)) <= GROUP == 4_096
    assert groups[0].startswith(MAIL)
    assert groups[-1].endswith(b"\r\n" + DATA)
    assert all(DATA not in group for group in groups[:-1])
    assert talk.result is not None
    assert talk.result.all_delivered


def test_PL2_a_line_is_never_split_and_a_full_group_is_exactly_4096_octets() -> None:
    """The last RCPT ends at octet 4,096: it stays in the first group, DATA opens the second."""
    filler = [f"{number:013}@example.test" for number in range(105)]
    rest = GROUP - len(MAIL) - 105 * 38
    addresses = [*filler, "z" * (rest - len("RCPT TO:<@x.test>\r\n")) + "@x.test"]
    talk = converse(session_of(), mail_of(recipients=addresses), ["250"] * 107 + ["354", "250"])
    assert [len(flight) for flight in talk.flights] == [GROUP, len(DATA), len(WIRE)]


def test_LV4_no_group_follows_a_refused_MAIL() -> None:
    addresses = [f"{number:013}@example.test" for number in range(200)]
    in_first = (GROUP - len(MAIL)) // 38
    talk = converse(session_of(), mail_of(recipients=addresses), ["550"] + ["503"] * in_first)
    assert len(talk.flights) == 1
    assert isinstance(talk.error, PermanentReplyError)
    assert talk.verdicts == [ND] * 200


def test_DATA_alone_in_the_last_group_is_not_written_when_nobody_was_accepted() -> None:
    addresses = [f"{number:013}@example.test" for number in range(106)]
    assert len(MAIL) + 38 * 106 <= GROUP < len(MAIL) + 38 * 106 + len(DATA) + 60
    addresses[0] = "y" * (GROUP - len(MAIL) - 105 * 38 - len("RCPT TO:<@x.test>\r\n")) + "@x.test"
    talk = converse(session_of(), mail_of(recipients=addresses), ["250"] + ["550"] * 106)
    assert len(talk.flights) == 1
    assert isinstance(talk.error, RecipientsRefusedError)


# --- BDAT windows: EN8, PL3 ---


def _stream(chunks: int) -> list[bytes]:
    return [b"x" * 16_382 + b"\r\n"] * (4 * chunks)


@pytest.mark.parametrize(
    ("chunks", "level", "flights"), [(5, GROUPED, 3), (9, GROUPED, 4), (5, OFF, 7), (9, OFF, 11), (1, GROUPED, 2)]
)
def test_EN8_PL3_a_stream_goes_in_windows_of_four_and_LAST_alone_behind_them(
    chunks: int, level: Pipelining, flights: int
) -> None:
    """features:C42, F71: and bytes are one chunk (E174)."""
    session = session_of()
    talk = converse(session, mail_of(message=_stream(chunks), chunking=True), ["250"] * (2 + chunks), level=level)
    assert len(talk.flights) == flights
    assert talk.flights[-1].startswith(b"BDAT 65536 LAST\r\n")
    octets = b"".join(talk.flights)
    assert octets.count(b"BDAT 65536\r\n") == chunks - 1
    assert octets.count(b" LAST\r\n") == 1
    assert talk.verdicts == [DL]
    assert not session.rset_owed


def test_PL3_a_stream_takes_less_than_a_mebibyte_of_memory() -> None:
    piece = b"x" * 16_382 + b"\r\n"

    def source() -> Iterator[bytes]:
        for _ in range(400):
            yield piece

    session = session_of()
    attempt_mail = mail_of(message=source(), chunking=True)
    converse(session_of(), mail_of(message=_stream(5), chunking=True), ["250"] * 7)
    attempt = Attempt(Outgoing(attempt_mail, session, None), session)
    flow = attempt.flow(GROUPED)
    tracemalloc.start()
    try:
        step = next(flow)
        while True:
            for entry in step.expects:
                session.ledger.enter(entry)
            answers = []
            while session.ledger.owed:
                session.parser.feed(b"250 ok\r\n")
                reply = session.parser.next_reply()
                assert reply is not None
                session.ledger.settle(reply)
                answers.append(reply)
            step = flow.send(answers)
    except StopIteration as stop:
        result = stop.value
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.all_delivered
    assert peak < 1_048_576


@pytest.mark.parametrize("missing", [b"", b"a", b"a\r\n"])
def test_F71_a_stream_that_ends_on_a_chunk_border_still_ends_in_LAST(missing: bytes) -> None:
    message = [b"x" * 65_534 + b"\r\n", missing]
    talk = converse(session_of(), mail_of(message=message, chunking=True), ["250"] * (3 + bool(missing)))
    ended = missing if missing.endswith(b"\r\n") or not missing else missing + b"\r\n"
    assert talk.flights[-1].endswith(b"BDAT %d LAST\r\n" % len(ended or message[0]) + (ended or message[0]))


@pytest.mark.parametrize(
    ("replies", "stage_code", "closes"),
    [
        (["250", "452", "250", "250"], 452, False),
        (["452", "503", "503", "503"], 452, False),
        (["250", "250", "250", "554"], 554, False),
        (["500", "500", "500", "500"], 500, True),
        (["502", "250", "250", "250"], 502, True),
        (["250", "504", "250", "250"], 504, True),
    ],
)
def test_DT17_E173_a_refused_chunk_ends_the_mail_after_its_window_is_read(
    replies: list[str], stage_code: int, closes: bool
) -> None:
    session = session_of()
    talk = converse(session, mail_of(2, _stream(9), chunking=True), ["250"] * 3 + replies)
    assert len(talk.flights) == 2
    assert isinstance(talk.error, (TransientReplyError, PermanentReplyError))
    assert talk.error.stage == "BDAT"
    assert talk.error.reply.code == stage_code
    assert talk.codes == [stage_code] * 2
    assert talk.verdicts == [ND, ND]
    assert session.rset_owed
    assert session.state is SessionState.MAIL_FROM
    assert (session.condemned is not None) == closes


def test_E173_without_pipelining_no_chunk_follows_the_refused_one() -> None:
    talk = converse(session_of(), mail_of(1, _stream(4), chunking=True), ["250", "250", "250", "452"], level=OFF)
    assert len(talk.flights) == 4
    assert all(b"LAST" not in flight for flight in talk.flights)
    assert talk.verdicts == [ND]


# --- reply by reply: DT4 .. DT19 ---


@dataclass(frozen=True)
class Row:
    """Replies and what they lead to. `closes`: the session is condemned; `flights`: how many, the envelope is one."""

    id: str
    replies: str
    verdicts: str  # one letter for each recipient: D, N, U
    error: type[Exception] | None = None
    stage: str | None = None
    code: int | None = None
    permanent: bool | None = None
    closes: bool = False
    rset_owed: bool = True
    count: int = 1
    flights: int = 1
    dot: bool = False
    state: SessionState = SessionState.MAIL_FROM


R4, R5, RR = TransientReplyError, PermanentReplyError, RecipientsRefusedError

SMTP_DATA = [
    Row("DT5-DT8-DT12-DT18", "250 250 354 250", "D", rset_owed=False, flights=2),
    Row("DT8-E53-251-and-252-are-accepted", "250 251 252 354 250", "DD", count=2, rset_owed=False, flights=2),
    Row("BR2-299-at-the-dot-is-delivered", "250 250 354 299", "D", rset_owed=False, flights=2),
    Row("BR2-355-is-a-354", "250 250 355 250", "D", rset_owed=False, flights=2),
    Row("DT6-DT10-E56-MAIL-550", "550 503 503", "N", R5, "MAIL", 550, True),
    Row("DT6-MAIL-451", "451 503 503", "N", R4, "MAIL", 451, False),
    Row("DT6-DT10-DT16-MAIL-550-RCPT-550-DATA-554", "550 550 554", "N", R5, "MAIL", 550, True),
    Row("DT11-MAIL-550-RCPT-250", "550 250 503", "N", R5, "MAIL", 550, True, closes=True),
    Row("DT13-F53-MAIL-550-RCPT-250-DATA-354", "550 250 354", "N", R5, "MAIL", 550, True, closes=True),
    Row("DT13-F53-one-of-two", "550 503 250 354", "NN", R5, "MAIL", 550, True, closes=True, count=2),
    Row("DT14-MAIL-550-RCPT-550-DATA-354-dot", "550 550 354 554", "N", R5, "MAIL", 550, True, flights=2, dot=True),
    Row(
        "DT14-F53-a-dot-that-is-accepted-closes",
        "550 550 354 250",
        "N",
        R5,
        "MAIL",
        550,
        True,
        flights=2,
        dot=True,
        closes=True,
    ),
    Row("DT7-MAIL-503", "503 503 503", "N", R5, "MAIL", 503, True, closes=True),
    Row("DT7-PL13-MAIL-503-RCPT-250-DATA-354", "503 250 354", "N", R5, "MAIL", 503, True, closes=True),
    Row("DT7-MAIL-503-RCPT-550-DATA-354-no-dot", "503 550 354", "N", R5, "MAIL", 503, True, closes=True),
    Row("DT9-E57-F54-F55-one-of-two", "250 550 250 354 250", "ND", count=2, rset_owed=False, flights=2),
    Row("DT9-452-one-of-three", "250 250 452 250 354 250", "DND", count=3, rset_owed=False, flights=2),
    Row("DT9-500-is-a-refusal", "250 500 250 354 250", "ND", count=2, rset_owed=False, flights=2),
    Row("DT9-BR10-RCPT-503", "250 503 250 354", "NN", R5, "RCPT", 503, True, closes=True, count=2),
    Row("DT9-BR10-RCPT-503-alone", "250 503 503", "N", R5, "RCPT", 503, True, closes=True),
    Row("DT16-E57-all-refused-DATA-503", "250 550 503", "N", RR, "RCPT", 550, True),
    Row("DT16-all-refused-DATA-554", "250 550 450 554", "NN", RR, "RCPT", None, False, count=2),
    Row("E132-550-551", "250 550 551 554", "NN", RR, "RCPT", None, True, count=2),
    Row("E132-552-550", "250 552 550 554", "NN", RR, "RCPT", None, False, count=2),
    Row("DT14-PL14-dot-554", "250 550 354 554", "N", RR, "RCPT", 550, True, flights=2, dot=True),
    Row("DT14-PL14-dot-451", "250 550 354 451", "N", RR, "RCPT", 550, True, flights=2, dot=True),
    Row("DT14-PL14-dot-250", "250 550 354 250", "N", RR, "RCPT", 550, True, flights=2, dot=True, closes=True),
    Row("DT15-E58-DATA-552", "250 250 552", "N", R5, "DATA", 552, True),
    Row("DT15-DATA-451", "250 250 250 451", "NN", R4, "DATA", 451, False, count=2),
    Row("DT15-E58-DATA-503", "250 250 503", "N", R5, "DATA", 503, True, closes=True),
    Row("DT15-DATA-502", "250 250 502", "N", R5, "DATA", 502, True),
    Row("DT15-a-refused-recipient-keeps-its-reply", "250 550 250 451", "NN", R4, "DATA", 451, False, count=2),
    Row("DT19-E58-552-after-the-dot", "250 250 354 552", "N", R5, "end of data", 552, True, flights=2),
    Row("DT19-451-after-the-dot", "250 250 354 451", "N", R4, "end of data", 451, False, flights=2),
    Row("DT19-500-to-the-dot-stays-usable", "250 250 354 500", "N", R5, "end of data", 500, True, flights=2),
    Row("E131", "250 250 550 250 354 250", "DND", count=3, rset_owed=False, flights=2),
]

SMTP_BDAT = [
    Row("DT18", "250 250 250", "D", rset_owed=False, flights=2),
    Row("DT6", "550 503", "N", R5, "MAIL", 550, True),
    Row("DT11", "550 250", "N", R5, "MAIL", 550, True, closes=True),
    Row("LV10-nobody-accepted", "250 550", "N", RR, "RCPT", 550, True),
    Row("DT9-BR10", "250 503 250", "NN", R5, "RCPT", 503, True, closes=True, count=2),
    Row("DT9", "250 550 250 250", "ND", count=2, rset_owed=False, flights=2),
    Row("DT19-552", "250 250 552", "N", R5, "end of data", 552, True, flights=2),
    Row("DT19-451", "250 250 451", "N", R4, "end of data", 451, False, flights=2),
    Row("DT19-503", "250 250 503", "N", R5, "end of data", 503, True, flights=2),
    Row("DT19-500", "250 250 500", "N", R5, "end of data", 500, True, flights=2, closes=True),
    Row("DT19-502", "250 250 502", "N", R5, "end of data", 502, True, flights=2, closes=True),
    Row("DT19-504", "250 250 504", "N", R5, "end of data", 504, True, flights=2, closes=True),
]

LMTP_DATA = [
    Row("DT18-F72", "250 250 354 250", "D", rset_owed=False, flights=2),
    Row("E135", "250 250 250 250 354 250 452 550", "DNN", count=3, rset_owed=False, flights=2),
    Row("E82", "250 250 550 250 354 250 452", "DNN", count=3, rset_owed=False, flights=2),
    Row("DT19-RE1-all-refused-at-the-end", "250 250 250 354 452 550", "NN", count=2, flights=2),
    Row("DT6", "550 503 503", "N", R5, "MAIL", 550, True),
    Row("DT14-MAIL-refused-354-closes-without-a-dot", "550 550 354", "N", R5, "MAIL", 550, True, closes=True),
    Row("DT15", "250 250 451", "N", R4, "DATA", 451, False),
    Row("DT16-all-refused-is-a-result", "250 550 450 503", "NN", count=2),
    Row("DT14-E134-all-refused-354-closes-without-a-dot", "250 550 354", "N", closes=True),
    Row("DT9-BR10", "250 503 503", "N", R5, "RCPT", 503, True, closes=True),
    Row("DT19-500-to-DATA-stays-usable", "250 250 354 500", "N", flights=2),
]

LMTP_BDAT = [
    Row("F73", "250 250 250 250 452", "DN", count=2, rset_owed=False, flights=2),
    Row("LV10-nobody-accepted", "250 550 550", "NN", count=2),
    Row("DT19-500-to-BDAT-closes", "250 250 250 500 500", "NN", count=2, flights=2, closes=True),
    Row("DT19-one-502-to-BDAT-closes", "250 250 250 250 502", "DN", count=2, rset_owed=False, flights=2, closes=True),
]

ROWS = [
    pytest.param(protocol, chunking, row, id=f"{protocol}-{'BDAT' if chunking else 'DATA'}-{row.id}")
    for protocol, chunking, rows in [
        ("smtp", False, SMTP_DATA),
        ("smtp", True, SMTP_BDAT),
        ("lmtp", False, LMTP_DATA),
        ("lmtp", True, LMTP_BDAT),
    ]
    for row in rows
]

VERDICT = {"D": DL, "N": ND, "U": UN}


def _judge(talk: Talk, row: Row) -> None:
    session = talk.attempt.session
    assert talk.verdicts == [VERDICT[letter] for letter in row.verdicts]
    if row.error is None:
        assert talk.error is None
        assert talk.result is not None
    else:
        assert type(talk.error) is row.error
        assert isinstance(talk.error, (R4, R5, RR))
        assert talk.error.stage == row.stage
        assert (talk.error.reply.code if talk.error.reply else None) == row.code
        assert talk.error.permanent is row.permanent
        explained = talk.attempt.explained(talk.error)
        assert explained is talk.error
        assert explained.retry_safe
        assert talk.error.recipients == talk.attempt.results()
    assert (session.condemned is not None) == row.closes
    assert session.closing is None
    assert not session.retiring
    assert session.rset_owed == row.rset_owed
    assert session.state is row.state
    assert not session.ledger.owed


@pytest.mark.parametrize(("protocol", "chunking", "row"), ROWS)
def test_each_reply_of_a_grouped_transaction(protocol: ProtocolName, chunking: bool, row: Row) -> None:
    talk = converse(session_of(protocol=protocol), mail_of(row.count, chunking=chunking), row.replies.split())
    _judge(talk, row)
    assert len(talk.flights) == row.flights
    assert (talk.flights[-1] == DOT) == row.dot
    if row.flights == 2 and not row.dot:
        assert talk.flights[1] == (LAST if chunking else WIRE)


LOCK_STEP = [
    ("smtp", False, Row("DT6", "550", "N", R5, "MAIL", 550, True), [MAIL]),
    ("smtp", False, Row("DT7", "503", "N", R5, "MAIL", 503, True, closes=True), [MAIL]),
    ("smtp", False, Row("DT9", "250 550 550", "NN", RR, "RCPT", None, True, count=2), [MAIL, A, B]),
    ("smtp", False, Row("BR10", "250 503", "NN", R5, "RCPT", 503, True, count=2, closes=True), [MAIL, A]),
    ("smtp", True, Row("BR10-last", "250 250 503", "NN", R5, "RCPT", 503, True, count=2, closes=True), [MAIL, A, B]),
    (
        "smtp",
        False,
        Row("DT9-one", "250 550 250 354 250", "ND", count=2, rset_owed=False),
        [MAIL, A, B, DATA, WIRE],
    ),
    ("smtp", False, Row("DT15", "250 250 451", "N", R4, "DATA", 451, False), [MAIL, A, DATA]),
    ("lmtp", False, Row("all-refused", "250 550", "N"), [MAIL, A]),
    ("lmtp", True, Row("all-refused", "250 550 550 550", "NNN", count=3), [MAIL, A, B, C]),
    (
        "lmtp",
        True,
        Row("F73", "250 250 550 250 250 451", "DNN", count=3, rset_owed=False),
        [MAIL, A, B, C, LAST],
    ),
]


@pytest.mark.parametrize(
    ("protocol", "chunking", "row", "flights"),
    [pytest.param(*each, id=f"{each[0]}-{each[2].id}") for each in LOCK_STEP],
)
def test_RT9_each_reply_in_lock_step(protocol: ProtocolName, chunking: bool, row: Row, flights: list[bytes]) -> None:
    session = session_of(protocol=protocol)
    talk = converse(session, mail_of(row.count, chunking=chunking), row.replies.split(), level=OFF)
    _judge(talk, row)
    assert talk.flights == flights


def test_DT15_the_reply_that_decided_each_recipient_is_the_first_refusal() -> None:
    talk = converse(session_of(), mail_of(3), ["250", "550", "250", "450", "451"])
    assert talk.codes == [550, 451, 450]
    assert [entry.stage for entry in talk.recipients] == ["RCPT", "DATA", "RCPT"]
    assert [entry.permanent for entry in talk.recipients] == [True, False, False]


def test_F72_over_LMTP_each_final_reply_belongs_to_the_recipient_of_its_place() -> None:
    talk = converse(session_of(protocol="lmtp"), mail_of(3), ["250", "550", "250", "250", "354", "451", "250"])
    assert talk.codes == [550, 451, 250]
    assert [entry.stage for entry in talk.recipients] == ["RCPT", "end of data", "end of data"]


# --- RSET: RE1 .. RE6 ---


def test_RE1_RE3_RSET_stands_in_front_of_MAIL_after_a_failure_and_never_before_the_first() -> None:
    """features:E56, F57."""
    session = session_of()
    first = converse(session, mail_of(), ["550", "503", "503"])
    assert first.flights == [MAIL + A + DATA]
    second = converse(session, mail_of(), ["250", "250", "250", "354", "250"])
    assert second.flights == [RSET + MAIL + A + DATA, WIRE]
    assert session.nonmail == 1
    third = converse(session, mail_of(), ["250", "250", "354", "250"])
    assert third.flights == [MAIL + A + DATA, WIRE]
    assert (session.mails, session.nonmail) == (3, 1)


@pytest.mark.parametrize(
    ("chunking", "replies"),
    [
        (False, "550 503 503"),
        (False, "250 550 503"),
        (False, "250 250 451"),
        (False, "250 250 354 451"),
        (True, "250 550"),
        (True, "250 250 451"),
    ],
)
def test_RE1_PL10_every_failure_owes_one_RSET(chunking: bool, replies: str) -> None:
    session = session_of()
    converse(session, mail_of(chunking=chunking), replies.split())
    assert session.rset_owed
    talk = converse(session, mail_of(), ["250", "250", "250", "354", "250"])
    assert len(talk.flights) == 2
    assert talk.flights[0].startswith(RSET + MAIL)
    assert not session.rset_owed


def test_RE1_a_refused_recipient_beside_a_delivered_message_owes_nothing() -> None:
    session = session_of()
    converse(session, mail_of(2), ["250", "550", "250", "354", "250"])
    assert converse(session, mail_of(), ["250", "250", "354", "250"]).flights[0] == MAIL + A + DATA


def test_RE3_a_debt_before_the_first_MAIL_is_not_paid() -> None:
    session = session_of()
    session.rset_owed = True
    assert converse(session, mail_of(), ["250", "250", "354", "250"]).flights[0] == MAIL + A + DATA


@pytest.mark.parametrize("level", [OFF, GROUPED])
def test_D8_RSET_goes_alone_in_lock_step_and_where_the_endpoint_wants_it(level: Pipelining) -> None:
    session = session_of(rset_owed=True)
    session.rset_alone = level is GROUPED
    talk = converse(session, mail_of(), ["250", "250", "250", "354", "250"], level=level)
    assert talk.flights[0] == RSET
    assert talk.flights[1].startswith(MAIL)
    assert talk.verdicts == [DL]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("code", ["451", "500", "502", "503", "554"])
def test_RE5_PL12_a_refused_RSET_lets_the_mail_go_on_and_retires_the_connection(code: str, alone: bool) -> None:
    session = session_of(rset_owed=True)
    session.rset_alone = alone
    talk = converse(session, mail_of(), [code, "250", "250", "354", "250"])
    assert talk.verdicts == [DL]
    assert session.retiring
    assert session.condemned is None
    assert not session.rset_owed


def test_RE5_a_refused_RSET_and_a_refused_MAIL_leave_an_older_envelope_that_a_dot_could_deliver() -> None:
    session = session_of(rset_owed=True)
    talk = converse(session, mail_of(), ["502", "550", "550", "354"])
    assert len(talk.flights) == 1
    assert session.condemned is not None
    assert isinstance(talk.error, PermanentReplyError)


@pytest.mark.parametrize("data", ["503", "354"])
def test_FB6_DT7_503_to_MAIL_behind_a_folded_RSET_speaks_of_the_flight(data: str) -> None:
    session = session_of(rset_owed=True)
    talk = converse(session, mail_of(), ["250", "503", "503", data])
    assert type(talk.error) is ProtocolError
    assert talk.error.reply is not None
    assert talk.error.reply.code == 503
    assert talk.error.permanent is None
    assert talk.error._unanswered
    assert talk.error._rset_alone
    assert len(talk.flights) == 1
    assert talk.verdicts == [ND]
    assert talk.attempt.explained(talk.error).retry_safe
    assert session.condemned is not None


@pytest.mark.parametrize("how", ["OFF", "alone", "no PIPELINING"])
def test_FB6_503_to_MAIL_behind_an_awaited_RSET_speaks_of_the_mail(how: str) -> None:
    session = session_of("CHUNKING" if how == "no PIPELINING" else "PIPELINING", rset_owed=True)
    session.rset_alone = how == "alone"
    replies = ["250", "503"] if how != "alone" else ["250", "503", "503", "503"]
    talk = converse(session, mail_of(), replies, level=OFF if how == "OFF" else GROUPED)
    assert type(talk.error) is PermanentReplyError
    assert not talk.error._unanswered
    assert session.condemned is not None


# --- the session is used up: BR23, DT2, CS12 .. CS15 ---

USED_UP = ("PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES")


@pytest.mark.parametrize("status", [b"451 4.4.1", b"451 4.4.2", b"451 4.3.2", b"452 4.4.5", b"432 4.3.2"])
def test_DT2_CS12_CS15_a_used_up_session_at_MAIL_is_a_refusal_that_ends_it(status: bytes) -> None:
    session = session_of(*USED_UP)
    talk = converse(session, mail_of(), [status + b" bye\r\n", "503", "503"])
    assert type(talk.error) is TransientReplyError
    assert talk.error._unanswered
    assert session.closing == talk.error.reply


@pytest.mark.parametrize(
    ("place", "status", "closes"),
    [
        ("RSET", b"451 4.4.2", True),
        ("RSET", b"452 4.4.5", True),
        ("RCPT", b"432 4.3.2", True),
        ("RCPT", b"451 4.3.2", False),
        ("RCPT", b"452 4.4.5", False),
        ("DATA", b"452 4.4.5", True),
        ("DATA", b"451 4.3.2", False),
        ("end", b"432 4.3.2", True),
        ("end", b"451 4.3.2", False),
    ],
)
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_DT2_BR23_a_used_up_session_goes_on_as_the_row_says_and_is_closed(
    protocol: ProtocolName, place: str, status: bytes, closes: bool
) -> None:
    session = session_of(*USED_UP, protocol=protocol, rset_owed=place == "RSET")
    line = status + b" bye\r\n"
    second = ["250"] * (protocol == "lmtp")
    replies: dict[str, list[str | bytes]] = {
        "RSET": [line, "250", "250", "250", "354", "250", *second],
        "RCPT": ["250", line, "250", "354", "250"],
        "DATA": ["250", "250", "250", line],
        "end": ["250", "250", "250", "354", line, *second],
    }
    talk = converse(session, mail_of(2), replies[place])
    assert (session.closing is not None) == closes
    assert session.condemned is None
    assert (
        talk.verdicts
        == {
            "RSET": [DL, DL],
            "RCPT": [ND, DL],
            "DATA": [ND, ND],
            "end": [ND, DL if protocol == "lmtp" else ND],
        }[place]
    )
    if talk.error is not None:
        assert isinstance(talk.error, TransientReplyError)
        assert not talk.error._unanswered


def test_DT2_a_used_up_session_where_everybody_is_refused() -> None:
    session = session_of(*USED_UP)
    talk = converse(session, mail_of(), ["250", b"432 4.3.2 bye\r\n", "503"])
    assert isinstance(talk.error, RecipientsRefusedError)
    assert session.closing is not None


# --- D18 ---


def test_D18_E136_PL31_the_same_path_is_sent_once_and_each_entry_given_has_its_verdict() -> None:
    given = ["alice@A.test", "bob@b.test", "alice@a.test", "Alice@a.test", "alice@A.test"]
    talk = converse(
        session_of(protocol="lmtp"),
        mail_of(recipients=given),
        ["250", "250", "550", "250", "354", "250", "451"],
    )
    rcpts = [line for line in talk.flights[0].splitlines() if line.startswith(b"RCPT")]
    assert rcpts == [b"RCPT TO:<alice@A.test>", b"RCPT TO:<bob@b.test>", b"RCPT TO:<Alice@a.test>"]
    assert [entry.address for entry in talk.recipients] == given
    assert talk.verdicts == [DL, ND, DL, ND, DL]
    assert talk.codes == [250, 550, 250, 451, 250]


def test_E136_the_same_path_with_other_parameters_is_another_RCPT() -> None:
    given = [Recipient("a@x.test"), Recipient("a@x.test", RcptParams(notify=Notify.NEVER))]
    talk = converse(session_of("PIPELINING", "DSN"), mail_of(recipients=given), ["250", "250", "550", "354", "250"])
    assert talk.flights[0] == MAIL + A + b"RCPT TO:<a@x.test> NOTIFY=NEVER\r\n" + DATA
    assert talk.verdicts == [DL, ND]


@pytest.mark.once
@pytest.mark.timeout(45)  # quadratic work takes many minutes
def test_LM10_the_verdicts_of_many_recipients_cost_linear_work() -> None:
    count = 50_000
    addresses = [f"{number}@x.test" for number in range(count)]
    talk = converse(
        session_of(protocol="lmtp"), mail_of(recipients=addresses), ["250"] * (1 + count) + ["354"] + ["250"] * count
    )
    assert talk.result is not None
    assert talk.result.all_delivered


# --- surplus behind the final reply: OS, LS ---


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize(
    ("first", "surplus", "verdict", "closing"),
    [
        ("250", b"250 again\r\n", DL, False),
        ("250", b"250 again\r\n250 and again\r\n", DL, False),
        ("250", b"421 bye\r\n", DL, True),
        ("250", b"221 bye\r\n", DL, True),
        ("250", b"451 no\r\n", UN, False),
        ("250", b"354 go\r\n", UN, False),
        ("250", b"250 again\r\n550 no\r\n", UN, False),
        ("250", b"250 again\r\n421 bye\r\n", UN, False),
        ("250", b"!", UN, False),
        ("250", b"25", UN, False),
        ("451", b"451 again\r\n", ND, False),
        ("550", b"421 bye\r\n", ND, True),
        ("550", b"221 bye\r\n", ND, True),
        ("451", b"250 ok\r\n", UN, False),
        ("550", b"451 no\r\n250 ok\r\n", UN, False),
        ("550", b"250 o", UN, False),
        ("550", b"2", UN, False),
        ("550", b"250-a\r\n", UN, False),
        ("550", b"5", UN, False),
        ("550", b"HTTP/1.1\r\n", ND, False),
    ],
)
def test_OS_octets_behind_the_final_reply_close_and_may_leave_the_verdict_in_doubt(
    first: str, surplus: bytes, verdict: Delivery, closing: bool, chunking: bool
) -> None:
    session = session_of()
    replies = ["250", "250", "550", *([] if chunking else ["354"]), first]
    talk = converse(session, mail_of(2, chunking=chunking), replies, surplus=surplus)
    assert talk.verdicts == [verdict, ND]
    assert session.condemned is not None
    assert (session.closing is not None) == closing
    if verdict is DL:
        assert talk.error is None
        return
    assert talk.error is not None
    if verdict is UN:
        assert type(talk.error) is ProtocolError
        explained = talk.attempt.explained(talk.error)
        assert type(explained) is DeliveryUnknownError
        assert explained.__cause__ is talk.error
        assert not explained.retry_safe
    else:
        assert isinstance(talk.error, (TransientReplyError, PermanentReplyError))


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize(
    ("ends", "surplus", "verdicts"),
    [
        ("250 250", b"250 again\r\n", [DL, DL]),
        ("250 250", b"421 bye\r\n", [DL, DL]),
        ("250 451", b"421 bye\r\n", [DL, ND]),
        ("250 451", b"221 bye\r\n", [DL, ND]),
        ("250 451", b"250 again\r\n", [UN, UN]),
        ("451 250", b"250 again\r\n", [UN, UN]),
        ("250 221", b"250 again\r\n", [UN, UN]),
        ("250 250", b"451 no\r\n", [UN, UN]),
        ("550 550", b"550 no\r\n", [UN, UN]),
        ("250 250", b"25", [UN, UN]),
    ],
)
def test_LS_octets_behind_the_last_reply_leave_all_in_doubt_unless_all_say_yes(
    ends: str, surplus: bytes, verdicts: list[Delivery], chunking: bool
) -> None:
    session = session_of(protocol="lmtp")
    replies = ["250", "550", "250", "250", *([] if chunking else ["354"]), *ends.split()]
    talk = converse(session, mail_of(3, chunking=chunking), replies, surplus=surplus)
    assert talk.verdicts == [ND, *verdicts]
    assert talk.codes[0] == 550
    assert session.condemned is not None
    assert (type(talk.error) is ProtocolError) == (UN in verdicts)


@pytest.mark.parametrize(
    ("chunking", "replies"),
    [(False, "550 503 503"), (False, "250 550 503"), (False, "250 550 354"), (False, "250 250 451"), (True, "250 550")],
)
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_D5_octets_behind_a_refused_envelope_close_without_a_dot_and_the_refusal_stands(
    protocol: ProtocolName, replies: str, chunking: bool
) -> None:
    session = session_of(protocol=protocol)
    talk = converse(session, mail_of(chunking=chunking), replies.split(), surplus=b"250 extra\r\n")
    assert len(talk.flights) == 1
    assert talk.verdicts == [ND]
    assert session.condemned is not None


def test_D5_octets_behind_a_refused_window_close() -> None:
    session = session_of()
    talk = converse(session, mail_of(1, _stream(3), chunking=True), ["250", "250", "451", "503"], surplus=b"250 x\r\n")
    assert isinstance(talk.error, TransientReplyError)
    assert session.condemned is not None


def test_BR2_221_at_the_end_of_data_delivers_nothing_over_LMTP() -> None:
    talk = converse(session_of(protocol="lmtp"), mail_of(2), ["250", "250", "250", "354", "221", "250"])
    assert talk.verdicts == [ND, DL]
    none = converse(session_of(protocol="lmtp"), mail_of(1), ["250", "250", "354", "221"])
    assert none.verdicts == [ND]
    assert none.attempt.session.rset_owed


# --- the source: BR19, EN11, F63, F64 ---


class Source:
    """An iterable that counts its items and may fail."""

    def __init__(self, items: list[Any], failure: BaseException | None = None) -> None:
        self.items = items
        self.failure = failure
        self.pulled = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.pulled += 1
            yield item
        if self.failure is not None:
            raise self.failure


@pytest.mark.parametrize(
    ("chunking", "replies"),
    [
        (False, "550 503 503"),
        (False, "250 550 503"),
        (False, "250 550 354 554"),
        (False, "250 250 451"),
        (True, "550 503"),
        (True, "250 550"),
    ],
)
def test_E164_EN11_nothing_is_pulled_before_the_envelope_is_accepted(replies: str, chunking: bool) -> None:
    source = Source([BODY])
    talk = converse(session_of(), mail_of(message=source, chunking=chunking), replies.split())
    assert talk.error is not None
    assert source.pulled == 0
    if "354" not in replies:  # which LMTP does not answer with a dot
        over_lmtp = converse(session_of(protocol="lmtp"), mail_of(message=source, chunking=chunking), replies.split())
        assert over_lmtp.verdicts == [ND]
        assert source.pulled == 0


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        (Source([b"a\r\n"], OSError("disk")), {}, OSError),
        (Source([b"a\r\n", "text"]), {}, TypeError),
        (Source([b"a\r\n", b"x\n"]), {}, InvalidInputError),
        (Source([b"a\r\n", b"x\r"]), {}, InvalidInputError),
        (Source([b"a\r\n", b"x\0"]), {}, InvalidInputError),
        (Source([b"a\r\n", b"bcd"]), {"size": 5}, InvalidInputError),
        (Source([b"a\r\n", b"b"]), {"size": 5}, InvalidInputError),
        (Source([b"a\r\n", b"\xc3"]), {}, Exception),
    ],
    ids=["E66", "E166", "E162", "E163", "NUL", "E167-more", "E167-fewer", "E168"],
)
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_BR19_a_source_that_fails_poisons_DATA_and_leaves_BDAT_usable(
    protocol: ProtocolName, chunking: bool, source: Source, options: dict[str, Any], error: type[Exception]
) -> None:
    session = session_of(protocol=protocol)
    mail = mail_of(2, source, chunking=chunking, **options)
    talk = converse(session, mail, ["250", "250", "250", *([] if chunking else ["354"])])
    assert isinstance(talk.error, error)
    assert talk.error is session.source_error
    assert talk.attempt.results()[0].delivery is ND
    assert talk.verdicts == [ND, ND]
    octets = b"".join(talk.flights)
    assert DOT not in octets
    assert b"LAST" not in octets
    assert session.rset_owed
    if chunking:
        assert session.condemned is None
        assert session.state is SessionState.MAIL_FROM
    else:
        assert session.condemned is not None
        assert session.state is SessionState.DATA


def spent(kind: str) -> Any:
    """A source that somebody has read to its end."""
    if kind == "file":
        file = io.BytesIO(BODY)
        file.read()
        return file
    iterator = iter([BODY])
    list(iterator)
    return iterator


@pytest.mark.parametrize("kind", ["file", "iterator"])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_BR19_V19_a_source_that_was_read_before_is_no_empty_message(
    protocol: ProtocolName, chunking: bool, kind: str
) -> None:
    """A file at its end, a generator of the attempt before: nobody means the mail without an octet that they make."""
    session = session_of(protocol=protocol)
    replies = ["250", "250", *([] if chunking else ["354"])]
    talk = converse(session, mail_of(message=spent(kind), chunking=chunking), replies)
    assert isinstance(talk.error, InvalidInputError)
    assert "no octet" in str(talk.error)
    assert talk.verdicts == [ND]
    octets = b"".join(talk.flights)
    assert DOT not in octets
    assert b"LAST" not in octets
    assert (session.condemned is None) == chunking


@pytest.mark.parametrize("kind", ["file", "iterator"])
@pytest.mark.parametrize(("chunking", "wire"), [(False, b"\r\n.\r\n"), (True, b"BDAT 0 LAST\r\n")])
def test_E171_a_source_is_empty_on_purpose_where_its_size_says_so(kind: str, chunking: bool, wire: bytes) -> None:
    replies = ["250", "250", *([] if chunking else ["354"]), "250"]
    talk = converse(session_of(), mail_of(message=spent(kind), chunking=chunking, size=0), replies)
    assert talk.flights[1] == wire
    assert talk.verdicts == [DL]


@pytest.mark.parametrize("kind", ["file", "iterator"])
@pytest.mark.parametrize("chunking", [False, True])
def test_V19_a_mail_whose_stream_was_begun_is_not_sent_from_where_it_stands(kind: str, chunking: bool) -> None:
    """`retry_safe` says that repeating makes no duplicate; what is left of the stream would be another message."""
    mail = mail_of(message=io.BytesIO(BODY) if kind == "file" else iter([BODY] * 3), chunking=chunking)
    assert next(Outgoing(mail, session_of(), None).source()).startswith(BODY)
    with pytest.raises(InvalidInputError, match="read before"):
        Outgoing(mail, session_of(), None)


def test_V19_two_attempts_never_share_a_stream() -> None:
    """Each was made before the other began to read."""
    mail = mail_of(message=iter([BODY] * 3))
    first, second = Outgoing(mail, session_of(), None).source(), Outgoing(mail, session_of(), None).source()
    assert next(first) == BODY
    with pytest.raises(InvalidInputError, match="read before"):
        next(second)
    assert list(first) == [BODY] * 2


@pytest.mark.parametrize("message", [BODY, [BODY], Source([BODY])], ids=["bytes", "list", "iterable"])
def test_a_mail_whose_octets_are_there_again_may_be_sent_again(message: Any) -> None:
    mail = mail_of(message=message)
    for _ in range(2):
        assert converse(session_of(), mail, ["250", "250", "354", "250"]).verdicts == [DL]


def test_E162_the_offset_counts_from_the_start_of_the_stream() -> None:
    talk = converse(session_of(), mail_of(message=[b"ab\r\n", b"cd\r\n", b"e\nf"]), ["250", "250", "354"])
    assert isinstance(talk.error, InvalidInputError)
    assert talk.error.offset == 9


def test_BR19_a_source_that_fails_behind_a_window_owes_no_reply() -> None:
    session = session_of()
    source = Source(_stream(5), RuntimeError("gone"))
    talk = converse(session, mail_of(message=source, chunking=True), ["250"] * 6)
    assert isinstance(talk.error, RuntimeError)
    assert len(talk.flights) == 2
    assert not session.ledger.owed
    assert session.condemned is None


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_E180_a_policy_that_refuses_a_stream_in_the_middle_is_a_source_that_fails(
    protocol: ProtocolName, chunking: bool
) -> None:
    policy = BoundedPolicy(max_message_bytes=10)
    session = session_of(protocol=protocol)
    mail = mail_of(message=[b"12345678\r\n", b"x"], chunking=chunking)
    talk = converse(session, mail, ["250", "250", *([] if chunking else ["354"])], policy=policy)
    assert isinstance(talk.error, PolicyError)
    assert talk.error is session.source_error
    assert (session.condemned is None) == chunking
    assert session.rset_owed
    assert talk.verdicts == [ND]


def test_F93_an_interrupt_out_of_the_source_is_no_failure_of_the_source() -> None:
    session = session_of()
    talk = converse(session, mail_of(message=Source([], KeyboardInterrupt())), ["250", "250", "354"])
    assert isinstance(talk.error, KeyboardInterrupt)
    assert session.source_error is None
    assert talk.verdicts == [ND]


# --- verdicts at any moment: LG5, LO3 ---


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("level", [OFF, GROUPED])
def test_LO3_a_loss_after_each_reply_leaves_in_doubt_only_what_was_committed_and_not_answered(
    level: Pipelining, protocol: ProtocolName, chunking: bool
) -> None:
    envelope = ["250", "250", "550", "250", *([] if chunking else ["354"])]
    ends = ["250", "451"] if protocol == "lmtp" else ["250"]
    for known in range(len(envelope) + len(ends)):
        session = session_of(protocol=protocol)
        talk = converse(session, mail_of(3, chunking=chunking), (envelope + ends)[:known], level=level)
        assert isinstance(talk.error, OutOfRepliesError)
        if known < len(envelope):
            assert talk.verdicts == [ND] * 3
        else:
            first = DL if known > len(envelope) else UN
            assert talk.verdicts == [first, ND, UN]
            error = talk.attempt.explained(SmtpTimeoutError("late", stage="end of data"))
            assert type(error) is DeliveryUnknownError
            assert error.recipients == talk.attempt.results()
            assert not error.retry_safe
        assert session.rset_owed == (known > 0 or bool(talk.flights))


@pytest.mark.parametrize("message", [b".a\r\n..\r\nbc\r\n.", b"\r\n.\r\n.\r\n.\r\n", b"a.b\r\nc.d\r\n", b"abcdefg"])
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5])
def test_F62_a_large_message_is_stuffed_piece_by_piece_into_the_same_octets(
    message: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "PIECE", piece)
    monkeypatch.setattr(body, "SLICE", 2)
    talk = converse(session_of(), mail_of(message=message), ["250", "250", "354", "250"])
    assert talk.verdicts == [DL]
    stuffer = body.DotStuffer()
    assert talk.flights[-1] == stuffer.process_chunk(message) + stuffer.finish()
    assert len(talk.flights) == 2


def test_LG5_before_the_commit_point_is_taken_nothing_is_in_doubt() -> None:
    """features:BS1."""
    session = session_of()
    talk = converse(session, mail_of(2), ["250", "250", "550", "354"])
    end = talk.attempt.ends[0]
    assert end.end == session.ledger.taken == len(b"".join(talk.flights))
    for handed in range(end.end):
        session.ledger.handed = handed
        assert [entry.delivery for entry in talk.attempt.results()] == [ND, ND]
    session.ledger.handed = end.end
    assert [entry.delivery for entry in talk.attempt.results()] == [UN, ND]


@pytest.mark.parametrize(("size", "steps"), [(10, 1), (body.SLICE, 1), (body.SLICE + 1, 2)])
def test_EN10_the_step_of_the_LAST_chunk_may_be_dropped_before_its_line(size: int, steps: int) -> None:
    session = session_of()
    message = b"x" * (size - 2) + b"\r\n"
    attempt = Attempt(Outgoing(mail_of(message=message, chunking=True), session, None), session)
    flow = attempt.flow(GROUPED)
    next(flow)
    for entry in (attempt.mail, *attempt.rcpts):
        session.ledger.enter(entry)
        session.parser.feed(b"250 ok\r\n")
        reply = session.parser.next_reply()
        assert reply is not None
        session.ledger.settle(reply)
    step = flow.send(())
    assert step.droppable
    assert bytes(step.octets).startswith(b"BDAT %d LAST\r\n" % size)
    assert (step.replies is None) == (steps == 1)
    assert [entry.offset for entry in step.expects] == [len(b"BDAT %d LAST\r\n" % size) + size]
    assert "droppable" not in repr(step)
    assert repr(Entry(step.expects[0].kind)) == "<Entry end of data: owed>"


@pytest.mark.parametrize(
    ("replies", "states"),
    [
        ("250 250 354", [SessionState.AUTHENTICATION, SessionState.RCPT_TO, SessionState.RCPT_TO, SessionState.DATA]),
        ("550", [SessionState.AUTHENTICATION]),
    ],
)
def test_F97_the_state_follows_settled_replies_only(replies: str, states: list[SessionState]) -> None:
    session = session_of(state=SessionState.AUTHENTICATION)
    attempt = Attempt(Outgoing(mail_of(), session, None), session)
    flow = attempt.flow(OFF)
    seen = []
    step = next(flow)
    for code in replies.split():
        seen.append(session.state)
        for entry in step.expects:
            session.ledger.enter(entry)
        session.parser.feed(f"{code} x\r\n".encode())
        reply = session.parser.next_reply()
        assert reply is not None
        session.ledger.settle(reply)
        try:
            step = flow.send([reply])
        except PermanentReplyError:
            assert session.state is SessionState.MAIL_FROM
            break
    else:
        seen.append(session.state)
    assert seen == states


@pytest.mark.parametrize(
    ("replies", "surplus", "error", "verdict"),
    [
        (["550", "550", "550"], b"250 one more\r\n", ProtocolError, ND),
        (["250", "550", "550"], b"2", ProtocolError, ND),
        (["250", "250", "550"], b"\0\r\n", ProtocolError, ND),
        (["250", "250", "550"], b"421 bye\r\n", PermanentReplyError, ND),
        (["250", "250", "354"], b"250 one more\r\n", OutOfRepliesError, UN),  # nobody looks here: it is written
    ],
    ids=["MAIL refused", "RCPT refused", "DATA refused, garbage", "a goodbye", "content follows: the look says so"],
)
def test_BR4_a_refusal_in_an_envelope_with_a_surplus_is_nobodys(
    replies: list[str], surplus: bytes, error: type[BaseException], verdict: Delivery
) -> None:
    session = session_of()
    talk = converse(session, mail_of(), replies, surplus=surplus)
    assert type(talk.error) is error
    assert talk.verdicts == [verdict]
    assert session.condemned is not None
