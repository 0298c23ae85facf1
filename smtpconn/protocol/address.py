"""Names and addresses of the envelope: paths, domains, address literals, hosts.

Knows the grammar of RFC 5321 section 4.1.2 with the UTF-8 of RFC 6531 section 3.3, and its size limits. Refuses to
know DNS, headers, display names and IDNA. Its laws: a value that exists is valid; text is never normalised, folded or
cleaned, only accepted or refused; all limits count UTF-8 octets; what passed here once is not looked at again but by
the line builder.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.reply import safe_text

LOCAL_PART_LIMIT = 64  # octets; RFC 5321 section 4.5.3.1.1
DOMAIN_LIMIT = 255  # octets; section 4.5.3.1.2
LABEL_LIMIT = 63  # octets; RFC 1035 section 2.3.4
ADDRESS_LIMIT = 254  # octets; a path has 256 with its < and > (section 4.5.3.1.3)
HOST_LIMIT = 253  # octets of a name in DNS's presentation format

_SHOWN = 80  # characters of a refused value that an error shows

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"  # RFC 5322 section 3.2.3
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_WIDE = r"\u0080-\U0010ffff"  # read behind `refuse_controls`, which leaves no C1 and no surrogate in it

_USUAL_MAILBOX = re.compile(
    rf"(?=[^@]{{1,{LOCAL_PART_LIMIT}}}@)(?!.{{{ADDRESS_LIMIT + 1}}})"
    rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*@{_LABEL}(?:\.{_LABEL})*"
)
_USUAL_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_DOT_STRING = re.compile(rf"[{_ATEXT}{_WIDE}]+(?:\.[{_ATEXT}{_WIDE}]+)*")
_QUOTED_STRING = re.compile(rf'"(?:[\x20\x21\x23-\x5b\x5d-\x7e{_WIDE}]|\\[\x20-\x7e])*"')
_WIDE_LABEL = re.compile(rf"(?!-)[A-Za-z0-9{_WIDE}-]+(?<!-)")
_ROUTE_HOP = r"@(?:\[[^]@,]*\]|[^][@,:]*)"
_ROUTE = re.compile(rf"{_ROUTE_HOP}(?:,{_ROUTE_HOP})*:")
_IPV4_TEXT = re.compile(r"[0-9.]{7,15}")
_IPV6_TEXT = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_NUMERIC_LABEL = re.compile(r"[0-9]+")

# Controls (C0, DEL, C1), the line and paragraph separators, lone surrogates; and the characters with which
# CVE-2025-7962 was shown, which become CR or LF where something behind us keeps only their low octet. The other
# characters with such an octet are letters of Thai, Hindi and Chinese names: for them, as for these, encoding
# strictly is what protects (AK3).
_DANGEROUS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u010a\u020d\u760a\u760d]")

# Blanks, and the full stops that IDNA 2003 turned into ".": not letters, and a server that maps them would see
# another domain.
_NOT_IN_LABEL = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u3002\uff0e\uff61]")


def quoted(value: str) -> str:
    """The value in quotes for an error: escaped, at most 80 characters of it."""
    shown = safe_text(value[:_SHOWN])
    return f"'{shown}'" if len(value) <= _SHOWN and len(shown) <= _SHOWN else f"'{shown[:_SHOWN]}'..."


def refusal(argument: str, why: str, value: str) -> InvalidInputError:
    """The error that names the argument, says what is wrong with it, and shows it."""
    return InvalidInputError(f"{argument} {why}: {quoted(value)}")


def exact_text(argument: str, value: object) -> str:
    """The value as an exact `str`, so that a subclass cannot show one text to the check and another to the wire.

    Raises:
        TypeError: it is no `str`.
    """
    if type(value) is str:
        return value
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str, not {type(value).__name__}")
    return str.__str__(value)


def refuse_controls(argument: str, text: str) -> None:
    """Raise `InvalidInputError` for a character that no argument of a command may hold (CRLF injection and its kin)."""
    found = _DANGEROUS.search(text)
    if found:
        code = f"U+{ord(found.group()):04X}"
        raise refusal(argument, f"must not have the character {code} (at index {found.start()})", text)


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _is_ipv4(text: str) -> bool:
    if not _IPV4_TEXT.fullmatch(text):
        return False
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    if not _IPV6_TEXT.fullmatch(text):  # the pattern also keeps zone indices ("%eth0") out
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def check_domain(text: str, *, argument: str = "domain") -> str:
    """The text, if it is a domain: labels of letters, digits and `-`, or U-labels (RFC 5321 section 2.3.5; F82).

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is no domain.
    """
    text = exact_text(argument, text)
    if _USUAL_DOMAIN.fullmatch(text) and len(text) <= DOMAIN_LIMIT:
        return text
    refuse_controls(argument, text)
    if not text:
        raise refusal(argument, "must not be empty", text)
    if _octets(text) > DOMAIN_LIMIT:
        raise refusal(argument, f"must not exceed {DOMAIN_LIMIT} octets", text)
    for label in text.split("."):
        _check_label(argument, label, text)
    return text


def _check_label(argument: str, label: str, text: str) -> None:
    if not label:
        raise refusal(argument, "must not have an empty label (two dots, or one at an end)", text)
    if _octets(label) > LABEL_LIMIT:
        raise refusal(argument, f"must not have a label of more than {LABEL_LIMIT} octets", text)
    if not _WIDE_LABEL.fullmatch(label) or _NOT_IN_LABEL.search(label):
        raise refusal(argument, "may have letters, digits and inner hyphens in its labels, nothing else", text)


def check_address_literal(text: str, *, argument: str = "address literal") -> str:
    """The text, if it is `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3; F83).

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is no address literal.
    """
    text = exact_text(argument, text)
    inner = text[1:-1]
    if text.isascii() and text[:1] == "[" and text[-1:] == "]":
        if inner[:5].upper() == "IPV6:" and _is_ipv6(inner[5:]):
            return text
        if _is_ipv4(inner):
            return text
    raise refusal(argument, "must be [<IPv4 address>] or [IPv6:<IPv6 address>]", text)


def address_literal(ip: str, *, argument: str = "ip") -> str:
    """The address literal of an IP address: `[192.0.2.1]`, `[IPv6:2001:db8::1]`.

    A zone index (`%eth0`) is left out: it means nothing outside this host (RFC 4007 section 6).

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is no IP address.
    """
    text = exact_text(argument, ip)
    bare = text.partition("%")[0]
    if _is_ipv4(text):
        return f"[{text}]"
    if _is_ipv6(bare):
        return f"[IPv6:{bare}]"
    raise refusal(argument, "must be an IPv4 or IPv6 address", text)


def check_ehlo_domain(text: str, *, argument: str = "ehlo_domain") -> str:
    """The text, if it can follow EHLO: an ASCII domain (`_` is allowed in it) or an address literal (F9).

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is neither.
    """
    text = exact_text(argument, text)
    if text.startswith("["):
        return check_address_literal(text, argument=argument)
    if not text:
        raise refusal(argument, "must not be empty; give a domain or an address literal", text)
    if not text.isascii():
        raise refusal(argument, "must be ASCII; give the A-label form (xn--...)", text)
    if len(text) > DOMAIN_LIMIT:
        raise refusal(argument, f"must not exceed {DOMAIN_LIMIT} octets", text)
    if not _HOST_NAME.fullmatch(text):
        raise refusal(argument, "must be a domain, or an address literal such as [192.0.2.1]", text)
    return text


def check_host(text: str, *, argument: str = "host") -> str:
    """The host to connect to: an ASCII name, without the one trailing dot it may have, or an IP address (F1).

    The same octets then serve DNS, SNI and the certificate check (SEC9).

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is neither.
    """
    text = exact_text(argument, text)
    if not text:
        raise refusal(argument, "must not be empty", text)
    if not text.isascii():
        raise refusal(argument, "must be ASCII; give the A-label form (xn--...)", text)
    if text.startswith("["):
        raise refusal(argument, "must be an IP address without brackets", text)
    if _is_ipv4(text) or _is_ipv6(text):
        return text
    name = text[:-1] if text.endswith(".") else text
    if len(name) > HOST_LIMIT:
        raise refusal(argument, f"must not exceed {HOST_LIMIT} octets", text)
    # A last label of digits is no top-level domain, but resolvers read "127.1" as an address.
    if not _HOST_NAME.fullmatch(name) or _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]):
        raise refusal(argument, "must be a host name or an IP address", text)
    return name


def check_mailbox(argument: str, text: str) -> str:
    """What of the text is the mailbox: a source route in front is dropped (F84, F84c, F84d).

    Raises:
        InvalidInputError: it is no mailbox.
    """
    if _USUAL_MAILBOX.fullmatch(text):
        return text
    _check_whole(argument, text)
    mailbox = _without_route(argument, text)
    at = _local_part_end(argument, mailbox, text)
    if at == len(mailbox):
        raise refusal(argument, "needs a domain (`local@domain`)", text)
    _check_local_part(argument, mailbox[:at], text)
    domain = mailbox[at + 1 :]
    if domain.startswith("["):
        check_address_literal(domain, argument=f"the domain of {argument}")
    else:
        check_domain(domain, argument=f"the domain of {argument}")
    return mailbox


def _check_whole(argument: str, text: str) -> None:
    if not text:
        raise refusal(argument, "must not be empty", text)
    refuse_controls(argument, text)
    if text.isspace():
        raise refusal(argument, "must not be blank", text)
    if _octets(text) > ADDRESS_LIMIT:
        raise refusal(argument, f"must not exceed {ADDRESS_LIMIT} octets", text)
    if text[0] == "<":
        raise refusal(argument, "must be given without < and >", text)


def _without_route(argument: str, text: str) -> str:
    """RFC 5321 section 4.1.1.3: source routes are accepted and ignored."""
    if text[0] != "@":
        return text
    route = _ROUTE.match(text)
    if not route:
        raise refusal(argument, "must not begin with @, unless it is a source route (`@a,@b:user@host`)", text)
    for hop in text[: route.end() - 1].split(","):
        if hop.startswith("@["):
            check_address_literal(hop[1:], argument=f"the route of {argument}")
        else:
            check_domain(hop[1:], argument=f"the route of {argument}")
    return text[route.end() :]


def _local_part_end(argument: str, mailbox: str, text: str) -> int:
    """Where the local part ends: at the last `@` outside quotes, or at the end."""
    if not mailbox.startswith('"'):
        at = mailbox.rfind("@")
        return at if at >= 0 else len(mailbox)
    found = _QUOTED_STRING.match(mailbox)
    if not found or mailbox[found.end() : found.end() + 1] not in ("@", ""):
        raise refusal(argument, "must have its quoted local part closed in front of the @", text)
    return found.end()


def _check_local_part(argument: str, local_part: str, text: str) -> None:
    if _octets(local_part) > LOCAL_PART_LIMIT:
        raise refusal(argument, f"must not have a local part of more than {LOCAL_PART_LIMIT} octets", text)
    if local_part.startswith('"') or _DOT_STRING.fullmatch(local_part):
        return
    if any(character in local_part for character in '<>, "\\;:()[]@'):
        raise refusal(argument, "must be one bare address: no display name, no <>, no blank outside quotes", text)
    raise refusal(argument, "must have a local part, with no dot in the wrong place (an end, or behind a dot)", text)


def setter_of(kind: type, name: str) -> Callable[[Any, Any], None]:
    """What a constructor sets a slot of a frozen value with: half the time of `object.__setattr__`."""
    owner = next(each for each in kind.__mro__ if name in vars(each))
    setter: Callable[[Any, Any], None] = vars(owner)[name].__set__
    return setter


@dataclass(frozen=True, order=True, slots=True, repr=False, init=False)
class _Path:
    """What goes between `<` and `>` after `MAIL FROM:` or `RCPT TO:`. `address` is the text as it was given."""

    address: str
    mailbox: str = field(init=False, compare=False)
    """What is sent: the address without its source route; empty for the null path."""

    @property
    def octets(self) -> bytes:
        """`mailbox` in UTF-8."""
        return self.mailbox.encode("utf-8")

    @property
    def _at(self) -> int:
        """Where the `@` in front of the domain is, or the length of what has none; one in quotes is not meant."""
        at = -1 if self.mailbox.endswith('"') else self.mailbox.rfind("@")
        return at if at >= 0 else len(self.mailbox)

    @property
    def local_part(self) -> str:
        """What stands in front of the `@`, quotes included."""
        return self.mailbox[: self._at]

    @property
    def domain(self) -> str | None:
        """The domain or address literal, or None where there is none."""
        return self.mailbox[self._at + 1 :] or None

    @property
    def requires_smtputf8(self) -> bool:
        """True if the local part or the domain is not ASCII (F66)."""
        return not self.mailbox.isascii()

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for paths that are the same (D18): local part in octets, domain but for the case of ASCII letters."""
        mailbox, at = self.mailbox, self._at
        return mailbox[:at].encode("utf-8"), mailbox[at + 1 :].encode("utf-8").lower()

    def __str__(self) -> str:
        return self.mailbox


@dataclass(frozen=True, order=True, slots=True, repr=False, init=False)
class ReversePath(_Path):
    """The sender of the envelope (RFC 5321 section 4.1.2): a mailbox, or `""` for the null path `<>`.

    Raises:
        TypeError: the address is no `str`.
        InvalidInputError: it is no mailbox.
    """

    def __init__(self, address: str) -> None:
        address = exact_text("sender", address)
        _put_sender(self, address)
        _put_sender_mailbox(self, check_mailbox("sender", address) if address else "")

    def __repr__(self) -> str:
        return f"ReversePath({self.address!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.address,)

    def to_dict(self) -> dict[str, Any]:
        """The path in JSON types."""
        return {"address": self.address}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ReversePath:
        """The inverse of `to_dict`."""
        return cls(data["address"])


@dataclass(frozen=True, order=True, slots=True, repr=False, init=False)
class ForwardPath(_Path):
    """A recipient of the envelope (RFC 5321 section 4.1.1.3): a mailbox, or `postmaster` in any case without a domain.

    `local=True` takes a bare local part, for LMTP only: an SMTP connection refuses it.

    Raises:
        TypeError: the address is no `str`, or `local` no `bool`.
        InvalidInputError: it is no such path.
    """

    local: bool = field(default=False, kw_only=True)

    def __init__(self, address: str, *, local: bool = False) -> None:
        mailbox = address
        if local is not False or type(address) is not str or not _USUAL_MAILBOX.fullmatch(address):
            address = exact_text("recipient", address)
            mailbox = _forward_mailbox(address, local)
        _put_recipient(self, address)
        _put_recipient_mailbox(self, mailbox)
        _put_local(self, local)

    def __repr__(self) -> str:
        return f"ForwardPath({self.address!r}, local=True)" if self.local else f"ForwardPath({self.address!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _forward_path, (self.address, self.local)

    def to_dict(self) -> dict[str, Any]:
        """The path in JSON types."""
        return {"address": self.address, "local": self.local}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ForwardPath:
        """The inverse of `to_dict`."""
        return cls(data["address"], local=data["local"])


def _forward_path(address: str, local: bool) -> ForwardPath:
    return ForwardPath(address, local=local)


_put_sender, _put_sender_mailbox = setter_of(ReversePath, "address"), setter_of(ReversePath, "mailbox")
_put_recipient, _put_recipient_mailbox = setter_of(ForwardPath, "address"), setter_of(ForwardPath, "mailbox")
_put_local = setter_of(ForwardPath, "local")


def _forward_mailbox(address: str, local: object) -> str:
    """What is sent for the address of a recipient."""
    if local is True:  # a local part without a domain
        _check_whole("recipient", address)
        if _local_part_end("recipient", address, address) < len(address):
            raise refusal("recipient", "has a domain; leave local=True away", address)
        _check_local_part("recipient", address, address)
        return address
    if local is not False:
        raise TypeError(f"local must be a bool, not {type(local).__name__}")
    if len(address) == 10 and address.isascii() and address.lower() == "postmaster":
        return address
    if address and "@" not in address:
        _check_whole("recipient", address)
        raise refusal("recipient", "needs a domain (over LMTP: ForwardPath(..., local=True))", address)
    return check_mailbox("recipient", address)
