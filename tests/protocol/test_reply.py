"""Octets to replies: the grammar, the limits, and that chunking changes nothing."""

from __future__ import annotations

import itertools
import json
import time
import unicodedata
from collections.abc import Sequence

import pytest

from smtpconn.protocol.reply import (
    MAX_LINE,
    MAX_LINES,
    MAX_LISTING,
    MAX_REPLY,
    EnhancedStatus,
    MalformedReplyError,
    Reply,
    ReplyParser,
    decimal,
    safe_octets,
    safe_text,
)

from .dialogue import Delivery, pieces, revived

Outcome = tuple[list[bytes], "tuple[str, int, bool] | None"]


def parsed(chunks: Sequence[bytes], limit: int = MAX_REPLY) -> Outcome:
    """The raw octets of the replies, and the failure if there is one, looked for after every chunk."""
    parser = ReplyParser()
    parser.limit = limit
    replies: list[bytes] = []
    try:
        for chunk in chunks:
            parser.feed(chunk)
            while (reply := parser.next_reply()) is not None:
                replies.append(reply.raw)
    except MalformedReplyError as error:
        return replies, (error.reason, error.offset, error.oversize)
    return replies, None


def by_octet(octets: bytes) -> list[bytes]:
    return list(pieces(octets, "by octet"))


def reply_of(octets: bytes, *, enhanced: bool = False) -> Reply:
    parser = ReplyParser()
    parser.wants_enhanced = enhanced
    parser.feed(octets)
    reply = parser.next_reply()
    assert reply is not None
    assert parser.pending == 0
    return reply


@pytest.mark.parametrize(
    ("octets", "code", "lines"),
    [
        pytest.param(b"220 mx ready\r\n", 220, ("mx ready",), id="F18 one line"),
        pytest.param(b"220\r\n", 220, ("",), id="E9 code only"),
        pytest.param(b"250 \r\n", 250, ("",), id="E10 code and blank"),
        pytest.param(b"250-\r\n250 \r\n", 250, ("", ""), id="E15 empty lines are kept"),
        pytest.param(b"220-a\r\n220 b\r\n", 220, ("a", "b"), id="E110 two lines"),
        pytest.param(b"250-a\r\n250\r\n", 250, ("a", ""), id="F18 a code alone ends a reply"),
        pytest.param(b"599 -\r\n", 599, ("-",), id="F18 unknown code"),
        pytest.param(b"334   \r\n", 334, ("  ",), id="blanks are text"),
        pytest.param(b"250 a\tb\r\n", 250, ("a\\x09b",), id="F23 a TAB is a control character"),
        pytest.param(b"250 \xff\x1b\xe2\x80\xae\r\n", 250, ("�\\x1b\\u202e",), id="E19 FF, ESC, U+202E"),
        pytest.param("250 grüße\r\n".encode(), 250, ("grüße",), id="F23 UTF-8 passes"),
    ],
)
def test_a_reply_is_read_whatever_the_chunking(
    octets: bytes, code: int, lines: tuple[str, ...], delivery: Delivery
) -> None:
    parser = ReplyParser()
    seen = []
    for piece in pieces(octets, delivery):
        assert parser.next_reply() is None  # BR3: complete with its CRLF and not before
        parser.feed(piece)
        reply = parser.next_reply()
        if reply is not None:
            seen.append(reply)
    assert [(reply.code, reply.lines, reply.raw) for reply in seen] == [(code, lines, octets)]
    assert parser.pending == 0


