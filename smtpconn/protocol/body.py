"""Message octets to wire octets: the newline policy, dot-stuffing, and sources read slice by slice.

Knows RFC 5321 sections 2.3.8 and 4.5.2 and nothing of envelopes. Its laws: no bare CR, bare LF or NUL leaves in a text
body (SMTP smuggling: CVE-2023-51764 and its kin); any split of the input gives the same output; a source is read in
slices, in O(slice) memory; bytes are checked whole before the first octet goes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import IncrementalNewlineDecoder  # a scanner of text in spite of its module: nothing is read or written
from typing import Any, NoReturn

from smtpconn.protocol.errors import InvalidInputError, UsageError

SLICE = 16_384  # octets read from a source at a time, and written at a time with a commit point: one TLS record
LONG_SLICE = 131_072  # octets handed over at a time where none of them is a commit point
CHUNK = 65_536  # octets of a BDAT chunk of a stream (CN3)
PIECE = 262_144  # octets of a large message that are looked at, or stuffed, at a time: what a processor's cache holds
TERMINATOR = b".\r\n"

_OFFENDER = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_OFFENDER_BUT_LF = re.compile(rb"\r(?!\n)|\0")
_DOT = re.compile(rb"\n\.")  # half the time of a search for CRLF and the dot, and the same in canonical octets
_NAMES = {0x0D: "a bare CR", 0x0A: "a bare LF", 0x00: "a NUL"}


def _refuse(octet: int, offset: int, newlines: str) -> NoReturn:
    if octet == 0x0A:
        remedy = 'end its lines in CRLF, or pass newlines="crlf" to have bare LFs converted'
    elif octet == 0x0D:
        remedy = "end its lines in CRLF"
    else:
        remedy = "encode it (base64), or send it as BODY=BINARYMIME by BDAT"
    raise InvalidInputError(f"message has {_NAMES[octet]} at octet {offset}: {remedy}", offset=offset)


def canonical(message: bytes, newlines: str, before: int = 0) -> bytes:
    """The message with CRLF line ends under the newline policy (D10), or `InvalidInputError` with the octet's offset.

    `before`: octets of the whole in front of this part. The place of an offender is searched for only once there is
    one.
    """
    if _line_ends(message) in (None, "\r\n") and b"\0" not in message:
        return message
    found = (_OFFENDER_BUT_LF if newlines == "crlf" else _OFFENDER).search(message)
    if found:
        _refuse(message[found.start()], before + found.start(), newlines)
    return message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _line_ends(message: bytes) -> str | tuple[str, ...] | None:
    """Which of CR, LF and CRLF the message has: what the decoder of text files notices, in one pass of C."""
    decoder = IncrementalNewlineDecoder(None, translate=False)
    if len(message) <= PIECE:
        decoder.decode(message.decode("latin-1"), final=True)
    else:
        view = memoryview(message)
        for begin in range(0, len(message), PIECE):
            decoder.decode(str(view[begin : begin + PIECE], "latin-1"))
        decoder.decode("", final=True)  # a CR at the very end
    return decoder.newlines


def begins_lines_with_dots(message: bytes) -> bool:
    """True if a canonical message has anything to be stuffed. Nothing behind its last dot is searched."""
    return message.startswith(b".") or _DOT.search(message, 0, message.rfind(b".") + 1) is not None


def stuffed(message: bytes) -> bytes:
    """A canonical message with the dots at its line starts doubled (RFC 5321 section 4.5.2); itself without any."""
    if not begins_lines_with_dots(message):
        return message
    message = _with_dots_doubled(message)
    return b"." + message if message.startswith(b".") else message


def _with_dots_doubled(octets: bytes) -> bytes:
    return b"\r\n..".join(octets.split(b"\r\n."))  # in two thirds of the time of `replace`, which counts first


def ending(message: bytes) -> bytes:
    """What ends the message on the wire by DATA: the missing CRLF, if it is missing, and the dot."""
    return TERMINATOR if message.endswith(b"\r\n") else b"\r\n" + TERMINATOR


class Canonicaliser:
    """The newline policy over a stream.

    `process` each slice, then `finish`. A CR at a slice's end waits for the next one.
    """

    __slots__ = ("_carry", "_consumed", "_newlines")

    def __init__(self, newlines: str) -> None:
        self._newlines = newlines
        self._carry = b""
        self._consumed = 0  # octets of the source in front of the carry

    def process(self, octets: bytes) -> bytes:
        """The canonical octets of this slice, but for a CR at its end."""
        octets = self._carry + octets
        self._carry = b"\r" if octets.endswith(b"\r") else b""
        whole = octets[:-1] if self._carry else octets
        result = canonical(whole, self._newlines, self._consumed)
        self._consumed += len(whole)
        return result

    def finish(self) -> None:
        """Refuse a CR that nothing followed."""
        if self._carry:
            _refuse(0x0D, self._consumed, self._newlines)


class DotStuffer:
    """Dot-stuffing over a canonical stream: any split of the input gives the same output (F62)."""

    __slots__ = ("_empty", "_finished", "_tail")

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the last two octets; at first a line start
        self._empty = True
        self._finished = False

    def process_chunk(self, octets: bytes) -> bytes:
        """The stuffed octets of this chunk."""
        if self._finished:
            raise UsageError("this DotStuffer has finished")
        if not octets:
            return b""
        joined = self._tail + octets
        self._empty = False
        self._tail = joined[-2:]
        if not _DOT.search(joined, 0, joined.rfind(b".") + 1):
            return octets
        return _with_dots_doubled(joined)[2:]

    def finish(self) -> bytes:
        """What ends the message: the missing CRLF and the dot; `CRLF . CRLF` for an empty body."""
        if self._finished:
            raise UsageError("this DotStuffer has finished")
        self._finished = True
        return TERMINATOR if self._tail == b"\r\n" and not self._empty else b"\r\n" + TERMINATOR


def is_read_once(source: object) -> bool:
    """True for a file and for an iterator: what one attempt has read of it is not there for the next."""
    return hasattr(source, "read") or isinstance(source, Iterator)


def slices(source: Any) -> Iterator[bytes]:
    """The octets of a binary file (from its position to its end; it is not closed) or an iterable, cut to SLICE."""
    if hasattr(source, "read"):
        while True:
            octets = source.read(SLICE)
            if octets is None:
                raise TypeError("message.read() returned None: a file without data at hand cannot be sent")
            octets = _octets_of(octets)
            if not octets:
                return
            yield from _cut(octets)
    for item in source:
        yield from _cut(_octets_of(item))


def _octets_of(item: object) -> bytes:
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    raise TypeError(f"message must give bytes, not {type(item).__name__}: open files in binary mode, encode text")


def _cut(octets: bytes) -> Iterator[bytes]:
    if len(octets) <= SLICE:
        if octets:
            yield octets
        return
    for start in range(0, len(octets), SLICE):
        yield octets[start : start + SLICE]
