"""Properties of the core: parser, stuffer, newline policy, values (faults P1-P4, P6, P7, P10)."""

from __future__ import annotations

import base64
import itertools
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpconn.protocol import body, commands
from smtpconn.protocol.address import ForwardPath, ReversePath
from smtpconn.protocol.errors import (
    ExtensionUnavailableError,
    InvalidInputError,
    PermanentReplyError,
    TransientReplyError,
)
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.params import MailParams, RcptParams
from smtpconn.protocol.pump import Pump
from smtpconn.protocol.reply import MalformedReplyError, Reply, ReplyParser, safe_octets, safe_text
from smtpconn.protocol.session import Session
from smtpconn.protocol.xtext import decode, encode

LINES = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250-a\r\n",
        b"220 \r\n",
        b"421\r\n",
        b"250 x\n",
        b"2500 x\r\n",
        b"abc\r\n",
        b"\r\n",
        b"354 go\r\n",
    ]
)
STREAMS = st.one_of(
    st.binary(max_size=80), st.lists(st.one_of(LINES, st.binary(max_size=6)), max_size=12).map(b"".join)
)
CUTS = st.lists(st.integers(0, 120), max_size=12)


def _pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut for cut in cuts if cut < len(octets)} | {0, len(octets)})
    return [octets[start:end] for start, end in itertools.pairwise(places)]


def _parsed(pieces: list[bytes]) -> tuple[list[bytes], int | None]:
    """The replies, and the offset of the error, if there was one."""
    parser = ReplyParser()
    found: list[bytes] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (reply := parser.next_reply()) is not None:
                found.append(reply.raw)
    except MalformedReplyError as error:
        return found, error.offset
    return found, None


@given(STREAMS, CUTS)
@example(b"250-a\r\n250 b\r\n", [1, 2, 3, 7, 8])
def test_any_split_gives_the_same_replies_and_the_same_error_offset(octets: bytes, cuts: list[int]) -> None:
    """faults:P4."""
    assert _parsed(_pieces(octets, cuts)) == _parsed([octets])


REFERENCE = re.compile(rb"(?:([2-5][0-9][0-9])-[^\r\n\0]*\r\n)*([2-5][0-9][0-9])(?: [^\r\n\0]*)?\r\n")


@given(st.lists(st.tuples(st.sampled_from([b"250", b"550", b"354"]), st.binary(max_size=8)), min_size=1, max_size=5))
def test_valid_replies_are_what_the_grammar_says(lines: list[tuple[bytes, bytes]]) -> None:
    """faults:P4: against a regular expression transcribed from RFC 5321 section 4.2."""
    code = lines[0][0]
    texts = [re.sub(rb"[\r\n\0]", b"", text) for _, text in lines]
    octets = b"".join(code + b"-" + text + b"\r\n" for text in texts[:-1]) + code + b" " + texts[-1] + b"\r\n"
    assert REFERENCE.fullmatch(octets)
    found, error = _parsed([octets])
    assert (found, error) == ([octets], None)
    assert len(Reply(int(code), octets).lines) == len(texts)


@given(st.text())
def test_safe_text_shows_no_control_format_or_separator_character(text: str) -> None:
    """faults:P7, SEC5."""
    shown = safe_text(text)
    assert _is_clean(shown)
    assert shown.isprintable() or any(unicodedata.category(character) in ("Zs", "Cn") for character in shown)


def _is_clean(shown: str) -> bool:
    return not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}


@given(st.binary(max_size=300), st.integers(0, 250))
@example(b"%s {0} ${HOME} \\x41 `id`", 200)
@example("\u202e\ud7ff\x1b".encode(), 3)
def test_octets_of_any_kind_are_shown_clean_capped_and_as_they_are(octets: bytes, limit: int) -> None:
    """faults:P7, SEC5: total; the cap counts octets; nothing in them is a format, an escape or a command."""
    shown = safe_octets(octets, limit)
    assert _is_clean(shown)
    body_, dots = (shown[:-3], shown[-3:]) if len(octets) > limit else (shown, "")
    assert dots in ("", "...")
    assert body_ == "".join(safe_text(character) for character in octets[:limit].decode("utf-8", "replace"))
    if re.fullmatch(rb"[ -~]*", octets):
        assert body_ == octets[:limit].decode("ascii")


