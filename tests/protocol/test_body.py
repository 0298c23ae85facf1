"""Body octets to wire octets: every split the same, nothing smuggled, sources in slices."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn.protocol import body
from smtpconn.protocol.body import SLICE, Canonicaliser, DotStuffer, canonical, ending, slices, stuffed
from smtpconn.protocol.errors import InvalidInputError, UsageError


def streamed(chunks: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join([stuffer.process_chunk(chunk) for chunk in chunks]) + stuffer.finish()


def unstuffed(wire: bytes) -> bytes:
    """What a server makes of it, by RFC 5321 section 4.5.2, line by line, independent of the code under test."""
    assert wire.endswith(b"\r\n.\r\n") or wire == b".\r\n"
    lines = wire.split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    assert b"." not in lines[:-2], "the message would end early"
    return b"".join([line.removeprefix(b".") + b"\r\n" for line in lines[:-2]])


def splits(octets: bytes) -> Iterator[list[bytes]]:
    for one, two in itertools.combinations_with_replacement(range(len(octets) + 1), 2):
        yield [octets[:one], octets[one:two], octets[two:]]
    yield [octets[index : index + 1] for index in range(len(octets))]


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        pytest.param(b".line1\r\n..line2\r\n", b"..line1\r\n...line2\r\n.\r\n", id="E60"),
        pytest.param(b"a", b"a\r\n.\r\n", id="E61 without CRLF"),
        pytest.param(b"a\r\n", b"a\r\n.\r\n", id="E61 with CRLF"),
        pytest.param(b"", b"\r\n.\r\n", id="E61 empty"),
        pytest.param(b"\r\n", b"\r\n.\r\n", id="one empty line"),
        pytest.param(b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n", id="E62"),
        pytest.param(b".", b"..\r\n.\r\n", id="a dot alone"),
        pytest.param(b".\r\n.\r\n.\r\n", b"..\r\n..\r\n..\r\n.\r\n", id="dots in a row"),
        pytest.param(b"a.b\r\n", b"a.b\r\n.\r\n", id="a dot inside a line"),
        pytest.param(b"x\r\n.y", b"x\r\n..y\r\n.\r\n", id="the last line"),
    ],
)
def test_dot_stuffing_is_the_same_for_every_split_E60_E63(message: bytes, wire: bytes) -> None:
    assert stuffed(message) + ending(message) == wire
    for chunks in splits(message):
        assert streamed(chunks) == wire, chunks
    if message:
        assert unstuffed(wire) == message.removesuffix(b"\r\n") + b"\r\n"


def test_every_message_of_six_fragments_survives_both_ways_F62() -> None:
    for count in range(1, 7):
        for parts in itertools.product((b"\r\n", b".", b"a"), repeat=count):
            message = b"".join(parts)
            wire = stuffed(message) + ending(message)
            assert streamed(list(parts)) == wire
            assert streamed([message[index : index + 1] for index in range(len(message))]) == wire
            assert unstuffed(wire) == (message if message.endswith(b"\r\n") else message + b"\r\n")


@pytest.mark.parametrize(
    ("message", "growth"),
    [
        pytest.param(b".\r\n" * 10_000, 10_000, id="E64 10,000 lines of a dot"),
        pytest.param(b"x" * 1_000_000 + b"\r\n", 0, id="E64 1 MB"),
        pytest.param((b"." + b"y" * 997 + b"\r\n") * 10, 10, id="E64 998-octet lines"),
    ],
)
def test_large_bodies_E64(message: bytes, growth: int) -> None:
    wire = stuffed(message) + ending(message)
    assert len(wire) == len(message) + growth + 3
    assert streamed(list(slices(io.BytesIO(message)))) == wire


def test_a_stuffer_that_has_finished_refuses_F62() -> None:
    stuffer = DotStuffer()
    assert stuffer.finish() == b"\r\n.\r\n"
    with pytest.raises(UsageError, match="finished"):
        stuffer.process_chunk(b"a")
    with pytest.raises(UsageError, match="finished"):
        stuffer.finish()


# --- the newline policy


def offender(message: bytes) -> int | None:
    """The first octet that D10 forbids, looked at one by one."""
    for place, octet in enumerate(message):
        bare = octet == 0x0D and message[place + 1 : place + 2] != b"\n"
        bare = bare or (octet == 0x0A and message[max(0, place - 1) : place] != b"\r")
        if bare or not octet:
            return place
    return None


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_an_offender_is_found_wherever_the_pieces_of_a_large_message_meet_F61(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "PIECE", piece)
    for count in range(7):
        for parts in itertools.product((b"\r", b"\n", b"\0", b"\xe9"), repeat=count):
            message = b"".join(parts)
            found = offender(message)
            assert outcome(functools.partial(whole, message, "strict")) == (message if found is None else found)


def whole(message: bytes, newlines: str) -> bytes:
    return canonical(message, newlines)


def in_slices(chunks: list[bytes], newlines: str) -> bytes:
    filter_ = Canonicaliser(newlines)
    octets = b"".join([filter_.process(chunk) for chunk in chunks])
    filter_.finish()
    return octets


@pytest.mark.parametrize(
    ("newlines", "message", "octets"),
    [
        pytest.param("strict", b"a\r\nb", b"a\r\nb", id="as it is"),
        pytest.param("strict", b"", b"", id="empty"),
        pytest.param("strict", b"\xff\r\n\x01\t", b"\xff\r\n\x01\t", id="other octets are nobody's business"),
        pytest.param("crlf", b"a\nb", b"a\r\nb", id="E161 bare LF"),
        pytest.param("crlf", b"a\r\nb\nc\n\n", b"a\r\nb\r\nc\r\n\r\n", id="mixed"),
        pytest.param("crlf", b"\n", b"\r\n", id="LF alone"),
        pytest.param("crlf", b"a\r\n", b"a\r\n", id="nothing to convert"),
    ],
)
def test_what_passes_the_newline_policy_passes_in_every_split_F61(newlines: str, message: bytes, octets: bytes) -> None:
    assert whole(message, newlines) == octets
    for chunks in splits(message):
        assert in_slices(chunks, newlines) == octets, chunks


@pytest.mark.parametrize(
    ("newlines", "message", "offset", "words"),
    [
        pytest.param("strict", b"a\nb", 1, 'a bare LF at octet 1: .*newlines="crlf"', id="E160 E162"),
        pytest.param("strict", b"a\r\n\nb", 3, "a bare LF at octet 3", id="LF behind CRLF"),
        pytest.param("strict", b"\n", 0, "a bare LF at octet 0", id="LF at once"),
        *[
            param
            for newlines in ("strict", "crlf")
            for param in (
                pytest.param(
                    newlines, b"a\rb", 1, "a bare CR at octet 1: end its lines in CRLF$", id=f"E161 {newlines}"
                ),
                pytest.param(newlines, b"a\r\r\n", 1, "a bare CR at octet 1", id=f"{newlines} CR CR LF"),
                pytest.param(newlines, b"ab\r", 2, "a bare CR at octet 2", id=f"E163 {newlines} CR ends it"),
                pytest.param(newlines, b"a\r\nb\0c", 4, "a NUL at octet 4: .*BINARYMIME", id=f"E161 {newlines} NUL"),
                pytest.param(newlines, b"\r\n.\r\r\n", 3, "a bare CR at octet 3", id=f"{newlines} a smuggler's end"),
            )
        ],
        pytest.param("strict", b"\r\n.\n", 3, "a bare LF at octet 3", id="CVE-2023-51764"),
        pytest.param("crlf", b"a\nb\nc\rd", 5, "a bare CR at octet 5", id="the offset is the source's"),
    ],
)
def test_what_the_newline_policy_refuses_it_refuses_in_every_split(
    newlines: str, message: bytes, offset: int, words: str
) -> None:
    calls = [functools.partial(whole, message, newlines)]
    calls += [functools.partial(in_slices, chunks, newlines) for chunks in splits(message)]
    for call in calls:
        with pytest.raises(InvalidInputError, match=words) as caught:
            call()
        assert (caught.value.offset, caught.value.stage) == (offset, "input")


def test_the_offset_counts_from_the_beginning_of_the_stream_E162() -> None:
    filter_ = Canonicaliser("strict")
    filter_.process(b"x" * 1_000)
    filter_.process(b"y\r\n" * 100)
    with pytest.raises(InvalidInputError) as caught:
        filter_.process(b"zz\nz")
    assert caught.value.offset == 1_302


def outcome(call: Callable[[], bytes]) -> bytes | int | None:
    try:
        return call()
    except InvalidInputError as error:
        return error.offset


@pytest.mark.parametrize("newlines", ["strict", "crlf"])
def test_every_small_message_is_judged_alike_whole_and_in_pieces(newlines: str) -> None:
    for parts in itertools.product((b"\r", b"\n", b"\0", b"a", b"\r\n"), repeat=4):
        message = b"".join(parts)
        results = [
            outcome(functools.partial(whole, message, newlines)),
            outcome(functools.partial(in_slices, list(parts), newlines)),
        ]
        assert results[0] == results[1], parts
        if isinstance(results[0], bytes):
            assert results[0].replace(b"\r\n", b"").isalpha() or not results[0].replace(b"\r\n", b"")


# --- sources


class Reads:
    """A source with `read` that keeps what it was asked for, and gives what it was told to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    def read(self, size: int) -> Any:
        self.asked.append(size)
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("source", "octets"),
    [
        pytest.param(
            [b"ab", b"", bytearray(b"c"), memoryview(b"d")], [b"ab", b"c", b"d"], id="F59 empty items skipped"
        ),
        pytest.param((part for part in (b"a", b"b")), [b"a", b"b"], id="a generator"),
        pytest.param([b"x" * (2 * SLICE + 1)], [b"x" * SLICE, b"x" * SLICE, b"x"], id="F63 cut to slices"),
        pytest.param([b"x" * SLICE], [b"x" * SLICE], id="exactly a slice"),
        pytest.param(io.BytesIO(b"abc"), [b"abc"], id="a file"),
        pytest.param(Reads(b"a", bytearray(b"b"), b""), [b"a", b"b"], id="short reads"),
        pytest.param(Reads(b"y" * (SLICE + 1), b""), [b"y" * SLICE, b"y"], id="a read that gives more"),
        pytest.param([], [], id="nothing"),
        pytest.param([memoryview(b"abcd")[::2]], [b"ac"], id="a view with gaps"),
    ],
)
def test_a_source_is_read_in_slices_F63(source: Any, octets: list[bytes]) -> None:
    seen = list(slices(source))
    assert seen == octets
    assert {type(each) for each in seen} <= {bytes}


