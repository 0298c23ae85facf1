"""The vocabulary: what a Step says of itself, and the one-line exchange."""

from __future__ import annotations

from smtpconn.protocol.flow import Pipelining, Step, exchange
from smtpconn.protocol.ledger import MAIL, NOOP, Entry
from smtpconn.protocol.session import Session

from .dialogue import Delivery, Dialogue


def test_the_knob_of_pipelining_is_ordered_D15() -> None:
    assert list(Pipelining) == sorted(Pipelining)
    assert [repr(level) for level in Pipelining] == [
        "Pipelining.OFF",
        "Pipelining.GROUPED",
        "Pipelining.PREFETCH",
        "Pipelining.BURST",
    ]


def test_the_repr_of_a_step_counts_and_shows_no_octet_SEC4() -> None:
    step = Step(b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n", (Entry(MAIL),), "AUTH PLAIN")
    assert repr(step) == "<Step AUTH PLAIN: 29 octets, 1 replies>"
    assert (step.replies, step.droppable) == (None, False)


def test_an_exchange_is_one_line_and_one_reply(delivery: Delivery) -> None:
    dialogue = Dialogue(Session("smtp", "c.test"), delivery)
    reply = dialogue.run(exchange(b"NOOP\r\n", NOOP), b"250-a\r\n250 b\r\n")
    assert (dialogue.written, reply.lines) == ([b"NOOP\r\n"], ("a", "b"))
