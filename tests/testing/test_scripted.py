from __future__ import annotations

import re
from typing import Any

import pytest

from smtpconn.testing import EOF, RESET, SILENCE, TLS, FakeClock, ScriptedTransport, ScriptMismatch, Wait, script

GREETING, OK = b"220 mx\r\n", b"250 ok\r\n"


def drain(transport: ScriptedTransport, timeout: float = 1.0) -> list[bytes]:
    """Every read up to the end of the stream."""
    pieces = []
    while piece := transport.recv(4096, timeout):
        pieces.append(piece)
    return pieces


# -- a conversation as a list


def test_the_next_item_follows_each_flight() -> None:
    transport = ScriptedTransport([GREETING, "250-mx\r\n250 DSN\r\n", (OK, OK, b"354 go\r\n"), EOF])
    assert transport.recv(100, 1) == GREETING
    assert transport.send(b"EHLO c.test\r\n", 1) == 13
    assert transport.recv(100, 1) == b"250-mx\r\n250 DSN\r\n"
    transport.send(b"MAIL", 1)
    transport.send(b" FROM:<>\r\nRCPT\r\nDATA\r\n", 1)
    assert transport.recv(100, 1) == OK + OK + b"354 go\r\n"
    transport.send(b"x\r\n.\r\n", 1)
    assert transport.recv(100, 1) == b""
    assert transport.recv(100, 1) == b""
    assert transport.writes == [b"EHLO c.test\r\n", b"MAIL", b" FROM:<>\r\nRCPT\r\nDATA\r\n", b"x\r\n.\r\n"]
    assert transport.flights == 3
    transport.assert_finished()


def test_by_line_the_next_item_follows_each_command_content_and_chunk() -> None:
    items = [GREETING, *(b"250 %d\r\n" % n for n in range(3)), b"354 go\r\n", *(b"250 %d\r\n" % n for n in range(3, 7))]
    transport = ScriptedTransport(items, release="line", delivery="whole")
    transport.recv(100, 1)
    transport.send(b"RSET\r\nMAIL\r\nRCPT\r\nDA", 1)
    transport.send(b"TA\r\n", 1)
    assert [transport.recv(100, 1) for _ in range(4)] == items[1:5]
    transport.send(b"Subject: x\r\n\r\nRSET\r\n.\r", 1)
    assert not transport.readable()
    transport.send(b"\nMAIL\r\nBDAT 6 LAST\r\nRSET\r\nBDAT 0 LAST\r\n", 1)
    assert [transport.recv(100, 1) for _ in range(4)] == items[5:]
    transport.assert_finished()


@pytest.mark.parametrize(
    ("delivery", "pieces"),
    [
        ("coalesced", [b"220 a\r\n250-b\r\n250 c\r\n"]),
        ("whole", [b"220 a\r\n", b"250-b\r\n250 c\r\n"]),
        ("line", [b"220 a\r\n", b"250-b\r\n", b"250 c\r\n"]),
        ("octet", [bytes((octet,)) for octet in b"220 a\r\n250-b\r\n250 c\r\n"]),
    ],
)
def test_delivery_cuts_what_is_read_PT15(delivery: Any, pieces: list[bytes]) -> None:
    """features:F118."""
    transport = ScriptedTransport([(b"220 a\r\n", b"250-b\r\n250 c\r\n", EOF)], delivery=delivery)
    assert drain(transport) == pieces


def test_no_read_brings_more_than_it_asked_for() -> None:
    transport = ScriptedTransport([(GREETING, OK, EOF)])
    assert [transport.recv(5, 1) for _ in range(4)] == [b"220 m", b"x\r\n25", b"0 ok\r", b"\n"]


def test_an_event_can_stand_behind_a_reply_or_in_its_place() -> None:
    behind = ScriptedTransport([(GREETING, RESET)])
    assert behind.recv(100, 1) == GREETING
    assert behind.readable()
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            behind.recv(100, 1)
    instead = ScriptedTransport([GREETING, RESET])
    instead.recv(100, 1)
    assert not instead.readable()
    instead.send(b"NOOP\r\n", 1)
    with pytest.raises(ConnectionResetError):
        instead.recv(100, 1)


