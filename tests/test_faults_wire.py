"""faults 3, stages B1 to B8, and faults 14: each fault of a transaction through a pool, over sockets.

Each cell of `faults.tsv` x {DATA, BDAT, LMTP DATA, LMTP BDAT} x {OFF, GROUPED} x {1, 3 recipients} x {plain, TLS} x
{fresh, reused}, and at the end of data {booked, not booked}. Each run asserts class and stage of the error, the verdict
of every recipient, by code and against the server's ledger, `retry_safe`, `permanent`, the fate of the connection, the
counters of the pool, that the slot is there for the next mail, and that a call which must time out does within 50 ms.

A plain run plays a fixed share of the product, in which each cell is met and, over all cells, each setting; see
`thoroughness`. On a machine that pauses, a time-out that came before the fault is no run of the cell and
is repeated with a longer deadline; a late one is repeated, and counts as late if it is four times.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from smtpconn import (
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    PermanentReplyError,
    Pipelining,
    ProtocolError,
    RecipientsRefusedError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.testing import TestAuthority

from .cell_report import CELLS
from .single_faults import cells
from .thoroughness import share
from .wire_faults import SLACK, Run, Stand, WireCase, nothing_left, wire_cases

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
_THREADS = 6  # of runs that wait for their time-outs


def _by_cell(wires: Iterable[WireCase]) -> Iterable[list[WireCase]]:
    found: dict[tuple[str, str], list[WireCase]] = defaultdict(list)
    for wire in wires:
        found[wire.case.stage, wire.case.fault].append(wire)
    return found.values()


ALL = list(wire_cases())
PLAYED = [wire for place, of_cell in enumerate(_by_cell(ALL)) for wire in share(of_cell, 17, place)]
CAUSES: dict[str, type[SmtpError]] = {
    **dict.fromkeys(("RST", "EOF", "cut-reply"), ConnectionLostError),
    **dict.fromkeys(("silence", "drip"), SmtpTimeoutError),
    **dict.fromkeys(("wrong-class", "malformed", "oversize"), ProtocolError),
}
STAGES = {"B1": "MAIL", "B2": "RCPT", "B3": "DATA", "B4": "body", "B7": "BDAT"}


def series() -> Iterator[tuple[str, list[WireCase]]]:
    """The cases by stage, transport and whether they wait: what one test plays."""
    found: dict[str, list[WireCase]] = defaultdict(list)
    for wire in PLAYED:
        parts = [wire.case.stage, "TLS" if wire.tls else "plain", "reused" if wire.reused else "fresh"]
        found["-".join([*parts, *(["waiting"] if wire.waits else [])])].append(wire)
    yield from found.items()


SERIES = dict(series())


def test_every_cell_is_played_in_every_setting_that_has_a_meaning() -> None:
    settings = set(itertools.product((None, "implicit"), (False, True)))
    for cell in cells():
        met = {(w.tls, w.reused) for w in ALL if (w.case.stage, w.case.fault) == cell}
        assert met == settings, cell
    assert {(wire.case.stage, wire.case.fault) for wire in PLAYED} == set(cells())
    assert {(wire.tls, wire.reused) for wire in PLAYED} == settings
    for other in ("smtp", "lmtp"):
        assert {w.case.level for w in PLAYED if w.case.protocol == other} == {Pipelining.OFF, Pipelining.GROUPED}
        assert {w.case.count for w in PLAYED if w.case.protocol == other} == {1, 3}
    assert len({wire.id for wire in ALL}) == len(ALL) >= 8_000


@pytest.mark.parametrize("name", SERIES)
def test_faults_B1_to_B8_over_sockets(name: str, authority: TestAuthority) -> None:
    played = SERIES[name]
    failures: list[str] = []

    def play(stand: Stand, wire: WireCase) -> None:
        try:
            with CELLS.run(wire.case.stage, wire.case.fault):
                judge(stand.run(wire))
        except Exception as error:  # of any kind: the others are played all the same
            failures.append(f"{wire.id}: {type(error).__name__}: {error}")

    def play_apart(wires: list[WireCase]) -> None:
        with Stand(authority) as stand:
            for wire in wires:
                play(stand, wire)

    with nothing_left():
        if played[0].waits:
            with ThreadPoolExecutor(_THREADS) as threads:
                list(threads.map(play_apart, [played[at::_THREADS] for at in range(_THREADS)]))
        else:
            play_apart(played)
    assert not failures, f"{len(failures)} of {len(played)} runs failed:\n" + "\n".join(failures[:20])


# --- what is asserted of each run ---


def judge(run: Run) -> None:
    case = run.wire.case
    assert run.met, f"the fault was not met: {run.error!r} after {run.seconds:.3f} s"
    assert run.violations == []
    assert [entry.address for entry in run.recipients] == list(_addresses(run))
    _is_sound(run)
    if _is_retried(run):
        assert run.error is None
        assert _verdicts(run) == [DL] * case.count
        _fate(run, "closed", retried=True)
        return
    JUDGES[case.code](run)
    if run.wire.waits:
        assert run.seconds <= run.deadline + SLACK, f"{run.seconds:.3f} s for a deadline of {run.deadline} s"


def _addresses(run: Run) -> tuple[str, ...]:
    return tuple(run.taken)


def _verdicts(run: Run) -> list[Delivery]:
    return [entry.delivery for entry in run.recipients]


def _is_sound(run: Run) -> None:
    """G-T-1 and G-T-2: the server's ledger decides."""
    for entry, count in zip(run.recipients, run.taken.values(), strict=True):
        if entry.delivery is DL:
            assert count == 1, f"DELIVERED, booked {count} times"
        elif entry.delivery is ND:
            assert count == 0, f"NOT_DELIVERED, booked {count} times"
        else:
            assert count <= 1
    if run.wire.case.code == "UX":
        assert set(run.taken.values()) == {int(run.wire.booked)}


