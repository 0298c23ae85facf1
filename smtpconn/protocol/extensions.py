"""The lines of an EHLO or LHLO reply to `ServerCapabilities`.

Knows the grammar of RFC 5321 section 4.1.1.1 and the arguments of the extensions that something is decided by.
Refuses to know what is sent because of them. Its laws: a keyword is the first word of its line, whole, in any case;
the first line of a keyword wins, except that AUTH lines are united; a line that cannot be read is kept and harms
nothing; an argument that cannot be read means that the extension is there and its limit unknown.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from smtpconn.protocol.errors import ExtensionUnavailableError
from smtpconn.protocol.reply import Reply, decimal

LINES_KEPT = 256  # LM3

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_MECHANISM = re.compile(r"[A-Za-z0-9_-]{1,20}")  # RFC 4422 section 3.1
_OLD_AUTH = "AUTH="  # what servers wrote before RFC 2554 for clients that still look for it
_SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870 section 4
_LIMIT = re.compile(r"(MAILMAX|RCPTMAX|RCPTDOMAINMAX)=([0-9]{1,6})", re.IGNORECASE | re.ASCII)  # RFC 9422 section 4
_SECONDS = re.compile(r"[0-9]{1,9}")
_UTC = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]{1,9})?Z", re.IGNORECASE)


@dataclass(frozen=True, repr=False)
class ServerCapabilities:
    """What the server offered in its last EHLO or LHLO reply: a snapshot, immutable and picklable.

    `lines`: the lines after the first, as they were written, made safe to show, at most 256. `extensions`: keyword in
    upper case to the words after it. `size_limit`: octets, or None where none was named. `hold_for_maximum` in
    seconds and `hold_until_maximum` are those of FUTURERELEASE, `deliver_by_minimum` in seconds that of DELIVERBY;
    None if unknown. `limits`: MAILMAX, RCPTMAX and RCPTDOMAINMAX (RFC 9422), as far as they are there and well
    formed.
    """

    greeting_name: str = ""
    lines: tuple[str, ...] = ()
    is_esmtp: bool = False

    extensions: Mapping[str, tuple[str, ...]] = field(init=False, compare=False)
    auth_mechanisms: frozenset[str] = field(init=False, compare=False)
    size_limit: int | None = field(init=False, compare=False)
    hold_for_maximum: int | None = field(init=False, compare=False)
    hold_until_maximum: datetime.datetime | None = field(init=False, compare=False)
    deliver_by_minimum: int | None = field(init=False, compare=False)
    limits: Mapping[str, int] = field(init=False, compare=False)

    supports_8bitmime: bool = field(init=False, compare=False)
    supports_auth_extension: bool = field(init=False, compare=False)
    supports_binarymime: bool = field(init=False, compare=False)
    supports_chunking: bool = field(init=False, compare=False)
    supports_dsn: bool = field(init=False, compare=False)
    supports_enhanced_status: bool = field(init=False, compare=False)
    supports_pipelining: bool = field(init=False, compare=False)
    supports_requiretls: bool = field(init=False, compare=False)
    supports_size: bool = field(init=False, compare=False)
    supports_smtputf8: bool = field(init=False, compare=False)
    supports_starttls: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        extensions = _extensions(self.lines)
        put = object.__setattr__
        put(self, "extensions", MappingProxyType(extensions))
        put(self, "auth_mechanisms", frozenset(extensions.get("AUTH", ())))
        put(self, "size_limit", _number(_SIZE, extensions.get("SIZE", ())) or None)
        future = extensions.get("FUTURERELEASE", ())
        put(self, "hold_for_maximum", _number(_SECONDS, future))
        put(self, "hold_until_maximum", _instant(future[1]) if len(future) > 1 else None)
        put(self, "deliver_by_minimum", _number(_SECONDS, extensions.get("DELIVERBY", ())))
        put(self, "limits", MappingProxyType(_limits(extensions.get("LIMITS", ()))))
        for name, keyword in _FLAGS.items():
            put(self, name, keyword in extensions)

    @classmethod
    def parse(cls, reply: Reply) -> ServerCapabilities:
        """What a 250 reply to EHLO or LHLO says."""
        snapshot = cls.__new__(cls)  # an object for each EHLO: callers see by it that the server was asked again
        vars(snapshot).update(vars(_parsed(reply)))
        return snapshot

    @classmethod
    def helo(cls, reply: Reply) -> ServerCapabilities:
        """What a 250 reply to HELO says: a name and no extension."""
        return cls(_first_word(reply))

    def supports(self, keyword: str) -> bool:
        """True if the server offered the extension; the keyword in any case."""
        return keyword.isascii() and keyword.upper() in self.extensions  # U+017F would become an S

    def supports_auth(self, mechanism: str) -> bool:
        """True if the server offered the SASL mechanism; its name in any case."""
        return mechanism.isascii() and mechanism.upper() in self.auth_mechanisms

    def require(self, keyword: str) -> None:
        """Raise `ExtensionUnavailableError`, with `extension`, if the server did not offer the keyword (upper case)."""
        if keyword not in self.extensions:
            raise ExtensionUnavailableError(f"the server does not offer {keyword}", extension=keyword)

    def __repr__(self) -> str:
        offered = " ".join(self.extensions) if self.is_esmtp else "no ESMTP"
        return f"<ServerCapabilities of {self.greeting_name or 'nobody'}: {offered or 'none'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.greeting_name, self.lines, self.is_esmtp)

    def to_dict(self) -> dict[str, Any]:
        """The snapshot in JSON types."""
        return {"greeting_name": self.greeting_name, "lines": list(self.lines), "is_esmtp": self.is_esmtp}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ServerCapabilities:
        """The inverse of `to_dict`."""
        return cls(data["greeting_name"], tuple(data["lines"]), is_esmtp=data["is_esmtp"])


_FLAGS = {
    "supports_8bitmime": "8BITMIME",
    "supports_auth_extension": "AUTH",
    "supports_binarymime": "BINARYMIME",
    "supports_chunking": "CHUNKING",
    "supports_dsn": "DSN",
    "supports_enhanced_status": "ENHANCEDSTATUSCODES",
    "supports_pipelining": "PIPELINING",
    "supports_requiretls": "REQUIRETLS",
    "supports_size": "SIZE",
    "supports_smtputf8": "SMTPUTF8",
    "supports_starttls": "STARTTLS",
}


def _words(line: str) -> list[str]:
    return [word for word in line.split(" ") if word]


def _first_word(reply: Reply) -> str:
    words = _words(reply.lines[0])
    return words[0] if words else ""


def _extensions(lines: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    extensions: dict[str, tuple[str, ...]] = {}
    mechanisms: dict[str, None] = {}
    offers_auth = False
    for line in lines:
        words = _words(line)
        if not words:
            continue
        first = words[0]
        if first[:5].upper() == _OLD_AUTH:
            words = ["AUTH", first[5:], *words[1:]]
        if not _KEYWORD.fullmatch(words[0]):
            continue
        keyword = words[0].upper()
        if keyword == "AUTH":
            offers_auth = True
            # Matched before it is folded: U+0131 would become an I.
            mechanisms.update((word.upper(), None) for word in words[1:] if _MECHANISM.fullmatch(word))
        elif keyword != "OK":  # Cyrus ends its reply with a phrase, `Ok SESSIONID=<...>`
            extensions.setdefault(keyword, tuple(words[1:]))
    if offers_auth:
        extensions["AUTH"] = tuple(mechanisms)
    return extensions


def _number(pattern: re.Pattern[str], words: tuple[str, ...]) -> int | None:
    return decimal(words[0]) if words and pattern.fullmatch(words[0]) else None


def _instant(word: str) -> datetime.datetime | None:
    found = _UTC.fullmatch(word)
    if not found:
        return None
    year, month, day, hour, minute, second = (decimal(digits) for digits in found.groups())
    try:
        return datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc)
    except ValueError:
        return None


def _limits(words: tuple[str, ...]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for word in words:
        found = _LIMIT.fullmatch(word)
        if found and decimal(found[2]):
            limits.setdefault(found[1].upper(), decimal(found[2]))
    return limits


@functools.lru_cache(maxsize=16)
def _parsed(reply: Reply) -> ServerCapabilities:
    """Worked out once: a server says the same on each connection."""
    return ServerCapabilities(_first_word(reply), reply.lines[1 : LINES_KEPT + 1], is_esmtp=True)


NO_CAPABILITIES = ServerCapabilities()
"""Before the first EHLO, and after a reply that voided what was known."""
