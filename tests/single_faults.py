"""The fault cells of one transaction (faults 3, stages B1 to B8), made concrete on a scripted transport.

A `Case` is a cell in one of its settings: protocol, DATA or BDAT, level, recipients. `run` plays it on a whole
connection over a transport without a socket, time is a fake clock, and nothing is judged here.
"""

from __future__ import annotations

import csv
import itertools
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from smtpconn import Mail, Pipelining, SmtpConnection, TlsMode
from smtpconn.attempts import attempt_of
from smtpconn.deadline import Budget
from smtpconn.protocol.errors import Delivery, SmtpError
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.testing import EOF, RESET, SILENCE, ScriptedTransport, Wait

TIMEOUT = 30.0
ADDRESSES = ("a@x.test", "b@x.test", "c@x.test")
EHLO = b"250-server.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
OK, GO, NO = b"250 ok\r\n", b"354 go\r\n", b"503 no\r\n"
MALFORMED = b"HTTP/1.1 400 Bad Request\r\n"
OVERSIZE = (b"250-" + b"x" * 1_000 + b"\r\n") * 70
_PROTOCOLS: tuple[Literal["smtp", "lmtp"], ...] = ("smtp", "lmtp")
_LEVELS = (Pipelining.OFF, Pipelining.GROUPED)
CELLS = pathlib.Path(__file__).with_name("faults.tsv")


def cells() -> dict[tuple[str, str], str]:
    """(stage id, fault) -> code, of B1 to B8."""
    with CELLS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
    stages = {f"B{number}" for number in range(1, 9)}
    named = ((row["stage"].split(" ")[0], row["fault"], row["code"]) for row in rows)
    return {(stage, fault): code for stage, fault, code in named if stage in stages}


@dataclass(frozen=True)
class Case:
    """One cell in one setting. `place`: which RCPT, final reply or chunk, from 0. `kind`: a variant of the fault."""

    stage: str
    fault: str
    code: str
    protocol: Literal["smtp", "lmtp"]
    chunking: bool
    level: Pipelining
    count: int
    place: int = 0
    kind: str = ""

    @property
    def id(self) -> str:
        verb = ("LMTP-" if self.is_lmtp else "") + ("BDAT" if self.chunking else "DATA")
        parts = [f"faults:{self.stage}", f"{self.fault}={self.code}", verb, self.level.name, f"{self.count}rcpt"]
        return "-".join(parts + [f"at{self.place}"] * bool(self.place) + [self.kind] * bool(self.kind)).replace("*", "")

    @property
    def is_lmtp(self) -> bool:
        return self.protocol == "lmtp"

    @property
    def ends(self) -> int:
        """How many final replies there are."""
        return self.count if self.is_lmtp else 1

    @property
    def body(self) -> bytes:
        if self.stage == "B4":
            return b"x" * 40_000 + b"\r\n"
        return b"y" * 20 + b"\r\n"

    @property
    def message(self) -> Any:
        """Bytes, or at B7 a stream of three chunks."""
        return [b"z" * 16_382 + b"\r\n"] * 12 if self.stage == "B7" else self.body


class FailingTransport(ScriptedTransport):
    """Says something unasked once `after` octets of a mail were taken, or when writing fails; may be slow."""

    after: int | None = None
    unasked: tuple[Any, ...] = ()
    limit: int | None = None
    failure: BaseException | Literal["stall"] = "stall"
    drips = False
    base = 0

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
        """Take octets up to the limit of the case."""
        done = len(self.written) - self.base
        if self.limit is not None and done >= self.limit:
            if self.after is None:
                self.push(*self.unasked)
            if self.failure != "stall":
                raise self.failure
            self.clock.advance(timeout or 0.0)
            raise TimeoutError
        if self.drips and timeout is not None and done >= (self.after or 0):
            self.clock.advance(min(1.0, timeout))
            return super().send(data[:1], timeout)
        taken = super().send(data if self.limit is None else data[: self.limit - done], timeout)
        if self.unasked and self.after is not None and done + taken >= self.after:
            said, self.unasked = self.unasked, ()
            self.push(*said)
        return taken


