"""The outbox: octets in, replies out, mails kept; no socket, no thread."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from smtpconn.testing import MemoryTransport, Outbox

Say = list[tuple[str, str]]


def talk(transport: MemoryTransport, octets: bytes) -> list[str]:
    """Write all at once and read what was answered, one line each."""
    assert transport.send(octets, 1.0) == len(octets)
    answered = b""
    while transport.readable():
        more = transport.recv(7, 1.0)
        if not more:
            break
        answered += more
    return answered.decode().splitlines()


def greeted(outbox: Outbox) -> MemoryTransport:
    transport = outbox.transport()
    lines = talk(transport, b"EHLO client.test\r\n")
    assert lines[0] == "220 outbox.test"
    assert lines[-1].startswith("250 ")
    assert "250-PIPELINING" in lines
    return transport


def test_a_mail_by_data_is_kept_without_its_stuffing() -> None:
    outbox = Outbox()
    transport = greeted(outbox)
    flight = b"MAIL FROM:<a@x.test> RET=HDRS\r\nRCPT TO:<b@x.test> NOTIFY=NEVER\r\nRCPT TO:<c@x.test>\r\nDATA\r\n"
    assert [line[:3] for line in talk(transport, flight)] == ["250", "250", "250", "354"]
    (final,) = talk(transport, b"..dot\r\n\r\n.\r\n")
    (mail,) = outbox
    assert (mail.sender, mail.recipients, mail.content, mail.verb) == (
        "a@x.test", ["b@x.test", "c@x.test"], b".dot\r\n\r\n", "DATA",
    )  # fmt: skip
    assert (mail.mail_params, mail.rcpt_params) == ({"RET": "HDRS"}, [{"NOTIFY": "NEVER"}, {}])
    assert final == f"250 2.0.0 Ok: queued as {mail.queue_id}"
    assert mail.session.commands == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA"]


def test_chunks_are_one_mail_octet_by_octet() -> None:
    outbox = Outbox()
    transport = greeted(outbox)
    octets = b"MAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\nBDAT 4\r\n.\r\n.BDAT 2 LAST\r\n\r\nQUIT\r\n"
    lines = [line for octet in octets for line in talk(transport, bytes([octet]))]
    assert [line[:3] for line in lines] == ["250", "250", "250", "250", "221"]
    assert [(mail.sender, mail.content, mail.verb) for mail in outbox] == [("", b".\r\n.\r\n", "BDAT")]
    assert transport.recv(10, 1.0) == b""


def test_an_empty_content_is_empty() -> None:
    outbox = Outbox()
    transport = greeted(outbox)
    talk(transport, b"MAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
    talk(transport, b".\r\n")
    assert outbox[0].content == b""


def test_a_refused_recipient_gets_nothing_and_the_next_mail_is_another() -> None:
    outbox = Outbox()
    outbox.refuse("B@x.test", "550 5.1.1 No")
    transport = greeted(outbox)
    flight = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nRSET\r\n"
    assert talk(transport, flight) == ["250 2.1.0 Ok", "550 5.1.1 No", "503 5.5.1 No recipient", "250 2.0.0 Ok"]
    assert len(outbox) == 0


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"MAIL FROM:a@x.test", "501"),
        (b"MAIL FROM:<a@x.test> BY=1;R", "555"),
        (b"NOOP", "250"),
        (b"VRFY b", "502"),
        (b"BDAT 1\r\nx", "503"),
    ],
)
def test_what_is_wrong_or_unknown_is_refused(line: bytes, reply: str) -> None:
    (answer,) = talk(greeted(Outbox()), line + (b"" if line.endswith(b"x") else b"\r\n"))
    assert answer[:3] == reply


def test_it_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    greeted(Outbox())


def test_clear_forgets_the_mails_and_slices_are_lists() -> None:
    outbox = Outbox()
    for _ in range(2):
        transport = greeted(outbox)
        talk(transport, b"MAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
        talk(transport, b"x\r\n.\r\n")
    assert [mail.session.index for mail in outbox[:]] == [1, 2]
    assert repr(outbox) == "<Outbox: 2 mails>"
    outbox.clear()
    assert list(outbox) == []


def test_the_transport_behaves_like_one() -> None:
    transport = greeted(Outbox())
    with pytest.raises(TimeoutError):
        transport.recv(10, 0.1)
    with pytest.raises(OSError, match="no TLS"):
        transport.start_tls(None, 1.0)
    transport.close()
    transport.close()
    for call in (lambda: transport.send(b"NOOP\r\n", 1.0), lambda: transport.recv(1, 1.0), transport.readable):
        with pytest.raises(OSError, match="closed"):
            call()
