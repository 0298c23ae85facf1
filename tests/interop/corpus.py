"""Mails to send through real servers and to read back: CPython's own test mails where installed, and some of ours.

Knows octets only. Its laws: every sample is free of bare CR, bare LF and NUL (design D10), so nothing on the way has
a reason to change it; what a server is known to change (no header, a header with no empty line behind it, a first
line that begins with `From `) is sent as a body, where nobody looks at it, by `Sample.marked`.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_HEADERS = re.compile(rb"(?:[!-9;-~]+[ \t]*:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*)*\r\n")
TEN_MIB = 10 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Sample:
    """One mail: an id for the test's name, and its octets with CRLF at line ends."""

    id: str
    octets: bytes

    def __repr__(self) -> str:
        return f"<Sample {self.id}: {len(self.octets)} octets>"

    @property
    def eight_bit(self) -> bool:
        """Whether sending it takes 8BITMIME."""
        return not self.octets.isascii()

    @property
    def smtputf8(self) -> bool:
        """Whether its headers are not ASCII, so that sending it takes SMTPUTF8."""
        return self.has_headers and not self.octets.partition(b"\r\n\r\n")[0].isascii()

    @property
    def has_headers(self) -> bool:
        """Whether it begins with well-formed header fields, none included, and the empty line behind them."""
        return _HEADERS.match(self.octets) is not None

    def marked(self, message_id: str) -> bytes:
        """Return what to send: a Message-ID to find it by, then the sample; as the body, where it has no headers."""
        separator = b"" if self.has_headers else b"\r\n"
        return b"Message-ID: " + message_id.encode("ascii") + b"\r\n" + separator + self.octets


def assert_same_octets(actual: bytes, expected: bytes) -> None:
    """Compare octet for octet; the message of a failure shows only the surroundings of the first difference."""
    if actual == expected:
        return
    both = min(len(actual), len(expected))
    at = next((offset for offset in range(both) if actual[offset] != expected[offset]), both)
    around = slice(max(0, at - 40), at + 40)
    raise AssertionError(
        f"{len(actual)} octets instead of {len(expected)}, first difference at octet {at}: "
        f"{actual[around]!r} instead of {expected[around]!r}"
    )


# --- CPython's


@dataclass(frozen=True)
class CPythonMails:
    """The files `test_email/data/msg_*.txt`: those that can be sent, and why the others cannot."""

    samples: tuple[Sample, ...]
    skipped: dict[str, str]


def _impossible(octets: bytes) -> str | None:
    if b"\0" in octets:
        return "NUL, which RFC 5321 4.5.2 does not allow without BINARYMIME"
    if b"\r" in octets.replace(b"\r\n", b""):
        return "bare CR, which RFC 5321 2.3.8 forbids"
    return None


@cache
def cpython_mails() -> CPythonMails:
    """Return the mails of CPython's test suite, none where it is not installed; LF has become CRLF."""
    found = importlib.util.find_spec("test")
    directories = [Path(entry) / "test_email" / "data" for entry in (found and found.submodule_search_locations) or ()]
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    for path in sorted(path for directory in directories for path in directory.glob("msg_*.txt")):
        octets = path.read_bytes()
        if reason := _impossible(octets):
            skipped[path.name] = reason
        else:
            octets = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            samples.append(Sample(f"cpython-{path.stem}", octets))
    return CPythonMails(tuple(samples), skipped)


# --- ours

_DOT_LINES = b"|.|..|...|.a|a.|..a|.a.|a.b|a..b|. | .|.\t|\t.||.||..|".split(b"|")
_EVERY_OCTET = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")


def _body(*lines: bytes) -> bytes:
    return b"Subject: octets\r\n\r\n" + b"".join(line + b"\r\n" for line in lines)