@pytest.mark.parametrize(
    ("octets", "reason", "offset"),
    [
        pytest.param(b"abc hello\r\n", "not a reply", 0, id="E8"),
        pytest.param(b"250?x\r\n", "not a reply", 3, id="E11 question mark"),
        pytest.param(b"250\tx\r\n", "not a reply", 3, id="E11 TAB"),
        pytest.param(b"22\r\n", "not a reply", 2, id="E11 two digits"),
        pytest.param(b"\r\n421 4.4.2 idle\r\n", "not a reply", 0, id="E11 CS10 empty line"),
        pytest.param(b"250 ok\n", "a bare LF in a reply", 6, id="E14"),
        pytest.param(b"250 a\rb\r\n", "a bare CR in a reply", 5, id="F19 bare CR"),
        pytest.param(b"250 a\r\r\n", "a bare CR in a reply", 5, id="F19 two CRs"),
        pytest.param(b"250 a\0b\r\n", "a NUL in a reply", 5, id="E126"),
        pytest.param(b"150 x\r\n", "not a reply", 0, id="E125 1yz"),
        pytest.param(b"650 x\r\n", "not a reply", 0, id="E125 6yz"),
        pytest.param(b"2500 ok\r\n", "not a reply", 3, id="E125 four digits"),
        pytest.param(b"250x ok\r\n", "not a reply", 3, id="E125 letter"),
        pytest.param("\uff12\uff15\uff10 ok\r\n".encode(), "not a reply", 0, id="E125 SEC7 digits of another script"),
        pytest.param("2\u06650 ok\r\n".encode(), "not a reply", 1, id="E125 SEC7 an Arabic digit"),
        pytest.param(
            b"250-x\r\n251 y\r\n", "a reply that begins with 250 and goes on with 251", 9, id="E7 names both codes"
        ),
        pytest.param(
            b"250-x\r\n550 y\r\n", "a reply that begins with 250 and goes on with 550", 7, id="E7 in the first digit"
        ),
        pytest.param(b"250-x\r\n5y0 y\r\n", "not a reply", 8, id="no code at all in the second line"),
        pytest.param(b"250-x\r\n\r\n", "not a reply", 7, id="an empty line inside a reply"),
        pytest.param(b"250 ok\r\nHTTP/1.1 400\r\n", "not a reply", 8, id="the offset counts the whole stream"),
        pytest.param(b"\x16\x03\x01\x00", "not a reply", 0, id="TLS in clear"),
    ],
)
def test_what_is_no_reply_fails_at_the_first_octet_that_cannot_be(octets: bytes, reason: str, offset: int) -> None:
    for cut in range(len(octets) + 1):
        assert parsed([octets[:cut], octets[cut:]])[1] == (reason, offset, False), cut
    assert parsed(by_octet(octets))[1] == (reason, offset, False)


ALPHABET = (b"250 a\r\n", b"250-a\r\n", b"251 \r\n", b"250\r\n", b"2", b"-", b" ", b"\r", b"\n", b"\0", b"\r\n", b"x")


@pytest.mark.parametrize("first", ALPHABET)
def test_any_split_gives_the_same_replies_and_the_same_error(first: bytes) -> None:
    """Two, three and n pieces of every sequence of three fragments; small limits so that those are met, too."""
    for rest in itertools.product(ALPHABET, repeat=2):
        octets = first + b"".join(rest)
        for limit in (MAX_REPLY, 5, 6, 7, 8, 9, 10, 12):
            expected = parsed(by_octet(octets), limit)
            for cut in range(len(octets) + 1):
                assert parsed([octets[:cut], octets[cut:]], limit) == expected, (octets, cut, limit)


def test_three_pieces_are_as_good_as_two() -> None:
    octets = b"250-a\r\n250 b\r\n354 c\r\n25\r"
    expected = parsed([octets])
    assert expected == ([b"250-a\r\n250 b\r\n", b"354 c\r\n"], ("not a reply", 23, False))
    for one, two in itertools.combinations(range(len(octets) + 1), 2):
        assert parsed([octets[:one], octets[one:two], octets[two:]]) == expected


def line_of(length: int, head: bytes = b"250 ") -> bytes:
    return head + b"x" * (length - len(head) - 2) + b"\r\n"


def long_reply(length: int) -> bytes:
    """A reply of exactly so many octets, of lines within their limit."""
    lines = []
    left = length
    while left > 9_000:
        lines.append(line_of(8_000, b"250-"))
        left -= 8_000
    return b"".join(lines) + line_of(left)


