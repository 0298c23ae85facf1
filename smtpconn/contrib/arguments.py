"""smtplib's loose arguments as values of ours: addresses with a display name, options as strings, text as a message.

Knows what smtplib's methods take (users SC18-SC21); refuses to guess. Its law: what does not parse to exactly one value
with nothing left over is refused, where smtplib would cut it down to something and send that.
"""

from __future__ import annotations

import email.errors
import email.policy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtpconn.protocol import xtext
from smtpconn.protocol.address import ForwardPath, ReversePath, refusal, refuse_controls
from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.params import DeliverBy, MailParams, RcptParams
from smtpconn.protocol.reply import decimal

_LINE_END = re.compile(r"\r\n|\r|\n")
_OLD_AUTH = re.compile(r"auth=(.*)", re.IGNORECASE)
_FEATURE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*) ?")
_ENVELOPE = re.compile(r"(MAIL FROM|RCPT TO):\s*(<[^>]*>)(.*)", re.IGNORECASE)
_NAMED = re.compile(r"[^<>]*<([^<>]*)>")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,5}|10[0-9A-F]{4})\}")
_PARSER_FAILURES = (email.errors.MessageError, ValueError, LookupError, TypeError, AttributeError)


def addr_spec(text: str) -> str:
    """The address in `a@b`, `<a@b>` or `Name <a@b>`; `""` and `<>` are the null path.

    Raises:
        TypeError, InvalidInputError: no str; not exactly one address, or something beside it.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address must be a str, not {type(text).__name__}")
    refuse_controls("address", text)
    found = _NAMED.fullmatch(text.strip())
    if found is None:
        return text
    if text.strip().startswith("<"):
        return found[1]
    return _mailbox(text)


def _mailbox(text: str) -> str:
    """`Name <a@b>`, parsed as a header is: a display name may be quoted."""
    try:
        header: Any = email.policy.SMTPUTF8.header_factory("To", text)
        defects = [each for each in header.defects if isinstance(each, email.errors.InvalidHeaderDefect)]
        addresses = header.addresses
    except _PARSER_FAILURES as error:
        raise refusal("address", "must be one address, bare or as 'Name <address>'", text) from error
    if defects or len(addresses) != 1 or not addresses[0].domain:
        raise refusal("address", "must be one address, bare or as 'Name <address>'", text)
    return str(addresses[0].addr_spec)


def strings_of(given: str | Iterable[str]) -> list[str]:
    """The `to_addrs` of smtplib: a list of strings, or one."""
    return [given] if isinstance(given, str) else list(given)


def reverse_path(text: str) -> ReversePath:
    """The sender."""
    return ReversePath(addr_spec(text))


def inquired(text: str) -> str:
    """What VRFY and EXPN ask about: an address without its display name, or a name of a user or a list."""
    spec = addr_spec(text)
    return ForwardPath(spec).address if "@" in spec else spec


def recipient(text: str, params: RcptParams) -> Recipient:
    """One recipient."""
    return Recipient(addr_spec(text), params)


def content_of(message: str | bytes) -> bytes:
    """What is sent: of a str, ASCII with CRLF for any line end; octets as they are (bare LF is converted later).

    Raises:
        TypeError, UnicodeEncodeError: neither; a str that is not ASCII, as smtplib raises it.
    """
    if isinstance(message, str):
        return _LINE_END.sub("\r\n", message).encode("ascii")
    return bytes(memoryview(message))


@dataclass(frozen=True)
class MailOptions:
    """What `mail_options` come to; `size` as the caller wrote it, where it was there."""

    params: MailParams
    size: int | None


def mail_options(options: Sequence[str], capabilities: ServerCapabilities) -> MailOptions:
    """The options of MAIL. Raises `InvalidInputError`, `ExtensionUnavailableError`."""
    fields: dict[str, Any] = {}
    extra: dict[str, str | None] = {}
    size: int | None = None
    for keyword, value in _split(options):
        if keyword == "SIZE":
            size = _number(keyword, value)
        elif keyword in _MAIL_FIELDS:
            name, convert = _MAIL_FIELDS[keyword]
            fields[name] = convert(keyword, value)
        else:
            extra[_advertised(keyword, capabilities)] = value
    return MailOptions(MailParams(**fields, extra=extra), size)


def rcpt_options(options: Sequence[str], capabilities: ServerCapabilities) -> RcptParams:
    """The options of RCPT. Raises `InvalidInputError`, `ExtensionUnavailableError`."""
    fields: dict[str, Any] = {}
    extra: dict[str, str | None] = {}
    for keyword, value in _split(options):
        if keyword == "NOTIFY":
            fields["notify"] = _text(keyword, value).upper().split(",")
        elif keyword == "ORCPT":
            fields["orcpt"] = _original_recipient(_text(keyword, value))
        else:
            extra[_advertised(keyword, capabilities)] = value
    return RcptParams(**fields, extra=extra)


def _split(options: Sequence[str]) -> list[tuple[str, str | None]]:
    if isinstance(options, str):
        options = options.split()
    found: list[tuple[str, str | None]] = []
    for option in options:
        refuse_controls("option", option)
        keyword, equals, value = option.strip().partition("=")
        found.append((keyword.upper(), value if equals else None))
    return found


def _advertised(keyword: str, capabilities: ServerCapabilities) -> str:
    """SC21: an option that is not known here is passed on where the server says that it knows it."""
    if not capabilities.supports(keyword):
        raise ExtensionUnavailableError(f"the server does not offer {keyword:.80}", extension=keyword)
    return keyword


def _text(keyword: str, value: str | None) -> str:
    if not value:
        raise InvalidInputError(f"the option {keyword} needs a value")
    return value


def _upper(keyword: str, value: str | None) -> str:
    return _text(keyword, value).upper()


def _number(keyword: str, value: str | None) -> int:
    try:
        return decimal(_text(keyword, value))
    except ValueError:
        raise InvalidInputError(f"the option {keyword} must be a decimal number") from None


def _flag(keyword: str, value: str | None) -> bool:
    if value is not None:
        raise InvalidInputError(f"the option {keyword} has no value")
    return True


def _decoded(keyword: str, value: str | None) -> str:
    """xtext, as it stands on the wire."""
    return xtext.decode(_text(keyword, value), argument=f"the option {keyword}")


def _deliver_by(keyword: str, value: str | None) -> DeliverBy:
    seconds, _, mode = _text(keyword, value).upper().partition(";")
    sign = -1 if seconds.startswith("-") else 1
    return DeliverBy(sign * _number(keyword, seconds.lstrip("+-")), mode[:1], trace=mode[1:] == "T")


def _priority(keyword: str, value: str | None) -> int:
    text = _text(keyword, value)
    return (-1 if text.startswith("-") else 1) * _number(keyword, text.lstrip("+-"))


def _original_recipient(value: str) -> str:
    address_type, semicolon, coded = value.partition(";")
    if address_type.upper() == "UTF-8":  # RFC 6533 section 3 has an encoding of its own
        return address_type + semicolon + _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), coded)
    return f"{address_type}{semicolon}{_decoded('ORCPT', coded)}"


_MAIL_FIELDS: Mapping[str, tuple[str, Callable[[str, str | None], Any]]] = {
    "BODY": ("body", _upper),
    "SMTPUTF8": ("smtputf8", _flag),
    "RET": ("ret", _upper),
    "ENVID": ("envid", _decoded),
    "AUTH": ("auth", _decoded),
    "REQUIRETLS": ("requiretls", _flag),
    "HOLDFOR": ("hold_for", _number),
    "BY": ("deliver_by", _deliver_by),
    "MT-PRIORITY": ("mt_priority", _priority),
}

def place(host: str, port: int) -> tuple[str, int]:
    """The `host:port` of smtplib; an IPv6 address has more than one colon, and no port."""
    if port or host.count(":") != 1:
        return host, port
    host, _, digits = host.partition(":")
    if not (digits.isascii() and digits.isdigit()):
        raise OSError("nonnumeric port")
    return host, int(digits)


def features(text: bytes) -> dict[str, str]:
    """The `esmtp_features` of smtplib: keyword in lower case to the rest of its line; both forms of AUTH united."""
    found: dict[str, str] = {}
    for line in text.decode("latin-1").split("\n")[1:]:
        old = _OLD_AUTH.match(line)
        feature = _FEATURE.match(line)
        if old:
            found["auth"] = f"{found.get('auth', '')} {old[1]}"
        elif feature and feature[1].lower() == "auth":
            found["auth"] = f"{found.get('auth', '')} {line[feature.end(1) :].strip()}"
        elif feature:
            found[feature[1].lower()] = line[feature.end(1) :].strip()
    return found


def envelope_command(line: str) -> tuple[str, str, list[str]] | None:
    """MAIL or RCPT as a line of the caller's own: the verb, the path, the options; None for any other line."""
    found = _ENVELOPE.fullmatch(line)
    return (found[1][:4].upper(), found[2], found[3].split()) if found else None
