"""faults 3, stages B1 to B8: what each fault of a single transaction leads to, on a scripted transport.

Each cell of `faults.tsv` x {DATA, BDAT, LMTP DATA, LMTP BDAT} x {OFF, GROUPED} x {1, 3 recipients}, with the fault at
every RCPT and at every final reply. What is asserted: class and stage of the error, the verdict of every recipient,
`retry_safe`, `permanent`, whether the connection lives, and that nothing is written once it does not.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import pytest

from smtpconn import Mail, Pipelining
from smtpconn.deadline import Budget
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

from .cell_report import CELLS
from .single_faults import TIMEOUT, Case, Played, cases, cells, play, second_mail

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
CASES = list(cases())
STAGES = {"B1": "MAIL", "B2": "RCPT", "B3": "DATA", "B4": "body", "B7": "BDAT"}
CAUSES: dict[str, type[SmtpError]] = {
    "RST": ConnectionLostError,
    "EOF": ConnectionLostError,
    "cut-reply": ConnectionLostError,
    "silence": SmtpTimeoutError,
    "drip": SmtpTimeoutError,
    "wrong-class": ProtocolError,
    "malformed": ProtocolError,
    "oversize": ProtocolError,
}


def test_every_cell_of_the_single_transaction_is_played() -> None:
    assert {(case.stage, case.fault) for case in CASES} == set(cells())
    assert len(cells()) == 111
    assert Counter(case.stage for case in CASES).keys() == {f"B{number}" for number in range(1, 9)}


def _is_dead(played: Played) -> None:
    """Closed, and nothing more is ever written."""
    connection, transport = played.connection, played.transport
    assert not connection.usable
    assert transport.closed
    before = transport.written
    with pytest.raises((ConnectionLostError, ServiceUnavailableError)) as caught:
        connection.send_mail(_another(), Budget.of(TIMEOUT, transport.clock))
    assert caught.value.retry_safe
    assert connection.quit(timeout=TIMEOUT) is False
    connection.close()
    assert transport.written == before


def _another() -> Mail:
    return Mail("t@client.test", ["d@x.test"], b"again\r\n")


def _lives(played: Played, *, rset: bool) -> None:
    """Usable: the next mail goes through, behind RSET where one is owed."""
    assert played.connection.usable
    before = len(played.transport.written)
    if not rset:
        return
    assert second_mail(played).all_delivered
    assert played.transport.written[before:].startswith(b"RSET\r\nMAIL FROM:<t@client.test>\r\n")


def _raised(
    played: Played, error: type[SmtpError], stages: set[str], permanent: bool | None, verdicts: list[Delivery]
) -> SmtpError:
    assert type(played.error) is error
    assert isinstance(played.error, SmtpError)
    assert played.error.stage in stages
    assert played.error.permanent is permanent
    assert played.verdicts == verdicts
    assert played.error.retry_safe == (UN not in verdicts and DL not in verdicts)
    return played.error


def _stages(case: Case) -> set[str]:
    """The stage that the error may name: a group of commands is written as one, and named after its first."""
    stage = STAGES.get(case.stage, "end of data")
    if case.stage == "B4" and case.chunking:
        return {"body", "end of data"}
    if case.fault == "write-fail" and case.level is Pipelining.GROUPED and case.stage in ("B2", "B3"):
        return {"MAIL"}
    if case.fault == "surplus":  # found where the next command stands, or before it is written
        return {"MAIL", "RCPT", "DATA", "BDAT", "body", "end of data"}
    return {stage}


def _judge_refusal(played: Played) -> None:
    """R4, R5, r4, r5, l4, l5: an answer, and the connection lives."""
    case = played.case
    permanent = case.fault == "5yz"
    if case.code in ("R4", "R5"):
        error = PermanentReplyError if permanent else TransientReplyError
        _raised(played, error, _stages(case), permanent, [ND] * case.count)
        _lives(played, rset=True)
        return
    if case.code in ("r4", "r5") and case.count == 1 and not case.is_lmtp:
        _raised(played, RecipientsRefusedError, {"RCPT"}, permanent, [ND])
        _lives(played, rset=True)
        return
    assert played.error is None
    expected = [DL] * case.count
    expected[case.place] = ND
    assert played.verdicts == expected
    assert played.recipients[case.place].permanent is permanent
    assert played.recipients[case.place].stage == _stages(case).pop()
    _lives(played, rset=case.count == 1)


def _judge_goodbye(played: Played) -> None:
    """SX and L1."""
    case = played.case
    connection = played.connection
    if case.code == "L1":
        assert played.error is None
        assert played.verdicts == [ND if place == case.place else DL for place in range(case.count)]
    else:
        error = _raised(played, ServiceUnavailableError, _stages(case), False, [ND] * case.count)
        assert error.reply is not None
        assert error.reply == connection.closing_reply
        assert error._unanswered == (case.stage == "B1")
    assert connection.is_shutting_down
    _is_dead(played)


def _judge_surplus(played: Played) -> None:
    """PS, OS and LS."""
    case = played.case
    if case.code == "PS":
        if case.kind in ("421", "221"):
            _raised(played, ServiceUnavailableError, _stages(case), False, [ND] * case.count)
        elif case.kind == "4yz" and not isinstance(played.error, ProtocolError):
            # The stray refusal stands where the next reply stands (GROUPED), or behind the 354: nobody can tell.
            assert played.error is None or isinstance(played.error, (TransientReplyError, RecipientsRefusedError))
            assert played.verdicts == [ND] * case.count
        else:
            _raised(played, ProtocolError, _stages(case), None, [ND] * case.count)
        return
    doubt = case.kind in ("4yz", "refused")
    if doubt:
        _raised(played, DeliveryUnknownError, {"end of data"}, None, [UN] * case.count)
    else:
        assert played.error is None
        assert played.verdicts == [DL] * case.count
    assert played.connection.is_shutting_down == (case.kind in ("421", "221"))
    _is_dead(played)


def _judge_doubt(played: Played) -> None:
    """UX and UR: in doubt are the accepted recipients whose final reply was not read."""
    case = played.case
    known = case.place if case.is_lmtp else 0
    error = _raised(played, DeliveryUnknownError, {"end of data"}, None, [DL] * known + [UN] * (case.count - known))
    assert type(error.__cause__) is CAUSES[case.fault]
    _is_dead(played)


def _judge_write_failure(played: Played) -> None:
    """WF: the end of data was not wholly taken; what the server said is attached."""
    case = played.case
    errors: dict[str, type[SmtpError]] = {"421": ServiceUnavailableError, "stall": SmtpTimeoutError}
    error = errors.get(case.kind, ConnectionLostError)
    permanent = False if case.kind == "421" else None
    raised = _raised(played, error, {"body", "end of data"}, permanent, [ND] * case.count)
    if case.kind in ("421", "451"):
        assert raised.reply is not None
        assert raised.reply.code == int(case.kind)
    else:
        assert raised.reply is None
    _is_dead(played)


def _judge_interrupt(played: Played) -> None:
    """KI and KU: the exception passes unchanged, what is in doubt is said on it."""
    case = played.case
    assert type(played.error) is KeyboardInterrupt
    known = case.place if case.is_lmtp else 0
    in_doubt = [DL] * known + [UN] * (case.count - known)
    assert played.verdicts == (in_doubt if case.code == "KU" else [ND] * case.count)
    _is_dead(played)


def _judge_end(played: Played) -> None:
    """DX, DX*, TX, PX, E4, E5."""
    case = played.case
    errors: dict[str, type[SmtpError]] = {
        "DX": ConnectionLostError,
        "TX": SmtpTimeoutError,
        "PX": ProtocolError,
        "E4": TransientReplyError,
        "E5": PermanentReplyError,
    }
    expected = errors[case.code.rstrip("*")]
    if case.fault == "write-fail" and case.kind == "stall":
        expected = SmtpTimeoutError
    permanent = {"E4": False, "E5": True}.get(case.code)
    error = _raised(played, expected, _stages(case), permanent, [ND] * case.count)
    unanswered = case.code == "DX*" and case.kind != "stall"
    if case.fault == "write-fail" and case.level is Pipelining.GROUPED:
        return _is_dead(played)  # whether MAIL was answered depends on where the group was cut
    assert error._unanswered == unanswered
    return _is_dead(played)


JUDGES = {
    **dict.fromkeys(("R4", "R5", "r4", "r5", "l4", "l5"), _judge_refusal),
    **dict.fromkeys(("SX", "SX*", "L1"), _judge_goodbye),
    **dict.fromkeys(("PS", "OS", "LS"), _judge_surplus),
    **dict.fromkeys(("UX", "UR"), _judge_doubt),
    "WF": _judge_write_failure,
    **dict.fromkeys(("KI", "KU"), _judge_interrupt),
    **dict.fromkeys(("DX", "DX*", "TX", "PX", "E4", "E5"), _judge_end),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_cell(case: Case) -> None:
    with CELLS.run(case.stage, case.fault), closing(play(case)) as played:
        JUDGES[case.code](played)
        assert len(played.recipients) == case.count


@pytest.mark.parametrize("case", [case for case in CASES if case.code == "PS"], ids=lambda case: case.id)
def test_PS_nothing_but_what_was_under_way_is_written_after_a_surplus(case: Case) -> None:
    with closing(play(case)) as played:
        _is_dead(played)
        assert b"\r\n.\r\n" not in played.written
        assert b"LAST" not in played.written