@pytest.mark.parametrize(
    ("octets", "offset"),
    [
        pytest.param(line_of(MAX_LINE), None, id="E13 16,384 octets"),
        pytest.param(line_of(MAX_LINE + 1), MAX_LINE - 2, id="E13 16,385 octets"),
        pytest.param(b"250 " + b"x" * 19_996, MAX_LINE - 2, id="E13 F21 20,000 octets without CRLF"),
        pytest.param(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n", None, id="E12 LM2 1,000 lines"),
        pytest.param(b"250-x\r\n" * MAX_LINES + b"250 x\r\n", 7 * MAX_LINES, id="E12 LM2 1,001 lines"),
        pytest.param(b"250-x\r\n" * MAX_LINES + b"2", 7 * MAX_LINES, id="LM2 at the first octet of line 1,001"),
        pytest.param(long_reply(MAX_REPLY), None, id="LM2 64 KiB"),
        pytest.param(long_reply(MAX_REPLY + 1), MAX_REPLY, id="LM2 64 KiB and an octet"),
        pytest.param(
            long_reply(60_000)[:-2].replace(b"250 ", b"250-") + b"\r\n250 " + b"x" * 20_000,
            MAX_REPLY,
            id="LM2 an endless line meets the limit of the reply first",
        ),
        pytest.param(
            line_of(MAX_REPLY // 4, b"250-") * 4 + b"2x", MAX_REPLY, id="LM2 no line may begin behind the limit"
        ),
    ],
)
def test_a_limit_is_met_at_the_same_octet_whatever_the_chunking(octets: bytes, offset: int | None) -> None:
    """faults:LM1, LM2."""
    chunkings = ([octets], by_octet(octets), list(pieces(octets, "by line")), [octets[:9_999], octets[9_999:]])
    for chunks in chunkings:
        replies, failure = parsed(chunks)
        if offset is None:
            assert (replies, failure) == ([octets], None)
        else:
            assert replies == []
            assert failure is not None
            assert failure[1:] == (offset, True)


def test_the_limit_of_a_listing_is_wider_LM2() -> None:
    octets = b"".join(line_of(2_000, b"214-") for _ in range(500)) + line_of(3_000, b"214 ")
    assert MAX_REPLY < len(octets) < MAX_LISTING
    assert parsed([octets], MAX_LISTING) == ([octets], None)
    assert parsed([octets])[1] == (f"a reply of more than {MAX_REPLY} octets", MAX_REPLY, True)
    full = b"".join(line_of(8_192, b"214-") for _ in range(127)) + line_of(8_192, b"214 ")
    assert len(full) == MAX_LISTING
    assert parsed([full], MAX_LISTING) == ([full], None)
    longer = full[:-2] + b"x\r\n"
    assert parsed([longer], MAX_LISTING)[1] == (f"a reply of more than {MAX_LISTING} octets", MAX_LISTING, True)


def test_an_error_quotes_little_and_is_raised_again_by_every_later_call() -> None:
    parser = ReplyParser()
    parser.feed(b"250 ok\r\nHTTP/1.1 400 Bad Request " + b"x" * 1_000)
    first = parser.next_reply()
    assert first is not None
    with pytest.raises(MalformedReplyError, match="not a reply") as caught:
        parser.next_reply()
    assert caught.value.offset == 8
    assert caught.value.octets.startswith(b"HTTP/1.1 400 Bad Request")
    assert len(caught.value.octets) == 201
    parser.feed(b"250 ok\r\n")
    with pytest.raises(MalformedReplyError) as again:
        parser.next_reply()
    assert again.value is caught.value


def test_octets_behind_a_reply_stay_for_the_next_call_F28() -> None:
    parser = ReplyParser()
    parser.feed(b"250 a\r\n250 b\r\n25")
    assert [reply.lines for reply in iter(parser.next_reply, None)] == [("a",), ("b",)]
    assert parser.pending == 2
    parser.feed(b"0 c\r\n")
    third = parser.next_reply()
    assert third is not None
    assert (third.lines, parser.pending) == (("c",), 0)


@pytest.mark.once
@pytest.mark.parametrize(
    "octets", [line_of(MAX_LINE) * 64, b"250 ok\r\n" * 131_072], ids=["long replies", "short replies"]
)
def test_work_is_linear_LM12(octets: bytes) -> None:
    """1 MiB fed octet by octet in less than 2 s; on a machine too slow for that, in proportion to a quarter of it."""
    assert len(octets) == 1 << 20
    taken = _seconds_of_parsing(octets)
    assert taken < 2.0 or taken < 6 * _seconds_of_parsing(octets[: 1 << 18])


def _seconds_of_parsing(octets: bytes) -> float:
    parser = ReplyParser()
    count = 0
    began = time.process_time()
    for index in range(len(octets)):
        parser.feed(octets[index : index + 1])
        if parser.next_reply() is not None:
            count += 1
    assert count in (16, 64, 32_768, 131_072)
    return time.process_time() - began


def test_a_server_that_says_the_same_again_is_given_one_object_and_few_are_kept() -> None:
    parser = ReplyParser()

    def said(octets: bytes) -> Reply:
        parser.feed(octets)
        reply = parser.next_reply()
        assert reply is not None
        assert reply.raw == octets
        return reply

    first = said(b"250 2.1.0 ok\r\n")
    assert said(b"250 2.1.0 ok\r\n") is first
    long = b"250-" + b"x" * 506 + b"\r\n250 ok\r\n"
    first_long, between, second_long = said(long), said(b"250 ok\r\n"), said(long)
    assert first_long == second_long != between
    assert first_long is not second_long  # nobody fills memory by saying much
    kept = [said(b"250 queued as %d\r\n" % number) for number in range(1_000)]
    assert len(kept) == 1_000
    assert said(b"250 2.1.0 ok\r\n") is not first  # or by saying many things
    assert len(parser._known) <= 32


def test_what_was_read_before_changes_nothing_of_what_is_read_now() -> None:
    parser = ReplyParser()
    octets = b"250 2.1.0 ok\r\n"
    parser.feed(octets * 3)
    first = parser.next_reply()
    parser.wants_enhanced = True
    second = parser.next_reply()
    assert first is not None
    assert second is not None
    assert (first.enhanced, second.enhanced) == (None, EnhancedStatus(2, 1, 0))
    parser.redact = lambda raw: raw.replace(b"ok", b"**")
    third = parser.next_reply()
    assert third is not None
    assert third.raw == b"250 2.1.0 **\r\n"


def test_replies_alike_are_taken_as_one_as_far_as_they_are_whole_and_asked_for() -> None:
    parser = ReplyParser()
    parser.feed(b"250-a\r\n250 ok\r\n" * 6 + b"250-a\r\n250 no\r\n250-a\r\n250 o")
    first = parser.next_reply()
    assert first is not None
    assert [parser.next_alike(first, most) for most in (0, 2, 9, 9)] == [0, 2, 3, 0]
    other = parser.next_reply()
    assert other is not None
    assert other.lines == ("a", "no")
    assert parser.next_alike(first, 9) == 0  # it is not all there
    assert parser.next_reply() is None
    parser.feed(b"k\r\nx")
    assert parser.next_alike(first, 9) == 0  # it is under way, and its rest is no beginning
    assert parser.next_reply() == first
    with pytest.raises(MalformedReplyError) as caught:
        parser.next_reply()
    assert caught.value.offset == 8 * len(first.raw)


def test_replies_alike_are_not_taken_as_one_where_they_are_redacted() -> None:
    """features:F49: what is compared would be the octets of the secret."""
    parser = ReplyParser()
    parser.redact = lambda octets: octets.replace(b"hunter2", b"***")
    parser.feed(b"334 hunter2\r\n334 ***\r\n")
    first = parser.next_reply()
    assert first is not None
    assert parser.next_alike(first, 1) == 0


def test_what_is_redacted_reaches_neither_reply_nor_error() -> None:
    """features:F49: the exchange says what must not be shown."""
    parser = ReplyParser()
    parser.redact = lambda octets: octets.replace(b"hunter2", b"***")
    parser.feed(b"535 hunter2 is wrong\r\n")
    reply = parser.next_reply()
    assert reply is not None
    assert reply.raw == b"535 *** is wrong\r\n"
    parser.feed(b"hunter2 " + b"x" * 300)
    with pytest.raises(MalformedReplyError) as caught:
        parser.next_reply()
    assert caught.value.octets == b"*** " + b"x" * 197


# --- EnhancedStatus


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("2.0.0 ok", (2, 0, 0)),
        ("4.123.999\tx", (4, 123, 999)),
        ("5.7.1", (5, 7, 1)),
        ("5.7.1: refused", (5, 7, 1)),
        ("5.07.01 x", (5, 7, 1)),
        *[(text, None) for text in ("0.0.0", "1.1.1", "3.1.1", "6.1.1", "9.9.9", "5..1", "5.7.", "5-7-1", "5.7 x")],
        *[(text, None) for text in ("5.1000.1", "5.1.1000", "", " 5.7.1", "x5.7.1", "5.\u0667.1", "55.7.1")],
    ],
)
def test_enhanced_status_E105(text: str, status: tuple[int, int, int] | None) -> None:
    assert EnhancedStatus.parse(text) == status


