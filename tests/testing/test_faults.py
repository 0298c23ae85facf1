from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from smtpconn.testing import KINDS, LoopbackServer
from smtpconn.testing.faults import random_kind

from .conftest import Dial, Talk

Serve = Callable[..., LoopbackServer]

# how to reach the stage's reply, from a fresh connection that has not said hello
TO_STAGE: dict[str, list[str]] = {
    "EHLO": ["EHLO c.test"],
    "MAIL": ["EHLO c.test", "MAIL FROM:<a@x.test>"],
    "RCPT": ["EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>"],
    "DATA": ["EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA"],
    "end of data": ["EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA", "X-Id: 1\r\n\r\n."],
    "BDAT": ["EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "BDAT 3\r\nx"],
    "RSET": ["RSET"],
    "NOOP": ["NOOP"],
    "QUIT": ["QUIT"],
    "VRFY": ["VRFY a"],
    "EXPN": ["EXPN a"],
    "HELP": ["HELP"],
}


def reach(talk: Talk, stage: str) -> None:
    talk.reply()
    *before, last = TO_STAGE[stage]
    for line in before:
        talk.ask(line)
    talk.say(last + "\r\n")


@pytest.mark.parametrize("stage", TO_STAGE)
@pytest.mark.parametrize("kind", ["EOF", "EOF-ragged", "RST", "421", "cut-reply", "cut-reply-RST"])
def test_a_fault_that_ends_the_connection(serve: Serve, dial: Dial, stage: str, kind: str) -> None:
    """features:F118: faults on demand, at every stage."""
    server = serve()
    rule = server.fault(stage, kind)
    talk = dial(server, hello=False)
    reach(talk, stage)
    octets, how = talk.ending()
    assert how == ("RST" if "RST" in kind else "FIN")
    if kind == "421":
        assert octets.startswith(b"421 ")
        assert octets.endswith(b"\r\n")
    elif kind.startswith("cut-reply"):
        assert octets[:1].isdigit()
        assert not octets.endswith(b"\n")
    else:
        assert octets == b""
    server.wait_for_connections(0, 5)
    assert server.sessions[0].closed_by == "server"
    assert (rule.seen, rule.applied) == (1, 1)
    booked = stage == "end of data" and kind != "421"
    assert server.ledger.count("1", "b@x.test") == booked


@pytest.mark.parametrize("stage", TO_STAGE)
@pytest.mark.parametrize(
    ("kind", "code"), [("4yz", "451"), ("5yz", "554"), ("malformed", "xyz"), ("surplus", None), ("wrong-class", None)]
)
def test_a_fault_that_spoils_the_reply(serve: Serve, dial: Dial, stage: str, kind: str, code: str | None) -> None:
    server = serve()
    server.fault(stage, kind)
    talk = dial(server, hello=False)
    reach(talk, stage)
    reply = talk.reply()
    if kind == "surplus":
        assert talk.reply() == "250 2.0.0 Surplus on demand"
    elif kind == "wrong-class":
        assert reply[0] == ("2" if stage == "DATA" else "3")
    else:
        assert reply[:3] == code
    assert server.ledger.count("1", "b@x.test") == (stage == "end of data" and kind not in ("4yz", "5yz"))


@pytest.mark.parametrize("stage", TO_STAGE)
def test_silence_keeps_the_connection_open(serve: Serve, dial: Dial, stage: str) -> None:
    server = serve()
    server.fault(stage, "silence")
    talk = dial(server, hello=False)
    reach(talk, stage)
    talk.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        talk.reply()
    assert server.connections_now == 1
    talk.close()
    server.wait_for_connections(0, 5)
    assert server.sessions[0].closed_by == "client"


def test_drip_never_ends(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.fault("NOOP", "drip")
    talk = dial(server)
    talk.say("NOOP\r\n")
    assert b"".join(talk.sock.recv(1) for _ in range(12)) == b"250-drip\r\n25"


def test_oversize_is_beyond_every_cap_LM2(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.fault("NOOP", "oversize")
    reply = dial(server).ask("NOOP")
    assert len(reply) > 1 << 20
    assert reply.count("\n") > 1000


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("-unbooked")])
def test_an_unbooked_fault_at_the_end_of_data_books_nothing(serve: Serve, dial: Dial, kind: str) -> None:
    server = serve()
    server.fault("end of data", kind)
    talk = dial(server, hello=False)
    reach(talk, "end of data")
    talk.sock.settimeout(0.05)
    try:
        while talk.sock.recv(65536) and kind != "drip-unbooked":
            pass
    except (TimeoutError, ConnectionResetError):
        pass
    assert (server.received, len(server.ledger)) == (0, 0)


@pytest.mark.parametrize(("kind", "booked"), [("EOF", [1, 1, 1]), ("EOF-unbooked", [1, 0, 0]), ("421", [1, 0, 0])])
def test_in_lmtp_a_server_dies_between_two_recipients_B6(
    serve: Serve, dial: Dial, kind: str, booked: list[int]
) -> None:
    server = serve(protocol="lmtp")
    server.fault("end of data", kind, nth=2)
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", *(f"RCPT TO:<{name}@x.test>" for name in "bcd"), "DATA")
    talk.say("X-Id: 1\r\n\r\n.\r\n")
    assert talk.reply().startswith("250")
    assert talk.reply()[:3] == ("421" if kind == "421" else "")
    assert talk.rest() == b""
    assert [server.ledger.count("1", f"{name}@x.test") for name in "bcd"] == booked


def test_a_reply_on_demand_changes_the_server_s_own_state(serve: Serve, dial: Dial) -> None:
    server = serve()
    rule = server.reply("RCPT", "450 4.2.1 Busy\n", recipient="B@x.test", nth={1, 3})
    talk = dial(server)
    codes = talk.codes("MAIL FROM:<a@x.test>", *["RCPT TO:<c@x.test>", "RCPT TO:<b@x.test>"] * 3, "DATA")
    assert codes == ["250", "250", "450", "250", "250", "250", "450", "354"]
    assert (rule.seen, rule.applied) == (3, 2)
    talk.ask("x\r\n.")
    assert server.mails[0].recipients == ["c@x.test", "c@x.test", "b@x.test", "c@x.test"]


def test_a_reply_may_be_any_octets_or_several_lines(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.reply("NOOP", b"250 bare LF\n250\xff\0")
    server.reply("HELP", "214-one\n214 two")
    talk = dial(server)
    assert talk.ask("HELP") == "214-one\n214 two"
    talk.say("NOOP\r\n")
    assert talk.sock.recv(100) == b"250 bare LF\n250\xff\0"


def test_a_421_on_demand_closes_unless_told_otherwise(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.reply("MAIL", "421 4.7.0 Later", nth=1, close=False)
    server.reply("RCPT", "421 4.7.0 Later")
    talk = dial(server)
    assert talk.codes("MAIL FROM:<a@x.test>", "NOOP") == ["421", "250"]
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRCPT TO:<c@x.test>\r\nDATA\r\n")
    assert [line[:3] for line in talk.rest().splitlines()] == [b"250", b"421"]


def test_the_newest_rule_wins_and_rules_can_be_forgotten(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.reply("NOOP", "250 old")
    server.reply("NOOP", "250 new", nth=2)
    talk = dial(server)
    assert [talk.ask("NOOP") for _ in range(3)] == ["250 old", "250 new", "250 old"]
    server.refuse("b@x.test", "550 No")
    server.clear_rules()
    assert talk.ask("NOOP") == "250 2.0.0 Ok"
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>") == ["250", "250"]


def test_an_ehlo_reply_on_demand_decides_what_was_offered(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.reply("LHLO", "250-mx.test\n250-SIZE\n250 DSN")  # LHLO and EHLO are one stage
    talk = dial(server)
    assert talk.ask("MAIL FROM:<a@x.test> RET=FULL").startswith("250")
    assert talk.ask("RSET").startswith("250")
    assert talk.ask("MAIL FROM:<a@x.test> SMTPUTF8").startswith("555")


@pytest.mark.parametrize(("kind", "octets"), [("EOF", b""), ("RST", None)])
@pytest.mark.parametrize("stage", ["connect", "greeting"])
def test_a_connection_ends_before_the_greeting(
    serve: Serve, dial: Dial, stage: str, kind: str, octets: bytes | None
) -> None:
    server = serve()
    server.fault(stage, kind, nth=1)
    talk = dial(server, hello=False)
    if octets is None:
        with pytest.raises(ConnectionResetError):
            talk.rest()
    else:
        assert talk.rest() == octets
    assert dial(server).ask("NOOP").startswith("250")


@pytest.mark.parametrize("greeting", ["554 5.3.2 No service", "421 4.3.2 Later", "250 wrong", "220-one\n220 two"])
def test_the_greeting_is_an_option(serve: Serve, dial: Dial, greeting: str) -> None:
    talk = dial(serve(greeting=greeting), hello=False)
    assert talk.reply() == greeting
    if greeting[0] in "45":
        assert talk.rest() == b""


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
@pytest.mark.parametrize(("kind", "first"), [
    ("421", b"421"), ("221", b"221"), ("5yz", b"554"), ("EOF", b""), ("malformed", b"xyz"), ("wrong-class", b"354"),
    ("oversize", b"250"), ("cut-reply", b"451"),
])  # fmt: skip
def test_the_body_is_cut_by_the_server_B4(serve: Serve, dial: Dial, verb: str, kind: str, first: bytes) -> None:
    server = serve()
    server.fault("body", kind, after=1000)
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>")
    talk.say("DATA\r\n" if verb == "DATA" else "BDAT 5000 LAST\r\n")
    if verb == "DATA":
        assert talk.reply().startswith("354")
    talk.say("x" * 1000)
    talk.say("x")
    assert talk.rest()[:3] == first
    assert server.received == 0


def test_silence_in_the_body_stops_reading(serve: Serve, dial: Dial) -> None:
    server = serve(socket_buffer=4096)
    server.fault("body", "silence")
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    talk.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        talk.say(b"x" * (32 << 20))
    server.stop()
    assert server.connections_now == 0


def test_a_body_that_is_sipped_is_never_read_to_its_end(serve: Serve, dial: Dial) -> None:
    server = serve(socket_buffer=4096)
    server.fault("body", "drip")
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    talk.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        talk.say(b"x" * (32 << 20))
    server.stop()
    assert (server.connections_now, server.received) == (0, 0)


@pytest.mark.parametrize(("text", "booked"), [("221 bye", 0), ("421 bye", 0), ("299 odd", 1)])
def test_a_farewell_to_the_end_of_data_books_nothing_BR2(serve: Serve, dial: Dial, text: str, booked: int) -> None:
    server = serve()
    server.reply("end of data", text, close=False)
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    assert talk.codes("x", ".", replies=1) == [text[:3]]
    assert server.received == booked


def test_in_lmtp_a_refused_last_chunk_is_answered_once_for_each_recipient(serve: Serve, dial: Dial) -> None:
    """A chunk was refused, or RSET: what follows is refused, too; a client counts replies (RFC 2033 section 4.2)."""
    server = serve(protocol="lmtp")
    server.reply("BDAT", "451 no", nth=1)
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>")
    talk.say(b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\nNOOP\r\n")
    assert [talk.reply()[:3] for _ in range(4)] == ["451", "503", "503", "250"]


def test_behind_a_random_surplus_a_connection_has_no_other_fault(serve: Serve, dial: Dial) -> None:
    server = serve(fault_rate=1.0, fault_kinds=["surplus"])
    talk = dial(server)
    assert talk.codes("NOOP", replies=2) == ["250", "250"]
    for _ in range(5):
        assert talk.codes("NOOP", replies=1) == ["250"]
    assert dial(server).codes("NOOP", replies=2) == ["250", "250"]


def test_a_stray_reply_in_the_body_and_the_mail_goes_on(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.fault("body", "surplus")
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    assert talk.codes("x", ".", replies=2) == ["250", "250"]
    assert server.received == 1


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("nowhere", "EOF"), ("MAIL", "refused"), ("MAIL", "alert"), ("tls", "surplus"), ("connect", "421")],
)
def test_unknown_stages_and_kinds_are_refused(stage: str, kind: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        LoopbackServer().fault(stage, kind)


def test_a_reply_needs_a_stage_that_has_one() -> None:
    with pytest.raises(ValueError, match="use fault"):
        LoopbackServer().reply("body", "250 no")
    with pytest.raises(ValueError, match="RCPT"):
        LoopbackServer().refuse("a@x.test", "550 no", when="later")


def converse(server: LoopbackServer, dial: Dial) -> list[str]:
    """Send mail until the server ends the connection, 200 times at most; every reply."""
    replies: list[str] = []
    talk = dial(server)
    lines = ["RSET", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA"]
    try:
        for _ in range(200):
            talk.say("".join(line + "\r\n" for line in lines))
            replies.extend(talk.reply() for _ in lines)
            if not replies[-1].startswith("354"):
                return replies
            talk.say("x\r\n.\r\n")
            replies.append(talk.reply())
    except (ConnectionError, AssertionError) as error:
        replies.append(type(error).__name__)
    return replies


def test_random_faults_repeat_with_the_seed_PT15(serve: Serve, dial: Dial) -> None:
    runs = [converse(serve(fault_rate=0.02, seed=seed), dial) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_rate_of_random_faults_is_about_right() -> None:
    chance = random.Random(7)  # noqa: S311 - repeatable on purpose
    drawn = [random_kind(chance, 0.05, "MAIL") for _ in range(10_000)]
    assert 400 < sum(kind is not None for kind in drawn) < 600
    assert random_kind(chance, 1.0, "greeting") is None
    assert "EOF-unbooked" in {random_kind(chance, 1.0, "end of data") for _ in range(200)}
