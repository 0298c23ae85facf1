"""faults 6.3: each cell of a burst, judged by code and by the server's own book.

One or three whole BDAT transactions in one flight, the fault at each of them: at RSET, MAIL and every RCPT (BB1), at
the reply or replies to LAST (BB2). Each cell of `faults.tsv` x {SMTP, LMTP} x {1, 3 recipients}.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

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

from .cell_report import CELLS
from .reference_dialogues import ADDRESSES, Dialogue, Played, Spoilt, judge, mail, settled
from .test_faults_ahead import OVERSIZE, TSV

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
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
OK = b"250 ok\r\n"
SAID: dict[str, Spoilt] = {
    "RST": (b"", "RST"),
    "EOF": (b"", "FIN"),
    "silence": (b"", "stall"),
    "drip": (b"250-a\r\n250-b", "stall"),
    "wrong-class": (b"354 go on\r\n", None),
    "malformed": (b"HTTP/1.1 400 Bad Request\r\n", None),
    "oversize": (OVERSIZE, None),
    "cut-reply": (OK[:-2], "FIN"),
    "async-exc": (b"", "interrupt"),
}
REFUSALS = {"421": "421 bye", "4yz": "451 later", "5yz": "550 no"}


@dataclass(frozen=True)
class Case:
    """A cell in one setting. `mails` in the burst, the fault in transaction `at`, at its reply `place`."""

    stage: str
    fault: str
    code: str
    lmtp: bool
    count: int
    mails: int
    at: int
    place: int
    kind: str = ""

    @property
    def id(self) -> str:
        protocol = "LMTP" if self.lmtp else "SMTP"
        code = self.code.replace("/", "|")
        parts = [f"faults:{self.stage}", f"{self.fault}={code}", protocol, f"{self.count}rcpt"]
        return "-".join([*parts, f"mail{self.at + 1}of{self.mails}", f"reply{self.place}", *filter(None, [self.kind])])

    @property
    def ends(self) -> int:
        return self.count if self.lmtp else 1

    @property
    def envelope(self) -> int:
        """Replies in front of the one to LAST; a connection's first mail has no RSET."""
        return 1 + self.count + (self.at > 0)

    @property
    def number(self) -> int:
        """The number of the reply, the greeting is 0."""
        one = 1 + self.count + self.ends
        return 2 + self.at * one + max(0, self.at - 1) + self.place + (self.envelope if self.stage == "BB2" else 0)


def cells() -> dict[tuple[str, str], str]:
    """(stage id, fault) -> code, of BB1 and BB2."""
    with TSV.open(encoding="utf-8") as file:
        rows = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
    named = ((row["stage"].split(" ")[0], row["fault"], row["code"]) for row in rows)
    return {(stage, fault): code for stage, fault, code in named if stage.startswith("BB")}


def cases() -> Iterator[Case]:
    """Each cell in each setting."""
    for ((stage, fault), code), lmtp, count, mails in itertools.product(
        cells().items(), (False, True), (1, 3), (1, 3)
    ):
        kinds = {"surplus": ["250", "451", "421"], "421": ["", "goes on"]}.get(fault, [""])
        for at, kind in itertools.product(range(mails), kinds):
            case = Case(stage, fault, code, lmtp, count, mails, at, 0, kind)
            for place in range(case.envelope if stage == "BB1" else case.ends):
                yield Case(stage, fault, code, lmtp, count, mails, at, place, kind)


CASES = list(cases())


def play(case: Case) -> Played:
    """The burst into the fault, and one mail more on its own."""
    server: dict[str, object] = {"offers": ("PIPELINING", "CHUNKING"), "lmtp": case.lmtp}
    options: dict[str, object] = {"pipelining": Pipelining.BURST, "protocol": "lmtp" if case.lmtp else "smtp"}
    recipients = ADDRESSES[: case.count]

    def act(played: Played) -> None:
        played.send([mail(f"m{number + 1}", recipients)(played.line) for number in range(case.mails)])
        if played.connection is not None and played.connection.usable:
            played.send([mail("last", recipients)(played.line)])

    spoilt: dict[str, object] = {}
    if case.fault in REFUSALS:
        server["scripted"] = {case.number: REFUSALS[case.fault]}
        if case.fault == "421" and not case.kind:
            server["stops"] = case.number
            spoilt = {"spoilt": {case.number: (None, "FIN")}}
    elif case.fault == "write-fail":
        spoilt = {"takes": _taken(case, recipients), "ending": "RST"}
    elif case.fault == "surplus":
        spoilt = {"spoilt": {case.number: (OK + f"{case.kind} extra\r\n".encode(), None)}}
    else:
        spoilt = {"spoilt": {case.number: SAID[case.fault]}}
    return Dialogue(case.id, act, server, options, in_doubt=case.mails).play(**spoilt)