def test_an_enhanced_status_is_an_ordered_hashable_value_F26() -> None:
    status = EnhancedStatus(5, 7, 1)
    assert str(status) == "5.7.1"
    assert status < EnhancedStatus(5, 7, 10)
    assert {status} == {EnhancedStatus(5, 7, 1)}
    assert set(revived(status)) == {status}
    assert EnhancedStatus.from_dict(json.loads(json.dumps(status.to_dict()))) == status  # F121


@pytest.mark.parametrize(
    ("octets", "status", "message"),
    [
        pytest.param(b"535 5.7.8 x\r\n", (5, 7, 8), "x", id="E39"),
        pytest.param(b"550-a\r\n550-b\r\n550 5.1.1 c\r\n", (5, 1, 1), "a b c", id="E127 on the last line only"),
        pytest.param(b"250-2.1.0 a\r\n250 2.1.5 b\r\n", (2, 1, 0), "a b", id="F25 the first one counts"),
        pytest.param(b"250 5.0.0 x\r\n", (5, 0, 0), "x", id="F25 never compared with the code"),
        pytest.param(b"250 2.0.0\tx\r\n", (2, 0, 0), "x", id="F25 a TAB is consumed"),
        pytest.param(b"250 2.0.0: x\r\n", (2, 0, 0), ": x", id="F25 what follows is tolerated"),
        pytest.param(b"250 2.0.0  x\r\n", (2, 0, 0), " x", id="F25 one blank is consumed"),
        pytest.param(b"250 2.0.0\r\n", (2, 0, 0), "", id="status alone"),
        pytest.param(b"250 x\r\n", None, "x", id="none"),
    ],
)
def test_the_status_is_read_only_where_it_was_advertised(
    octets: bytes, status: tuple[int, int, int] | None, message: str
) -> None:
    reply = reply_of(octets, enhanced=True)
    assert reply.enhanced == status
    assert reply.message == message
    plain = reply_of(octets)
    assert plain.enhanced is None
    assert plain.message == plain.text == reply.text == " ".join(reply.lines)


