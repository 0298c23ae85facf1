"""Octets to `Reply`: a bounded, incremental parser, and text that is safe to show.

Knows the grammar of RFC 5321 section 4.2 and nothing of what a reply answers. Its laws: a reply is complete with its
CRLF and not before; only CRLF ends a line; work is linear whatever the chunking; any split of the input gives the same
replies and the same error at the same offset; what a server wrote reaches nobody's terminal unescaped.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

MAX_LINE = 16_384  # octets with CRLF; RFC 5321 allows 512, but a SASL challenge may have 12,288 (RFC 4954 section 4)
MAX_LINES = 1_000
MAX_REPLY = 65_536  # octets
MAX_LISTING = 1_048_576  # octets of a reply to EXPN or HELP
SHOWN = 200  # octets of a malformed reply that an error quotes

_FORBIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co"})
_UNSAFE = re.compile(r"[^\x20-\x7e]")
_DIGITS = re.compile(r"[0-9]{1,20}")
_STOP = re.compile(rb"[\r\n\0]")
# A complete reply without a surprise: lines within RFC 5321's 512 octets, all with one code.
_USUAL = re.compile(rb"([2-5][0-9]{2})(?:-[^\r\n\0]{0,506}\r\n\1){0,100}(?: [^\r\n\0]{0,506})?\r\n")
_CODES = {b"%d" % code: code for code in range(200, 600)}
_KNOWN, _KNOWN_SIZE = 32, 512  # replies that are kept to be met again, and the octets of one of them
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![0-9])")


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if unicodedata.category(character) not in _FORBIDDEN:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def safe_text(text: str) -> str:
    """The text with every control, format, separator, surrogate and private character escaped (log injection)."""
    return _UNSAFE.sub(_escape, text)


def safe_octets(octets: bytes, limit: int = SHOWN) -> str:
    """At most `limit` octets of server text, decoded as UTF-8 and escaped, for an error message."""
    shown = octets[:limit].decode("utf-8", "replace")
    return safe_text(shown) + ("..." if len(octets) > limit else "")


def decimal(digits: str | bytes) -> int:
    """The number that ASCII digits spell.

    The only place where the core calls `int`: it would also take other scripts' digits, blanks and underscores (SEC7).
    """
    text = digits if isinstance(digits, str) else digits.decode("ascii", "replace")
    if not _DIGITS.fullmatch(text):
        raise ValueError("not ASCII digits")
    return int(text)


class EnhancedStatus(NamedTuple):
    """An enhanced status code (RFC 3463 section 2), for example `5.7.1`."""

    class_: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.class_}.{self.subject}.{self.detail}"

    @classmethod
    def parse(cls, text: str) -> EnhancedStatus | None:
        """The enhanced status that a reply line begins with, or None; what follows the detail is tolerated (F25)."""
        found = _ENHANCED.match(text)
        return cls(decimal(found[1]), decimal(found[2]), decimal(found[3])) if found else None

    def to_dict(self) -> dict[str, int]:
        """The fields in JSON types."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, int]) -> EnhancedStatus:
        """The inverse of `to_dict`."""
        return cls(data["class_"], data["subject"], data["detail"])


