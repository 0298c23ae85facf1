"""BDAT, LMTP, and what real servers do wrong (pipelining 9)."""

from __future__ import annotations

import smtplib
from collections.abc import Callable

import pytest

from smtpconn.testing import LoopbackServer

from .conftest import Dial

Serve = Callable[..., LoopbackServer]
ENVELOPE = ("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>")


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_chunks_make_one_message_RD6(serve: Serve, dial: Dial, protocol: str) -> None:
    server = serve(protocol=protocol)
    talk = dial(server)
    finals = 2 if protocol == "lmtp" else 1
    talk.say("\r\n".join(ENVELOPE) + "\r\nBDAT 5\r\n.one\nBDAT 4\r\n\r\n.\rBDAT 0 LAST\r\n")
    assert [talk.reply()[:3] for _ in range(5 + finals)] == ["250"] * (5 + finals)
    [mail] = server.mails
    assert (mail.content, mail.verb, mail.recipients) == (b".one\n\r\n.\r", "BDAT", ["b@x.test", "c@x.test"])
    assert len(server.violations) == 2  # bare LF and bare CR in text


def test_binarymime_passes_every_octet(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    octets = bytes(range(256)) * 3
    talk.flight("MAIL FROM:<a@x.test> BODY=BINARYMIME", "RCPT TO:<b@x.test>")
    talk.say(b"BDAT %d LAST\r\n" % len(octets) + octets)
    assert talk.reply().startswith("250")
    assert server.mails[0].content == octets
    assert server.violations == []


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_a_chunk_without_recipients_gets_one_refusal_and_is_dropped(serve: Serve, dial: Dial, protocol: str) -> None:
    server = serve(protocol=protocol)
    server.refuse("b@x.test", "550 5.1.1 No such user")
    talk = dial(server)
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nRSET\r\n")
    assert [talk.reply()[:3] for _ in range(5)] == ["250", "550", "503", "503", "250"]
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<c@x.test>\r\nBDAT 2 LAST\r\n\r\n")
    assert [talk.reply()[:3] for _ in range(3)] == ["250"] * 3
    assert server.violations == []


def test_after_a_refused_chunk_nothing_is_taken_before_rset(serve: Serve, dial: Dial) -> None:
    """servers 4: without RSET the next mail would go out under the first sender."""
    server = serve()
    server.reply("MAIL", "550 5.7.1 Not you", nth=1)
    talk = dial(server)
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 2 LAST\r\n\r\n")
    assert [talk.reply()[:3] for _ in range(3)] == ["550", "503", "503"]
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 2 LAST\r\n\r\n")
    assert [talk.reply()[:3] for _ in range(3)] == ["250", "250", "503"]
    assert server.received == 0


def test_bdat_without_chunking_leaves_the_chunk_to_be_run(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(extensions=["PIPELINING"]))
    talk.flight(*ENVELOPE)
    talk.say("BDAT 6 LAST\r\nNOOP\r\n")
    assert [talk.reply()[:3] for _ in range(2)] == ["502", "250"]


def test_whole_bdat_transactions_fit_one_flight(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    one = "RSET\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 2 LAST\r\n\r\n"
    talk.say(one * 32)
    assert [talk.reply()[:3] for _ in range(128)] == ["250"] * 128
    assert (server.received, server.sessions[0].mail_flights, server.violations) == (32, 1, [])


def test_lmtp_answers_each_recipient_RD7(serve: Serve, dial: Dial) -> None:
    server = serve(protocol="lmtp", unix_socket=True)
    server.refuse("c@x.test", "450 4.2.2 Full", when="data")
    server.refuse("d@x.test", "550 5.1.1 Gone", when="data")
    talk = dial(server)
    assert talk.codes(*ENVELOPE, "RCPT TO:<d@x.test>", "DATA") == ["250"] * 4 + ["354"]
    assert talk.codes("X-Id: 1", "", ".", replies=3) == ["250", "450", "550"]
    [mail] = server.mails
    assert mail.recipients == ["b@x.test"]
    assert [reply[:3] for _, reply in mail.decisions] == ["250", "450", "550"]
    assert [server.ledger.count("1", f"{name}@x.test") for name in "bcd"] == [1, 0, 0]


def test_smtplib_s_lmtp_client_delivers(serve: Serve) -> None:
    server = serve(protocol="lmtp", unix_socket=True)
    assert isinstance(server.unix_socket, str)
    with smtplib.LMTP(server.unix_socket) as client:  # it reads one final reply, so one recipient
        assert client.sendmail("a@x.test", ["b@x.test"], "X-Id: 1\r\n\r\n") == {}
    assert (server.ledger.count("1", "b@x.test"), server.violations) == (1, [])


def test_lmtp_answers_duplicates_each(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(protocol="lmtp"))
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<b@x.test>", "DATA")
    assert talk.codes(".", replies=2) == ["250", "250"]


def test_in_lmtp_all_refused_at_the_end_is_no_mail(serve: Serve, dial: Dial) -> None:
    server = serve(protocol="lmtp")
    server.refuse("b@x.test", "550 5.1.1 Gone", when="data")
    talk = dial(server)
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    assert talk.codes(".") == ["550"]
    assert (server.received, len(server.ledger)) == (0, 0)


@pytest.mark.parametrize(("protocol", "verb"), [("smtp", "LHLO"), ("lmtp", "EHLO"), ("lmtp", "HELO")])
def test_each_protocol_has_its_own_hello(serve: Serve, dial: Dial, protocol: str, verb: str) -> None:
    server = serve(protocol=protocol)
    talk = dial(server, hello=False)
    talk.reply()
    assert talk.ask(f"{verb} client.test").startswith("500")
    assert server.violations == [f"{verb} to {'an SMTP' if protocol == 'smtp' else 'an LMTP'} server"]


def test_in_smtp_a_refusal_at_the_end_is_for_the_message(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.refuse("c@x.test", "554 5.7.1 No", when="data")
    talk = dial(server)
    assert talk.codes(*ENVELOPE, "DATA")[-1] == "354"
    assert talk.codes(".") == ["554"]
    assert talk.codes("MAIL FROM:<a@x.test>") == ["250"]
    assert server.received == 0


def test_a_sender_can_be_refused(serve: Serve, dial: Dial) -> None:
    server = serve()
    server.refuse("<A@x.test>", "550 5.7.1 Not you")
    assert dial(server).codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>") == ["550", "503"]
    assert server.violations == []


# -- what stands behind an end of data (pipelining 9)

BEHIND = ("x", ".", "RSET", *ENVELOPE, "DATA")


def test_a_strict_server_takes_what_stands_behind_the_end_of_data(serve: Serve, dial: Dial) -> None:
    server = serve()
    talk = dial(server)
    talk.flight(*ENVELOPE, "DATA")
    assert talk.codes(*BEHIND, replies=6) == ["250", "250", "250", "250", "250", "354"]
    assert talk.codes("y", ".", replies=1) == ["250"]
    assert [mail.content for mail in server.mails] == [b"x\r\n", b"y\r\n"]
    assert (server.violations, server.sessions[0].mail_flights) == ([], 3)


def test_like_courier_it_swallows_what_stands_behind(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(quirks={"swallow-behind-end-of-data"}))
    talk.flight(*ENVELOPE, "DATA")
    assert talk.codes(*BEHIND, replies=1) == ["250"]
    assert talk.codes("NOOP") == ["250"]


def test_like_haraka_it_answers_503_to_what_stands_behind(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(quirks={"503-behind-end-of-data"}))
    talk.flight(*ENVELOPE, "DATA")
    assert talk.codes(*BEHIND, replies=6) == ["250", "503", "503", "503", "503", "503"]
    assert talk.codes("NOOP") == ["250"]


def test_like_dovecot_submission_it_dies(serve: Serve, dial: Dial) -> None:
    server = serve(quirks={"die-behind-end-of-data"})
    talk = dial(server)
    talk.flight(*ENVELOPE, "DATA")
    talk.say("x\r\n.\r\nRSET\r\n")
    assert talk.rest() == b""
    assert server.received == 0


def test_like_dovecot_submission_it_refuses_mail_behind_a_folded_rset(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(quirks={"503-mail-behind-rset"}))
    assert talk.codes("RSET", "MAIL FROM:<a@x.test>") == ["250", "503"]
    assert talk.codes("RSET") == ["250"]
    assert talk.codes("MAIL FROM:<a@x.test>") == ["250"]


def test_like_go_smtp_it_runs_refused_chunks(serve: Serve, dial: Dial) -> None:
    server = serve(quirks={"run-refused-chunks"})
    server.refuse("b@x.test", "550 5.1.1 No")
    talk = dial(server)
    talk.say("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT 6 LAST\r\nNOOP\r\n")
    assert [talk.reply()[:3] for _ in range(4)] == ["250", "550", "502", "250"]


def test_like_nodemailer_it_merges_duplicates_PL31(serve: Serve, dial: Dial) -> None:
    talk = dial(serve(protocol="lmtp", quirks={"merge-duplicates"}))
    talk.flight("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<b@x.test>", "DATA")
    assert talk.codes(".", replies=1) == ["250"]
    assert talk.codes("NOOP") == ["250"]


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_a_354_without_recipients_and_the_lone_dot_PL14(serve: Serve, dial: Dial, protocol: str) -> None:
    server = serve(protocol=protocol, quirks={"354-without-recipients"})
    server.refuse("b@x.test", "550 5.1.1 No")
    talk = dial(server)
    assert talk.codes("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA") == ["250", "550", "354"]
    assert talk.codes(".", "RSET") == ["554", "250"]
    assert server.received == 0