# --- Reply


@pytest.mark.parametrize(
    ("code", "verdicts"),
    [
        (199, (False, False, False)),
        (200, (True, False, False)),
        (299, (True, False, False)),
        (354, (False, False, False)),
        (400, (False, True, False)),
        (499, (False, True, False)),
        (500, (False, False, True)),
        (599, (False, False, True)),
        (600, (False, False, False)),
    ],
)
def test_the_first_digit_is_the_verdict_F27(code: int, verdicts: tuple[bool, bool, bool]) -> None:
    reply = Reply(code, b"%d x\r\n" % code)
    assert (reply.is_positive, reply.is_transient, reply.is_permanent) == verdicts


def test_a_reply_is_immutable_and_equal_by_code_and_octets_F27() -> None:
    reply = reply_of(b"250 a\r\n")
    with pytest.raises(AttributeError, match="immutable"):
        reply.code = 550
    with pytest.raises(AttributeError, match="immutable"):
        del reply.raw
    assert reply == reply_of(b"250 a\r\n", enhanced=True)
    assert hash(reply) == hash(reply_of(b"250 a\r\n"))
    assert reply != reply_of(b"250 b\r\n")
    assert reply != reply_of(b"251 a\r\n")
    assert reply != "250 a"


@pytest.mark.parametrize("octets", [b"250 a\r\n", b"550-5.1.1 a\r\n550 \xff\r\n", b"220\r\n"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_a_reply_survives_pickle_copy_and_json_F121(octets: bytes, enhanced: bool) -> None:
    reply = reply_of(octets, enhanced=enhanced)
    for each in [*revived(reply), Reply.from_dict(json.loads(json.dumps(reply.to_dict())))]:
        assert each == reply
        assert (each.enhanced, each.lines, each.message) == (reply.enhanced, reply.lines, reply.message)


@pytest.mark.parametrize(
    ("octets", "enhanced", "text"),
    [
        (b"550 5.7.1 no\r\n", True, "550 [5.7.1] no"),
        (b"550 5.7.1 no\r\n", False, "550 5.7.1 no"),
        (b"550-a\r\n550 b\r\n", True, "550 a b"),
        (b"220\r\n", True, "220"),
        (b"250 " + b"x" * 1_000 + b"\r\n", True, "250 " + "x" * 496),
        pytest.param(
            b"550 5.7.1 \xff\x1b\xe2\x80\xae\r\n", True, "550 [5.7.1] \ufffd\\x1b\\u202e", id="E19 F26 hostile"
        ),
    ],
)
def test_str_is_one_short_line_E106(octets: bytes, enhanced: bool, text: str) -> None:
    reply = reply_of(octets, enhanced=enhanced)
    assert str(reply) == text
    assert repr(reply) == f"<Reply {text}>"


# --- text that is safe to show


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ~", "plain ~"),
        ("\r\n\t\0\x7f", "\\x0d\\x0a\\x09\\x00\\x7f"),
        ("\x85\x9b\xad", "\\x85\\x9b\\xad"),
        ("\u200b\u2028\u2029\u202e\ufeff", "\\u200b\\u2028\\u2029\\u202e\\ufeff"),
        ("\ud800\ue000", "\\ud800\\ue000"),
        ("\U000e0001\U0010fffd", "\\U000e0001\\U0010fffd"),
        ("ä€\U0001f600\ufffd", "ä€\U0001f600\ufffd"),
    ],
)
def test_safe_text_escapes_what_could_act_on_a_terminal_SEC5(text: str, safe: str) -> None:
    assert safe_text(text) == safe