def _large() -> bytes:
    """Return 10 MiB in which lines that begin with a dot meet the edges of chunks of any size."""
    block = b"".join(b"x" * (length % 997) + b"\r\n." for length in range(1, 3989, 37)) + b"\r\n"
    head = b"Subject: 10 MiB\r\n\r\n"
    body = block * (TEN_MIB // len(block) + 1)
    return head + body[: TEN_MIB - len(head) - 2].rstrip(b"\r\n") + b"\r\n"


_OURS: dict[str, bytes] = {
    "plain": _body(b"Hello"),
    "dots": _body(*_DOT_LINES),
    "dot-first": _body(b".", b"Hello"),
    "dot-last": _body(b"Hello", b"."),
    "dot-only": _body(b"."),
    "dots-only": _body(*[b"."] * 10_000),
    "two-dots-only": _body(*[b".."] * 8_000),
    "dots-at-every-offset": _body(*(b"x" * length + b"\r\n." for length in range(200))),
    "dot-without-final-crlf": _body(b"Hello") + b".",
    "end-of-data-inside": _body(
        b"Hello", b".", b"MAIL FROM:<evil@lab.test>", b"RCPT TO:<user1@lab.test>", b"DATA", b".", b"QUIT"
    ),
    "bdat-inside": _body(b"BDAT 10 LAST", b"0123456789", b"RSET", b"QUIT"),
    "line-of-998": _body(b"x" * 998, b"." * 998, b"x" * 997, b"x" * 999),
    "line-of-5000": _body(b"y" * 5_000, b"." + b"z" * 4_999, b"." * 5_000),
    "line-of-100000": _body(b"y" * 100_000),
    "header-line-of-998": b"Subject: " + b"s" * 989 + b"\r\n\r\nHello\r\n",
    "folded-header": b"Subject: one\r\n two\r\n\tthree\r\nX-Empty:\r\nX-Folded:\r\n \tfour\r\n\r\nHello\r\n",
    "utf8": _body("Gr\u00fc\u00dfe, \u4f60\u597d, \U0001f40d".encode(), ".\u00e4".encode()),
    "utf8-header": "Subject: Gr\u00fc\u00dfe\r\n\r\nHello\r\n".encode(),
    "latin-1": _body("Gr\u00fc\u00dfe".encode("latin-1"), b".\xe4"),
    "every-octet": _body(_EVERY_OCTET, b"." + _EVERY_OCTET),
    "empty-body": _body(),
    "headers-only": b"Subject: no body\r\n\r\n",
    "header-without-empty-line": b"Subject: octets\r\nHello\r\n",
    "empty": b"",
    "empty-lines-only": _body(b"", b"", b""),
    "empty-lines-at-the-end": _body(b"Hello", b"", b"", b""),
    "spaces-at-line-ends": _body(b"Hello  ", b"   ", b"\t", b" "),
    "from-lines": _body(
        b"From me to you", b">From me", b"", b"From a@b.test Sat Nov 21 06:45:00 2026", b"From", b"X-From: x"
    ),
    "mbox-first-line": b"From a@b.test Sat Nov 21 06:45:00 2026\r\nSubject: an mbox's\r\n\r\nHello\r\n",
    "no-headers": b"This is not a header\r\nX: nor is this\r\n\r\nHello\r\n",
    "no-final-crlf": _body(b"Hello") + b"World",
    "trace-headers-of-others": (
        b"Return-Path: <other@elsewhere.test>\r\nDelivered-To: other@elsewhere.test\r\n"
        b"X-Original-To: other@elsewhere.test\r\nEnvelope-to: other@elsewhere.test\r\n"
        b"Delivery-date: Sat, 21 Nov 2026 06:45:00 +0000\r\n"
        b"Received: from a by b;\r\n\tSat, 21 Nov 2026 06:45:00 +0000\r\n"
        b"Bcc: hidden@elsewhere.test\r\nContent-Length: 7\r\n"
        b"Subject: octets\r\n\r\nHello\r\n"
    ),
    "10-mib": _large(),
}

OURS = tuple(Sample(name, octets) for name, octets in _OURS.items())
CORPUS = (*OURS, *cpython_mails().samples)
"""Everything; for `pytest.mark.parametrize("sample", CORPUS, ids=lambda sample: sample.id)`."""
