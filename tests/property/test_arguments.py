"""faults P1, P3: arguments at the doors of a connection; the octets that the server got are the judge.

`Clerk` is a server in memory that answers everything and reads what it got by rules of its own. Each verb is called
with whatever hypothesis likes: it refuses, and the server has got nothing, or the server reads the same argument.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smtpconn import (
    AuthenticationError,
    ExtensionUnavailableError,
    InvalidInputError,
    MailParams,
    RcptParams,
    Recipient,
    SmtpConnection,
    TlsMode,
)

TIMEOUT = 30.0
REFUSED = (InvalidInputError, ExtensionUnavailableError, TypeError)
LINE = re.compile(rb"[\x20-\x7e\x80-\xff]*")
XTEXT = re.compile(rb"\+([0-9A-F]{2})")
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"

SPICED = st.text(
    st.one_of(
        st.sampled_from('\r\n\0\t\x1b\x7f\x85\u2028\u760d\u760a <>@"\\'),
        st.characters(exclude_categories=[]),
        st.sampled_from("abc.@+=;"),
    ),
    max_size=24,
)
MAILBOX = st.builds(
    "{}@{}".format,
    st.one_of(SPICED, st.sampled_from(["a", '"a b"', '"a\\"b>"', "a.b", "\u00fc"])),
    st.one_of(SPICED, st.sampled_from(["x.test", "[192.0.2.1]", "[IPv6:::1]", "b\u00fccher.test"])),
)
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=8),
    st.lists(st.text(max_size=3), max_size=2),
)
TEXT = st.one_of(SPICED, SPICED, SPICED, st.text(max_size=600), WRONG)
ADDRESS = st.one_of(MAILBOX, MAILBOX, SPICED, WRONG)


class Clerk:
    """A transport and the server at its end."""

    tls = None
    secure = True  # so that AUTH is allowed
    EHLO = b"250-clerk.test\r\n250-DSN\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 AUTH PLAIN LOGIN\r\n"

    def __init__(self, ehlo: bytes = EHLO) -> None:
        self.ehlo = ehlo
        self.commands: list[bytes] = []
        self.contents: list[bytes] = []
        self.got = 0
        self.closed = False
        self.inbox = bytearray(b"220 clerk.test\r\n")
        self._buffer = bytearray()
        self._chunk: int | None = None
        self._content: bytearray | None = None
        self._responses = 0

    def send(self, data: Any, timeout: float | None) -> int:
        """Read it at once."""
        self._buffer += bytes(data)
        self.got += len(data)
        while (answer := self._advance()) is not None:
            self.inbox += answer
        return len(data)

    def recv(self, size: int, timeout: float | None) -> bytes:
        """What was answered; the client never waits in vain."""
        assert self.inbox, "the client waits for what it has not asked for"
        octets = bytes(self.inbox[:size])
        del self.inbox[:size]
        return octets

    def readable(self) -> bool:
        """Whether something was said."""
        return bool(self.inbox)

    def start_tls(self, config: object, timeout: float | None) -> Clerk:
        """Not offered."""
        raise AssertionError("nobody offers STARTTLS")

    def close(self) -> None:
        """For ever."""
        self.closed = True

    def _advance(self) -> bytes | None:
        if self._chunk is not None:
            return self._read_chunk(self._chunk)
        if self._content is not None:
            return self._read_data()
        line, ends, rest = bytes(self._buffer).partition(b"\r\n")
        if not ends:
            return None
        self._buffer = bytearray(rest)
        self.commands.append(line)
        return self._answer(line)

    def _answer(self, line: bytes) -> bytes:
        if self._responses:
            self._responses -= 1
            return b"334 UGFzc3dvcmQ6\r\n" if self._responses else b"535 no\r\n"
        verb, _, rest = line.partition(b" ")
        if verb == b"EHLO":
            return self.ehlo
        if verb == b"AUTH":
            self._responses = 2 if rest == b"LOGIN" else 0
            return b"334 VXNlcm5hbWU6\r\n" if self._responses else b"535 no\r\n"
        if verb == b"DATA":
            self._content = bytearray()
            return b"354 go on\r\n"
        if verb == b"BDAT":
            self._chunk = int(rest.split()[0])
            self._last = rest.endswith(b" LAST")
            return b""
        return b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n"

    def _read_data(self) -> bytes | None:
        line, ends, rest = bytes(self._buffer).partition(b"\r\n")
        content = self._content
        if not ends or content is None:
            return None
        self._buffer = bytearray(rest)
        if line != b".":
            content += line.removeprefix(b".") + b"\r\n"
            return b""
        self.contents.append(bytes(content))
        self._content = None
        return b"250 taken\r\n"

    _chunks = b""

    def _read_chunk(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        self._chunks += bytes(self._buffer[:size])
        del self._buffer[:size]
        self._chunk = None
        if self._last:
            self.contents.append(self._chunks)
            self._chunks = b""
        return b"250 taken\r\n"


def connected(clerk: Clerk) -> SmtpConnection:
    return SmtpConnection.from_transport(clerk, tls_mode=TlsMode.NONE, timeout=TIMEOUT, ehlo_domain="client.test")


def decoded(xtext: bytes) -> bytes:
    return XTEXT.sub(lambda found: bytes([int(found[1], 16)]), xtext)


class Arguments(RuleBasedStateMachine):
    """faults:P1: one connection, many arguments; what is refused leaves nothing behind."""

    def __init__(self) -> None:
        super().__init__()
        self.clerk = Clerk()
        self.connection = connected(self.clerk)

    def teardown(self) -> None:
        """It still serves."""
        self.connection.send("a@x.test", ["b@x.test"], MESSAGE, timeout=TIMEOUT)
        assert self.clerk.contents[-1] == MESSAGE
        self.connection.close()

    def asked(self, call: Any, *arguments: Any, **options: Any) -> list[bytes] | None:
        """The commands that the server got; None if the call was refused, and then it got nothing."""
        before, known = self.clerk.got, len(self.clerk.commands)
        try:
            call(*arguments, **options, timeout=TIMEOUT)
        except AuthenticationError:
            pass  # the clerk lets nobody in
        except REFUSED:
            assert self.clerk.got == before
            return None
        return self.clerk.commands[known:]

    @invariant()
    def lines_are_clean_and_the_connection_lives(self) -> None:
        assert all(map(LINE.fullmatch, self.clerk.commands))
        assert self.clerk.inbox == b""
        assert self.connection.usable

    @rule(verb=st.sampled_from(["VRFY", "EXPN", "HELP"]), argument=TEXT)
    def inquire(self, verb: str, argument: Any) -> None:
        lines = self.asked(getattr(self.connection, verb.lower()), argument)
        if lines is None or argument is None:
            return
        marked = b"" if argument.isascii() or verb == "HELP" else b" SMTPUTF8"
        assert lines == [f"{verb} {argument}".encode() + marked]

    @rule(domain=TEXT)
    def introduce(self, domain: Any) -> None:
        try:
            self.connection.set_ehlo_domain(domain)
        except REFUSED:
            return
        assert self.asked(self.connection.rehlo) == [b"EHLO " + domain.encode("ascii")]

    @rule(sender=ADDRESS, recipient=ADDRESS, chunking=st.booleans())
    def send(self, sender: Any, recipient: Any, chunking: bool) -> None:
        verb = self.connection.send_bdat if chunking else self.connection.send
        lines = self.asked(verb, sender, [recipient], MESSAGE)
        if lines is None:
            return
        mail, rcpt = (line for line in lines if line.startswith((b"MAIL", b"RCPT")))
        found = re.fullmatch(rb"MAIL FROM:<(.*)>((?: [A-Z0-9]+(?:=[!-~]+)?)*)", mail)
        assert found is not None
        assert sender.encode().endswith(found[1])  # without the route, where it has one
        assert sender == "" or b"@" in found[1]
        assert (b" SMTPUTF8" in found[2]) == (not (mail + rcpt).isascii())
        found = re.fullmatch(rb"RCPT TO:<(.+)>", rcpt)
        assert found is not None
        assert recipient.encode().endswith(found[1])
        assert self.clerk.contents[-1] == MESSAGE

    @rule(envid=TEXT, orcpt=TEXT)
    def send_with_parameters(self, envid: Any, orcpt: Any) -> None:
        try:
            params = MailParams(envid=envid)
            recipient = Recipient("b@x.test", RcptParams(orcpt=orcpt))
        except REFUSED:
            return
        lines = self.asked(self.connection.send, "a@x.test", [recipient], MESSAGE, params=params)
        if lines is None:
            return
        for line, argument, key in ((lines[0], envid, rb" ENVID="), (lines[1], orcpt, rb" ORCPT=")):
            found = re.search(key + rb"([!-~]+)", line)
            assert (found is None) == (argument is None)
            if found is not None and key == rb" ENVID=":
                assert decoded(found[1]) == argument.encode()
            elif found is not None:
                kind, _, address = argument.partition(";")
                if kind.lower() != "utf-8":
                    assert decoded(found[1]) == f"{kind};{address}".encode()

    @rule(user=TEXT, password=TEXT, login=st.booleans())
    def authenticate(self, user: Any, password: Any, login: bool) -> None:
        verb = self.connection.auth_login if login else self.connection.auth_plain
        lines = self.asked(verb, user, password)
        if lines is None or callable(password):
            return
        if login:
            assert [base64.b64decode(line, validate=True) for line in lines[1:]] == [user.encode(), password.encode()]
        else:
            (line,) = lines
            response = base64.b64decode(line.removeprefix(b"AUTH PLAIN "), validate=True)
            assert response.split(b"\0") == [b"", user.encode(), password.encode()]


TestArguments = Arguments.TestCase
TestArguments.settings = settings(max_examples=150, stateful_step_count=12)


BODIES = st.lists(
    st.sampled_from([b".", b"\r\n", b"\r\n.", b"a", b"..", b"\r\n.\r\n", b"\xc3\xa9", b"x" * 50]), max_size=16
).map(b"".join)


@given(BODIES, st.lists(st.integers(0, 200), max_size=6), st.booleans())
@example(b".\r\n.", [1, 2, 3], False)
def test_P3_every_kind_of_body_gives_the_same_octets(message: bytes, cuts: list[int], chunking: bool) -> None:
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    pieces = [message[begin:end] for begin, end in itertools.pairwise(edges)]
    kinds: list[Any] = [message, bytearray(message), memoryview(message), io.BytesIO(message), pieces, iter(pieces)]
    clerk = Clerk()
    connection = connected(clerk)
    verb = connection.send_bdat if chunking else connection.send
    size = None if message else 0  # a file or an iterator must be said to be empty
    for kind in kinds:
        verb("a@x.test", ["b@x.test"], kind, timeout=TIMEOUT, params=MailParams(body="8BITMIME"), size=size)
    connection.close()
    whole = message.endswith(b"\r\n") or (chunking and not message)  # of an empty body, `BDAT 0 LAST` is all there is
    ended = message if whole else message + b"\r\n"
    assert clerk.contents == [ended] * len(kinds)