def _taken(case: Case, recipients: tuple[str, ...]) -> int:
    """The octets in front of the middle of the transaction's envelope (BB1), or of its last octet (BB2)."""
    lines = [b"MAIL FROM:<s@client.test>\r\n", *[f"RCPT TO:<{name}>\r\n".encode() for name in recipients]]
    content = b"BDAT 30 LAST\r\n" + b"x" * 30
    one = sum(map(len, lines)) + len(content)
    in_front = len(b"LHLO client.test\r\n") + case.at * one + max(0, case.at - 1) * len(b"RSET\r\n")
    return in_front + (10 if case.stage == "BB1" else one + (len(b"RSET\r\n") if case.at else 0) - 1)


def test_every_cell_of_a_burst_is_played() -> None:
    assert {(case.stage, case.fault) for case in CASES} == set(cells())
    assert len(cells()) == 28


def _expected(case: Case) -> list[tuple[type[SmtpError] | None, list[Delivery]]] | None:
    """What each mail gets; None where the book alone decides."""
    everybody, nobody = (None, [DL] * case.count), [ND] * case.count
    before: list[tuple[type[SmtpError] | None, list[Delivery]]] = [everybody] * case.at
    behind = case.mails - case.at - 1
    unknown = (DeliveryUnknownError, [UN] * case.count)
    if case.code == "UX/V":
        if case.fault in ("wrong-class", "malformed", "oversize"):
            return None  # out of step: what was read in front of it is judged anew (BU4)
        read = [DL] * case.place if case.lmtp and case.stage == "BB2" else []
        return [*before, (DeliveryUnknownError, [*read, *[UN] * (case.count - len(read))]), *[unknown] * behind]
    if case.code == "V/V":
        return [*before, *[(ConnectionLostError, nobody)] * (behind + 1)]
    refused = TransientReplyError if case.fault == "4yz" else PermanentReplyError
    at_rset = case.stage == "BB1" and case.at > 0 and case.place == 0
    if case.fault in ("4yz", "5yz"):
        own = case.place - (case.at > 0)
        if at_rset:
            mine: tuple[type[SmtpError] | None, list[Delivery]] = everybody
        elif case.stage == "BB1" and own > 0:
            verdicts = [ND if place == own - 1 else DL for place in range(case.count)]
            alone = case.count == 1 and not case.lmtp
            mine = (RecipientsRefusedError if alone else None, verdicts)
        elif case.stage == "BB2" and case.lmtp:
            mine = (None, [ND if place == case.place else DL for place in range(case.count)])
        else:
            mine = (refused, nobody)
        return [*before, mine, *[everybody] * behind]
    if case.fault == "421" and not case.kind:
        if case.stage == "BB2" and case.lmtp:
            return None
        return [*before, (ServiceUnavailableError, nobody), *[(ServiceUnavailableError, nobody)] * behind]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_cell(case: Case) -> None:
    with CELLS.run(case.stage, case.fault):
        _judge(case)


def _judge(case: Case) -> None:
    played = play(case)
    judge(played)
    outcomes = [outcome for outcome in played.outcomes if outcome.name != "last"]
    if case.fault == "async-exc":
        assert [type(error) for error in played.errors] == [KeyboardInterrupt]
        assert len(outcomes) == settled(played) == case.mails
        return
    assert len(outcomes) == case.mails
    expected = _expected(case)
    if expected is not None:
        found = [(type(outcome.error), [entry.delivery for entry in outcome.recipients]) for outcome in outcomes]
        assert found == [(error or type(None), verdicts) for error, verdicts in expected]
    for outcome in outcomes:
        if isinstance(outcome.error, DeliveryUnknownError) and case.fault in CAUSES:
            assert type(outcome.error.__cause__) in (CAUSES[case.fault], ProtocolError)
    went_on = [outcome for outcome in played.outcomes if outcome.name == "last"]
    assert bool(went_on) == (case.fault in ("4yz", "5yz") and not _retires(case))
    assert all(entry.delivery is DL for outcome in went_on for entry in outcome.recipients)
    assert settled(played) == len(played.outcomes)


def _retires(case: Case) -> bool:
    """RE5: a refused RSET: the mail goes on, the connection is given up afterwards."""
    return case.stage == "BB1" and case.at > 0 and case.place == 0