def test_a_file_is_read_from_its_position_and_left_open_E165() -> None:
    file = io.BytesIO(b"0123456789rest")
    file.seek(10)
    assert b"".join(slices(file)) == b"rest"
    assert not file.closed


def test_a_file_is_asked_for_no_more_than_a_slice() -> None:
    source = Reads(b"a", b"")
    assert list(slices(source)) == [b"a"]
    assert source.asked == [SLICE, SLICE]


def test_nothing_is_pulled_ahead_E164() -> None:
    pulled: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(3):
            pulled.append(number)
            yield b"x"

    source = slices(parts())
    assert pulled == []
    next(source)
    assert pulled == [0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param(["text"], "must give bytes, not str", id="E166 an iterator of str"),
        pytest.param([b"a", 7], "must give bytes, not int", id="an iterator of int"),
        pytest.param(io.StringIO("text"), "must give bytes, not str: open files in binary mode", id="E166 a text file"),
        pytest.param(Reads(b"a", None), r"read\(\) returned None", id="a non-blocking file"),
    ],
)
def test_a_source_of_anything_but_octets_is_a_type_error_E166(source: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        list(slices(source))


def test_what_a_source_raises_passes_F63() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise LookupError("mine")

    source = slices(broken())
    assert next(source) == b"a"
    with pytest.raises(LookupError, match="mine"):
        next(source)