def test_safe_text_leaves_no_character_of_the_forbidden_categories_SEC5() -> None:
    text = "".join(map(chr, range(0x11_0000)))
    assert {unicodedata.category(character) for character in safe_text(text)}.isdisjoint(
        {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}
    )


@pytest.mark.parametrize(
    ("octets", "limit", "shown"),
    [(b"ab", 2, "ab"), (b"abc", 2, "ab..."), (b"\xff\n", 2, "�\\x0a"), ("é".encode(), 1, "�...")],
)
def test_safe_octets_shows_a_beginning(octets: bytes, limit: int, shown: str) -> None:
    assert safe_octets(octets, limit) == shown


@pytest.mark.parametrize(("digits", "number"), [("0", 0), (b"250", 250), ("007", 7), ("9" * 20, 10**20 - 1)])
def test_decimal_reads_ascii_digits(digits: str | bytes, number: int) -> None:
    assert decimal(digits) == number


@pytest.mark.parametrize(
    "digits", ["", " 1", "1 ", "+1", "-1", "1_0", "\u0663", "\uff11", "0x1", "9" * 21, b"\xff", b"1\n"]
)
def test_decimal_reads_nothing_else_SEC7(digits: str | bytes) -> None:
    with pytest.raises(ValueError, match="not ASCII digits"):
        decimal(digits)


def test_an_enhanced_status_survives_its_form_in_json_f121() -> None:
    status = EnhancedStatus(5, 7, 1)
    assert status.to_dict() == {"class_": 5, "subject": 7, "detail": 1}
    assert EnhancedStatus.from_dict(status.to_dict()) == status
