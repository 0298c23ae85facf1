"""faults 6.2: each cell of a run-ahead flight of `send_many` at PREFETCH, judged by code and by the server's own book.

Three mails: the flight that commits k=m1 announces m2; m3 shows what became of the connection. Each cell of
`faults.tsv` x {DATA, BDAT} x {SMTP, LMTP} x {1, 3 recipients}, the fault at every RCPT and at every final reply.
"""

from __future__ import annotations

import csv
import itertools
import pathlib
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

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
TSV = pathlib.Path(__file__).with_name("faults.tsv")
OVERSIZE = (b"250-" + b"x" * 1_000 + b"\r\n") * 70
CLASSES: dict[str, type[SmtpError]] = {
    "RST": ConnectionLostError,
    "EOF": ConnectionLostError,
    "cut-reply": ConnectionLostError,
    "write-fail": ConnectionLostError,
    "silence": SmtpTimeoutError,
    "drip": SmtpTimeoutError,
    "421": ServiceUnavailableError,
    "wrong-class": ProtocolError,
    "malformed": ProtocolError,
    "oversize": ProtocolError,
    "surplus": ProtocolError,
}


@dataclass(frozen=True)
class Case:
    """A cell in one setting. `place`: which final reply, or which RCPT. `kind`: a variant of the fault."""

    stage: str
    fault: str
    code: str
    lmtp: bool
    chunking: bool
    count: int
    place: int = 0
    kind: str = ""

    @property
    def id(self) -> str:
        verb = ("LMTP-" if self.lmtp else "") + ("BDAT" if self.chunking else "DATA")
        code = self.code.replace("*", "").replace("/", "|")
        parts = [f"faults:{self.stage}", f"{self.fault}={code}", verb, f"{self.count}rcpt"]
        return "-".join(parts + [f"at{self.place}"] * bool(self.place) + [self.kind] * bool(self.kind))

    @property
    def left(self) -> str:
        return self.code.split("/")[0]

    @property
    def right(self) -> str:
        return self.code.split("/")[1].rstrip("*")

    @property
    def ends(self) -> int:
        return self.count if self.lmtp else 1

    @property
    def number(self) -> int:
        """The number of the reply that the cell is about: greeting, EHLO, envelope of m1, then the flight."""
        final = 2 + 1 + self.count + (not self.chunking)
        behind = {"BP1": 0, "BP2": 0, "BP3": 0, "BP4": 1, "BP5": 2, "BP6": 2 + self.count}
        first = 0 if self.stage in ("BP1", "BP2") else self.ends
        return final + first + behind[self.stage] + self.place


def cells() -> dict[tuple[str, str], str]:
    """(stage id, fault) -> code, of BP1 to BP7."""
    with TSV.open(encoding="utf-8") as file:
        rows = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
    named = ((row["stage"].split(" ")[0], row["fault"], row["code"]) for row in rows)
    return {(stage, fault): code for stage, fault, code in named if stage.startswith("BP")}


def cases() -> Iterator[Case]:
    """Each cell in each setting where it can occur."""
    for ((stage, fault), code), lmtp, chunking, count in itertools.product(
        cells().items(), (False, True), (False, True), (1, 3)
    ):
        if (stage == "BP1" and lmtp) or (stage == "BP2" and not lmtp) or (stage == "BP6" and chunking):
            continue
        places = count if stage in ("BP2", "BP5") else 1
        kinds = ["250", "451"] if fault == "surplus" else [""]
        for place, kind in itertools.product(range(places), kinds):
            yield Case(stage, fault, code, lmtp, chunking, count, place, kind)


