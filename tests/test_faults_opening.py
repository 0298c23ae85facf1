"""faults 3, stages A4 to A9 and C4: a fault while a session opens, or of a verb, on a scripted transport.

Each cell of `faults.tsv`, in every shape in which the fault comes, over SMTP and LMTP. What is asserted: class and
stage of the error, `retry_safe`, `permanent`, that the octets behind it are QUIT or none, that the transport is closed,
and that the audit tells one end.
"""

from __future__ import annotations

import base64
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectionLostError,
    Delivery,
    ListAuditSink,
    LoginAuth,
    PermanentReplyError,
    PlainAuth,
    ProtocolError,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    StartTlsUnavailableError,
    Timeouts,
    TlsConfig,
    TlsError,
    TlsInfo,
    TlsMode,
    TransientReplyError,
)
from smtpconn.deadline import Budget
from smtpconn.testing import EOF, RESET, SILENCE, TLS, ScriptedTransport, Wait

from .cell_report import CELLS as REPORT
from .protocol.dialogue import rendered
from .protocol.test_session import forms_of
from .test_feature_rows import BYE, GREETING, OK, hello, names
from .test_verbs import VERBS

EHLO, LHLO, HELO = b"EHLO client.test\r\n", b"LHLO client.test\r\n", b"HELO client.test\r\n"
START, QUIT = b"STARTTLS\r\n", b"QUIT\r\n"
SECRET = "S3cret-pencil-horse"
PLAIN_LINE = b"AUTH PLAIN " + base64.b64encode(f"\0u\0{SECRET}".encode()) + b"\r\n"
LOGIN_LINE, LOGIN_ANSWERS = b"AUTH LOGIN\r\n", b"dQ==\r\n" + base64.b64encode(SECRET.encode()) + b"\r\n"
INFO = TlsInfo("TLSv1.3", "x", "mx.example.com", b"")


class Stage(NamedTuple):
    """What was said before the stage, the reply that would be right, what is written up to it, and its name."""

    row: str
    before: list[Any]
    good: bytes
    written: bytes
    stage: str
    mode: TlsMode = TlsMode.NONE
    credentials: Any = None
    protocol: Any = "smtp"


CLEAR: list[Any] = [GREETING, hello("STARTTLS")]
STAGES = {
    "A4": Stage("A4 greeting", [], GREETING, b"", "greeting"),
    "A5": Stage("A5 EHLO/LHLO", [GREETING], hello(), EHLO, "EHLO"),
    "A5 LMTP": Stage("A5 EHLO/LHLO", [GREETING], hello(), LHLO, "LHLO", protocol="lmtp"),
    "A6": Stage("A6 STARTTLS cmd", CLEAR, b"220 go\r\n", EHLO + START, "STARTTLS", TlsMode.STARTTLS),
    "A8": Stage("A8 EHLO after TLS", [*CLEAR, b"220 go\r\n", TLS], hello(), EHLO + START + EHLO, "EHLO",
                TlsMode.STARTTLS),
    "A9 PLAIN": Stage("A9 AUTH, any step", [GREETING, hello("AUTH PLAIN")], b"235 ok\r\n", EHLO + PLAIN_LINE,
                      "AUTH PLAIN", credentials=PlainAuth("u", SECRET)),
    "A9 LOGIN, first": Stage("A9 AUTH, any step", [GREETING, hello("AUTH LOGIN")], b"334 \r\n", EHLO + LOGIN_LINE,
                             "AUTH LOGIN", credentials=LoginAuth("u", SECRET)),
    "A9 LOGIN, last": Stage("A9 AUTH, any step", [GREETING, hello("AUTH LOGIN"), b"334 \r\n", b"334 \r\n"],
                            b"235 ok\r\n", EHLO + LOGIN_LINE + LOGIN_ANSWERS, "AUTH LOGIN",
                            credentials=LoginAuth("u", SECRET)),
}  # fmt: skip