@dataclass
class Played:
    """What came of a case."""

    case: Case
    connection: SmtpConnection
    transport: FailingTransport
    written: bytes = b""
    result: SendResult | None = None
    error: BaseException | None = None

    def close(self) -> None:
        """Leave nothing open."""
        self.connection.close()

    @property
    def recipients(self) -> tuple[RecipientResult, ...]:
        if self.result is not None:
            return self.result.recipients
        if isinstance(self.error, SmtpError):
            return self.error.recipients
        assert self.error is not None
        verdict = attempt_of(self.error)
        assert verdict is not None
        return verdict.recipients

    @property
    def verdicts(self) -> list[Delivery]:
        return [entry.delivery for entry in self.recipients]


def _fault_said(case: Case, positive: bytes) -> tuple[Any, ...]:
    """What the server says in the place of the reply that the cell is about."""
    wrong = b"250 ok\r\n" if positive == GO else GO
    surplus = {"": b"250 extra\r\n", "421": b"421 bye\r\n", "221": b"221 bye\r\n", "4yz": b"451 extra\r\n"}
    said: dict[str, tuple[Any, ...]] = {
        "RST": (RESET,),
        "EOF": (EOF,),
        "silence": (SILENCE,),
        "drip": (b"250-a\r\n", Wait(1.0)) * 40,
        "421": (b"221 bye\r\n" if case.kind == "221" else b"421 bye\r\n",),
        "4yz": (b"451 later\r\n",),
        "5yz": (b"554 no\r\n",),
        "wrong-class": (wrong,),
        "malformed": (MALFORMED,),
        "oversize": (OVERSIZE,),
        "cut-reply": (positive[:-2], RESET if case.kind == "RST" else EOF),
        "async-exc": (KeyboardInterrupt(),),
    }
    if case.fault == "surplus":
        if case.kind == "refused":
            return (b"451 later\r\n250 ok\r\n",)
        return (positive + surplus[case.kind],)
    return said[case.fault]


def _script(case: Case) -> list[Any]:
    """One item for each reply of the transaction, the fault in its place; nothing that the client will not ask for."""
    in_a_reply = case.stage != "B4" and case.fault != "write-fail" and case.kind != "write"
    stage = case.stage if in_a_reply else ""
    refused = case.fault in ("4yz", "5yz")
    grouped = case.level is Pipelining.GROUPED
    if stage == "B1" and refused:
        behind = case.count + (not case.chunking) if grouped else 0
        return [_fault_said(case, OK), *[NO] * behind]
    rcpts: list[Any] = [OK] * case.count
    if stage == "B2":
        rcpts[case.place] = _fault_said(case, OK)
    script = [_fault_said(case, OK) if stage == "B1" else OK, *rcpts]
    accepted = case.count - (stage == "B2" and refused)
    if not accepted:
        return [*script, NO] if grouped and not case.chunking else script
    if not case.chunking:
        script.append(_fault_said(case, GO) if stage == "B3" else GO)
        if stage == "B3" and refused:
            return script
    if case.stage == "B7":
        chunks: list[Any] = [OK, OK]
        if stage == "B7":
            chunks[case.place] = _fault_said(case, OK)
        script += chunks if grouped or not refused else chunks[: case.place + 1]
        if stage == "B7" and refused:
            return script
    ends: list[Any] = [OK] * (accepted if case.is_lmtp else 1)
    if stage in ("B5", "B6", "B8"):
        at = len(ends) - 1 if case.fault == "surplus" else case.place
        ends[at : at + 1] = _fault_said(case, OK)
    return [*script, tuple(ends)]


def _envelope(case: Case) -> int:
    lines = [b"MAIL FROM:<s@client.test>\r\n"] + [b"RCPT TO:<a@x.test>\r\n"] * case.count
    return len(b"".join(lines)) + (0 if case.chunking else len(b"DATA\r\n"))


