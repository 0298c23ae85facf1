"""Runs a flow without a socket: scripted reply octets go into the session's parser, what the flow writes is kept.

It judges replies as the driver must (pipelining:LG2, LG3; faults:BR2, BR3), so that a flow is met here by what it would
meet there, and nothing else.
"""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

from smtpconn.protocol.errors import ConnectionLostError, ProtocolError, ServiceUnavailableError
from smtpconn.protocol.flow import Flow, Result, Step
from smtpconn.protocol.ledger import QUIT, Kind
from smtpconn.protocol.reply import MalformedReplyError, Reply
from smtpconn.protocol.session import Session

Delivery = Literal["whole", "by line", "by octet"]
DELIVERIES: tuple[Delivery, ...] = ("whole", "by line", "by octet")


def pieces(octets: bytes, delivery: Delivery) -> Iterator[bytes]:
    """The octets as one read after the other would bring them."""
    if delivery == "whole":
        yield octets
    elif delivery == "by line":
        yield from octets.splitlines(keepends=True)
    else:
        for index in range(len(octets)):
            yield octets[index : index + 1]


class Dialogue:
    """One session, the octets that its flows wrote, and how the server's octets arrive."""

    def __init__(self, session: Session, delivery: Delivery = "whole") -> None:
        self.session = session
        self.delivery = delivery
        self.written: list[bytes] = []

    def run(self, flow: Flow[Result], *script: bytes) -> Result:
        """Run the flow; each of `script` is what the server says to one Step. What is left over fails the test."""
        rest = list(script)
        try:
            step = next(flow)
            while True:
                step = flow.send(self._perform(step, rest))
        except StopIteration as stop:
            assert not rest, f"the flow ended and left {rest}"
            result: Result = stop.value
            return result
        finally:
            flow.close()

    @property
    def lines(self) -> list[bytes]:
        """What was written, line by line."""
        return b"".join(self.written).splitlines(keepends=True)

    def _perform(self, step: Step, rest: list[bytes]) -> Sequence[Reply]:
        session = self.session
        for entry in step.expects:
            session.ledger.enter(entry)
        if step.octets:
            self.written.append(bytes(step.octets))
        session.ledger.taken += len(step.octets)
        session.ledger.handed = session.ledger.taken
        count = len(session.ledger.owed) if step.replies is None else step.replies
        arriving = pieces(rest.pop(0), self.delivery) if count and rest else iter(())
        replies = [self._settle(arriving) for _ in range(count)]
        for surplus in arriving:
            session.parser.feed(surplus)
        return replies

    def _settle(self, arriving: Iterator[bytes]) -> Reply:
        session = self.session
        kind = session.ledger.owed[0].kind
        reply = self._read(kind, arriving)
        if reply.code in (421, 221) and kind is not QUIT:
            session.closing = reply
            raise ServiceUnavailableError(f"{kind.stage}: {reply}", stage=kind.stage, reply=reply)
        if not kind.permits(reply.code):
            raise ProtocolError(f"{kind.stage} answered {reply}", stage=kind.stage, reply=reply)
        session.ledger.settle(reply)
        return reply

    def _read(self, kind: Kind, arriving: Iterator[bytes]) -> Reply:
        parser = self.session.parser
        try:
            while (reply := parser.next_reply()) is None:
                octets = next(arriving, b"")
                if not octets:
                    raise ConnectionLostError(f"{kind.stage}: the server closed the connection", stage=kind.stage)
                parser.feed(octets)
        except MalformedReplyError as error:
            raise ProtocolError(f"{kind.stage}: {error.reason}", stage=kind.stage, offset=error.offset) from error
        return reply


def ready(
    *capabilities: str, protocol: Literal["smtp", "lmtp"] = "smtp", delivery: Delivery = "whole", secure: bool = True
) -> Dialogue:
    """A dialogue behind greeting and EHLO, whose server offers these capabilities; what it wrote is forgotten."""
    dialogue = Dialogue(Session(protocol, "client.example.com"), delivery)
    dialogue.session.secure = secure
    dialogue.run(dialogue.session.greet(), b"220 mx.example.com ESMTP\r\n")
    lines = ["mx.example.com", *capabilities]
    reply = "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines)
    dialogue.run(dialogue.session.hello(), reply.encode())
    dialogue.written.clear()
    return dialogue


def raised(call: Callable[..., object], *arguments: object, **keywords: Any) -> BaseException:
    """What the call raises, without a name of this frame for the arguments once it has raised."""
    try:
        call(*arguments, **keywords)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def rendered(error: BaseException) -> str:
    """All that an error, its chain and the frames of smtpconn in its tracebacks would show (faults:SEC3)."""
    shown: list[str] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        waiting += [current.__cause__, current.__context__]
        shown += [repr(current), str(current), repr(current.args), repr(vars(current))]
        reply = getattr(current, "reply", None)
        if reply is not None:
            shown += [repr(reply.raw), *reply.lines]
        ours = _frames_of_smtpconn(current.__traceback__)
        summary = traceback.StackSummary.extract(iter(ours), capture_locals=True)
        shown += [f"{frame.name}: {frame.locals}" for frame in summary]
    return "\n".join(shown)


def _frames_of_smtpconn(link: TracebackType | None) -> list[tuple[Any, int]]:
    frames = []
    while link is not None:
        if str(link.tb_frame.f_globals.get("__name__", "")).startswith("smtpconn"):
            frames.append((link.tb_frame, link.tb_lineno))
        link = link.tb_next
    return frames


def revived(value: Result) -> Iterator[Result]:
    """The value after a journey through pickle (every protocol), copy and deepcopy."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(value, protocol))  # noqa: S301  # our own octets
    yield copy.copy(value)
    yield copy.deepcopy(value)