def shapes(fault: str, stage: Stage) -> list[Any]:
    """What the server says in place of the right reply, in each shape of the fault."""
    good = stage.good
    drip = tuple(part for octet in b"220-" + b"x" * 20 for part in (Wait(1.0), bytes((octet,))))
    fours = [b"454 x\r\n", b"432 x\r\n"] if stage.row.startswith("A9") else [b"450 x\r\n", b"451-a\r\n451 b\r\n"]
    fives = {"A5": [b"500 x\r\n", b"502 x\r\n", b"550 x\r\n"], "A9": [b"535 x\r\n", b"534 x\r\n", b"503 x\r\n"]}
    impossible = [b"251 x\r\n", b"354 x\r\n", b"299 x\r\n"]
    wrong = {"A4": [b"250 x\r\n", b"354 x\r\n", b"299 x\r\n"], "A6": [b"250 x\r\n", b"354 x\r\n"]}
    found: dict[str, list[Any]] = {
        "RST": [RESET, ConnectionAbortedError(103, "aborted")],
        "EOF": [EOF],
        "silence": [SILENCE],
        "drip": [drip],
        "421": [b"421 4.3.2 x\r\n", b"421-a\r\n421 b\r\n", b"221 x\r\n"],
        "4yz": fours,
        "5yz": fives.get(stage.row[:2], [b"554 x\r\n", b"502 x\r\n"]),
        "wrong-class": wrong.get(stage.row[:2], impossible),
        "malformed": [
            b"HTTP/1.1 400 x\r\n", b"2500 x\r\n", b"250?x\r\n", b"250 x\n", b"250 x\rx\r\n", b"250 \0\r\n", b"\r\n",
            b"250-x\r\n251 y\r\n", b"\x16\x03\x01\x00\x05", b"\xf2\xf5\xf0\x40", b"150 x\r\n", b"650 x\r\n",
        ],
        "oversize": [b"250 " + b"x" * 20_000, b"250 " + b"x" * 16_379 + b"\r\n", b"250-x\r\n" * 1_001],
        "surplus": [good + b"250 x\r\n", good + b"x", (good, b"535 x\r\n")],
        "cut-reply": [(good[:cut], end) for cut in (1, 3, len(good) - 2, len(good) - 1) for end in (EOF, RESET)],
        "async-exc": [KeyboardInterrupt(), SystemExit(1), MemoryError(), (good[:2], KeyboardInterrupt())],
    }  # fmt: skip
    if stage.written.endswith((PLAIN_LINE, LOGIN_ANSWERS)):  # then the server may echo it
        found["5yz"].append(b"534 " + PLAIN_LINE)
        found["malformed"].append(PLAIN_LINE)
    return found[fault]


def cells() -> Iterator[tuple[str, str, str]]:
    with (Path(__file__).parent / "faults.tsv").open(encoding="utf-8") as table:
        for row in csv.DictReader((line for line in table if not line.startswith("#")), delimiter="\t"):
            yield row["stage"], row["fault"], row["code"]


CELLS = [
    pytest.param(stage, fault, code, id=f"{name} {fault} {code}")
    for name, stage in STAGES.items()
    for row, fault, code in cells()
    if row == stage.row and fault != "write-fail"
]


def expected(code: str, stage: Stage, said: Any) -> tuple[type[BaseException], bool | None, bool]:
    """Class, `permanent` (None: not said by the table), and whether QUIT ends it."""
    if code == "H5":
        code = "G5"
    return {
        "DX": (ConnectionLostError, None, False),
        "TX": (SmtpTimeoutError, None, False),
        "PX": (ProtocolError, None, False),
        "SX": (ServiceUnavailableError, False, False),
        "G4": (TransientReplyError, False, True),
        "G5": (PermanentReplyError, True, True),
        "TS": (TlsError, not str(said).startswith("b'4"), True),
        "TI": (StartTlsInjectionError, None, False),
        "AT": (AuthenticationError, False, True),
        "AP": (AuthenticationError, True, True),
        "AC": (ProtocolError, None, False),
        "KI": (BaseException, None, False),
    }[code]


def open_over(transport: ScriptedTransport, stage: Stage, sink: ListAuditSink) -> SmtpConnection:
    config = TlsConfig(server_name="mx.example.com") if stage.mode is TlsMode.STARTTLS else None
    return SmtpConnection.from_transport(
        transport, tls_mode=stage.mode, tls_config=config, timeout=5, ehlo_domain="client.test", audit=sink,
        credentials=stage.credentials, protocol=stage.protocol, allow_plaintext_auth=True,
    )  # fmt: skip


def open_and_ask(transport: ScriptedTransport, stage: Stage, sink: ListAuditSink) -> None:
    """Where no command of the opening follows, the next verb's finds a surplus."""
    open_over(transport, stage, sink).noop(timeout=5)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedTransport]:
    """Deadlines run on the clock of the last transport in this list."""
    transports: list[ScriptedTransport] = []

    class Clocked(Budget):
        @classmethod
        def of(cls, timeout: float | Timeouts, *_: object, **__: object) -> Budget:
            return Budget.of(timeout, transports[-1].clock)

    monkeypatch.setattr("smtpconn.connection.Budget", Clocked)
    return transports