def _is_retried(run: Run) -> bool:
    """BR6, D7: once, on a fresh connection, where the reused one had not answered MAIL."""
    case = run.wire.case
    assert run.before is not None
    assert run.after is not None
    retried = run.after.stale_retries - run.before.stale_retries
    if case.fault == "write-fail" and case.level is Pipelining.GROUPED and case.stage in ("B2", "B3") and not case.kind:
        # MAIL had been written: whether its reply is there yet when the rest of the group cannot be written decides.
        assert retried <= run.wire.reused
        return retried == 1
    due = run.wire.reused and case.code in ("DX*", "SX*") and case.kind != "stall"
    assert retried == due
    return due


def _fate(run: Run, fate: str, *, retried: bool = False) -> None:
    """The connection, the counters, and that nothing is lost: slot, count, verdict."""
    before, after, end = run.before, run.after, run.end
    assert before is not None
    assert after is not None
    assert end is not None
    assert run.next_result is not None
    assert run.next_result.all_delivered
    lives = fate == "reused" or retried
    assert (after.idle, after.leased, after.opening, after.closing, after.waiting) == (int(lives), 0, 0, 0, 0)
    assert after.opened - before.opened == int(retried)
    gone = {reason: count - before.retired[reason] for reason, count in after.retired.items()}
    assert sum(gone.values()) == int(fate == "closed"), gone
    assert set(filter(gone.get, gone)) <= {"broken", "closing", "stale"}
    settled = (after.delivered - before.delivered, after.not_delivered - before.not_delivered,
               after.unknown - before.unknown)  # fmt: skip
    assert settled == tuple(map(_verdicts(run).count, (DL, ND, UN)))
    assert end.opened == sum(end.retired.values())
    assert (end.idle, end.leased, end.leaks, end.hook_errors) == (0, 0, 0, 0)
    if fate == "reused":
        assert run.behind[0] == ("RSET" if DL not in _verdicts(run) else "MAIL")
    elif not retried:
        assert set(run.behind) <= {"BDAT"}, "nothing but a chunk that was under way"


def _raised(
    run: Run, error: type[SmtpError], stages: set[str], permanent: bool | None, verdicts: list[Delivery]
) -> SmtpError:
    assert type(run.error) is error, repr(run.error)
    assert isinstance(run.error, SmtpError)
    assert run.error.stage in stages
    assert run.error.permanent is permanent
    assert _verdicts(run) == verdicts
    assert run.error.retry_safe == (set(verdicts) == {ND})
    return run.error


def _stages(run: Run) -> set[str]:
    """What the error may name: a group of commands is written as one, and named after its first."""
    case = run.wire.case
    if case.fault == "surplus":  # found where the next reply stands, or before the next command is written
        return {"MAIL", "RCPT", "DATA", "BDAT", "body", "end of data"}
    if case.stage in ("B4", "B7"):
        return {"body", "BDAT"} | ({"end of data"} if case.chunking and case.stage == "B4" else set())
    if case.fault == "write-fail" and case.level is Pipelining.GROUPED and case.stage in ("B2", "B3"):
        return {"MAIL"}
    return {STAGES.get(case.stage, "end of data")}


def _judge_refusal(run: Run) -> None:
    case = run.wire.case
    permanent = case.fault == "5yz"
    if case.code in ("R4", "R5"):
        error = PermanentReplyError if permanent else TransientReplyError
        _raised(run, error, _stages(run), permanent, [ND] * case.count)
    elif case.code in ("r4", "r5") and case.count == 1 and not case.is_lmtp:
        _raised(run, RecipientsRefusedError, {"RCPT"}, permanent, [ND])
    else:
        assert run.error is None
        assert _verdicts(run) == [ND if place == case.place else DL for place in range(case.count)]
        assert run.recipients[case.place].permanent is permanent
    _fate(run, "reused")