def _spoilt(case: Case) -> Spoilt:
    """What is said in the place of the reply, or unasked, and how the line ends then."""
    positive = b"354 go on\r\n" if case.stage == "BP6" else b"250 ok\r\n"
    wrong = b"250 ok\r\n" if case.stage == "BP6" else b"354 go on\r\n"
    said: dict[str, Spoilt] = {
        "RST": (b"", "RST"),
        "EOF": (b"", "FIN"),
        "silence": (b"", "stall"),
        "async-exc": (b"", "interrupt"),
        "drip": (b"250-a\r\n250-b", "stall"),
        "421": (b"421 bye\r\n", "FIN"),
        "4yz": (b"451 later\r\n", None),
        "5yz": (b"550 no\r\n", None),
        "wrong-class": (wrong, None),
        "malformed": (b"HTTP/1.1 400 Bad Request\r\n", None),
        "oversize": (OVERSIZE, None),
        "surplus": ((b"" if case.stage == "BP7" else positive) + f"{case.kind} extra\r\n".encode(), None),
        "cut-reply": (positive[:-2], "FIN"),
    }
    return said[case.fault]


def play(case: Case) -> Played:
    """Three mails into the fault."""
    offers = ("PIPELINING", "CHUNKING")
    server: dict[str, object] = {"offers": offers, "lmtp": case.lmtp}
    recipients = ADDRESSES[: case.count]
    mails = [mail(name, recipients, chunking=case.chunking) for name in ("m1", "m2", "m3")]
    options: dict[str, object] = {"pipelining": Pipelining.PREFETCH, "protocol": "lmtp" if case.lmtp else "smtp"}

    def act(played: Played) -> None:
        def between(outcomes: int) -> None:
            if case.stage == "BP7" and outcomes == 1:
                if case.fault == "async-exc":
                    raise KeyboardInterrupt
                played.line.inject(*_spoilt(case))

        played.send([make(played.line) for make in mails], between)

    spoilt: dict[str, object] = {}
    if case.fault == "write-fail":
        spoilt = {"takes": _taken(case, recipients), "ending": "RST"}
    elif case.fault == "421" and case.stage in ("BP1", "BP2"):
        server["scripted"] = {case.number: "421 bye"}
        spoilt = {"spoilt": {case.number: (None, "FIN")}}
    elif case.fault in ("4yz", "5yz") and case.stage != "BP7":
        server["scripted"] = {case.number: (_spoilt(case)[0] or b"").decode().strip()}
    elif case.stage != "BP7":
        spoilt = {"spoilt": {case.number: _spoilt(case)}}
    return Dialogue(case.id, act, server, options).play(**spoilt)


def _taken(case: Case, recipients: tuple[str, ...]) -> int:
    """How many octets are taken: one short of the end of data of m1, or of the line of the stage behind it."""
    hello = len(b"LHLO client.test\r\n")
    lines = [b"MAIL FROM:<s@client.test>\r\n", *[f"RCPT TO:<{name}>\r\n".encode() for name in recipients]]
    content = b"BDAT 30 LAST\r\n" + b"x" * 30 if case.chunking else b"x" * 31 + b".\r\n"
    lines += [] if case.chunking else [b"DATA\r\n"]
    end = hello + sum(map(len, lines)) + len(content)
    if case.stage in ("BP1", "BP2"):
        return end - 1
    behind = [b"RSET\r\n", *lines]
    place = {"BP3": 0, "BP4": 1, "BP5": 2 + case.place, "BP6": len(behind) - 1}[case.stage]
    return end + sum(map(len, behind[:place])) + 3


CASES = list(cases())


