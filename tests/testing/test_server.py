from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from smtpconn.testing import DEFAULT_EXTENSIONS, LoopbackServer
from smtpconn.testing.wire import Wire, has_octets

from .conftest import Dial

Serve = Callable[..., LoopbackServer]

CONTENT = "Subject: hi\r\nX-Id: 7\r\n\r\n..dot\r\n"


def test_smtplib_delivers_and_everything_is_captured_PT10(serve: Serve) -> None:
    server = serve()
    message = EmailMessage()
    message["Subject"], message["Message-ID"] = "hi", "<1@x.test>"
    message.set_content(".dot\n..two dots\nend\n")
    with smtplib.SMTP(server.host, server.port, "client.test") as client:
        client.send_message(message, "a@x.test", ["b@x.test", "c@x.test"])
    [mail] = server.mails
    assert (mail.sender, mail.recipients, mail.verb) == ("a@x.test", ["b@x.test", "c@x.test"], "DATA")
    assert mail.mail_params == {"SIZE": str(len(mail.content))}
    assert mail.rcpt_params == [{}, {}]
    assert mail.content == message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
    assert mail.message["Subject"] == "hi"
    assert mail.message.get_content() == ".dot\r\n..two dots\r\nend\r\n"
    assert server.ledger.count("<1@x.test>", "c@x.test") == 1
    assert server.violations == []


