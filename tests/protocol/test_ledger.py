"""The ledger: which codes may stand where, replies matched by counting, and when a mail is committed."""

from __future__ import annotations

import pytest

from smtpconn.protocol import ledger
from smtpconn.protocol.ledger import Entry, Kind, Ledger, auth_kind
from smtpconn.protocol.reply import Reply

CODES = (211, 214, 220, 235, 250, 251, 252, 299, 334, 354, 399, 432, 450, 454, 499, 500, 550, 599)
REFUSALS = (432, 450, 454, 499, 500, 550, 599)
SUCCESSES = (211, 214, 220, 235, 250, 251, 252, 299)
CONTINUE = (334, 354, 399)


@pytest.mark.parametrize(
    ("kind", "positive"),
    [
        pytest.param(ledger.GREETING, (220,), id="BR2 E111 greeting"),
        pytest.param(ledger.EHLO, (250,), id="BR2 E112 EHLO"),
        pytest.param(ledger.LHLO, (250,), id="BR2 LHLO"),
        pytest.param(ledger.HELO, (250,), id="BR2 HELO"),
        pytest.param(ledger.DATA, CONTINUE, id="C21 DATA any 3yz, no 2yz"),
        pytest.param(
            ledger.STARTTLS, SUCCESSES + CONTINUE, id="F13 anything but 220 is a refusal of TLS, judged there"
        ),
        pytest.param(ledger.QUIT, SUCCESSES + CONTINUE, id="C22 QUIT anything"),
        pytest.param(auth_kind("PLAIN"), SUCCESSES + CONTINUE, id="AC AUTH anything, judged by the exchange"),
        *[
            pytest.param(kind, SUCCESSES, id=f"BR2 {kind.stage} {kind.phase}")
            for kind in (ledger.RSET, ledger.NOOP, ledger.VRFY, ledger.EXPN, ledger.HELP, ledger.MAIL, ledger.RCPT)
        ],
        *[
            pytest.param(kind, SUCCESSES, id=f"BR2 {kind.stage} {number}")
            for number, kind in enumerate((ledger.CHUNK, ledger.END, ledger.LMTP_END, ledger.DOT))
        ],
    ],
)
def test_the_codes_that_can_stand_where_LG3(kind: Kind, positive: tuple[int, ...]) -> None:
    assert tuple(code for code in CODES if kind.permits(code)) == tuple(sorted(positive + REFUSALS))


@pytest.mark.parametrize(
    ("kind", "stage", "phase"),
    [
        (ledger.GREETING, "greeting", "greeting"),
        (ledger.EHLO, "EHLO", "ehlo"),
        (ledger.MAIL, "MAIL", "mail"),
        (ledger.RCPT, "RCPT", "rcpt"),
        (ledger.DATA, "DATA", "data"),
        (ledger.QUIT, "QUIT", "quit"),
        (ledger.LHLO, "LHLO", "ehlo"),
        (ledger.HELO, "HELO", "ehlo"),
        (ledger.STARTTLS, "STARTTLS", "command"),
        (auth_kind("SCRAM-SHA-256"), "AUTH SCRAM-SHA-256", "auth"),
        (ledger.CHUNK, "BDAT", "body"),
        (ledger.END, "end of data", "final_reply"),
        (ledger.LMTP_END, "end of data", "final_reply"),
        (ledger.DOT, "end of data", "final_reply"),
    ],
)
def test_the_stage_that_errors_name_and_the_limit_F105b(kind: Kind, stage: str, phase: str) -> None:
    assert (kind.stage, kind.phase) == (stage, phase)
    assert repr(kind) == f"<Kind {stage}>"


def test_nothing_of_a_mail_is_settled_while_these_are_owed_BR6() -> None:
    kinds = [kind for kind in vars(ledger).values() if isinstance(kind, Kind)]
    opening = {kind.stage for kind in kinds if kind.opens}
    assert opening == {"EHLO", "LHLO", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "MAIL"}


def test_replies_settle_the_head_by_counting_LG2() -> None:
    owed = Ledger()
    entries = [Entry(ledger.MAIL), Entry(ledger.RCPT), Entry(ledger.DATA)]
    for entry in entries:
        owed.enter(entry)
    assert repr(entries[0]) == "<Entry MAIL: owed>"
    for entry, code in zip(entries, (250, 550, 354), strict=True):
        reply = Reply(code, b"%d x\r\n" % code)
        assert owed.settle(reply) is entry
        assert entry.reply is reply
    assert not owed.owed
    assert repr(entries[1]) == "<Entry RCPT: 550 x>"


def test_a_mail_is_committed_when_the_last_octet_may_have_left_LG5_BR22() -> None:
    owed = Ledger()
    owed.taken = owed.handed = 100
    end, other = Entry(ledger.END, 10), Entry(ledger.MAIL)
    owed.enter(end)
    owed.enter(other)
    assert (end.end, other.end) == (110, None)
    seen = []
    for handed in (100, 109, 110, 200):
        owed.handed = handed
        seen.append(owed.committed(end))
        assert not owed.committed(other)
    assert seen == [False, False, True, True]


def test_a_reply_is_given_to_as_many_entries_at_the_head_as_are_said() -> None:
    owed, reply = Ledger(), Reply(250, b"250 ok\r\n")
    entries = [Entry(ledger.RCPT) for _ in range(4)]
    owed.enter(*entries)
    owed.settle(reply)
    owed.settle_alike(reply, 2)
    assert [entry.reply for entry in entries] == [reply, reply, reply, None]
    assert list(owed.owed) == entries[3:]
    assert owed.last is reply