@pytest.mark.parametrize(("stage", "fault", "code"), CELLS)
def test_faults_A4_to_A9(stage: Stage, fault: str, code: str, clocked: list[ScriptedTransport]) -> None:
    with REPORT.run(stage.row, fault):
        _open_into(stage, fault, code, clocked)


def _open_into(stage: Stage, fault: str, code: str, clocked: list[ScriptedTransport]) -> None:
    for said in shapes(fault, stage):
        if code == "H5" and stage.protocol == "smtp":
            continue  # a HELO may follow: below
        error, permanent, quits = expected(code, stage, said)
        turn = said if isinstance(said, tuple) else (said,)
        transport = ScriptedTransport(
            [*stage.before, turn, *[BYE] * quits], tls=INFO, when_dry="eof" if fault == "oversize" else "fail"
        )
        clocked.append(transport)
        sink = ListAuditSink()
        with pytest.raises(error) as caught:
            open_and_ask(transport, stage, sink)
        found = caught.value
        if code == "KI":
            assert found is next(part for part in turn if isinstance(part, BaseException))
        else:
            assert isinstance(found, SmtpError)
            assert type(found) is error
            assert (found.delivery, found.retry_safe) == (Delivery.NOT_DELIVERED, True)
            assert permanent is None or found.permanent is permanent
            assert found.stage == stage.stage or fault == "surplus"
            assert len(str(found)) <= 500
            assert (found.reply is not None) is (code in ("SX", "G4", "G5", "TS", "AT", "AP")) or code in (
                "PX",
                "AC",
                "H5",
            )
        shown = rendered(found)
        assert not [form for form in forms_of(SECRET) if form in shown]  # SEC3
        assert transport.written == stage.written + (QUIT if quits else b""), said
        assert transport.closed
        assert len(transport.tls_starts) == (stage.row.startswith("A8"))
        assert names(sink).count("SessionAborted") == (not quits)
        assert names(sink)[-1] == ("QuitCompleted" if quits else "SessionAborted")


@pytest.mark.parametrize("name", [name for name in STAGES if name != "A4"])
@pytest.mark.parametrize("failure", [BrokenPipeError(32, "pipe"), ConnectionResetError(104, "reset"), "stall"], ids=str)
def test_faults_A5_to_A9_write_fail_DX(name: str, failure: Any, clocked: list[ScriptedTransport]) -> None:
    """In the command of the stage: before its first octet, in its middle, before its last one."""
    stage = STAGES[name]
    with REPORT.run(stage.row, "write-fail"):
        _write_into(stage, failure, clocked)


