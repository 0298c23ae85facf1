"""Message content as octets: what dot-stuffing hid, and what does not belong into text.

It knows RFC 5321 4.5.2 and the line end. It refuses to know how the octets came and what is done about them.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["objections", "unstuff"]


def unstuff(received: bytes) -> tuple[bytes, bool]:
    """Remove dot-stuffing.

    Args:
        received: CRLF, then the content as received, without the lone dot: so the first line is one like all others.

    Returns:
        The content, and whether every line that begins with a dot was stuffed.
    """
    stuffed = received.count(b"\r\n.") == received.count(b"\r\n..")
    return received.replace(b"\r\n.", b"\r\n")[2:], stuffed


def objections(content: bytes, body: str, *, smtputf8: bool) -> Iterator[str]:
    """Say what a strict server has against this content, announced with this BODY value."""
    if body == "BINARYMIME":
        return
    line_ends = content.count(b"\r\n")
    if content.count(b"\n") != line_ends:
        yield "bare LF in the content"
    if content.count(b"\r") != line_ends:
        yield "bare CR in the content"
    if b"\0" in content:
        yield "NUL in the content"
    if body == "7BIT" and not smtputf8 and not content.isascii():
        yield "8-bit content without BODY=8BITMIME"
