"""The driver on a scripted transport: the look, the count, the limits of time, and what poisons."""

from __future__ import annotations

import base64
import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn.connection import SmtpConnection
from smtpconn.deadline import Budget, Timeouts
from smtpconn.driver import LISTEN, RECEIVE, Driver
from smtpconn.protocol import mechanisms
from smtpconn.protocol.body import CHUNK, LONG_SLICE, SLICE
from smtpconn.protocol.burst import Burst
from smtpconn.protocol.envelope import Outgoing
from smtpconn.protocol.errors import (
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    InvalidInputError,
    PermanentReplyError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.flow import Flow, Pipelining, Step
from smtpconn.protocol.ledger import Entry
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.protocol.session import ProtocolName, Session, SessionState
from smtpconn.protocol.transaction import Attempt
from smtpconn.testing import EOF, RESET, SILENCE, FakeClock, ScriptedTransport, Wait
from smtpconn.tls import TlsMode

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
OFF, GROUPED = Pipelining.OFF, Pipelining.GROUPED
OK, GO = b"250 ok\r\n", b"354 go\r\n"
BODY = b"Subject: x\r\n\r\n.text\r\n"
ENVELOPE = b"MAIL FROM:<s@client.test>\r\nRCPT TO:<a@x.test>\r\nDATA\r\n"
WIRE = ENVELOPE + b"Subject: x\r\n\r\n..text\r\n.\r\n"
BDAT = ENVELOPE[:-6] + b"BDAT 21 LAST\r\n" + BODY


class Rig:
    """A driver over a transport, its session past EHLO; and the last attempt."""

    def __init__(self, transport: ScriptedTransport, protocol: ProtocolName = "smtp", **state: Any) -> None:
        self.transport = transport
        self.clock = transport.clock
        self.session = Session(protocol, "client.test")
        offered = ("PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES")
        self.session.capabilities = ServerCapabilities("server.test", offered, is_esmtp=True)
        self.session.parser.wants_enhanced = True
        self.session.state = SessionState.MAIL_FROM
        for name, value in state.items():
            setattr(self.session, name, value)
        self.settled: list[Entry] = []
        self.driver = Driver(transport, self.session, self.settled.append)
        self.attempt: Attempt | None = None
        self.error: BaseException | None = None

    def send(
        self,
        message: Any = BODY,
        *,
        count: int = 1,
        chunking: bool = False,
        timeout: float | Timeouts = 30.0,
        level: Pipelining = GROUPED,
        **options: Any,
    ) -> SendResult | None:
        """Send a mail; the error is kept, verdicts and all."""
        mail = Mail("s@client.test", [f"{c}@x.test" for c in "abc"[:count]], message, chunking=chunking, **options)
        attempt = self.attempt = Attempt(Outgoing(mail, self.session, None), self.session)
        try:
            return self.driver.run(attempt.flow(level), Budget.of(timeout, self.clock))
        except SmtpError as error:
            self.error = attempt.explained(error)
        except BaseException as error:
            self.error = error
        return None

    def run(self, flow: Flow[Any], timeout: float | Timeouts = 30.0) -> Any:
        return self.driver.run(flow, Budget.of(timeout, self.clock))

    @property
    def verdicts(self) -> list[Delivery]:
        return [entry.delivery for entry in self.results]

    @property
    def results(self) -> tuple[RecipientResult, ...]:
        assert self.attempt is not None
        return self.attempt.results()

    def assert_dead(self) -> None:
        """Poisoned: the socket is closed, the session says so."""
        assert self.session.condemned
        assert self.session.state is SessionState.CLOSED
        assert self.transport.closed

    def assert_alive(self) -> None:
        assert self.session.condemned is None
        assert self.session.closing is None
        assert not self.session.ledger.owed
        assert not self.session.parser.pending
        assert not self.transport.closed
        assert self.session.state is SessionState.MAIL_FROM


def rig(*said: Any, protocol: ProtocolName = "smtp", state: dict[str, Any] | None = None, **options: Any) -> Rig:
    """A rig whose server says one item for each command, chunk or content."""
    return Rig(ScriptedTransport([(), *said], release="line", **options), protocol, **(state or {}))


MAILED = (OK, OK, GO, OK)
CHUNKED = (OK, OK, OK)


# --- writing and counting: BR14, LG5 ---


@pytest.mark.parametrize("max_send", [None, 1, 2, 7])
@pytest.mark.parametrize("delivery", ["coalesced", "whole", "line", "octet"])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("level", [OFF, GROUPED])
def test_BR14_any_split_of_octets_gives_the_same_wire_and_the_same_result(
    level: Pipelining, chunking: bool, delivery: Any, max_send: int | None
) -> None:
    made = rig(*(CHUNKED if chunking else MAILED), max_send=max_send, delivery=delivery)
    result = made.send(chunking=chunking, level=level)
    assert result is not None
    assert result.all_delivered
    assert made.transport.written == (BDAT if chunking else WIRE)
    assert made.session.ledger.taken == made.session.ledger.handed == len(made.transport.written)
    made.assert_alive()
    made.transport.assert_finished()


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
def test_LM8_no_write_is_larger_than_a_slice(chunking: bool, as_stream: bool) -> None:
    """features:F63: and none for each piece of a stream, where these are small. Long ones hold no commit point."""
    message = b"x" * (3 * LONG_SLICE - 2) + b"\r\n"
    chunks = len(message) // CHUNK - 1 if chunking and as_stream else 0
    made = rig(OK, OK, *[OK] * chunks, *([] if chunking else [GO]), OK)
    pieces = [message[at : at + 80] for at in range(0, len(message), 80)]
    assert made.send(pieces if as_stream else message, chunking=chunking)
    sizes = list(map(len, made.transport.writes))
    assert max(sizes) <= LONG_SLICE if as_stream else max(sizes) == LONG_SLICE
    assert sizes[-1] <= SLICE
    assert len(sizes) <= (12 if chunking or not as_stream else 27)


@pytest.mark.parametrize("chunking", [False, True])
def test_BR22_a_long_write_holds_no_commit_point(chunking: bool) -> None:
    """An interrupt in one leaves nothing in doubt, whichever of them it is."""
    for slices in range(2 * LONG_SLICE // SLICE - 1):
        said: list[Any] = [(), OK, OK, *([] if chunking else [GO]), OK]
        made = Rig(ScriptedTransport(said, release="line", accept=slices * SLICE + 200, then=KeyboardInterrupt))
        made.send(b"x" * (2 * LONG_SLICE), chunking=chunking)
        assert isinstance(made.error, KeyboardInterrupt)
        assert made.verdicts == [ND]
        made.assert_dead()


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("level", [OFF, GROUPED])
def test_WF_BR14_BS1_a_write_that_fails_at_any_octet_delivers_nothing_and_nothing_is_in_doubt(
    level: Pipelining, chunking: bool, protocol: ProtocolName
) -> None:
    wire = BDAT if chunking else WIRE
    for accept in range(len(wire)):
        said = CHUNKED if chunking else MAILED
        made = rig(*said, protocol=protocol, accept=accept, then=ConnectionResetError(104, "reset"), when_dry="silence")
        assert made.send(chunking=chunking, level=level) is None
        assert type(made.error) is ConnectionLostError
        assert made.verdicts == [ND]
        assert made.error.retry_safe
        assert made.transport.written == wire[:accept]
        made.assert_dead()


@pytest.mark.parametrize("chunking", [False, True])
def test_UX_once_the_last_octet_is_taken_only_a_reply_tells(chunking: bool) -> None:
    made = rig(*(CHUNKED if chunking else MAILED)[:-1], EOF)
    made.send(chunking=chunking)
    assert type(made.error) is DeliveryUnknownError
    assert type(made.error.__cause__) is ConnectionLostError
    assert made.verdicts == [UN]


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("max_send", [1, 5, SLICE])
def test_BR22_an_interrupt_in_a_write_leaves_in_doubt_what_was_handed_over(chunking: bool, max_send: int) -> None:
    """Each octet of the content in turn: the write that holds the last octet is the commit point."""
    wire = BDAT if chunking else WIRE
    start = len(ENVELOPE) - (6 if chunking else 0)
    for accept in range(start, len(wire)):
        made = rig(*(CHUNKED if chunking else MAILED), accept=accept, then=KeyboardInterrupt, max_send=max_send)
        made.send(chunking=chunking)
        assert isinstance(made.error, KeyboardInterrupt)
        assert made.verdicts == [UN]  # the rest of the slice, with the commit point, had been handed over
        made.assert_dead()


def test_BR22_before_the_slice_with_the_commit_point_nothing_is_in_doubt() -> None:
    for chunking in (False, True):
        made = rig(*(CHUNKED if chunking else MAILED), accept=len(ENVELOPE) + 100, then=KeyboardInterrupt)
        made.send(b"x" * 50_000, chunking=chunking)
        assert isinstance(made.error, KeyboardInterrupt)
        assert made.verdicts == [ND]
        made.assert_dead()


# --- BR16: after a failed write it listens ---


@pytest.mark.parametrize(
    ("said", "error", "code"),
    [
        (b"", ConnectionLostError, None),
        (b"552 too much\r\n", ConnectionLostError, 552),
        (b"250 ok\r\n", ConnectionLostError, 250),
        (b"421 bye\r\n", ServiceUnavailableError, 421),
        (b"221 bye\r\n", ServiceUnavailableError, 221),
        (b"55", ConnectionLostError, None),
        (b"HTTP\r\n", ConnectionLostError, None),
        (EOF, ConnectionLostError, None),
        (RESET, ConnectionLostError, None),
    ],
)
def test_BR16_what_the_server_said_before_it_closed_is_attached(
    said: Any, error: type[SmtpError], code: int | None
) -> None:
    class Refusing(ScriptedTransport):
        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            if len(self.written) >= len(ENVELOPE):
                if said:
                    self.push(said)
                raise BrokenPipeError(32, "gone")
            return super().send(data, timeout)

    made = Rig(Refusing([(), OK, OK, GO], release="line", when_dry="silence"))
    made.send()
    assert type(made.error) is error
    assert isinstance(made.error, SmtpError)
    assert made.error.stage == ("end of data" if error is ServiceUnavailableError else "body")
    assert (made.error.reply.code if made.error.reply else None) == code
    assert isinstance(made.error.__cause__, BrokenPipeError)
    assert made.verdicts == [ND]
    assert made.session.lost == (error is ConnectionLostError)
    if not said:
        assert made.clock() == LISTEN
    made.assert_dead()


@pytest.mark.parametrize(
    ("said", "error", "code"),
    [
        (b"250 ok\r\n421 bye\r\n", ServiceUnavailableError, 421),
        (b"250 ok\r\n221 bye\r\n", ServiceUnavailableError, 221),
        (b"250 ok\r\n452 full\r\n", ConnectionLostError, 452),
        (b"250 ok\r\n25", ConnectionLostError, 250),
        (b"421 bye\r\n", ServiceUnavailableError, 421),
    ],
)
def test_BR16_of_what_the_server_said_to_several_commands_the_last_word_is_attached(
    said: bytes, error: type[SmtpError], code: int
) -> None:
    """faults:B7/surplus (PS): the first chunk's reply says nothing of why the second one could not be written."""

    class Refusing(ScriptedTransport):
        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            if len(self.written) >= 100_000:
                self.push(said)
                raise BrokenPipeError(32, "gone")
            return super().send(data, timeout)

    made = Rig(Refusing([(), OK, OK], release="line", when_dry="silence", max_send=SLICE))
    made.send([b"z" * 16_382 + b"\r\n"] * 12, chunking=True)
    assert type(made.error) is error
    assert isinstance(made.error, SmtpError)
    assert made.error.stage == "BDAT"
    assert made.error.reply is not None
    assert made.error.reply.code == code
    assert not made.error._unanswered
    assert made.verdicts == [ND]
    made.assert_dead()


@pytest.mark.parametrize(
    ("mail_reply", "said", "unanswered"),
    [
        ((), (), True),
        ((), (b"421 bye\r\n",), True),
        ((), (b"250 ok\r\n",), False),
        ((), (b"25",), False),
        ((OK,), (), True),
    ],
)
def test_BR6_a_write_that_fails_is_unanswered_while_no_reply_to_MAIL_was_read(
    mail_reply: tuple[bytes, ...], said: tuple[bytes, ...], unanswered: bool
) -> None:
    """The last row: the reply to MAIL may stand in the socket, but nobody has read it; what it is does not matter."""

    class Refusing(ScriptedTransport):
        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            self.push(*said)
            raise BrokenPipeError(32, "gone")

    made = Rig(Refusing([(), *mail_reply], release="line", when_dry="silence"))
    made.send()
    assert isinstance(made.error, SmtpError)
    assert made.error._unanswered == unanswered


# --- BR1: the look ---


@pytest.mark.parametrize(
    ("said", "error", "unanswered"),
    [
        ((EOF,), ConnectionLostError, True),
        ((RESET,), ConnectionLostError, True),
        ((b"421 bye\r\n",), ServiceUnavailableError, True),
        ((b"221 bye\r\n",), ServiceUnavailableError, True),
        ((b"421 bye\r\n", EOF), ServiceUnavailableError, True),
        ((b"421 bye\r\n", RESET), ServiceUnavailableError, True),
        ((b"250 stray\r\n",), ProtocolError, False),
        ((b"451 stray\r\n",), ProtocolError, False),
        ((b"421 bye\r\n421 bye\r\n",), ProtocolError, False),
        ((b"\r\n421 bye\r\n",), ProtocolError, False),
        ((b"42",), ProtocolError, False),
        ((b"42", EOF), ConnectionLostError, False),
        ((b"42", RESET), ConnectionLostError, False),
        ((b"HTTP", EOF), ProtocolError, False),
        ((b"250-" + b"x" * 1_000 + b"\r\n") * 70, ProtocolError, False),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("rset_owed", [False, True])
def test_BR1_PS_nothing_is_written_while_the_socket_is_not_silent(
    said: Any, error: type[SmtpError], unanswered: bool, rset_owed: bool
) -> None:
    made = Rig(ScriptedTransport([said]), rset_owed=rset_owed, mails=int(rset_owed))
    made.send()
    assert type(made.error) is error
    assert isinstance(made.error, SmtpError)
    assert made.error.stage == ("RSET" if rset_owed else "MAIL")
    assert made.error._unanswered == unanswered
    assert made.transport.written == b""
    assert made.verdicts == [ND]
    made.assert_dead()


class Interrupting(ScriptedTransport):
    """Says something unasked as soon as `after` octets were taken."""

    after = 0
    unasked: tuple[Any, ...] = ()

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
        taken = super().send(data, timeout)
        if self.unasked and len(self.written) >= self.after:
            said, self.unasked = self.unasked, ()
            self.push(*said)
        return taken


EARLY: list[tuple[tuple[Any, ...], type[SmtpError]]] = [
    ((b"452 full\r\n",), TransientReplyError),
    ((b"552 too much\r\n",), PermanentReplyError),
    ((b"421 bye\r\n",), ServiceUnavailableError),
    ((b"250 ok\r\n",), ProtocolError),
    ((b"354 go\r\n",), ProtocolError),
    ((b"552 a\r\n552 b\r\n",), ProtocolError),
    ((b"junk\r\n",), ProtocolError),
    ((EOF,), ConnectionLostError),
    ((b"552 too much\r\n", EOF), PermanentReplyError),
    ((b"552 too much\r\n", RESET), PermanentReplyError),
]


@pytest.mark.parametrize(("unasked", "error"), EARLY, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
def test_E4_E5_PF2_a_reply_before_the_end_of_data_stops_the_sending(
    unasked: tuple[Any, ...], error: type[SmtpError], as_stream: bool, chunking: bool
) -> None:
    """BDAT, too: octets that come while the LAST chunk is half written are not the reply to it."""
    message = b"x" * (49_998 if as_stream else 3 * LONG_SLICE) + b"\r\n"
    said: list[Any] = [(), OK, OK, *([] if chunking else [GO])]
    transport = Interrupting(said, release="line")
    transport.after, transport.unasked = len(ENVELOPE) + SLICE, unasked
    made = Rig(transport)
    made.send([message] if as_stream else message, chunking=chunking)
    assert type(made.error) is error
    assert isinstance(made.error, SmtpError)
    assert made.error.stage == "body"
    assert len(transport.written) <= len(ENVELOPE) + SLICE + LONG_SLICE
    assert made.verdicts == [ND]
    assert made.error.retry_safe
    made.assert_dead()


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_EN4_the_line_is_looked_at_between_short_writes_of_the_last_slice_too(
    protocol: ProtocolName, chunking: bool
) -> None:
    wire = BDAT if chunking else WIRE
    for after in range(len(ENVELOPE) + 1, len(wire)):
        transport = Interrupting([(), OK, OK, *([] if chunking else [GO])], release="line", max_send=1)
        transport.after, transport.unasked = after, (b"250 a stray yes\r\n",)
        made = Rig(transport, protocol)
        made.send(chunking=chunking)
        assert type(made.error) is ProtocolError
        assert transport.written == wire[:after]
        assert made.verdicts == [ND]


def test_EN4_the_octets_between_the_commands_of_a_group_belong_to_its_head() -> None:
    transport = Interrupting([()], max_send=1)
    transport.after, transport.unasked = 40, (OK, OK, b"451 no\r\n")
    made = Rig(transport)
    made.send()
    assert type(made.error) is TransientReplyError
    assert transport.written == ENVELOPE


def test_EN3_PL15_replies_are_taken_in_before_each_slice_of_a_burst() -> None:
    """A server that cannot write does not read."""

    class Watched(ScriptedTransport):
        sends = 0

        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            assert not self.sends or not self.readable()
            self.sends += 1
            return super().send(data, timeout)

    transport = Watched([(), OK, OK, OK], release="line", max_send=SLICE)
    made = Rig(transport)
    mail = Mail("s@client.test", ["a@x.test"], b"x" * 99_998 + b"\r\n", chunking=True)
    made.attempt = Attempt(Outgoing(mail, made.session, None), made.session)
    burst = Burst(made.session)
    assert burst.add(made.attempt)
    made.run(burst.flow())
    assert transport.sends > 6
    assert made.verdicts == [DL]
    made.assert_alive()


def test_EN5_a_socket_that_wakes_without_octets_is_silent() -> None:
    class FalseAlarm(ScriptedTransport):
        alarms = 0

        def readable(self) -> bool:
            self.alarms += 1
            return True

        def recv(self, max_octets: int, timeout: float | None) -> bytes:
            if timeout == 0.0:
                raise TimeoutError
            return super().recv(max_octets, timeout)

    transport = FalseAlarm([(), *MAILED], release="line")
    made = Rig(transport)
    assert made.send()
    assert transport.alarms > 2
    made.assert_alive()


def test_LM11_the_look_takes_no_more_than_it_needs_to_judge() -> None:
    made = Rig(ScriptedTransport([((b"250-" + b"x" * 500 + b"\r\n") * 1_000,)], delivery="line"))
    made.send()
    assert type(made.error) is ProtocolError
    assert made.session.parser.pending < 2 * RECEIVE


# --- OS, LS: what stands behind the final reply ---


@pytest.mark.parametrize("delivery", ["coalesced", "whole", "line", "octet"])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize(
    ("final", "surplus", "verdict"),
    [
        (OK, (OK,), DL),
        (OK, (b"421 bye\r\n",), DL),
        (OK, (b"451 no\r\n",), UN),
        (b"451 no\r\n", (OK,), UN),
        (b"451 no\r\n", (b"421 bye\r\n",), ND),
        (OK, (OK, EOF), DL),
        (OK, (b"451 no\r\n", RESET), UN),
    ],
)
def test_AN1_OS_a_surplus_that_is_there_is_seen_however_it_is_delivered(
    final: bytes, surplus: tuple[Any, ...], verdict: Delivery, chunking: bool, delivery: Any
) -> None:
    made = rig(*(CHUNKED if chunking else MAILED)[:-1], (final, *surplus), delivery=delivery)
    made.send(chunking=chunking)
    assert made.verdicts == [verdict]
    assert (type(made.error) is DeliveryUnknownError) == (verdict is UN)
    made.assert_dead()


@pytest.mark.parametrize("end", [EOF, RESET])
def test_an_end_behind_the_final_reply_changes_nothing(end: Any) -> None:
    made = rig(OK, OK, GO, (OK, end))
    result = made.send()
    assert result is not None
    assert result.all_delivered
    again = made.send()
    assert again is None
    assert type(made.error) is ConnectionLostError
    assert made.error._unanswered
    assert made.session.lost


# --- L1 ---


@pytest.mark.parametrize("bye", [b"421 bye\r\n", b"221 bye\r\n"])
def test_L1_421_over_LMTP_speaks_of_one_recipient_and_the_rest_is_read(bye: bytes) -> None:
    made = rig(OK, OK, OK, OK, GO, (OK, bye, OK), protocol="lmtp")
    result = made.send(count=3)
    assert result is not None
    assert made.verdicts == [DL, ND, DL]
    assert made.session.closing is not None
    made.assert_dead()


@pytest.mark.parametrize("end", [EOF, RESET, SILENCE])
def test_L1_replies_that_do_not_come_behind_421_leave_doubt(end: Any) -> None:
    made = rig(OK, OK, OK, OK, GO, (b"421 bye\r\n", OK, end), protocol="lmtp")
    assert made.send(count=3) is None
    assert type(made.error) is DeliveryUnknownError
    assert made.verdicts == [ND, DL, UN]
    made.assert_dead()


# --- the size of replies: EN9, CN6, PL35 ---


def test_EN9_PL35_the_replies_to_one_flight_together_have_a_limit() -> None:
    big = (b"250-" + b"x" * 990 + b"\r\n") * 60 + OK
    made = rig(OK, big, OK, GO, OK)
    assert made.send(count=2)
    made = rig(OK, big, big, GO)
    made.send(count=2)
    assert type(made.error) is ProtocolError
    assert made.error.stage == "RCPT"
    assert made.verdicts == [ND, ND]
    assert len(made.settled) == 2
    made.assert_dead()


# --- time ---

LIMITS = Timeouts(
    connect=1, tls=2, greeting=3, ehlo=4, auth=5, command=6, mail=7, rcpt=8, data=9, body=10, final_reply=11, rset=12,
    noop=13, probe=14, quit=15,
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "stage", "limit"),
    [
        ((), "MAIL", 7.0),
        ((OK,), "RCPT", 8.0),
        ((OK, OK), "DATA", 9.0),
        ((OK, OK, GO), "end of data", 11.0),
    ],
)
@pytest.mark.parametrize("drip", [False, True])
def test_EN7_each_reply_has_the_limit_of_its_phase_and_octets_do_not_prolong_it(
    said: tuple[bytes, ...], stage: str, limit: float, drip: bool
) -> None:
    slow = (b"250-", Wait(1.0), b"x\r\n", Wait(1.0)) * 20 if drip else (SILENCE,)
    made = rig(*said, slow)
    made.send(timeout=LIMITS)
    error = made.error.__cause__ if isinstance(made.error, DeliveryUnknownError) else made.error
    assert type(error) is SmtpTimeoutError
    assert error.stage == stage
    assert made.clock() == limit
    made.assert_dead()


def test_EN7_octets_that_are_there_when_the_time_is_up_are_no_reason_to_read_on() -> None:
    class Flood(ScriptedTransport):
        def recv(self, max_octets: int, timeout: float | None) -> bytes:
            self.clock.advance(1.0)
            return super().recv(max_octets, timeout)

    made = Rig(Flood([(), b"250-" + b"x" * 100 + b"\r\n" + OK], release="line", delivery="octet"))
    made.send(timeout=LIMITS)
    assert type(made.error) is SmtpTimeoutError
    assert (made.error.stage, made.clock()) == ("MAIL", 7.0)
    made.assert_dead()


def test_EN7_the_limit_begins_with_the_reply_before() -> None:
    made = rig((Wait(6.9), OK), (Wait(7.9), OK), (Wait(8.9), GO), (Wait(10.9), OK))
    assert made.send(timeout=LIMITS)
    assert made.clock() == pytest.approx(6.9 + 7.9 + 8.9 + 10.9)


def test_B7_a_chunk_has_the_limit_of_the_body() -> None:
    made = rig(OK, OK, SILENCE)
    made.send([b"x" * 70_000], chunking=True, timeout=LIMITS)
    assert type(made.error) is SmtpTimeoutError
    assert made.error.stage == "BDAT"
    assert made.clock() == 10.0


def test_C1_RSET_has_its_own_limit() -> None:
    made = rig(SILENCE, state={"rset_owed": True, "mails": 1})
    made.send(timeout=LIMITS)
    assert isinstance(made.error, SmtpTimeoutError)
    assert (made.error.stage, made.clock()) == ("RSET", 12.0)


@pytest.mark.parametrize(
    ("accept", "stage", "limit"),
    [(0, "MAIL", 7.0), (len(ENVELOPE), "body", 10.0), (len(ENVELOPE) + 20_000, "body", 10.0)],
)
def test_a_write_that_stalls_has_the_limit_of_its_phase(accept: int, stage: str, limit: float) -> None:
    made = rig(*MAILED, accept=accept, when_dry="silence")
    made.send(b"x" * 40_000, timeout=LIMITS)
    assert type(made.error) is SmtpTimeoutError
    assert made.error.stage == stage
    assert made.clock() == limit
    assert made.verdicts == [ND]
    made.assert_dead()


def test_the_limit_of_a_slice_is_not_prolonged_by_the_octets_that_trickle_through_it() -> None:
    class Trickling(ScriptedTransport):
        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            if len(self.written) < len(ENVELOPE):
                return super().send(data, timeout)
            assert timeout is not None
            self.clock.advance(min(3.0, timeout))
            return super().send(data[:1], timeout)

    made = Rig(Trickling([(), OK, OK, GO], release="line"))
    made.send(timeout=LIMITS)
    assert type(made.error) is SmtpTimeoutError
    assert made.clock() == 10.0
    assert made.verdicts == [ND]


def test_ETIMEDOUT_of_the_kernel_is_a_lost_connection() -> None:
    for said in ((TimeoutError(110, "Connection timed out"),), (OK, OK, GO, TimeoutError(110, "Connection timed out"))):
        made = rig(*said)
        made.send()
        cause = made.error.__cause__ if isinstance(made.error, DeliveryUnknownError) else made.error
        assert type(cause) is ConnectionLostError


def test_an_expired_deadline_writes_nothing() -> None:
    made = rig()
    budget = Budget.of(5.0, made.clock)
    made.clock.advance(5.0)
    with pytest.raises(SmtpTimeoutError):
        made.driver.run(made.session.noop(), budget)
    assert made.transport.written == b""
    made.assert_dead()


def test_F92_a_reply_that_is_there_is_read_though_the_time_is_up() -> None:
    made = rig((Wait(1.0), OK + OK + GO), (), (), ())
    made.send(timeout=1.0)
    assert [entry.kind.stage for entry in made.settled] == ["MAIL", "RCPT", "DATA"]
    assert isinstance(made.error, SmtpTimeoutError)
    assert made.error.stage == "body"


# --- D4, BR15, EN10: the guard of the commit point ---


@pytest.mark.parametrize(
    ("timeout", "slow", "stopped"),
    [
        (40.0, 29.0, False),
        (40.0, 31.0, True),
        (400.0, 339.0, False),
        (400.0, 341.0, True),
        (Timeouts(total=40.0, final_reply=20.0), 21.0, True),
        (Timeouts(total=40.0, final_reply=20.0), 19.0, False),
        (Timeouts(total=40.0, final_reply=50.0), 29.0, False),
        (Timeouts(), 119.0, False),
    ],
)
@pytest.mark.parametrize("chunking", [False, True])
def test_D4_BS2_too_little_time_for_the_final_reply_stops_before_the_end_of_data(
    timeout: float | Timeouts, slow: float, stopped: bool, chunking: bool
) -> None:
    said = [OK, (Wait(slow), OK), OK] if chunking else [OK, OK, (Wait(slow), GO), OK]
    made = rig(*said)
    result = made.send(chunking=chunking, timeout=timeout)
    assert (result is None) == stopped
    if not stopped:
        return
    assert type(made.error) is SmtpTimeoutError
    assert made.error.stage == "body"
    assert made.verdicts == [ND]
    assert made.error.retry_safe
    assert made.transport.written == (ENVELOPE[:-6] if chunking else ENVELOPE)
    assert made.session.rset_owed
    if chunking:
        made.assert_alive()
    else:
        made.assert_dead()


def test_BR15_a_dropped_BDAT_leaves_a_connection_that_sends_the_next_mail() -> None:
    made = rig(OK, (Wait(31.0), OK), OK, OK, OK, OK)
    made.send(chunking=True, timeout=40.0)
    before = len(made.transport.written)
    result = made.send(chunking=True)
    assert result is not None
    assert made.transport.written[before:] == b"RSET\r\n" + BDAT
    made.assert_alive()


def test_BR15_a_dropped_BDAT_on_a_session_that_is_used_up_closes() -> None:
    made = rig(OK, (Wait(31.0), OK), b"432 4.3.2 busy\r\n")
    made.send(chunking=True, timeout=40.0, count=2)
    assert isinstance(made.error, SmtpTimeoutError)
    assert made.session.closing is not None
    made.assert_dead()


def test_BR15_the_guard_is_asked_again_before_the_last_slice() -> None:
    class Slow(ScriptedTransport):
        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            if len(self.written) > len(ENVELOPE):
                self.clock.advance(10.0)
            return super().send(data, timeout)

    for chunking in (False, True):
        made = Rig(Slow([(), OK, OK, *([] if chunking else [GO])], release="line", max_send=SLICE))
        made.send(b"x" * 90_000, chunking=chunking, timeout=50.0)
        assert type(made.error) is SmtpTimeoutError
        assert made.error.stage == "body"
        assert made.verdicts == [ND]
        assert not made.transport.written.endswith(b"\r\n.\r\n")
        assert len(made.transport.written) < len(ENVELOPE) + 90_000
        made.assert_dead()


def test_D4_the_lone_dot_commits_nothing_and_has_no_guard() -> None:
    made = rig(OK, b"550 no\r\n", (Wait(39.0), GO), b"554 no\r\n")
    made.send(timeout=40.0)
    assert made.transport.written == ENVELOPE + b".\r\n"
    assert made.verdicts == [ND]
    made.assert_alive()


# --- PREFETCH: what stands behind the end of data ---


def prefetched(made: Rig, *, chunking: bool = False, timeout: float | Timeouts = 30.0) -> tuple[Attempt, Attempt]:
    """A mail, and one that is announced behind its end of data; the error is kept."""
    mails = [Mail("s@client.test", ["a@x.test"], BODY, chunking=chunking) for _ in range(2)]
    first, second = (Attempt(Outgoing(mail, made.session, None), made.session) for mail in mails)
    made.driver.ahead = lambda: Budget.of(timeout, made.clock)
    try:
        made.run(first.flow(Pipelining.PREFETCH, second), timeout)
    except SmtpError as error:
        made.error = error
    return first, second


def verdicts_of(attempt: Attempt) -> list[Delivery]:
    return [entry.delivery for entry in attempt.results()]


def test_EN12_all_replies_to_what_was_announced_have_the_limit_of_RSET_together() -> None:
    """Each of them comes within it, and still the verdict of the mail in front is not held back for longer."""
    made = rig(OK, OK, GO, (Wait(5.0), OK, Wait(11.0), OK, Wait(11.0), OK, OK, GO))
    first, second = prefetched(made, timeout=Timeouts(rset=20.0))
    assert type(made.error) is SmtpTimeoutError
    assert (made.error.stage, made.clock()) == ("MAIL", 25.0)
    assert isinstance(first.cut_off(second), SendResult)
    assert verdicts_of(second) == [ND]
    made.assert_dead()


def test_D4_time_that_passes_behind_the_commit_point_does_not_stop_the_envelope_behind_it() -> None:
    class Slow(ScriptedTransport):
        def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
            committed = b"\r\n.\r\n" in self.written
            taken = super().send(data, timeout)
            if not committed and b"\r\n.\r\n" in self.written:
                self.clock.advance(35.0)
            return taken

    made = Rig(Slow([(), OK, OK, GO, OK, OK, OK, OK, GO], release="line", max_send=1))
    first, second = prefetched(made, timeout=40.0)
    assert made.error is None
    assert verdicts_of(first) == [DL]
    assert second.announced


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("final", [OK, b"451 no\r\n"])
def test_PL22_a_write_that_fails_behind_a_commit_point_takes_nothing_from_the_final_reply(
    final: bytes, chunking: bool
) -> None:
    """LO2: what the server had said is the verdict, wherever in the envelope behind it the line broke."""
    envelope = ENVELOPE[:-6] if chunking else ENVELOPE
    committed = len(BDAT if chunking else WIRE)
    for accept in range(committed, committed + len(b"RSET\r\n" + envelope)):
        said = [OK, OK, *([] if chunking else [GO]), final, OK, OK]
        made = rig(*said, accept=accept, then=ConnectionResetError(104, "reset"), when_dry="eof")
        first, second = prefetched(made, chunking=chunking)
        assert type(made.error) is ConnectionLostError
        with contextlib.suppress(TransientReplyError):
            first.cut_off(second)
        assert (verdicts_of(first), verdicts_of(second)) == ([DL if final is OK else ND], [ND]), accept
        made.assert_dead()


def test_PL22_in_a_burst_the_mails_that_were_answered_have_their_verdicts_though_the_write_failed() -> None:
    opening = len(BDAT)
    for accept in range(opening, 2 * opening + len(b"RSET\r\n")):
        made = rig(*[OK] * 6, accept=accept, then=ConnectionResetError(104, "reset"), when_dry="eof")
        burst = Burst(made.session)
        for _ in range(2):
            mail = Mail("s@client.test", ["a@x.test"], BODY, chunking=True)
            assert burst.add(Attempt(Outgoing(mail, made.session, None), made.session))
        with pytest.raises(ConnectionLostError) as caught:
            made.run(burst.flow())
        answered, cut = burst.outcomes(caught.value)
        assert isinstance(answered, SendResult), accept
        assert answered.all_delivered
        assert type(cut) is ConnectionLostError, accept
        assert cut.retry_safe


def test_CN6_AN4_replies_that_are_too_long_together_leave_their_number_unknown() -> None:
    """The one that was too much was read and is counted nowhere, so that r0 may be any of those behind it."""
    big = (b"250-" + b"x" * 990 + b"\r\n") * 60 + OK
    made = rig(OK, OK, (OK, big, big, OK, OK, EOF))
    first, second = prefetched(made, chunking=True)
    assert type(made.error) is ProtocolError
    with pytest.raises(ProtocolError):
        first.cut_off(second)
    assert (verdicts_of(first), verdicts_of(second)) == ([UN], [ND])
    made.assert_dead()


# --- BR6: `_unanswered` exactly where it must be ---

ENDS: list[tuple[Any, bool]] = [(EOF, True), (RESET, True), (b"421 bye\r\n", True), (b"221 bye\r\n", True)]


@pytest.mark.parametrize(("end", "goodbye"), ENDS, ids=repr)
@pytest.mark.parametrize(
    ("said", "rset_owed", "unanswered"),
    [
        ((), False, True),
        ((), True, True),
        ((OK,), True, True),
        ((OK,), False, False),
        ((OK, OK), False, False),
        ((OK, OK, GO), False, False),
        ((OK, OK), True, False),
    ],
)
@pytest.mark.parametrize("level", [OFF, GROUPED])
def test_BR6_D7_a_loss_is_unanswered_until_the_reply_to_MAIL_is_read(
    level: Pipelining, said: tuple[bytes, ...], rset_owed: bool, unanswered: bool, end: Any, goodbye: bool
) -> None:
    made = rig(*said, end, state={"rset_owed": rset_owed, "mails": int(rset_owed)})
    made.send(level=level)
    assert isinstance(made.error, SmtpError)
    assert made.error._unanswered == unanswered
    made.assert_dead()


@pytest.mark.parametrize(
    "said", [(SILENCE,), (b"25", EOF), (b"25", RESET), (b"354 go\r\n",), (b"junk\r\n",), (b"550 no\r\n", b"503 x\r\n")]
)
def test_BR6_time_outs_cut_replies_and_answers_are_not_unanswered(said: tuple[Any, ...]) -> None:
    made = rig(said, b"503 no\r\n")
    made.send()
    assert isinstance(made.error, SmtpError)
    assert not made.error._unanswered


@pytest.mark.parametrize("verb", ["noop", "reset"])
def test_BR6_the_only_command_of_a_verb_is_like_MAIL(verb: str) -> None:
    made = rig(EOF)
    with pytest.raises(ConnectionLostError) as caught:
        made.run(getattr(made.session, verb)())
    assert caught.value._unanswered
    made.assert_dead()


def test_BR6_a_session_used_up_in_the_place_of_MAIL_is_unanswered() -> None:
    made = rig(b"451 4.4.2 idle\r\n", b"503 no\r\n", b"503 no\r\n")
    made.send()
    assert type(made.error) is TransientReplyError
    assert made.error._unanswered
    assert made.session.closing is not None
    made.assert_dead()


# --- interrupts: D5, F93, NN ---


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit, ValueError])
@pytest.mark.parametrize("place", range(4))
def test_KI_KU_an_exception_out_of_a_read_passes_unchanged_and_poisons(
    place: int, exception: type[BaseException]
) -> None:
    raised = exception("stop")
    made = rig(*MAILED[:place], raised)
    made.send()
    assert made.error is raised
    assert made.verdicts == [UN if place == 3 else ND]
    made.assert_dead()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_KI_an_exception_out_of_the_look_passes_unchanged_and_poisons(exception: type[BaseException]) -> None:
    class Failing(ScriptedTransport):
        looks = 0

        def readable(self) -> bool:
            self.looks += 1
            if self.looks == 2:
                raise exception
            return super().readable()

    made = Rig(Failing([(), OK, OK, GO], release="line"))
    made.send()
    assert type(made.error) is exception
    assert made.verdicts == [ND]
    made.assert_dead()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("chunking", [False, True])
def test_KI_an_interrupt_out_of_the_body_poisons_whatever_the_verb(
    chunking: bool, exception: type[BaseException]
) -> None:
    def source() -> Iterator[bytes]:
        yield b"x" * 200_000
        raise exception

    made = rig(OK, OK, GO) if not chunking else rig(OK, OK, OK, OK)
    made.send(source(), chunking=chunking)
    assert type(made.error) is exception
    assert made.verdicts == [ND]
    made.assert_dead()


def _failing_file(failure: Exception, begun: int) -> Any:
    class Failing:
        left = begun

        def read(self, size: int) -> bytes:
            if not self.left:
                raise failure
            self.left -= 1
            return b"x" * (size - 2) + b"\r\n"

    return Failing()


def _failing_iterator(failure: Exception, begun: int) -> Iterator[bytes]:
    for _ in range(begun):
        yield b"x" * 16_382 + b"\r\n"
    raise failure


@pytest.mark.parametrize("make", [_failing_iterator, _failing_file], ids=["an iterator", "a file"])
@pytest.mark.parametrize("begun", [0, 1, 30], ids=["at once", "early", "behind a window of chunks"])
@pytest.mark.parametrize("level", [OFF, GROUPED])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_BR19_E66_a_source_that_fails_closes_DATA_and_leaves_BDAT_usable(
    protocol: ProtocolName, level: Pipelining, begun: int, make: Any
) -> None:
    """features:F63: in each of DATA and BDAT over SMTP and LMTP the exception itself, and nobody has the mail."""
    failure = OSError("disk")
    made = rig(OK, OK, OK, GO, protocol=protocol)
    made.send(make(failure, begun), count=2, level=level)
    assert made.error is failure
    assert made.verdicts == [ND, ND]
    assert b"\r\n.\r\n" not in made.transport.written
    made.assert_dead()
    made = rig(OK, *[OK] * 30, protocol=protocol)
    made.send(make(failure, begun), count=2, chunking=True, level=level)
    assert made.error is failure
    assert made.verdicts == [ND, ND]
    assert made.session.source_error is None
    made.assert_alive()
    written = made.transport.written
    assert b" LAST\r\n" not in written
    assert written.count(b"BDAT 65536\r\n") == {(30, GROUPED): 4, (30, OFF): 6}.get((begun, level), 0)
    assert made.send(chunking=True, level=level)
    assert made.transport.written[len(written) :] == b"RSET\r\n" + BDAT


def test_BR19_our_own_judgement_of_a_stream_is_a_source_that_fails() -> None:
    made = rig(OK, OK)
    made.send([b"a\nb"], chunking=True)
    assert type(made.error) is InvalidInputError
    made.assert_alive()


def test_an_observer_that_is_interrupted_poisons() -> None:
    made = rig(*MAILED)

    def observe(entry: Entry) -> None:
        raise KeyboardInterrupt

    made.driver.observe = observe
    made.send()
    assert type(made.error) is KeyboardInterrupt
    made.assert_dead()


def test_an_exception_in_the_flow_itself_poisons() -> None:
    def flow() -> Flow[None]:
        yield Step(b"NOOP\r\n", (), "NOOP")
        raise RuntimeError("a bug")

    made = rig()
    with pytest.raises(RuntimeError):
        made.run(flow())
    made.assert_dead()


def _interrupted_at(line: int, send: Callable[[], object]) -> bool:
    """Run, and raise KeyboardInterrupt at the n-th line executed in driver, transaction or ledger; False if it ends."""
    seen = 0
    files = ("driver.py", "transaction.py", "ledger.py")

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(files) or "testing" in frame.f_code.co_filename:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        send()
    finally:
        sys.settrace(previous)
    return seen >= line


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_F93_BS7_KI_KU_an_interrupt_at_any_line_is_sound(protocol: ProtocolName, chunking: bool) -> None:
    """DELIVERED only if the server said so, UNKNOWN or DELIVERED once it has the mail; in step or poisoned."""
    line = 0
    going = True
    verdicts: list[Delivery] = []
    while going:
        line += 1
        made = rig(*(CHUNKED if chunking else MAILED), protocol=protocol)
        mail = Mail("s@client.test", ["a@x.test"], BODY, chunking=chunking)
        made.attempt = attempt = Attempt(Outgoing(mail, made.session, None), made.session)
        budget = Budget.of(30.0, made.clock)
        try:
            going = _interrupted_at(line, lambda a=attempt, m=made, b=budget: m.driver.run(a.flow(GROUPED), b))  # type: ignore[misc]  # the defaults bind the loop's values
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        wire = BDAT if chunking else WIRE
        (verdict,) = made.verdicts
        if made.transport.written == wire:
            assert verdict in (DL, UN), line
        else:
            assert verdict in (ND, UN), line
        if verdict is DL:
            assert made.settled[-1].reply is not None
        if interrupted:
            verdicts.append(verdict)
            session = made.session
            in_step = not session.ledger.owed and not session.parser.pending and session.state is SessionState.MAIL_FROM
            assert session.condemned or (in_step and not session.rset_owed) or not made.transport.written, line
    assert verdicts == sorted(verdicts, key=[ND, UN, DL].index)
    assert set(verdicts) == {ND, UN, DL}


@pytest.mark.parametrize("said", [(OK, SILENCE), (OK, OK, GO, SILENCE), (b"junk\r\n",), (EOF,), (b"421 bye\r\n",)])
def test_F93_an_interrupt_while_a_fault_is_handled_lets_nothing_be_written_afterwards(said: tuple[Any, ...]) -> None:
    line = 0
    going = True
    while going:
        line += 1
        made = rig(*said)
        attempt = Attempt(Outgoing(Mail("s@client.test", ["a@x.test"], BODY), made.session, None), made.session)
        budget = Budget.of(30.0, made.clock)
        try:
            going = _interrupted_at(line, lambda a=attempt, m=made, b=budget: m.driver.run(a.flow(GROUPED), b))  # type: ignore[misc]  # the defaults bind the loop's values
        except SmtpError:
            going = False
        except KeyboardInterrupt:
            written = made.transport.written
            if made.session.condemned or not written:
                continue
            with pytest.raises(SmtpError):  # UsageError in the middle of a body, else a dead connection
                made.run(made.session.noop())
            assert made.transport.written == written
    assert line > 20


# --- after the flow: what closes and what does not ---


@pytest.mark.parametrize(
    ("said", "usable"),
    [
        ((b"550 no\r\n", b"503 no\r\n", b"503 no\r\n"), True),
        ((b"503 no\r\n", b"503 no\r\n", b"503 no\r\n"), False),
        ((OK, b"550 no\r\n", b"503 no\r\n"), True),
        ((OK, b"550 no\r\n", GO, b"554 no\r\n"), True),
        ((OK, b"550 no\r\n", GO, OK), False),
        ((OK, OK, b"451 no\r\n"), True),
        ((OK, OK, GO, b"451 no\r\n"), True),
        ((OK, OK, GO, (OK + b"451 no\r\n",)), False),
    ],
)
def test_D5_an_answer_leaves_the_connection_usable_and_a_disagreement_closes_it(
    said: tuple[Any, ...], usable: bool
) -> None:
    made = rig(*said)
    made.send()
    if usable:
        made.assert_alive()
    else:
        made.assert_dead()


@pytest.mark.parametrize(
    "said",
    [
        (EOF,), (SILENCE,), (b"junk\r\n",), (b"421 bye\r\n",), (OK, OK, GO, SILENCE), (OK, OK, GO, b"354 go\r\n"),
        (KeyboardInterrupt(),), (b"503 no\r\n", b"503 no\r\n", b"503 no\r\n"),
    ],
    ids=repr,
)  # fmt: skip
def test_D5_BR14_nothing_is_written_after_the_poison(said: tuple[Any, ...]) -> None:
    made = rig(*said)
    made.send()
    written = made.transport.written
    made.assert_dead()
    assert not made.session.may_quit
    with pytest.raises((SmtpError, OSError)):
        made.run(made.session.quit())
    assert made.transport.written == written


def test_QUIT_takes_421_and_221_alike() -> None:
    for code, said in ((b"221 bye\r\n", True), (b"421 bye\r\n", False), (b"354 what\r\n", False)):
        made = rig(code)
        assert made.run(made.session.quit()) is said


def test_is_quiet_costs_no_round_trip() -> None:
    made = Rig(ScriptedTransport([()]))
    assert made.driver.is_quiet()
    made.transport.push(b"421 bye\r\n")
    assert not made.driver.is_quiet()
    made.session.parser.feed(made.transport.recv(100, 0.0))
    assert not made.driver.is_quiet()
    assert made.transport.written == b""


def test_a_malformed_reply_is_shown_shortened_and_with_its_offset() -> None:
    made = rig(b"250-ok\r\n\x1b[2J" + b"x" * 500 + b"\r\n")
    made.send()
    assert type(made.error) is ProtocolError
    assert made.error.offset == 8
    assert "\x1b" not in str(made.error)
    assert len(str(made.error)) <= 500


def test_a_greeting_is_awaited_without_a_write() -> None:
    transport = ScriptedTransport([b"220 hi\r\n"], clock=FakeClock(7.0))
    session = Session("smtp", "client.test")
    driver = Driver(transport, session)
    reply = driver.run(session.greet(), Budget.of(LIMITS, transport.clock))
    assert reply.code == 220
    assert transport.written == b""
    assert session.state is SessionState.EHLO


# --- SCRAM and time: F43b, C17 ---

NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = f"r={NONCE}SERVER,s=YQ==,i=600000".encode()
CLIENT_FIRST = b"AUTH SCRAM-SHA-256 " + base64.b64encode(f"n,,n=user,r={NONCE}".encode()) + b"\r\n"


@pytest.mark.parametrize("timeout", [5.0, Timeouts(total=5.0)], ids=["a number", "Timeouts"])
@pytest.mark.parametrize(
    ("cost", "written"),
    [pytest.param(4.9, True, id="in time"), pytest.param(5.0, False, id="F43b"), pytest.param(60.0, False, id="C17")],
)
def test_a_proof_that_was_computed_too_late_is_not_written(
    cost: float, written: bool, timeout: float | Timeouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PBKDF2 costs CPU outside every time-out of the socket; a number of seconds is a total all the same."""
    made = rig(b"334 " + base64.b64encode(SERVER_FIRST) + b"\r\n", SILENCE)
    counts: list[int] = []

    def costly(password: bytes, salt: bytes, iterations: int) -> bytes:
        counts.append(iterations)
        made.clock.advance(cost)
        return bytes(32)

    monkeypatch.setattr(mechanisms, "pbkdf2", costly)
    exchange = mechanisms.ScramMechanism("user", "pencil", b"n,,", b"", NONCE)
    with pytest.raises(SmtpTimeoutError) as caught:
        made.run(made.session.auth(exchange), timeout)
    assert counts == [600_000]
    assert made.transport.writes[0] == CLIENT_FIRST
    assert len(made.transport.writes) == (2 if written else 1)
    assert caught.value.stage == "AUTH SCRAM-SHA-256"
    assert caught.value.delivery is ND
    assert made.clock() == max(cost, 5.0), "no second past the deadline was waited"
    assert not made.session.authenticated
    made.assert_dead()
    if not written:
        assert base64.b64encode(b"c=biws,r=")[:8] not in made.transport.written


def test_a_connection_that_computed_its_proof_too_late_is_dead_F43b_C17(monkeypatch: pytest.MonkeyPatch) -> None:
    nonce = base64.b64encode(bytes(24)).decode()
    first = base64.b64encode(f"r={nonce}SERVER,s=YQ==,i=4096".encode())
    transport = ScriptedTransport([b"220 mx\r\n", b"250-mx\r\n250 AUTH SCRAM-SHA-256\r\n", b"334 " + first + b"\r\n"])

    def costly(*_: object) -> bytes:
        transport.clock.advance(10.0)
        return bytes(32)

    class Clocked(Budget):
        @classmethod
        def of(cls, timeout: float | Timeouts, *_: object, **__: object) -> Budget:
            return Budget.of(timeout, transport.clock)

    monkeypatch.setattr("smtpconn.connection.Budget", Clocked)
    monkeypatch.setattr(mechanisms, "pbkdf2", costly)
    monkeypatch.setattr("secrets.token_bytes", bytes)
    connection = SmtpConnection.from_transport(transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test")
    with pytest.raises(SmtpTimeoutError):
        connection.auth_scram("user", "pencil", timeout=5)
    assert (len(transport.writes), transport.closed) == (2, True)
    assert transport.writes[1].startswith(b"AUTH SCRAM-SHA-256 ")
    assert not connection.is_authenticated
    with pytest.raises(ConnectionLostError, match="AUTH SCRAM-SHA-256: the deadline has passed"):
        connection.noop(timeout=5)
    assert len(transport.writes) == 2
