"""The judgement of a run of replies that are alike; what a single one means is shown by those who run flows."""

from __future__ import annotations

import pytest

from smtpconn.protocol import judging
from smtpconn.protocol.ledger import DATA, LMTP_END, MAIL, RCPT, Entry, Kind
from smtpconn.protocol.session import Session

OK = b"250 ok\r\n"


def _fanned_out(kind: Kind) -> Entry:
    entry = Entry(kind)
    entry.more = lambda: ()
    return entry


@pytest.mark.parametrize(
    ("entries", "said", "most", "count"),
    [
        pytest.param([RCPT] * 5, OK * 5, 5, 5, id="all of them"),
        pytest.param([RCPT] * 5, OK * 5, 3, 3, id="no more than asked for"),
        pytest.param([RCPT] * 5, OK * 2, 5, 2, id="no more than there are"),
        pytest.param([RCPT] * 5, OK + b"250 Ok\r\n" + OK, 5, 1, id="octet for octet"),
        pytest.param([RCPT] * 5, OK + b"550 no\r\n" + OK, 5, 1, id="up to a refusal"),
        pytest.param([RCPT] * 2 + [DATA], OK * 3, 5, 2, id="of one kind: 250 cannot be said to DATA"),
        pytest.param([DATA], OK, 5, 0, id="none of this kind"),
        pytest.param([RCPT, DATA, RCPT], OK * 3, 5, 1, id="up to another kind, and none behind it"),
        pytest.param([], OK, 5, 0, id="none owed: a surplus stays"),
        pytest.param([RCPT] * 2, OK, 0, 0, id="no room"),
    ],
)
def test_LG2_replies_alike_to_commands_alike_are_settled_as_one(
    entries: list[Kind], said: bytes, most: int, count: int
) -> None:
    session = Session("smtp", "c.test")
    ledger, parser = session.ledger, session.parser
    first, owed = Entry(RCPT), [Entry(kind) for kind in entries]
    ledger.enter(Entry(MAIL), first, *owed)
    parser.feed(OK + OK + said)
    for _ in range(2):
        reply = parser.next_reply()
        assert reply is not None
        judging.settle(session, ledger.head(), reply, None, None)
    assert first.reply is not None
    pending = parser.pending
    assert judging.settle_alike(session, RCPT, first.reply, most) == count
    assert [entry.reply for entry in owed] == [first.reply] * count + [None] * (len(owed) - count)
    assert list(ledger.owed) == owed[count:]
    assert parser.pending == pending - count * len(OK)


def test_LG4_an_entry_that_fans_out_is_settled_by_itself() -> None:
    session = Session("lmtp", "c.test")
    fans = _fanned_out(LMTP_END)
    session.ledger.enter(Entry(LMTP_END), Entry(LMTP_END), fans)
    session.parser.feed(OK * 3)
    reply = session.parser.next_reply()
    assert reply is not None
    judging.settle(session, session.ledger.head(), reply, None, None)
    assert judging.settle_alike(session, LMTP_END, reply, 9) == 1
    assert list(session.ledger.owed) == [fans]