def _arm(case: Case, transport: FailingTransport) -> None:
    """Faults that are not in a reply: in the body, and in writing."""
    mail = len(b"MAIL FROM:<s@client.test>\r\n")
    content = len(case.body) + (len(b"BDAT 20 LAST\r\n") if case.chunking else len(b".\r\n"))
    if case.stage == "B4":
        transport.after = _envelope(case) + (0 if case.fault == "drip" else 17_000)
        if case.fault in ("silence", "write-fail", "async-exc"):
            transport.limit = _envelope(case) + 20_000
            gone: Any = "stall" if case.kind == "stall" else BrokenPipeError(32, "gone")
            transport.failure = {"silence": "stall", "write-fail": gone}.get(case.fault, KeyboardInterrupt())
        elif case.fault == "drip":
            transport.drips = True
        else:
            transport.unasked = _fault_said(case, OK)
    elif case.fault == "write-fail":
        taken = {
            "B1": 10,
            "B2": mail + 20 * case.place + 10,
            "B3": mail + 20 * case.count + 3,
            "B7": _envelope(case) + 1_000,
        }
        transport.limit = taken.get(case.stage, _envelope(case) + content - 1)
        transport.failure = "stall" if case.kind == "stall" else BrokenPipeError(32, "gone")
        if case.kind in ("421", "451"):
            transport.unasked = (f"{case.kind} why\r\n",)
    elif case.fault == "async-exc" and case.kind == "write":
        transport.limit, transport.failure = _envelope(case), KeyboardInterrupt()


def play(case: Case) -> Played:
    """Open a connection, send the mail into the fault."""
    more = [OK, OK, OK, *([] if case.chunking else [GO]), OK]  # a second mail, behind RSET
    transport = FailingTransport(
        [b"220 hi\r\n", EHLO, *_script(case), *(more if case.code in ("R4", "R5", "r4", "r5", "l4", "l5") else [])],
        release="line",
        when_dry="silence" if case.fault in ("write-fail", "silence", "drip") else "fail",
    )
    connection = SmtpConnection.from_transport(
        transport,
        protocol=case.protocol,
        tls_mode=TlsMode.NONE,
        timeout=TIMEOUT,
        pipelining=case.level,
        ehlo_domain="client.test",
    )
    transport.base = len(transport.written)
    _arm(case, transport)
    played = Played(case, connection, transport)
    mail = Mail("s@client.test", ADDRESSES[: case.count], case.message, chunking=case.chunking)
    try:
        played.result = connection.send_mail(mail, Budget.of(TIMEOUT, transport.clock))
    except (SmtpError, KeyboardInterrupt) as error:
        played.error = error
    played.written = transport.written[transport.base :]
    return played


def second_mail(played: Played) -> SendResult:
    """Another mail on the same connection."""
    case = played.case
    mail = Mail("t@client.test", ["d@x.test"], b"again\r\n", chunking=case.chunking)
    return played.connection.send_mail(mail, Budget.of(TIMEOUT, played.transport.clock))


def cases() -> Iterator[Case]:
    """Each cell in each setting where it can occur."""
    for (stage, fault), code in cells().items():
        for protocol, chunking, level, count in itertools.product(_PROTOCOLS, (False, True), _LEVELS, (1, 3)):
            if _occurs(stage, protocol, chunking):
                yield from _variants(Case(stage, fault, code, protocol, chunking, level, count))


def _occurs(stage: str, protocol: str, chunking: bool) -> bool:
    needs = {"B3": not chunking, "B5": not chunking and protocol == "smtp", "B6": protocol == "lmtp"}
    needs |= {"B7": chunking, "B8": chunking and protocol == "smtp"}
    return needs.get(stage, True)


def _variants(case: Case) -> Iterator[Case]:
    kinds = [""]
    if case.fault == "421":
        kinds = ["", "221"]
    elif case.fault == "cut-reply":
        kinds = ["", "RST"]
    elif case.fault == "surplus":
        kinds = ["", "421", "221", "4yz"]
        if case.code == "OS":
            kinds.append("refused")
    elif case.fault == "write-fail":
        kinds = ["", "stall", "421", "451"] if case.code == "WF" else ["", "stall"]
    elif case.code == "KU":
        kinds = ["", "write"]
    places = {"B2": case.count, "B6": case.count, "B7": 2}.get(case.stage, 1)
    if case.fault in ("surplus", "write-fail") and case.stage in ("B6", "B7"):
        places = 1
    for kind in kinds:
        for place in range(places if kind != "write" else 1):
            yield replace(case, place=place, kind=kind)
