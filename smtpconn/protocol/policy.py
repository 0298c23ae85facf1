"""`SendPolicy`: the caller's own say about what may be sent, asked before the first octet (F98-F100)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.errors import InvalidInputError, PolicyError, numeral
from smtpconn.protocol.mail import Recipient


class SendPolicy(Protocol):
    """Three questions, asked in this order, once each. Returning means yes; raising `PolicyError` means no.

    Any other exception refuses, too (fail closed). For a stream of unknown size `check_message_size(None)` is followed
    by `check_message_size(n)` with the octets so far after each slice.
    """

    def check_sender(self, sender: ReversePath) -> None:
        """May this sender send?"""

    def check_recipients(self, recipients: Sequence[Recipient]) -> None:
        """May these recipients be sent to? The whole list, as given."""

    def check_message_size(self, size: int | None) -> None:
        """May a message of this many octets (as given, before stuffing) be sent? None: not known yet."""


class DefaultPolicy:
    """Allows everything."""

    def check_sender(self, sender: ReversePath) -> None:
        """Allow."""

    def check_recipients(self, recipients: Sequence[Recipient]) -> None:
        """Allow."""

    def check_message_size(self, size: int | None) -> None:
        """Allow."""


class BoundedPolicy:
    """At most so many recipients and so many octets, both inclusive; None is no limit."""

    def __init__(self, *, max_recipients: int | None = None, max_message_bytes: int | None = None) -> None:
        self.max_recipients = _limit("max_recipients", max_recipients)
        self.max_message_bytes = _limit("max_message_bytes", max_message_bytes)

    def check_sender(self, sender: ReversePath) -> None:
        """Allow: the sender is not looked at."""

    def check_recipients(self, recipients: Sequence[Recipient]) -> None:
        """Refuse more than `max_recipients`."""
        if self.max_recipients is not None and len(recipients) > self.max_recipients:
            raise PolicyError(f"{len(recipients)} recipients, more than the policy's {self.max_recipients}")

    def check_message_size(self, size: int | None) -> None:
        """Refuse more than `max_message_bytes`; an unknown size passes (its slices are counted)."""
        if size is not None and self.max_message_bytes is not None and size > self.max_message_bytes:
            raise PolicyError(f"a message of {size} octets, more than the policy's {self.max_message_bytes}")

    def __repr__(self) -> str:
        return f"BoundedPolicy(max_recipients={self.max_recipients}, max_message_bytes={self.max_message_bytes})"


def _limit(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or None, not {type(value).__name__}")
    if value < 0:
        raise InvalidInputError(f"{name} must not be negative: {numeral(value)}")
    return value
