"""faults:P2, faults:P5: others read what we read, and read what we write. Where they are laxer, we say so."""

from __future__ import annotations

import asyncio
import io
import itertools
import smtplib
import socket
from collections.abc import Iterator
from typing import Any

import aiosmtplib.protocol
import pytest
from aiosmtpd.controller import UnixSocketController
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpconn import SmtpConnection, TlsMode
from smtpconn.protocol.reply import MalformedReplyError, ReplyParser
from smtpconn.transport import SocketTransport

TEXT = st.binary(max_size=60).map(lambda octets: bytes(octet for octet in octets if octet not in b"\r\n\0"))
CODES = st.sampled_from([b"220", b"250", b"251", b"354", b"421", b"450", b"452", b"550", b"554"])


def _reply(code: bytes, lines: list[bytes]) -> bytes:
    return b"".join(code + b"-" + text + b"\r\n" for text in lines[:-1]) + code + b" " + lines[-1] + b"\r\n"


REPLIES = st.builds(_reply, CODES, st.lists(TEXT, min_size=1, max_size=6))
LAX = [
    b"250 ok\n",  # no CRLF
    b"250-a\n250 b\r\n",
    b"2500 ok\r\n",
    b"250x ok\r\n",
    b"250-a\r\n251 b\r\n",  # two codes
    b" 250 ok\r\n",
    b"250 a\rb\r\n",
]


def ours(octets: bytes) -> tuple[int, bytes]:
    parser = ReplyParser()
    parser.feed(octets)
    reply = parser.next_reply()
    assert reply is not None
    assert parser.pending == 0
    return reply.code, b"\n".join(line[4:].strip(b" \t\r\n") for line in reply.raw.split(b"\r\n")[:-1])


def by_smtplib(octets: bytes) -> tuple[int, bytes]:
    client: Any = smtplib.SMTP()
    client.file = io.BytesIO(octets)
    found: tuple[int, bytes] = client.getreply()
    return found


class _Silent(asyncio.Transport):
    """Where a client of asyncio would write."""


def by_aiosmtplib(octets: bytes) -> tuple[int, bytes]:
    async def read() -> tuple[int, bytes]:
        protocol = aiosmtplib.protocol.SMTPProtocol()
        protocol.connection_made(_Silent())
        awaited = asyncio.ensure_future(protocol.read_response(timeout=5))
        await asyncio.sleep(0)  # the reader waits before the octets come, as aiosmtplib wants it
        protocol.data_received(octets)
        reply = await awaited
        return reply.code, reply.message.encode("utf-8", "surrogateescape")

    return asyncio.run(read())


@settings(max_examples=400, deadline=None)
@given(REPLIES)
@example(b"250 \r\n")
@example(b"250-\r\n250-\t\r\n250 x\r\n")
def test_P5_smtplib_finds_the_same_code_and_text_in_a_valid_reply(reply: bytes) -> None:
    assert ours(reply) == by_smtplib(reply)


@settings(max_examples=100, deadline=None)
@given(REPLIES.filter(lambda reply: all(len(line) > 4 for line in reply.split(b"\r\n")[:-1])))
def test_P5_aiosmtplib_finds_the_same_code_and_text_in_a_valid_reply(reply: bytes) -> None:
    assert _without_blank_ends(ours(reply)) == _without_blank_ends(by_aiosmtplib(reply))


def _without_blank_ends(answer: tuple[int, bytes]) -> tuple[int, bytes]:
    """aiosmtplib leaves out lines without text in front of the first that has some."""
    code, text = answer
    return code, text.lstrip(b"\n")


@pytest.mark.parametrize("lax", LAX)
def test_P5_what_smtplib_lets_pass_is_no_reply_for_us(lax: bytes) -> None:
    parser = ReplyParser()
    parser.feed(lax)
    with pytest.raises(MalformedReplyError):
        parser.next_reply()
    try:
        by_smtplib(lax)
    except smtplib.SMTPResponseException:
        assert lax[:1] == b" " or not lax[:3].isdigit()


# --- a server of somebody else's unstuffs ---


class _Kept:
    """What aiosmtpd's server hands to its application."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """aiosmtpd's hook."""
        self.contents.append(envelope.content)
        return "250 kept"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[_Kept, SmtpConnection]]:
    handler, path = _Kept(), str(tmp_path_factory.mktemp("aiosmtpd") / "socket")
    controller = UnixSocketController(handler, unix_socket=path)
    controller.start()
    try:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        with SmtpConnection.from_transport(
            SocketTransport(sock, path), tls_mode=TlsMode.NONE, timeout=20, ehlo_domain="client.test"
        ) as client:
            yield handler, client
    finally:
        controller.stop()


LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a", b"a.", b"\xff", b"x" * 200]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(LINES, st.lists(st.integers(0, 400), max_size=5))
def test_P2_aiosmtpd_unstuffs_what_we_stuff_whatever_the_pieces(
    kept: tuple[_Kept, SmtpConnection], lines: list[bytes], cuts: list[int]
) -> None:
    handler, client = kept
    message = b"".join(line + b"\r\n" for line in [b"Subject: x", b"", *lines])
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    pieces = [message[begin:end] for begin, end in itertools.pairwise(edges)]
    client.send("a@x.test", ["b@x.test"], iter(pieces), timeout=20)
    assert handler.contents[-1] == message