def test_an_interruption_happens_once() -> None:
    transport = ScriptedTransport([(KeyboardInterrupt(), GREETING)])
    with pytest.raises(KeyboardInterrupt):
        transport.recv(100, 1)
    assert transport.recv(100, 1) == GREETING


# -- time


def test_silence_costs_time_on_the_clock_only() -> None:
    clock = FakeClock(100.0)
    transport = ScriptedTransport([SILENCE], clock=clock)
    with pytest.raises(TimeoutError):
        transport.recv(100, 30.0)
    assert clock() == 130.0
    assert not transport.readable()
    with pytest.raises(ScriptMismatch, match="for ever"):
        transport.recv(100, None)


def test_a_wait_that_outlasts_the_timeout_goes_on_afterwards() -> None:
    transport = ScriptedTransport([(Wait(10.0), GREETING)])
    with pytest.raises(TimeoutError):
        transport.recv(100, 4.0)
    assert not transport.readable()
    assert transport.recv(100, 7.0) == GREETING
    assert transport.clock() == 10.0


def test_rtt_is_paid_for_each_answer() -> None:
    transport = ScriptedTransport([GREETING, (OK, OK)], rtt=0.5)
    transport.recv(100, None)
    transport.send(b"RSET\r\nRSET\r\n", 1)
    assert transport.recv(100, 1) == OK + OK
    assert transport.clock() == 1.0


def test_the_clock_never_runs_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        FakeClock().advance(-1)
    assert repr(FakeClock(2.0)) == "FakeClock(2.0)"


@pytest.mark.parametrize(("when_dry", "expected"), [("silence", TimeoutError), ("fail", ScriptMismatch), ("eof", None)])
def test_a_read_without_anything_to_come(when_dry: Any, expected: type[Exception] | None) -> None:
    transport = ScriptedTransport([GREETING], when_dry=when_dry)
    transport.recv(100, 1)
    if expected is None:
        assert transport.recv(100, 1) == b""
    else:
        with pytest.raises(expected):
            transport.recv(100, 1)


# -- writes


def test_writes_may_be_short() -> None:
    """features:F118: each write is kept."""
    transport = ScriptedTransport([GREETING], max_send=3)
    assert transport.send(b"EHLO\r\n", 1) == 3
    assert transport.send(memoryview(b"O\r\n"), 1) == 3
    assert transport.send(b"", 1) == 0
    assert transport.written == b"EHLO\r\n"


@pytest.mark.parametrize("then", ["stall", BrokenPipeError(), ConnectionResetError, KeyboardInterrupt()])
def test_so_many_octets_are_taken_and_no_more(then: Any) -> None:
    transport = ScriptedTransport([GREETING], accept=5, then=then)
    assert transport.send(b"123", 1) == 3
    assert transport.send(b"456", 1) == 2
    expected = TimeoutError if then == "stall" else then if isinstance(then, type) else type(then)
    for _ in range(2):
        with pytest.raises(expected):
            transport.send(b"6", 2.0)
    assert transport.written == b"12345"
    assert transport.clock() == (4.0 if then == "stall" else 0.0)
    assert transport.recv(100, 1) == GREETING  # what the server said can still be read


# -- TLS and closing


