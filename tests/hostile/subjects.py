"""Hostile values by the list of faults.md 11.1, and the doors through which a caller hands a value in.

A `Row` is one value at one door, and what must come of it: `E` is `InvalidInputError`, `T` is `TypeError`, `X` is
`ExtensionUnavailableError`. `refused` asks what every row asks: the exact class, a message in one safe line that names
the argument and a way out, and no octet. Peers are scripted: nothing here opens a socket.
"""

from __future__ import annotations

import decimal
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest

from smtpconn import (
    ConnectionPool,
    Delivery,
    ExtensionUnavailableError,
    InvalidInputError,
    Lease,
    SmtpConnection,
    SmtpError,
    TlsMode,
)
from smtpconn.deadline import Budget
from smtpconn.opening import Endpoint, Opening
from smtpconn.pooling.pooled import System
from smtpconn.testing import ScriptedTransport

SENDER, ONE, BODY = "a@example.com", "b@example.com", b"Subject: x\r\n\r\nhello\r\n"
EXTENSIONS = ("PIPELINING", "SIZE 100000", "DSN", "CHUNKING", "BINARYMIME", "AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER")
MAIL = b"MAIL FROM:<a@example.com> SIZE=21\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + BODY + b".\r\n"

UNSAFE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}  # SEC5
CLASSES: dict[str, type[Exception]] = {"E": InvalidInputError, "T": TypeError, "X": ExtensionUnavailableError}

# What stands inside an otherwise good text; the id begins with that of the specification.
FRAGMENTS = {
    "V1 CRLF and a command": "\r\nRSET\r\n",
    "V1 CRLF": "\r\n",
    "V2 CR": "\r",
    "V3 LF": "\n",
    "V4 NUL": "\0",
    "V5 SOH": "\x01",
    "V5 TAB": "\t",
    "V5 VT": "\v",
    "V5 FF": "\f",
    "V5 ESC": "\x1b[31m",
    "V6 DEL": "\x7f",
    "V7 NEL": "\x85",
    "V7 CSI": "\x9b31m",
    "V8 line separator": "\u2028",
    "V8 paragraph separator": "\u2029",
    "V9 high surrogate": "\ud800",
    "V9 low surrogate": "\udc0a",
    "V10 U+760D": "\u760d",
    "V10 U+760A": "\u760a",
    "V10 U+010A": "\u010a",
    "V10 U+020D": "\u020d",
    "V11 letter": "\u00e9",
    "V12 less-than": "<",
    "V12 greater-than": ">",
    "V13 blank": " ",
    "V13 ORCPT": "> ORCPT=rfc822;x",
    "V13 SIZE": " SIZE=1",
}
WHOLES = {"V14 empty": "", "V15 blank": " ", "V15 TAB": "\t", "V15 no-break space": "\u00a0"}
WRONG_TYPES: dict[str, Any] = {
    "V17 None": None,
    "V17 int": 5,
    "V17 float": 5.0,
    "V17 bool": True,
    "V17 list": ["a@example.com"],
    "V17 bytes": b"a@example.com",
    "V17 bytearray": bytearray(b"a@example.com"),
    "V17 object": object(),
}
NUMBER_TRAPS: dict[str, Any] = {
    "V20 negative": -1,
    "V20 a number of 5,000 digits": 10**5_000,
    "V20 a negative number of 5,000 digits": -(10**5_000),
}
NO_NUMBERS: dict[str, Any] = {
    "V17 str": "5",
    "V17 bytes": b"5",
    "V17 list": [5],
    "V17 dict": {},
    "V20 bool": True,
    "V20 Decimal": decimal.Decimal(5),
    "V20 complex": 5j,
}


class Lying(str):
    """A `str` that shows something else to whoever asks it (V18); what it is made of is what counts."""

    def __str__(self) -> str:
        return "x\r\nRSET"

    def __repr__(self) -> str:
        return "x\r\nRSET"

    def __format__(self, spec: str) -> str:
        return "x\r\nRSET"

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"x\r\nRSET"

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter("x\r\nRSET")

    def isascii(self) -> bool:
        return True

    def partition(self, sep: str) -> tuple[str, str, str]:
        return "x", "\r", "\n"

    def lower(self) -> str:
        return "x\r\nRSET"


class Lines:
    """Peers in memory: how many there are, and what they were told."""

    def __init__(self, extensions: tuple[str, ...] = EXTENSIONS) -> None:
        self.extensions = extensions
        self.opened: list[ScriptedTransport] = []

    def transport(self) -> ScriptedTransport:
        lines = ["mx.example.com", *self.extensions]
        hello = "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines)
        envelope = b"250 ok\r\n250 ok\r\n354 go\r\n"
        made = ScriptedTransport([b"220 mx\r\n", hello.encode(), envelope, b"250 ok\r\n", b"221 bye\r\n"])
        self.opened.append(made)
        return made

    def connect(self, opening: Opening, endpoint: Endpoint, budget: Budget) -> SmtpConnection:
        """In the place of `open_connection`."""
        connection = SmtpConnection(self.transport(), opening, endpoint.name)
        connection._establish(budget)
        return connection

    @property
    def told(self) -> bytes:
        """What was written behind the hello of every connection."""
        return b"".join(made.written.split(b"\r\n", 1)[1] for made in self.opened)


def connection_over(lines: Lines, protocol: Any = "smtp") -> SmtpConnection:
    return SmtpConnection.from_transport(
        lines.transport(),
        tls_mode=TlsMode.NONE,
        timeout=5,
        protocol=protocol,
        ehlo_domain="client.test",
        allow_plaintext_auth=True,
    )


