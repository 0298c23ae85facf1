"""What the text of an option means.

Each function raises ValueError for text that is none of its kind; argparse then names the function and the text.
"""

from __future__ import annotations

import ipaddress

from smtpconn import ForwardPath, ReversePath, Timeouts


def positive(text: str) -> int:
    """A number of things, at least one."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def count(text: str) -> int:
    """A number of things, none included."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def seconds(text: str) -> float:
    """A limit in seconds."""
    number = float(text)
    Timeouts(total=number)  # refuses what is no limit
    return number


def sender(text: str) -> str:
    """The address of an envelope's sender; empty is the null path."""
    return str(ReversePath(text))


def recipient(text: str) -> str:
    """The address of a recipient."""
    return str(ForwardPath(text))


def server(text: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 address in brackets."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not bare or bracketed != (":" in bare) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError
    return bare, int(port)


def port(text: str) -> int:
    """A TCP port."""
    number = positive(text)
    if number > 65535:
        raise ValueError
    return number


def port_or_any(text: str) -> int:
    """A TCP port; 0 lets the system choose."""
    return 0 if text == "0" else port(text)


def ip_address(text: str) -> str:
    """An IP address."""
    return str(ipaddress.ip_address(text))