def test_tls_gives_a_new_transport_and_kills_the_old_one() -> None:
    """features:F118."""
    info = object()
    old = ScriptedTransport([GREETING, b"220 go\r\n", TLS, OK], tls=info)
    old.recv(100, 1)
    old.send(b"STARTTLS\r\n", 1)
    old.recv(100, 1)
    assert (old.secure, old.tls) == (False, None)
    new = old.start_tls("config", 3.0)
    assert (new.secure, new.tls, new.tls_starts) == (True, info, [("config", 3.0)])
    for call in (lambda: old.recv(1, 1), lambda: old.send(b"x", 1), old.readable, lambda: old.start_tls(None, 1)):
        with pytest.raises(OSError, match="replaced"):
            call()
    with pytest.raises(RuntimeError):
        new.start_tls(None, 1)
    new.send(b"EHLO\r\n", 1)
    assert new.recv(100, 1) == OK
    assert old.writes == new.writes == [b"STARTTLS\r\n", b"EHLO\r\n"]
    old.close()
    assert not new.closed
    new.close()
    assert old.closed
    assert new.closed


def test_tls_fails_as_told() -> None:
    """features:F118."""
    error = OSError("no")
    transport = ScriptedTransport([GREETING], start_tls_error=error)
    transport.recv(100, 1)
    with pytest.raises(OSError, match="no") as caught:
        transport.start_tls(None, 1)
    assert caught.value is error


def test_octets_in_clear_must_be_read_before_tls() -> None:
    transport = ScriptedTransport([(GREETING, OK)], delivery="whole")
    transport.recv(100, 1)
    with pytest.raises(ScriptMismatch, match="in clear"):
        transport.start_tls(None, 1)


def test_everything_raises_after_close_but_close() -> None:
    transport = ScriptedTransport([GREETING])
    transport.close()
    transport.close()
    for call in (lambda: transport.recv(1, 1), lambda: transport.send(b"x", 1), transport.readable):
        with pytest.raises(OSError, match="closed"):
            call()


def test_the_server_can_speak_unasked_D1() -> None:
    transport = ScriptedTransport([GREETING])
    transport.recv(100, 1)
    assert not transport.readable()
    transport.push("421 4.3.2 Bye\r\n", EOF)
    assert transport.readable()
    assert drain(transport) == [b"421 4.3.2 Bye\r\n"]


# -- a conversation as text

DIALOGUE = """
    # indented as one likes
    S: 220 mx.test
    C: EHLO c.test
    S: 250-mx.test
    S: 250 PIPELINING

    C: MAIL FROM:<a@x.test>
    C: RCPT TO:<b@x.test>
    C: DATA
    S: 250 ok
    S: 250 ok
    S: 354 go
    C: Subject: x
    C:
    C:  indented
    C: .
    S: 250 taken
    C: BDAT 5 LAST
    C: abc\\
    C: <2 octets>
    S: 250 chunk
    C: <line>
    C: <content>
    S: <wait 2.5>
    S: 221 bye
    S: <EOF>
    C: <close>
"""


def test_a_whole_conversation_as_text_PT16() -> None:
    transport = ScriptedTransport(DIALOGUE, delivery="whole")
    assert transport.recv(100, 1) == b"220 mx.test\r\n"
    transport.send(b"EHLO c.test\r\n", 1)
    assert transport.recv(100, 1) == b"250-mx.test\r\n250 PIPELINING\r\n"
    transport.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:", 1)
    transport.send(b"<b@x.test>\r\nDATA\r\n", 1)
    assert [transport.recv(100, 1) for _ in range(3)] == [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]
    transport.send(b"Subject: x\r\n\r\n indented\r\n.\r\n", 1)
    assert transport.recv(100, 1) == b"250 taken\r\n"
    transport.send(b"BDAT 5 LAST\r\nabc\r\n", 1)
    assert transport.recv(100, 1) == b"250 chunk\r\n"
    transport.send(b"any thing\r\nwhatever\r\n.", 1)
    transport.send(b"\r\n", 1)
    assert transport.recv(100, 5) == b"221 bye\r\n"
    assert transport.clock() == 2.5
    assert transport.recv(100, 5) == b""
    with pytest.raises(ScriptMismatch, match="<close>"):
        transport.assert_finished()
    transport.close()
    transport.assert_finished()