@given(st.binary(max_size=1_500).map(lambda octets: re.sub(rb"[\r\n\0]", b"", octets)), st.sampled_from([450, 550]))
def test_what_an_error_says_is_one_clean_line_of_500_characters_at_most(text: bytes, code: int) -> None:
    """faults:P7, LM13: whatever the reply."""
    reply = Reply(code, b"%d %b\r\n" % (code, text), wants_enhanced=True)
    error = TransientReplyError("MAIL refused", reply=reply) if code < 500 else PermanentReplyError("no", reply=reply)
    for shown in (str(error), repr(reply), reply.message):
        assert _is_clean(shown.replace("\n", ""))
    assert len(str(error)) <= 500
    assert "\n" not in str(error)


BODIES = st.lists(st.sampled_from([b".", b"\r\n", b"\r\n.", b"a", b"..", b"\r\n.\r\n", b"x" * 50]), max_size=20).map(
    b"".join
)


def _unstuffed(wire: bytes) -> bytes:
    """RFC 5321 section 4.5.2, transcribed: lines until the one with a single dot; a leading dot is deleted."""
    lines: list[bytes] = []
    for line in wire.split(b"\r\n"):
        if line == b".":
            return b"".join(lines)
        lines.append((line[1:] if line.startswith(b".") else line) + b"\r\n")
    raise AssertionError("no end of data")


@given(BODIES, CUTS)
def test_stuffing_is_undone_by_unstuffing_whatever_the_split(message: bytes, cuts: list[int]) -> None:
    """faults:P2, AK5."""
    whole = body.stuffed(message) + body.ending(message)
    stuffer = body.DotStuffer()
    assert b"".join(map(stuffer.process_chunk, _pieces(message, cuts))) + stuffer.finish() == whole
    assert whole.find(b"\r\n.\r\n") in (len(whole) - 5, -1)
    expected = message if message.endswith(b"\r\n") else message + b"\r\n"
    assert _unstuffed(whole) == expected


MESSAGES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"a", b".", b"b" * 20]), max_size=16).map(b"".join)


@given(MESSAGES, CUTS, st.sampled_from(["strict", "crlf"]))
def test_no_bare_cr_lf_or_nul_leaves_and_streams_agree_with_bytes(
    message: bytes, cuts: list[int], newlines: str
) -> None:
    """faults:P3, AK6: the same octets, or the same offset."""
    try:
        whole: bytes | int | None = body.canonical(message, newlines)
    except InvalidInputError as error:
        whole = error.offset
    canonicaliser = body.Canonicaliser(newlines)
    try:
        stream: bytes | int | None = b"".join(map(canonicaliser.process, _pieces(message, cuts)))
        canonicaliser.finish()
    except InvalidInputError as error:
        stream = error.offset
    assert stream == whole
    if isinstance(whole, bytes):
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", whole)
        assert body.canonical(whole, "strict") == whole


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT)
def test_xtext_is_undone_by_its_decoder(text: str) -> None:
    """faults:P10."""
    encoded = encode(text)
    assert encoded.isascii()
    assert decode(encoded) == text


@given(st.binary(max_size=300))
def test_base64_is_that_of_rfc_4648(octets: bytes) -> None:
    """faults:P10, features:E104: what AUTH lines carry comes back."""
    line = commands.auth_response(base64.b64encode(octets))
    assert base64.b64decode(line[:-2], validate=True) == octets


EVERYTHING = ServerCapabilities.parse(
    Reply(250, b"250-mx\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 AUTH PLAIN\r\n")
)
HOSTILE = st.text(
    st.one_of(
        st.sampled_from('\r\n\0\t\x1b\x7f\x85\u2028\u760d\u760a <>@"\\'),
        st.characters(exclude_categories=[]),
        st.sampled_from("abc.@"),
    ),
    max_size=24,
)
COMMAND = re.compile(rb"[\x20-\x7e\x80-\xff]*\r\n")


@given(HOSTILE)
@example("a@b.example> ORCPT=c")
@example('"a\\\r"@b.example')
def test_an_address_is_refused_or_goes_out_on_one_line_as_it_is(address: str) -> None:
    """faults:P1, AK1-AK3: exactly one CRLF, no control octet, and a reader of the line finds the same address."""
    try:
        recipient = Recipient(address)
        line = commands.rcpt(recipient, EVERYTHING)
    except InvalidInputError:
        return
    assert COMMAND.fullmatch(line)
    found = re.fullmatch(rb"RCPT TO:<(.*)>\r\n", line)
    assert found is not None
    assert found[1].decode("utf-8") == recipient.path.mailbox
    assert ForwardPath(recipient.path.mailbox).mailbox == recipient.path.mailbox