def _write_into(stage: Stage, failure: Any, clocked: list[ScriptedTransport]) -> None:
    line = stage.written.splitlines(keepends=True)[-1]
    for taken in (0, 1, len(line) // 2, len(line) - 1):
        accept = len(stage.written) - len(line) + taken
        transport = ScriptedTransport(stage.before, tls=INFO, accept=accept, then=failure, when_dry="eof")
        clocked.append(transport)
        sink = ListAuditSink()
        error = SmtpTimeoutError if failure == "stall" else ConnectionLostError
        with pytest.raises(error) as caught:
            open_over(transport, stage, sink)
        assert type(caught.value) is error
        assert (caught.value.stage, caught.value.retry_safe) == (stage.stage, True)
        assert transport.written == stage.written[:accept]
        assert transport.closed
        assert names(sink)[-1] == "SessionAborted"


@pytest.mark.parametrize(("mode", "credentials", "error"), [
    (TlsMode.STARTTLS, None, StartTlsUnavailableError),
    (TlsMode.NONE, PlainAuth("u", SECRET), SmtpError),
])  # fmt: skip
@pytest.mark.parametrize("code", [500, 501, 502, 504, 550])
def test_faults_A5_5yz_H5_where_something_is_demanded(
    code: int, mode: TlsMode, credentials: Any, error: type[SmtpError]
) -> None:
    transport = ScriptedTransport([GREETING, b"%d x\r\n" % code, BYE])
    stage = STAGES["A5"]._replace(mode=mode, credentials=credentials)
    with pytest.raises(error) as caught:
        open_over(transport, stage, ListAuditSink())
    assert (caught.value.stage, caught.value.permanent) == ("EHLO", True)
    assert transport.written == EHLO + QUIT


@pytest.mark.parametrize("fault", ["RST", "EOF", "silence", "421", "4yz", "malformed", "wrong-class", "cut-reply"])
def test_faults_A5_5yz_H5_and_the_HELO_that_follows(fault: str, clocked: list[ScriptedTransport]) -> None:
    """Its failure is that of a greeting: G4, G5 and the rest."""
    stage = STAGES["A5"]
    for said in [*shapes(fault, stage), *[b"554 x\r\n"] * (fault == "4yz")]:
        code = {"RST": "DX", "EOF": "DX", "silence": "TX", "421": "SX", "4yz": "G4", "cut-reply": "DX"}.get(fault, "PX")
        code = "G5" if said == b"554 x\r\n" else code
        error, permanent, quits = expected(code, stage, said)
        turn = said if isinstance(said, tuple) else (said,)
        transport = ScriptedTransport([GREETING, b"502 x\r\n", turn, *[BYE] * quits])
        clocked.append(transport)
        with pytest.raises(error) as caught:
            open_over(transport, stage, ListAuditSink())
        assert isinstance(caught.value, SmtpError)
        assert type(caught.value) is error
        assert caught.value.stage == "HELO"
        assert permanent is None or caught.value.permanent is permanent
        assert transport.written == EHLO + HELO + (QUIT if quits else b"")


def test_every_cell_of_the_stages_is_met() -> None:
    rows = {stage.row for stage in STAGES.values()}
    met = Counter((param.values[0].row, param.values[1]) for param in CELLS)  # type: ignore[union-attr]  # stages
    assert set(met) == {(row, fault) for row, fault, _ in cells() if row in rows and fault != "write-fail"}
    assert {"A4 greeting", "A5 EHLO/LHLO", "A6 STARTTLS cmd", "A8 EHLO after TLS", "A9 AUTH, any step"} == rows


def planned() -> Iterator[tuple[str, str]]:
    """(stage, fault) of every run that the cell report counts: one for all shapes of a fault."""
    for _, fault, stage in ((param.id, param.values[1], param.values[0]) for param in (*CELLS, *C4_CELLS)):
        yield (stage.row if isinstance(stage, Stage) else C4.row), str(fault)
    for name in STAGES:
        yield from [(STAGES[name].row, "write-fail")] * (3 if name != "A4" else 0)


# --- C4: the verbs that are no mail ---

C4 = Stage("C4 VRFY EXPN HELP NOOP re-EHLO", [GREETING, hello()], OK, EHLO, "")
LINES = {"vrfy": b"VRFY x\r\n", "expn": b"EXPN x\r\n", "help": b"HELP\r\n", "noop": b"NOOP\r\n", "rehlo": EHLO}
C4_CELLS = [
    pytest.param(verb, fault, code, id=f"{verb} {fault} {code}")
    for verb in LINES
    for row, fault, code in cells()
    if row == C4.row and fault != "write-fail"
]


@pytest.mark.parametrize(("verb", "fault", "code"), C4_CELLS)
def test_faults_C4(verb: str, fault: str, code: str, clocked: list[ScriptedTransport]) -> None:
    with REPORT.run(C4.row, fault):
        _ask_into(verb, fault, code, clocked)


def _ask_into(verb: str, fault: str, code: str, clocked: list[ScriptedTransport]) -> None:
    for said in shapes(fault, C4):
        if fault == "oversize" and verb in ("expn", "help") and len(said) < 5_000:
            continue  # a listing may be long
        if fault == "wrong-class" and verb != "rehlo" and said != b"354 x\r\n":
            continue  # any 2yz is an answer
        turn = said if isinstance(said, tuple) else (said,)
        transport = ScriptedTransport([*C4.before, turn], when_dry="eof" if fault == "oversize" else "fail")
        clocked.append(transport)
        connection = open_over(transport, C4, ListAuditSink())
        answers = code in ("V4", "V5") and verb in ("vrfy", "expn", "help")
        if answers or fault == "surplus":
            reply = VERBS[verb](connection)
            assert not answers or reply.raw == said
        if not answers:
            error, _, _ = expected({"V4": "G4", "V5": "G5"}.get(code, code), C4, said)
            with pytest.raises(error) as caught:
                VERBS[verb](connection)
            assert code == "KI" or type(caught.value) is error
        assert transport.written == EHLO + LINES[verb]
        lives = code in ("V4", "V5") and verb != "rehlo"
        assert (connection.usable, transport.closed) == (lives, not lives)
        connection.close()