def _judge_goodbye(run: Run) -> None:
    case = run.wire.case
    if case.code == "L1":
        known = [DL] * case.place + [ND]
        behind = case.count - case.place - 1
        if case.kind == "221" or not behind:  # the other replies came all the same
            assert run.error is None
            assert _verdicts(run) == known + [DL] * behind
        else:
            _raised(run, DeliveryUnknownError, {"end of data"}, None, known + [UN] * behind)
    else:
        error = _raised(run, ServiceUnavailableError, _stages(run), False, [ND] * case.count)
        assert error.reply is not None
        assert error.reply.code == (221 if case.kind == "221" else 421)
    _fate(run, "closed")
    assert run.after is not None
    assert run.before is not None
    assert run.after.closing_signals == run.before.closing_signals + 1


def _judge_surplus(run: Run) -> None:
    case = run.wire.case
    if case.code == "PS":
        if run.wire.nobody_can_tell and DL in _verdicts(run):
            # The last chunk's reply came behind the look and was taken for the final one (BR1). It is true here.
            assert case.kind == ""
            assert run.error is None
            return
        assert _verdicts(run) == [ND] * case.count
        if case.kind in ("421", "221"):
            _raised(run, ServiceUnavailableError, _stages(run), False, [ND] * case.count)
        elif case.kind == "4yz" and not isinstance(run.error, ProtocolError):
            # The stray refusal stands where the next reply stands (GROUPED), or behind the 354: nobody can tell.
            assert run.error is None or isinstance(run.error, (TransientReplyError, RecipientsRefusedError))
            if run.wire.nobody_can_tell:
                return
        else:
            _raised(run, ProtocolError, _stages(run), None, [ND] * case.count)
    elif case.kind in ("4yz", "refused"):
        _raised(run, DeliveryUnknownError, {"end of data"}, None, [UN] * case.count)
    else:
        assert run.error is None
        assert _verdicts(run) == [DL] * case.count
    _fate(run, "closed")


def _judge_doubt(run: Run) -> None:
    case = run.wire.case
    known = case.place if case.is_lmtp else 0
    error = _raised(run, DeliveryUnknownError, {"end of data"}, None, [DL] * known + [UN] * (case.count - known))
    assert type(error.__cause__) is CAUSES[case.fault]
    _fate(run, "closed")


def _judge_write_failure(run: Run) -> None:
    case = run.wire.case
    errors: dict[str, type[SmtpError]] = {"421": ServiceUnavailableError, "stall": SmtpTimeoutError}
    error = errors.get(case.kind, ConnectionLostError)
    raised = _raised(run, error, {"body", "end of data"}, False if case.kind == "421" else None, [ND] * case.count)
    assert (raised.reply.code if raised.reply else "") == (int(case.kind) if case.kind in ("421", "451") else "")
    _fate(run, "closed")


def _judge_interrupt(run: Run) -> None:
    case = run.wire.case
    assert type(run.error) is KeyboardInterrupt
    known = case.place if case.is_lmtp else 0
    in_doubt = [DL] * known + [UN] * (case.count - known)
    assert _verdicts(run) == (in_doubt if case.code == "KU" else [ND] * case.count)
    _fate(run, "closed")


def _judge_end(run: Run) -> None:
    case = run.wire.case
    errors: dict[str, type[SmtpError]] = {
        "DX": ConnectionLostError,
        "TX": SmtpTimeoutError,
        "PX": ProtocolError,
        "SX": ServiceUnavailableError,
        "E4": TransientReplyError,
        "E5": PermanentReplyError,
    }
    expected = SmtpTimeoutError if case.kind == "stall" else errors[case.code.rstrip("*")]
    if case.stage == "B4" and case.fault == "cut-reply" and isinstance(run.error, ProtocolError):
        expected = ProtocolError  # BR1: half a reply was there at the look, its end was not
    if run.wire.may_jam and isinstance(run.error, SmtpTimeoutError):
        expected = SmtpTimeoutError
    _raised(run, expected, _stages(run), {"E4": False, "E5": True}.get(case.code), [ND] * case.count)
    _fate(run, "closed")
    if case.code == "PX" and expected is ProtocolError:
        assert run.after is not None
        assert run.before is not None
        assert run.after.protocol_errors == run.before.protocol_errors + 1


JUDGES: dict[str, Callable[[Run], None]] = {
    **dict.fromkeys(("R4", "R5", "r4", "r5", "l4", "l5"), _judge_refusal),
    **dict.fromkeys(("SX", "SX*", "L1"), _judge_goodbye),
    **dict.fromkeys(("PS", "OS", "LS"), _judge_surplus),
    **dict.fromkeys(("UX", "UR"), _judge_doubt),
    "WF": _judge_write_failure,
    **dict.fromkeys(("KI", "KU"), _judge_interrupt),
    **dict.fromkeys(("DX", "DX*", "TX", "PX", "E4", "E5"), _judge_end),
}