def _first(case: Case) -> tuple[type[SmtpError] | None, list[Delivery]]:
    """What m1 gets."""
    everybody = [DL] * case.count
    at = case.place
    read = everybody[:at] if case.lmtp else []
    rest = case.count - len(read)
    refused = TransientReplyError if case.fault == "4yz" else PermanentReplyError
    table: dict[str, tuple[type[SmtpError] | None, list[Delivery]]] = {
        "UX": (DeliveryUnknownError, [UN] * case.count),
        "UR": (DeliveryUnknownError, [*read, *[UN] * rest]),
        "SX": (ServiceUnavailableError, [ND] * case.count),
        "R4": (refused, [ND] * case.count),
        "R5": (refused, [ND] * case.count),
        "l4": (None, [ND if place == at else DL for place in range(case.count)]),
        "l5": (None, [ND if place == at else DL for place in range(case.count)]),
        "L1": (DeliveryUnknownError if rest > 1 else None, [*read, ND, *[UN] * (rest - 1)]),
        "WF": (ConnectionLostError, [ND] * case.count),
        "WA": (None, everybody),
        "=": (None, everybody),
    }
    if case.left != "AL":
        return table[case.left]
    if case.fault in ("malformed", "oversize"):  # how many replies there were is not known
        return DeliveryUnknownError, [UN] * case.count
    if case.fault == "wrong-class":
        # a 354 too early, or a DATA that was answered 250 and no 354 behind it: all that was said is 2yz
        return (None, everybody) if case.stage == "BP6" else (DeliveryUnknownError, [UN] * case.count)
    # one reply too many in front of the 354 (DATA), or behind the last one (BDAT): could it be the final one?
    last = case.ends - 1
    candidate = case.stage in ("BP1", "BP2") and at == last
    inside = case.stage == "BP2" and at < last
    if case.kind == "451" and (candidate or inside):
        return DeliveryUnknownError, [UN] * case.count
    return None, everybody


def _second(case: Case) -> tuple[type[SmtpError] | None, list[Delivery], bool]:
    """What m2 gets, and whether the connection lives."""
    nobody, everybody = [ND] * case.count, [DL] * case.count
    refused = TransientReplyError if case.fault == "4yz" else PermanentReplyError
    right = case.right
    if right in ("go", "RS"):
        return None, everybody, right == "go"
    if right in ("R4", "R5"):
        return refused, nobody, True
    if right in ("r4", "r5"):
        if case.count == 1:
            return (None if case.lmtp else RecipientsRefusedError), nobody, True
        return None, [ND if place == case.place else DL for place in range(case.count)], True
    if right in ("E4", "E5"):
        return (ProtocolError if case.chunking else refused), nobody, False
    if case.kind == "451" and not case.chunking and case.stage in ("BP6", "BP7"):
        return TransientReplyError, nobody, False  # a refusal of the body, for all that can be told
    return CLASSES[case.fault], nobody, False


def test_every_cell_of_a_prefetched_flight_is_played() -> None:
    assert {(case.stage, case.fault) for case in CASES} == set(cells())
    assert len(cells()) == 95


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_cell(case: Case) -> None:
    with CELLS.run(case.stage, case.fault):
        _judge(case)


def _judge(case: Case) -> None:
    played = play(case)
    judge(played)
    if case.fault == "async-exc":
        _judge_interrupt(case, played)
        return
    first, second, third = played.outcomes
    error, verdicts = _first(case)
    assert ([entry.delivery for entry in first.recipients], type(first.error)) == (verdicts, error or type(None))
    error, verdicts, lives = _second(case)
    assert ([entry.delivery for entry in second.recipients], type(second.error)) == (verdicts, error or type(None))
    if isinstance(second.error, SmtpError):
        assert second.error.retry_safe
        before_mail = case.stage in ("BP3", "BP4") and case.fault in ("RST", "EOF", "silence", "drip", "421")
        assert second.error._unanswered or not before_mail
    assert {entry.delivery for entry in third.recipients} == ({DL} if lives else {ND})
    assert settled(played) == (3 if lives else 2)


def _judge_interrupt(case: Case, played: Played) -> None:
    """KU, KI: it leaves through the iterator; the outcome in hand is in its note and in the audit (PF13)."""
    assert [type(error) for error in played.errors] == [KeyboardInterrupt]
    names = [outcome.name for outcome in played.outcomes]
    assert names == ["m1"]
    cut_off = played.outcomes[-1]
    read = [DL] * case.place if case.lmtp and case.stage == "BP2" else []
    if case.stage == "BP7":  # the outcome of m1 was yielded before
        expected = [DL] * case.count
    else:
        expected = [*read, *[UN] * (case.count - len(read))] if case.left == "KU" else [DL] * case.count
    assert [entry.delivery for entry in cut_off.recipients] == expected
    assert settled(played) == 2
