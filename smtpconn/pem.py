"""PEM bundles to certificates, all or none (features F113).

Knows RFC 7468's text form; refuses to know what a certificate says. Errors name a line, never what stands there.
"""

from __future__ import annotations

import base64
import binascii
import re

from smtpconn.protocol.errors import InvalidInputError

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_BOUNDARY = re.compile(rb"-----|BEGIN [A-Z0-9 ]*CERTIFICATE|END [A-Z0-9 ]*CERTIFICATE|PRIVATE KEY")


def pem_certificates(octets: bytes) -> list[bytes]:
    """The certificates (DER) of a bundle, all or none (RFC 7468). Text between the blocks is allowed, boundaries not.

    Raises:
        InvalidInputError: no certificate, a bad block, or a stray boundary. The text names a line, never what stands
            there.
    """
    found: list[bytes] = []
    block: list[bytes] | None = None
    for number, line in enumerate(octets.replace(b"\r\n", b"\n").split(b"\n"), 1):
        text = line.strip(b" \t\r")
        if block is None:
            if text == _BEGIN:
                block = []
            elif _BOUNDARY.search(text):
                raise InvalidInputError(f"trust: line {number} of the PEM data is a boundary, but not of a certificate")
        elif text == _END:
            found.append(_der(b"".join(block), number))
            block = None
        else:
            block.append(text)
    if block is not None:
        raise InvalidInputError("trust: the last block of the PEM data has no end")
    if not found:
        raise InvalidInputError("trust: the PEM data must have at least one certificate")
    return found


def _der(text: bytes, number: int) -> bytes:
    try:
        der = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise InvalidInputError(f"trust: the block that ends in line {number} of the PEM data is not base64") from None
    if not _is_one_sequence(der):
        raise InvalidInputError(f"trust: the block that ends in line {number} of the PEM data is not a certificate")
    return der


def _is_one_sequence(der: bytes) -> bool:
    """True if it is one DER SEQUENCE and nothing behind it: OpenSSL would drop what follows without a word."""
    if len(der) < 2 or der[0] != 0x30:
        return False
    if der[1] < 0x80:
        return len(der) == 2 + der[1]
    size = der[1] & 0x7F
    return len(der) == 2 + size + int.from_bytes(der[2 : 2 + size], "big")