class Reply:
    """One complete reply of the server (RFC 5321 section 4.2); immutable, hashable, picklable.

    `code` is the reply code; `raw` the exact octets of all its lines, CRLFs included; `wants_enhanced` says whether the
    server had advertised ENHANCEDSTATUSCODES, without which no enhanced status is read (RFC 2034 section 4).
    """

    __slots__ = ("_enhanced_wanted", "_lines", "code", "raw")

    code: int
    raw: bytes
    _lines: tuple[str, ...] | None
    _enhanced_wanted: bool

    def __init__(self, code: int, raw: bytes, *, wants_enhanced: bool = False) -> None:
        put = object.__setattr__
        put(self, "code", code)
        put(self, "raw", raw)
        put(self, "_enhanced_wanted", wants_enhanced)
        put(self, "_lines", None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reply is immutable: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Reply is immutable: {name}")

    @property
    def lines(self) -> tuple[str, ...]:
        """One string per line, without code and CRLF: UTF-8, undecodable octets as U+FFFD, controls escaped."""
        lines = self._lines
        if lines is None:
            lines = tuple(safe_text(line[4:].decode("utf-8", "replace")) for line in self.raw[:-2].split(b"\r\n"))
            object.__setattr__(self, "_lines", lines)
        return lines

    @property
    def text(self) -> str:
        """The lines joined by one space."""
        return " ".join(self.lines)

    @property
    def message(self) -> str:
        """`text` without the enhanced status in front of each line that has one."""
        if not self._enhanced_wanted:
            return self.text
        return " ".join(_without_status(line) for line in self.lines)

    @property
    def enhanced(self) -> EnhancedStatus | None:
        """The enhanced status of the first line that has one, or None; never compared with the code."""
        if not self._enhanced_wanted:
            return None
        for line in self.lines:
            status = EnhancedStatus.parse(line)
            if status is not None:
                return status
        return None

    @property
    def is_positive(self) -> bool:
        """True for 2yz."""
        return 200 <= self.code <= 299

    @property
    def is_transient(self) -> bool:
        """True for 4yz."""
        return 400 <= self.code <= 499

    @property
    def is_permanent(self) -> bool:
        """True for 5yz."""
        return 500 <= self.code <= 599

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return self.code == other.code and self.raw == other.raw

    def __hash__(self) -> int:
        return hash((self.code, self.raw))

    def __str__(self) -> str:
        status = self.enhanced
        shown = f"{self.code} [{status}] {self.message}" if status else f"{self.code} {self.text}"
        return shown[:500].rstrip()

    def __repr__(self) -> str:
        return f"<Reply {self!s}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.code, self.raw, self._enhanced_wanted)

    def to_dict(self) -> dict[str, Any]:
        """The reply in JSON types; the octets as base64."""
        octets = base64.b64encode(self.raw).decode("ascii")
        return {"code": self.code, "raw": octets, "enhanced_status_codes": self._enhanced_wanted}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Reply:
        """The inverse of `to_dict`."""
        return cls(data["code"], base64.b64decode(data["raw"]), wants_enhanced=data["enhanced_status_codes"])


def _without_status(line: str) -> str:
    found = _ENHANCED.match(line)
    if not found:
        return line
    rest = line[found.end() :]
    if rest.startswith("\\x09"):  # a TAB, which `lines` shows escaped
        return rest[4:]
    return rest[1:] if rest.startswith(" ") else rest


def _rebuild(code: int, raw: bytes, wants_enhanced: bool) -> Reply:
    return Reply(code, raw, wants_enhanced=wants_enhanced)


class MalformedReplyError(ValueError):
    """Octets that are no reply. `offset` counts the octets of the stream in front of the first one that cannot be."""

    def __init__(self, reason: str, offset: int, octets: bytes, *, oversize: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.octets = octets
        self.oversize = oversize


class _UnreadableError(Exception):
    """Leaves the parser's inner frames once its failure is noted."""


class ReplyParser:
    """Takes octets as they come, gives complete replies in order.

    `feed` what was received, then `next_reply` until it returns None. After an error the stream has no meaning any
    more: every later call raises the same error. While `redact` is set, what it takes out of a reply or of the octets
    of an error is seen by nobody: a server may echo the secret that it refuses.
    """

    __slots__ = (
        "_buffer", "_code", "_consumed", "_failure", "_known", "_lines", "_scanned", "_start",
        "_wants_enhanced", "limit", "redact",
    )  # fmt: skip

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._consumed = 0  # octets of the stream in front of the buffer
        self._start = 0  # where the line under way begins in the buffer
        self._scanned = 0  # how far it was searched
        self._lines = 0
        self._code = b""
        self._failure: MalformedReplyError | None = None
        self.limit = MAX_REPLY
        self._wants_enhanced = False
        self._known: dict[bytes, Reply] = {}
        self.redact: Callable[[bytes], bytes] | None = None

    def feed(self, octets: bytes) -> None:
        """Append received octets."""
        self._buffer += octets

    @property
    def pending(self) -> int:
        """How many octets wait that no reply has used: 0 means that the conversation is in step."""
        return len(self._buffer)

    def next_reply(self) -> Reply | None:
        """The next complete reply, or None until more octets come. Raises `MalformedReplyError`."""
        if not self._buffer:
            return None
        if self._failure is None:
            if not self._scanned and self.redact is None:
                reply = self._known.get(bytes(self._buffer[: self._buffer.find(b"\n", 0, _KNOWN_SIZE) + 1]))
                if reply is None:
                    reply = self._usual()
                if reply is not None:
                    end = len(reply.raw)
                    del self._buffer[:end]
                    self._consumed += end
                    return reply
            try:
                return self._next()
            except _UnreadableError:
                pass  # raised from here, so that no frame with the octets (an echoed secret: SEC2) is on its traceback
        assert self._failure is not None
        raise self._failure

    def next_alike(self, reply: Reply, most: int) -> int:
        """Take at most so many further replies that are, octet for octet, the one that was given last; how many."""
        raw, count = reply.raw, 0
        if self._scanned or self.redact is not None:
            return 0
        if self._buffer.startswith(raw * most):
            count = most
        while count < most and self._buffer.startswith(raw, len(raw) * count):
            count += 1
        del self._buffer[: len(raw) * count]
        self._consumed += len(raw) * count
        return count

    def _next(self) -> Reply | None:
        while True:
            end = self._line_end()
            if end is None:
                return None
            if self._line(end):
                return self._take()

    def _usual(self) -> Reply | None:
        """The reply that the buffer begins with, if all of it is there and it is as most are."""
        found = _USUAL.match(self._buffer)
        if not found or found.end() > self.limit:
            return None
        raw, code = found.group(0, 1)
        return self._known.get(raw) or self._learn(_CODES[code], raw)

    def _learn(self, code: int, raw: bytes) -> Reply:
        """Most replies of a session are the same few: one object each."""
        reply = Reply(code, raw, wants_enhanced=self._wants_enhanced)
        if len(raw) <= _KNOWN_SIZE:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[raw] = reply
        return reply

    @property
    def wants_enhanced(self) -> bool:
        """True once ENHANCEDSTATUSCODES was offered: the replies from here on say what they make of it."""
        return self._wants_enhanced

    @wants_enhanced.setter
    def wants_enhanced(self, wanted: bool) -> None:
        self._wants_enhanced = wanted
        self._known.clear()

    def _line_end(self) -> int | None:
        """Index behind the CRLF of the line under way, or None while it is incomplete."""
        buffer, start = self._buffer, self._start
        if self._lines == MAX_LINES and len(buffer) > start:
            self._fail(f"a reply of more than {MAX_LINES} lines", start, oversize=True)
        edge = min(start + MAX_LINE - 1, self.limit)  # nothing behind it is looked at: the limit is met before
        found = _STOP.search(buffer, self._scanned, edge)
        stop = found.start() if found else None
        if self._scanned < start + 4:
            self._check_head(start, edge if stop is None else stop, ends=stop is not None)
        if stop is None:
            self._scanned = len(buffer)
            last = start + MAX_LINE - 2  # where the CR of the longest line stands
            if self.limit <= last:
                self._check_size(len(buffer))
            elif len(buffer) > last:
                self._fail(f"a reply line of more than {MAX_LINE} octets", last, oversize=True)
            return None
        if buffer[stop] != 0x0D:
            self._fail("a NUL in a reply" if buffer[stop] == 0 else "a bare LF in a reply", stop)
        if stop + 1 == len(buffer):
            self._scanned = stop
            return None
        if buffer[stop + 1] != 0x0A:
            self._fail("a bare CR in a reply", stop)
        self._check_size(stop + 2)
        return stop + 2

    def _check_head(self, start: int, stop: int, *, ends: bool) -> None:
        """The first octets of a line: three digits, then SP, `-` or CRLF; checked as far as they are there."""
        head = bytes(self._buffer[start : min(start + 4, stop)])
        code = head[:3]
        for index, octet in enumerate(code):
            if octet not in (b"0123456789" if index else b"2345"):
                self._fail("not a reply", start + index)
        if len(code) < 3:
            if ends:
                self._fail("not a reply", start + len(code))
            return
        if self._code and code != self._code:  # not before all three digits are there: the error names both codes
            self._fail_mixed(start, code)
        if head[3:] not in (b"", b" ", b"-"):
            self._fail("not a reply", start + 3)

    def _fail_mixed(self, start: int, later: bytes) -> NoReturn:
        """RFC 5321 section 4.2.1: all lines of a reply carry the same code."""
        index = next(index for index in range(3) if later[index] != self._code[index])
        codes = f"begins with {self._code.decode('ascii')} and goes on with {later.decode('ascii')}"
        self._fail(f"a reply that {codes}", start + index)

    def _check_size(self, end: int) -> None:
        if end > self.limit:
            self._fail(f"a reply of more than {self.limit} octets", self.limit, oversize=True)

    def _line(self, end: int) -> bool:
        """Account for the complete line that ends at `end`; True if it is the last one of its reply."""
        buffer, start = self._buffer, self._start
        self._lines += 1
        self._code = bytes(buffer[start : start + 3])
        last = buffer[start + 3] != 0x2D
        self._start = self._scanned = end
        return last

    def _take(self) -> Reply:
        end = self._start
        raw = bytes(self._buffer[:end])
        code = decimal(raw[:3])
        shown = raw if self.redact is None else self.redact(raw)
        reply = Reply(code, shown, wants_enhanced=self.wants_enhanced)
        del self._buffer[:end]
        self._consumed += end
        self._start = self._scanned = self._lines = 0
        self._code = b""
        return reply

    def _fail(self, reason: str, index: int, *, oversize: bool = False) -> NoReturn:
        start = self._start
        octets = bytes(self._buffer[start : start + MAX_LINE])
        if self.redact is not None:
            octets = self.redact(octets)
        octets = octets[: SHOWN + 1]
        self._failure = MalformedReplyError(reason, self._consumed + index, octets, oversize=oversize)
        raise _UnreadableError
