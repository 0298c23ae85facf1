"""Values inside a parameter: xtext (RFC 3461 section 4) and its form for UTF-8 addresses (RFC 6533 section 3).

Knows two encodings and nothing of what is encoded. Its law: whatever goes in, printable ASCII without a blank comes
out.
"""

from __future__ import annotations

import re

from smtpconn.protocol.address import exact_text, refusal

_NOT_XCHAR = re.compile(r"[^!-*,-<>-~]")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")


def encode(text: str) -> str:
    """The text as xtext: octets 0x21-0x7E but `+` and `=` as they are, every other as `+` and two upper-case digits."""
    if not _NOT_XCHAR.search(text):
        return text
    return _NOT_XCHAR.sub(lambda match: f"+{ord(match.group()):02X}", text.encode("utf-8").decode("latin-1"))


def decode(text: str, *, argument: str = "xtext") -> str:
    """The inverse of `encode`.

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is no xtext, or not that of UTF-8.
    """
    text = exact_text(argument, text)
    if not _XTEXT.fullmatch(text):
        raise refusal(argument, "must be xtext (RFC 3461 section 4)", text)
    octets = _HEXCHAR.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), text.encode("ascii"))
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise refusal(argument, "must be the xtext of UTF-8", text) from None


def encode_utf8_address(text: str) -> str:
    r"""The address of an ORCPT of type `utf-8`: what is no QCHAR becomes `\x{HEX}` (utf-8-addr-xtext)."""
    return _NOT_QCHAR.sub(lambda match: f"\\x{{{ord(match.group()):02X}}}", text)