def test_a_session_that_is_just_ending_is_no_connection_of_the_next_client(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pool:I1: the peak counts what clients have open, and the one who closes first is not there twice."""
    server = serve()
    books, ending, go = server._books, threading.Event(), threading.Event()
    end = books.close_session

    def end_slowly() -> None:
        ending.set()
        go.wait(20)
        end()

    with monkeypatch.context() as patched:
        patched.setattr(books, "close_session", end_slowly)
        socket.create_connection((server.host, server.port)).close()
        assert ending.wait(20)
    with socket.create_connection((server.host, server.port)), books.changed:
        books.changed.wait_for(lambda: server.connections_total == 2, 0.3)
        go.set()
        assert books.changed.wait_for(lambda: server.connections_total == 2, 20)
        assert server.connections_peak == 1


def test_a_session_remembers_its_dialogue_PT11(serve: Serve, dial: Dial) -> None:
    server = serve(auth={"user": "secret"})
    with smtplib.SMTP(server.host, server.port, "client.test") as client:
        client.login("user", "secret")
        client.sendmail("a@x.test", "b@x.test", CONTENT)
    server.wait_for_connections(0, 5)
    [session] = server.sessions
    assert session.commands == ["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]
    assert session.lines[1] == "AUTH PLAIN ****"
    assert (session.ehlo_domain, session.user, session.tls) == ("client.test", "user", None)
    assert (session.transactions, session.closed_by) == (1, "QUIT")
    assert (server.connections_peak, server.connections_total) == (1, 1)
    dial(server).close()
    server.wait_for_connections(0, 5)
    assert server.sessions[1].closed_by == "client"


def test_who_has_read_the_221_finds_QUIT_in_the_record_PT11(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held before it closes the connection, the session has long written down how it ended."""
    read, close = threading.Event(), Wire.close

    def held(wire: Wire, **how: Any) -> None:
        read.wait(10)
        close(wire, **how)

    monkeypatch.setattr(Wire, "close", held)
    server = serve()
    talk = dial(server)
    try:
        assert talk.ask("QUIT") == "221 2.0.0 Bye"
        assert server.sessions[0].closed_by == "QUIT"
    finally:
        read.set()


def test_the_default_extensions_are_those_of_PT1(serve: Serve, dial: Dial) -> None:
    """features:F118: PIPELINING, CHUNKING and DSN among them."""
    server = serve()
    talk = dial(server, hello=False)
    lines = talk.hello().split("\n")
    assert [line[4:].split(" ")[0] for line in lines[1:]] == list(DEFAULT_EXTENSIONS)
    assert "250-SIZE 52428800" in lines


def test_extensions_are_any_lines(serve: Serve, dial: Dial) -> None:
    server = serve(extensions=["PIPELINING", "XVERP=Courier", "SIZE 10"], limits={"MAILMAX": 2}, tls="starttls")
    lines = dial(server, hello=False).hello().split("\n")
    assert lines[1:] == [
        "250-PIPELINING", "250-XVERP=Courier", "250-SIZE 10", "250-STARTTLS", "250 LIMITS MAILMAX=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("VRFY bob", "252"), ("EXPN staff", "250"), ("EXPN nobody", "550"), ("HELP", "214"), ("HELP MAIL", "214"),
        ("NOOP", "250"), ("NOOP anything", "250"), ("RSET", "250"), ("QUIT", "221"), ("vrfy bob", "252"),
        ("HELO client.test", "250"), ("EHLO client.test", "250"),
    ],
)  # fmt: skip
def test_every_verb_is_answered(serve: Serve, dial: Dial, line: str, code: str) -> None:
    server = serve(lists={"staff": ["a@x.test", "b@x.test"]})
    assert dial(server).ask(line)[:3] == code
    assert server.violations == []


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["MAIL FROM:<a@x.test>", "MAIL FROM:<a@x.test>"], "503"),
        (["RCPT TO:<b@x.test>"], "503"),
        (["DATA"], "503"),
        (["MAIL FROM:<a@x.test> FOO=1"], "555"),
        (["MAIL FROM: <a@x.test>"], "501"),
        (["RSET now"], "501"),
        (["QUIT now"], "501"),
        (["VRFY"], "501"),
        (["MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA now"], "501"),
        (["LHLO client.test"], "500"),
        (["EHLO bad_/domain"], "501"),
        (["FROB"], "500"),
        (["NOOP \x00"], "500"),
        (["NOOP a\rb"], "500"),
        (["STARTTLS"], "502"),
        (["AUTH PLAIN"], "503"),
        (["MAIL FROM:<a@x.test> BODY=BINARYMIME", "RCPT TO:<b@x.test>", "DATA"], "503"),
        (["MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "BDAT 3\r\nx", "RCPT TO:<c@x.test>"], "503"),
        (["MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "BDAT 3\r\nx", "DATA"], "503"),
        (["BDAT 3 LAST\r\nx"], "503"),
        (["BDAT x"], "521"),
    ],
)
def test_a_violation_is_refused_and_recorded(serve: Serve, dial: Dial, lines: list[str], code: str) -> None:
    server = serve()
    talk = dial(server)
    for line in lines[:-1]:
        assert talk.ask(line)[0] in "23"
    assert talk.ask(lines[-1])[:3] == code
    assert len(server.violations) == 1, server.violations


def test_mail_before_ehlo_is_refused(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server, hello=False)
    talk.reply()
    assert talk.ask("MAIL FROM:<a@x.test>").startswith("503")
    assert len(server.violations) == 1


def test_a_failed_transaction_stays_open_until_rset(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.refuse("bad@x.test", "550 5.1.1 No such user")
    talk = dial(server)
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<bad@x.test>", "DATA") == ["250", "550", "503"]
    assert server.violations == []
    assert talk.ask("MAIL FROM:<b@x.test>").startswith("503")
    assert len(server.violations) == 1
    assert talk.codes("RSET", "MAIL FROM:<b@x.test>") == ["250", "250"]


def test_mail_behind_a_refused_rset_is_refused_and_is_no_violation(serve: Serve, dial: Dial) -> None:
    """BURST: who announces MAIL behind RSET in one flight cannot know that this server will refuse RSET."""
    server = serve()
    server.refuse("bad@x.test", "550 5.1.1 No such user")
    server.fault("RSET", "4yz", 1)
    talk = dial(server)
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<bad@x.test>") == ["250", "550"]
    assert [code[0] for code in talk.codes("RSET", "MAIL FROM:<b@x.test>")] == ["4", "5"]
    assert server.violations == []
    assert talk.codes("RSET", "MAIL FROM:<b@x.test>", "MAIL FROM:<b@x.test>") == ["250", "250", "503"]
    assert len(server.violations) == 1


def test_lenient_mail_starts_afresh(serve: Serve, dial: Dial) -> None:
    server = serve(quirks={"lenient-mail"})
    talk = dial(server)
    codes = talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "MAIL FROM:<c@x.test>", "DATA")
    assert codes == ["250", "250", "250", "503"]


@pytest.mark.parametrize(
    ("content", "violation"),
    [
        ("a\nb\r\n", "bare LF"),
        ("a\rb\r\n", "bare CR"),
        ("a\0b\r\n", "NUL"),
        (".unstuffed\r\n", "not stuffed"),
        ("\xe9\r\n", "8-bit"),
        ("a\n.\nb\r\n", "bare LF"),
    ],
)
def test_bad_octets_are_visible_and_recorded(serve: Serve, dial: Dial, content: str, violation: str) -> None:
    server = serve()
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    talk.say(content + ".\r\n")
    assert talk.reply().startswith("250")
    assert server.mails[0].content == content.removeprefix(".").encode()
    assert [violation in sentence for sentence in server.violations] == [True]


def test_only_crlf_dot_crlf_ends_the_content(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    for octet in b"one\n.\r\ntwo\r\n.\nthree\r.\r\n..\r\n.\r\n":  # one octet each: no boundary may matter
        talk.say(bytes((octet,)))
    assert talk.reply().startswith("250")
    assert server.mails[0].content == b"one\n.\r\ntwo\r\n\nthree\r.\r\n.\r\n"


def test_empty_content_is_a_message(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    talk.flight("MAIL FROM:<>", "RCPT TO:<b@x.test>", "DATA")
    assert talk.ask(".").startswith("250")
    assert (server.mails[0].content, server.mails[0].sender) == (b"", "")


@pytest.mark.parametrize("verb", ["EHLO client.test", "NOOP", "VRFY a", "EXPN a", "HELP"])
def test_octets_behind_a_command_that_must_be_last_are_recorded(serve: Serve, dial: Dial, verb: str) -> None:
    server = serve()
    dial(server).flight(verb, "RSET")
    assert [sentence.startswith("octets behind") for sentence in server.violations] == [True]


def test_content_in_the_flight_of_data_is_recorded(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nx\r\n.\r\n")
    assert [talk.reply()[:3] for _ in range(4)] == ["250", "250", "354", "250"]
    assert server.violations == ["octets behind DATA in one flight"]


def test_groups_without_pipelining_are_recorded(serve: Serve, dial: Dial) -> None:
    server = serve(extensions=["8BITMIME"])
    talk = dial(server)
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>") == ["250", "250"]
    assert talk.ask("DATA").startswith("354")
    assert talk.codes("x", ".", "NOOP", replies=2) == ["250", "250"]
    assert server.violations == [
        "octets behind MAIL without PIPELINING", "octets behind the end of data without PIPELINING",
    ]  # fmt: skip


def test_a_relay_that_forbids_pipelining_closes(serve: Serve, dial: Dial) -> None:
    server = serve(extensions=[], quirks={"close-on-pipelining"})
    talk = dial(server)
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n")
    assert talk.rest().startswith(b"500 ")


def test_octets_before_the_greeting_are_recorded(serve: Serve, dial: Dial) -> None:
    server = serve()
    held = threading.Event()
    original = server._site.rules.match
    server._site.rules.match = lambda *a: (held.wait(5), original(*a))[1]  # type: ignore[method-assign]
    talk = dial(server, hello=False)
    talk.say("EHLO client.test\r\n")
    held.set()
    assert talk.reply().startswith("220")
    assert talk.reply().startswith("250")
    assert server.violations == ["octets before the greeting"]


@pytest.mark.parametrize("last", [b"", b"EHLO"], ids=["nothing", "octets"])
def test_a_client_that_went_away_before_the_greeting_wrote_nothing(last: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        assert not has_octets(ours)
        with theirs:
            theirs.sendall(last)
        assert has_octets(ours) is (last != b"")


def test_a_flight_is_counted_when_octets_follow_octets_sent(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    for _ in range(3):
        talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
        assert talk.ask("x\r\n.").startswith("250")
    talk.ask("NOOP")
    [session] = server.sessions
    assert (session.flights, session.mail_flights) == (8, 6)
    assert session.octets == 3 * len("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nx\r\n.\r\n") + len(
        "EHLO client.test\r\nNOOP\r\n"
    )


def test_with_rtt_octets_that_arrive_meanwhile_belong_to_the_flight(serve: Serve, dial: Dial) -> None:
    server = serve(rtt=0.2)
    talk = dial(server)
    talk.say("MAIL FROM:<a@x.test>\r\n")
    talk.say("RCPT TO:<b@x.test>\r\nDATA\r\n")
    assert [talk.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
    assert server.sessions[0].mail_flights == 1


def test_replies_to_a_flight_leave_together(serve: Serve, dial: Dial) -> None:
    talk = dial(serve())
    talk.say("RSET\r\n" * 50)
    assert talk.sock.recv(65536).count(b"\r\n") == 50


@pytest.mark.parametrize("delivery", ["coalesced", "whole", "line", "octet"])
def test_replies_arrive_complete_in_every_delivery(serve: Serve, delivery: str) -> None:
    """features:F118, SY30."""
    server = serve(delivery=delivery)
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@x.test", ["b@x.test", "c@x.test"], CONTENT)
    assert server.received == 1


def test_size_is_enforced_at_mail_and_at_the_end(serve: Serve, dial: Dial) -> None:
    server = serve(size_limit=10)
    talk = dial(server)
    assert talk.ask("MAIL FROM:<a@x.test> SIZE=11").startswith("552")
    assert talk.codes("MAIL FROM:<a@x.test> SIZE=10", "RCPT TO:<b@x.test>", "DATA") == ["250", "250", "354"]
    assert talk.ask("0123456789\r\n.").startswith("552")
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "BDAT 11 LAST\r\n012345678") == [
        "250", "250", "552",
    ]  # fmt: skip
    assert server.received == 0
    assert server.violations == []


def test_limits_are_enforced(serve: Serve, dial: Dial) -> None:
    server = serve(limits={"MAILMAX": 2, "RCPTMAX": 1}, max_connections=2)
    talk = dial(server)
    for _ in range(2):
        assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>", "RSET") == [
            "250", "250", "452", "250",
        ]  # fmt: skip
    assert talk.ask("MAIL FROM:<a@x.test>").startswith("421")
    assert talk.rest() == b""
    server.wait_for_connections(0, 5)
    talks = [dial(server), dial(server)]
    assert dial(server, hello=False).reply().startswith("421")
    assert len(talks) == 2


def test_unannounced_limits_are_no_violation(serve: Serve, dial: Dial) -> None:
    server = serve(max_recipients=1, max_messages=1)
    talk = dial(server)
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>", "RSET")[2] == "452"
    assert talk.ask("MAIL FROM:<a@x.test>").startswith("421")
    assert server.violations == []


def test_an_idle_client_gets_a_421(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(idle_timeout=0.05))
    assert talk.rest().startswith(b"421 4.4.2")


def test_close_idle_spares_transactions(serve: Serve, dial: Dial) -> None:
    server = serve()
    idle, busy = dial(server), dial(server)
    busy.ask("MAIL FROM:<a@x.test>")
    assert server.close_idle("421 4.3.2 Shutting down") == 1
    assert idle.rest() == b"421 4.3.2 Shutting down\r\n"
    assert busy.ask("RCPT TO:<b@x.test>").startswith("250")


@pytest.mark.parametrize("reset", [False, True])
def test_restart_drops_everybody_and_listens_on_the_same_port(serve: Serve, dial: Dial, reset: bool) -> None:
    server = serve()
    port, talk = server.port, dial(server)
    server.restart(reset=reset)
    if reset:
        with pytest.raises(ConnectionResetError):
            talk.rest()
    else:
        assert talk.rest() == b""
    assert server.port == port
    assert dial(server).ask("NOOP").startswith("250")


def test_stop_ends_every_thread_and_the_port(dial: Dial) -> None:
    before = threading.active_count()
    server = LoopbackServer().start()
    talks = [dial(server) for _ in range(5)]
    talks[0].flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    server.stop()
    server.stop()
    assert threading.active_count() == before
    assert server.connections_now == 0
    assert [talk.rest() for talk in talks] == [b""] * 5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port)).close()


def test_wait_for_counts_mails_and_times_out_PT12(serve: Serve, dial: Dial) -> None:
    server = serve()
    with pytest.raises(TimeoutError, match="0 of 1"):
        server.wait_for(1, 0.01)
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@x.test", "b@x.test", CONTENT)
        assert len(server.wait_for(1, 5)) == 1
        server.clear()
        assert (server.mails, server.received, len(server.ledger)) == ([], 0, 0)
        client.sendmail("a@x.test", "b@x.test", CONTENT)
        assert len(server.wait_for(1, 5)) == 1


def test_keep_bounds_the_mails_but_not_the_ledger_PT13(serve: Serve) -> None:
    server = serve(keep=2)
    with smtplib.SMTP(server.host, server.port) as client:
        for number in range(5):
            client.sendmail("a@x.test", "b@x.test", f"X-Id: {number}\r\n\r\n")
    assert [mail.message["X-Id"] for mail in server.mails] == ["3", "4"]
    assert server.received == 5
    assert [server.ledger.count(str(number), "b@x.test") for number in range(6)] == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("Message-ID: <1@x>\r\nX-Id: one\r\n\r\n", "one"),
        ("Message-ID: <1@x>\r\n\r\nX-Id: in the body\r\n", "<1@x>"),
        ("message-id:\r\n <folded@x>\r\n\r\n", "<folded@x>"),
        ("Subject: none\r\n\r\n", "00001-00001"),
    ],
)
def test_the_ledger_goes_by_id(serve: Serve, head: str, expected: str) -> None:
    server = serve()
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@x.test", "b@x.test", head)
    assert list(server.ledger) == [expected]
    assert expected in server.ledger
    [entry] = server.ledger.entries(expected)
    assert (entry.sender, entry.decisions) == ("a@x.test", (("b@x.test", "250 2.0.0 Ok: queued as 00001-00001"),))


def test_url_and_django_options_PT9(serve: Serve) -> None:
    plain = serve(auth={"us er": "p@ss"})
    assert plain.url == f"smtp://us%20er:p%40ss@127.0.0.1:{plain.port}?allow_plaintext_auth=true"
    implicit, upgraded = serve(tls="implicit"), serve(tls="starttls", auth={"u": "p"})
    assert implicit.ca is not None
    assert implicit.url == f"smtps://127.0.0.1:{implicit.port}?trust={implicit.ca.path}"
    assert upgraded.url.startswith(f"submission://u:p@127.0.0.1:{upgraded.port}?trust=/")
    assert upgraded.django_options["use_tls"] is True
    assert upgraded.django_options["username"] == "u"
    assert serve(protocol="lmtp").url.startswith("lmtp://127.0.0.1:")
    local = serve(protocol="lmtp", unix_socket=True)
    assert local.url == f"lmtp+unix://{local.unix_socket}"
    with pytest.raises(ValueError, match="no URL"):
        _ = serve(unix_socket=True).url


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"protocol": "http"}, "'http'"),
        ({"tls": "maybe"}, "'maybe'"),
        ({"delivery": "late"}, "'late'"),
        ({"host": "0.0.0.0"}, "loopback"),  # noqa: S104 - it is refused
        ({"quirks": ["x"]}, "'x'"),
        ({"limits": {"X": 1}}, "'X'"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LoopbackServer(**options)  # type: ignore[arg-type]


def test_an_over_long_command_ends_the_connection(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    talk.say("NOOP " + "x" * 20000 + "\r\n")
    assert talk.rest().startswith(b"500 ")
    assert server.violations == ["command line too long"]


def test_it_listens_on_ipv6(serve: Serve, dial: Dial) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    server = serve(host="::1")
    assert dial(server).ask("NOOP").startswith("250")
    assert server.url == f"smtp://[::1]:{server.port}"


def test_a_stopped_server_refuses_and_comes_back_on_its_port(serve: Serve, dial: Dial) -> None:
    server = serve()
    port = server.port
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        dial(server)
    server.start()
    assert server.port == port
    assert dial(server).ask("NOOP").startswith("250")
    with pytest.raises(RuntimeError, match="running"):
        server.start()


def test_faulty_connections_leave_no_descriptor_behind(dial: Dial) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("descriptors cannot be counted here")
    before = len(list(descriptors.iterdir()))
    with LoopbackServer(fault_rate=0.2, seed=1) as server:
        for _ in range(100):
            with socket.create_connection((server.host, server.port)) as sock:
                sock.settimeout(10)
                sock.sendall(b"EHLO c.test\r\n" + b"RSET\r\nMAIL FROM:<a@x.test>\r\n" * 5 + b"QUIT\r\n")
                with contextlib.suppress(ConnectionError):
                    while sock.recv(65536):
                        pass
        server.wait_for_connections(0, 5)
    assert server.connections_total == 100
    assert len({session.closed_by for session in server.sessions}) == 2
    assert len(list(descriptors.iterdir())) == before
