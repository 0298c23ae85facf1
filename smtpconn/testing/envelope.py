"""Strict parsing of what follows MAIL, RCPT and EHLO: paths, parameters, xtext, domains.

It knows the grammars of RFC 5321 4.1.2, 6531 3.3, 3461 4 and of the parameters in `_PARAMETERS`. It refuses to know
sessions, replies on the wire and the client library: the judge of an encoder must not share a line with it.

Laws: a parameter of an extension that was not offered is a 555, whatever its value; what is accepted is accepted as
written (case and xtext kept); every refusal is an `EnvelopeError` that carries the reply.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection

__all__ = ["EnvelopeError", "decode_xtext", "parse_forward_path", "parse_reverse_path", "valid_ehlo_domain"]

Parameters = dict[str, "str | None"]

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_LOCAL_PART = rf'(?:{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")'
_LABEL = r"[A-Za-z0-9_\u0080-\U0010ffff](?:[A-Za-z0-9_\-\u0080-\U0010ffff]*[A-Za-z0-9_\u0080-\U0010ffff])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[\x21-\x5a\x5e-\x7e]+\]"
_MAILBOX = rf"{_LOCAL_PART}@(?:{_DOMAIN}|{_LITERAL})"
_ROUTE = rf"(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?"

_REVERSE = re.compile(rf"FROM:<(?:{_ROUTE}({_MAILBOX}))?>(?: (.*))?", re.IGNORECASE | re.DOTALL)
_FORWARD = re.compile(rf"TO:<(?:{_ROUTE}({_MAILBOX})|(postmaster))>(?: (.*))?", re.IGNORECASE | re.DOTALL)
_EHLO_DOMAIN = re.compile(_DOMAIN)
_LITERAL_RE = re.compile(_LITERAL)

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([\x21-\x3c\x3e-\x7e\u0080-\U0010ffff]+))?")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UTF8_ADDRESS = re.compile(r"(?:[!-*,-<>-\[\]-~\u0080-\U0010ffff]|\\x\{[0-9A-F]{1,6}\}|\+[0-9A-F]{2})+")


class EnvelopeError(Exception):
    """A MAIL or RCPT command that must be refused.

    Attributes:
        reply: the reply without CRLF.
        broken: True if the client broke the grammar or used what was not offered; it counts as a violation then.
    """

    def __init__(self, reply: str, *, broken: bool = True) -> None:
        super().__init__(reply)
        self.reply = reply
        self.broken = broken


def decode_xtext(text: str) -> str:
    """Return what an xtext (RFC 3461 4) stands for; `ValueError` if it is none."""
    if not _XTEXT.fullmatch(text):
        raise ValueError(f"not an xtext: {text!r}")
    return _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)


def valid_ehlo_domain(domain: str) -> bool:
    """Tell whether this is a domain or an address literal (RFC 5321 4.1.1.1)."""
    if domain.startswith("["):
        return _valid_literal(domain)
    return len(domain) <= 255 and _EHLO_DOMAIN.fullmatch(domain) is not None


def parse_reverse_path(argument: str, offered: Collection[str]) -> tuple[str, Parameters]:
    """Parse what follows `MAIL `: the path without its brackets ("" for the null path) and the parameters."""
    match = _REVERSE.fullmatch(argument)
    if match is None:
        raise EnvelopeError("501 5.1.7 Syntax: MAIL FROM:<address>")
    path = match[1] or ""
    parameters = _parse_parameters(match[2], _MAIL_PARAMETERS, offered) if match[2] is not None else {}
    _check_path(path, "SMTPUTF8" in parameters, "5.1.7")
    if parameters.get("BODY") == "BINARYMIME" and "BINARYMIME" not in offered:
        raise EnvelopeError("555 5.5.4 BODY=BINARYMIME was not offered")
    if "HOLDFOR" in parameters and "HOLDUNTIL" in parameters:
        raise EnvelopeError("501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other")
    return path, parameters


def parse_forward_path(argument: str, offered: Collection[str], *, smtputf8: bool) -> tuple[str, Parameters]:
    """Parse what follows `RCPT `; `smtputf8` tells whether MAIL carried that parameter."""
    match = _FORWARD.fullmatch(argument)
    if match is None:
        raise EnvelopeError("501 5.1.3 Syntax: RCPT TO:<address>")
    path = match[1] or match[2]
    _check_path(path, smtputf8, "5.1.3")
    return path, _parse_parameters(match[3], _RCPT_PARAMETERS, offered) if match[3] is not None else {}


def _check_path(path: str, smtputf8: bool, enhanced: str) -> None:
    if not smtputf8 and not path.isascii():
        raise EnvelopeError("553 5.6.7 Non-ASCII address without SMTPUTF8")
    if path.endswith("]") and not _valid_literal(path[path.rindex("[") :]):
        raise EnvelopeError(f"501 {enhanced} Bad address literal")
    if len(path.encode()) > 254:
        raise EnvelopeError(f"501 {enhanced} Path too long")


def _valid_literal(literal: str) -> bool:
    if not _LITERAL_RE.fullmatch(literal):
        return False
    inner = literal[1:-1]
    try:
        if inner.lower().startswith("ipv6:"):
            ipaddress.IPv6Address(inner[5:])
        elif ":" not in inner:
            ipaddress.IPv4Address(inner)
        else:  # a General-address-literal: standardised tag, then anything printable
            return re.fullmatch(r"[A-Za-z0-9\-]*[A-Za-z0-9]:[!-Z^-~]+", inner) is not None
    except ValueError:
        return False
    return True


def _parse_parameters(text: str, known: dict[str, _Known], offered: Collection[str]) -> Parameters:
    parameters: Parameters = {}
    for word in text.split(" "):
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise EnvelopeError("501 5.5.4 Bad parameter syntax")
        keyword, value = match[1].upper(), match[2]
        if keyword in parameters:
            raise EnvelopeError(f"501 5.5.4 {keyword} given twice")
        extensions, valid = known.get(keyword, ((keyword,), _anything))
        # An unknown parameter that is named like an offered keyword belongs to that private extension (XVERP).
        if not any(extension in offered for extension in extensions):
            raise EnvelopeError(f"555 5.5.4 {keyword} was not offered")
        if not valid(value):
            raise EnvelopeError(f"501 5.5.4 Bad value of {keyword}")
        parameters[keyword] = value
    return parameters


_Known = tuple[tuple[str, ...], Callable[["str | None"], bool]]


def _anything(value: str | None) -> bool:
    return True


def _nothing(value: str | None) -> bool:
    return value is None


def _matching(pattern: str) -> Callable[[str | None], bool]:
    compiled = re.compile(pattern)
    return lambda value: value is not None and compiled.fullmatch(value) is not None


def _xtext(value: str | None) -> bool:
    return value is not None and len(value) <= 100 and _XTEXT.fullmatch(value) is not None


def _auth(value: str | None) -> bool:
    return value is not None and _XTEXT.fullmatch(value) is not None


def _notify(value: str | None) -> bool:
    if value is None:
        return False
    words = value.upper().split(",")
    return words == ["NEVER"] or (len(set(words)) == len(words) and set(words) <= {"SUCCESS", "FAILURE", "DELAY"})


def _orcpt(value: str | None) -> bool:
    kind, separator, address = (value or "").partition(";")
    if not separator or not re.fullmatch(r"[A-Za-z0-9\-]+", kind) or not address or len(address) > 500:
        return False
    grammar = _UTF8_ADDRESS if kind.lower() == "utf-8" else _XTEXT
    return grammar.fullmatch(address) is not None


_MAIL_PARAMETERS: dict[str, _Known] = {
    "SIZE": (("SIZE",), _matching(r"[0-9]{1,20}")),
    "BODY": (("8BITMIME", "BINARYMIME"), _matching(r"(?i:7BIT|8BITMIME|BINARYMIME)")),
    "SMTPUTF8": (("SMTPUTF8",), _nothing),
    "RET": (("DSN",), _matching(r"(?i:FULL|HDRS)")),
    "ENVID": (("DSN",), _xtext),
    "AUTH": (("AUTH",), _auth),
    "BY": (("DELIVERBY",), _matching(r"[+-]?[0-9]{1,9};(?i:[RN]T?)")),
    "HOLDFOR": (("FUTURERELEASE",), _matching(r"[0-9]{1,9}")),
    "HOLDUNTIL": (("FUTURERELEASE",), _matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")),
    "MT-PRIORITY": (("MT-PRIORITY",), _matching(r"-?[0-9]")),
    "REQUIRETLS": (("REQUIRETLS",), _nothing),
    "SOLICIT": (("NO-SOLICITING",), _matching(r".+")),
}
_RCPT_PARAMETERS: dict[str, _Known] = {
    "NOTIFY": (("DSN",), _notify),
    "ORCPT": (("DSN",), _orcpt),
    "RRVS": (("RRVS",), _matching(r".+")),
}