@given(HOSTILE, HOSTILE)
def test_parameters_are_refused_or_come_back(envid: str, orcpt: str) -> None:
    """faults:P1, faults:P10."""
    try:
        params = MailParams(envid=envid)
        recipient = Recipient("b@example.com", RcptParams(orcpt=f"rfc822;{orcpt}"))
        lines = [
            commands.mail(
                ReversePath(""), size=None, body=None, smtputf8=False, params=params, capabilities=EVERYTHING
            ),
            commands.rcpt(recipient, EVERYTHING),
        ]
    except (InvalidInputError, ExtensionUnavailableError):
        return
    for line in lines:
        assert COMMAND.fullmatch(line)
    found = re.search(rb" ENVID=([!-~]+)", lines[0])
    assert found is not None
    assert decode(found[1].decode("ascii")) == envid
    found = re.search(rb" ORCPT=rfc822;([!-~]+)", lines[1])
    assert found is not None
    assert decode(found[1].decode("ascii")) == orcpt


@pytest.mark.parametrize("verb", ["vrfy", "expn"])
@given(argument=HOSTILE)
def test_an_argument_of_vrfy_is_refused_or_one_line(verb: str, argument: str) -> None:
    """faults:P1, faults:IN16."""
    try:
        line = getattr(commands, verb)(argument, EVERYTHING)
    except (InvalidInputError, ExtensionUnavailableError):
        return
    assert COMMAND.fullmatch(line)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_an_ehlo_reply_of_any_lines_gives_capabilities(lines: list[bytes]) -> None:
    """faults:P6: odd keywords never crash; what was said is kept."""
    texts = [re.sub(rb"[\r\n\0]", b"", line) for line in [b"mx", *lines]]
    octets = b"".join(b"250-" + text + b"\r\n" for text in texts[:-1]) + b"250 " + texts[-1] + b"\r\n"
    reply = Reply(250, octets)
    found = ServerCapabilities.parse(reply)
    assert found.lines == reply.lines[1:]
    assert found.supports_starttls == any(re.match(rb"(?i)starttls(?:[ ]|$)", text) for text in texts[1:])


MECHANISMS = st.lists(st.sampled_from(["PLAIN", "login", "SCRAM-SHA-256", "XOAUTH2", "Plain", "X_1"]), max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["AUTH ", "AUTH=", "auth ", "Auth="]), MECHANISMS), min_size=1, max_size=5))
def test_the_mechanisms_of_all_auth_lines_are_one_set(lines: list[tuple[str, list[str]]]) -> None:
    """faults:P6: `AUTH=` and duplicates merge."""
    texts = ["mx", "SIZE 10", *(head + " ".join(names) for head, names in lines), "SIZE 20"]
    raw = "".join(f"250-{text}\r\n" for text in texts[:-1]) + f"250 {texts[-1]}\r\n"
    found = ServerCapabilities.parse(Reply(250, raw.encode()))
    assert found.auth_mechanisms == {name.upper() for _, names in lines for name in names}
    assert found.extensions["SIZE"] == ("10",)  # of what cannot be merged, the first counts


CLEAR = st.lists(
    st.sampled_from(["AUTH PLAIN", "AUTH=LOGIN", "SIZE 1", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "X-ODD"]),
    max_size=5,
)


@given(CLEAR, CLEAR)
def test_capabilities_after_tls_are_those_said_after_tls(before: list[str], after: list[str]) -> None:
    """faults:P6: RFC 3207 section 4.2, nothing learnt in clear counts."""
    pump = Pump(Session("smtp", "client.test"))
    session = pump.session

    def play(flow: Any, answer: bytes) -> None:
        pump.start(flow)
        while part := pump.to_write():
            pump.wrote(len(part))
        pump.received(answer)
        pump.result()

    def ehlo(offers: list[str]) -> bytes:
        return "".join(f"250-{line}\r\n" for line in ["mx", *offers]).encode() + b"250 STARTTLS\r\n"

    play(session.greet(), b"220 mx\r\n")
    play(session.hello(), ehlo(before))
    play(session.starttls(), b"220 go\r\n")
    pump.upgraded()
    assert session.capabilities == ServerCapabilities()
    play(session.hello(), ehlo(after))
    assert session.capabilities == ServerCapabilities.parse(Reply(250, ehlo(after)))
    assert session.parser.wants_enhanced == ("ENHANCEDSTATUSCODES" in after)