def played(text: str, *writes: bytes) -> ScriptedTransport:
    """Read what there is before each write."""
    transport = ScriptedTransport(text)
    for octets in writes:
        while transport.readable() and transport.recv(100, 1):
            pass
        transport.send(octets, 1)
    return transport


def test_the_first_difference_is_shown_PT16() -> None:
    with pytest.raises(ScriptMismatch) as caught:
        played("S: 220 mx\nC: EHLO c\nS: 250 ok\nC: MAIL FROM:<a@x.test>", b"EHLO c\r\n", b"MAIL FROM:<b@x\r\n")
    message = str(caught.value)
    assert re.search(r"line 4 of the script .*first difference at octet 11\n", message)
    lines = message.splitlines()
    assert lines[1].endswith("expected MAIL FROM:<a@x.test>")
    assert lines[2].endswith("got      MAIL FROM:<b@x")
    assert lines[3].index("^") == lines[1].index("<a@") + 1 + 1


@pytest.mark.parametrize(
    ("text", "writes", "message"),
    [
        ("S: 220 mx", [b"QUIT\r\n"], "the script is over"),
        ("S: 220 mx\nC: <TLS>", [b"EHLO\r\n"], "must start TLS"),
        ("S: 220 mx\nC: <close>", [b"QUIT\r\n"], "must close"),
        ("S: 220 mx\nC: A\nS: 250 a\nC: B", [b"A\r\nB\r\n"], "did not wait for b'250 a"),
        ("S: 220 mx\nC: A\nC: B", [b"A\nB\r\n"], "first difference at octet 1"),
    ],
)
def test_what_the_script_does_not_expect_fails(text: str, writes: list[bytes], message: str) -> None:
    with pytest.raises(ScriptMismatch, match=re.escape(message)):
        played(text, *writes)


def test_a_client_that_reads_where_it_must_write_fails() -> None:
    transport = played("S: 220 mx\nC: A\nC: B\nS: 250 b", b"A\r\n")
    with pytest.raises(ScriptMismatch, match=r"waits for a reply; next is line 3 of the script \(C: B\)"):
        transport.recv(100, 1)


def test_a_swallowed_difference_comes_back_at_the_end() -> None:
    transport = ScriptedTransport("S: 220 mx\nC: A")
    transport.recv(100, 1)
    with pytest.raises(ScriptMismatch):
        transport.send(b"B\r\n", 1)
    with pytest.raises(ScriptMismatch, match="first difference"):
        transport.assert_finished()


def test_unread_replies_are_noticed_at_the_end() -> None:
    with pytest.raises(ScriptMismatch, match="left unread b'220 mx"):
        ScriptedTransport("S: 220 mx").assert_finished()
    with pytest.raises(ScriptMismatch, match="not at its end"):
        ScriptedTransport([(), OK]).assert_finished()


def test_tls_in_a_script() -> None:
    transport = played("S: 220 mx\nC: STARTTLS\nS: 220 go\nC: <TLS>\nC: EHLO\nS: <RST>", b"STARTTLS\r\n")
    transport.recv(100, 1)
    secure = transport.start_tls(None, 1)
    secure.send(b"EHLO\r\n", 1)
    with pytest.raises(ConnectionResetError):
        secure.recv(100, 1)
    early = played("S: 220 mx\nC: EHLO", b"")
    early.recv(100, 1) if early.readable() else None
    with pytest.raises(ScriptMismatch, match="started TLS"):
        early.start_tls(None, 1)


def test_silence_in_a_script() -> None:
    transport = ScriptedTransport("S: <silence>")
    with pytest.raises(TimeoutError):
        transport.recv(100, 2)
    assert transport.clock() == 2


def test_a_bad_script_is_refused_and_a_good_one_serves_once() -> None:
    with pytest.raises(ValueError, match="line 2"):
        script("S: 220\nX: what")
    conversation = script("S: 220 mx")
    ScriptedTransport(conversation)
    with pytest.raises(ValueError, match="serves one"):
        ScriptedTransport(conversation)