def pool_over(lines: Lines, protocol: Any = "smtp", **options: Any) -> ConnectionPool:
    system = System(lines.connect, *ConnectionPool._system[1:])
    kind: type[ConnectionPool] = type("PoolInMemory", (ConnectionPool,), {"_system": system})
    given = {"ehlo_domain": "client.test", "allow_plaintext_auth": True, "timeout": 5, **options}
    return kind("mx.example.com", 24, TlsMode.NONE, protocol=protocol, **given)


class Row(NamedTuple):
    """One value at one door."""

    door: str
    value_id: str
    value: Any
    code: str
    names: str

    @property
    def id(self) -> str:
        return f"{self.door}: {self.value_id}"


def texts(template: Callable[[str], str], **codes: str) -> Iterator[tuple[str, str, str]]:
    """(id, value, code) for the fragments in a template and the whole values; `codes` by group, `E` where none is."""
    for name, fragment in FRAGMENTS.items():
        yield name, template(fragment), codes.get(name.split()[0], "E")
    for name, value in WHOLES.items():
        yield name, value, codes.get(name.split()[0], "E")


def wrong_types(*allowed: str) -> Iterator[tuple[str, Any, str]]:
    """The values of another type than `str`; `allowed`: what this argument takes nevertheless."""
    yield from ((name, value, "T") for name, value in WRONG_TYPES.items() if name not in allowed)


def rows(doors: Iterable[str], values: Iterable[tuple[str, Any, str]], names: str) -> list[Row]:
    """Every value at every door, but those whose code is "-"."""
    listed = list(values)
    return [Row(door, name, value, code, names) for door in doors for name, value, code in listed if code != "-"]


def by_door(listed: list[Row]) -> list[Any]:
    """One parameter for each door: its rows, those last for which a server has to be asked."""
    assert len({row.id for row in listed}) == len(listed), "an id is there twice"
    doors = dict.fromkeys(row.door for row in listed)
    return [
        pytest.param(sorted((row for row in listed if row.door == door), key=lambda row: row.code == "X"), id=door)
        for door in doors
    ]


_WAY_OUT = re.compile(
    r"\b(must|give|use|needs?|needed|required|leave|choose|write|make|encode|take|takes|the limit is|at most|"
    r"may have|exclude|excludes|is for|are for|not possible|not offer|does not offer|must not|set|percent-encode|"
    r"one too many|end its lines|the keys are|stands? in brackets|takes a path|has no meaning|once)\b"
)


def check_error(error: BaseException, row: Row) -> None:
    """The class, and what the message shows."""
    assert type(error) is CLASSES[row.code], f"{type(error).__name__}: {error}"
    text = str(error)
    assert re.search(row.names, text), f"it does not name the argument: {text}"
    assert _WAY_OUT.search(text), f"it says no way out: {text}"
    assert not {unicodedata.category(character) for character in text} & UNSAFE, f"it is no safe line: {text!r}"
    assert len(text) <= 500
    assert "x" * 81 not in text, "it shows too much of the value"
    if isinstance(error, SmtpError):
        assert (error.stage, error.delivery, error.retry_safe) == ("input", Delivery.NOT_DELIVERED, True)
        assert (error.scope, error.permanent, error.reply) == ("message" if row.code == "X" else "caller", True, None)


def refusal_of(row: Row, call: Callable[[], object]) -> BaseException:
    """What the call raised, checked."""
    try:
        call()
    except Exception as error:
        try:
            check_error(error, row)
        except AssertionError as fault:
            raise AssertionError(f"{row.id}: {fault}") from error
        return error
    raise AssertionError(f"{row.id}: nothing was raised")


class Subject:
    """A connection, a pool and a lease, made when a door asks for one."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.lines = Lines()
        self._connection: SmtpConnection | None = None
        self._pool: ConnectionPool | None = None
        self._lease: Lease | None = None

    @property
    def connection(self) -> SmtpConnection:
        if self._connection is None:
            self._connection = connection_over(self.lines, self.protocol)
        return self._connection

    @property
    def pool(self) -> ConnectionPool:
        if self._pool is None:
            self._pool = pool_over(self.lines, self.protocol)
        return self._pool

    @property
    def lease(self) -> Lease:
        if self._lease is None:
            self._lease = self.pool.connection().__enter__()
        return self._lease

    def is_untouched(self, code: str) -> None:
        """No octet was written for the call; a pool opened nothing for it unless a server had to be asked."""
        assert self.lines.told == b""
        if self._pool is not None and self._lease is None and code != "X":
            assert self.lines.opened == []
            assert self._pool.stats().opened == 0

    def serves(self) -> None:
        """A mail still goes through whatever the door belongs to, and nothing but it is written."""
        sender: Any = self._lease or self._pool or self._connection
        if sender is None:
            assert self.lines.opened == []
            return
        if self._lease is not None:
            assert self.lines.opened[0].closed is False
        result = sender.send(SENDER, [ONE], BODY, timeout=5)
        assert result.all_delivered
        assert len(self.lines.opened) == 1
        assert self.lines.told == MAIL
        if self._lease is not None:
            self._lease.__exit__(None, None, None)
            self._lease = None
            assert self.lines.opened[0].closed is False, "the lease was to go back to the pool"
        self.close_all()

    def close_all(self) -> None:
        if self._lease is not None:
            self._lease.__exit__(None, None, None)
        if self._pool is not None:
            self._pool.close()
        if self._connection is not None:
            self._connection.close()
