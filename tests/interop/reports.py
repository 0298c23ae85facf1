"""Delivery status notifications (RFC 3464) as they lie in a Maildir, taken apart by the standard library.

Knows MIME; knows no server and nothing of smtpconn.
"""

from __future__ import annotations

import email
import email.policy
from dataclasses import dataclass
from email.message import EmailMessage, Message


@dataclass(frozen=True)
class Report:
    """One notification: the fields of the mail and of its (only) recipient, and what came back of the mail itself."""

    fields: dict[str, str]
    """Every field of message/delivery-status, its name in lower case."""
    returned_type: str
    """`text/rfc822-headers`, or `message/rfc822` for the whole mail."""
    returned: str

    @classmethod
    def read(cls, stored: bytes) -> Report | None:
        """Take a stored mail apart; None if it is no notification."""
        notification = email.message_from_bytes(stored, policy=email.policy.default)
        assert isinstance(notification, EmailMessage)
        if notification.get_content_type() != "multipart/report":
            return None
        _, status, returned = notification.iter_parts()
        blocks = status.get_payload()
        assert isinstance(blocks, list)
        fields: dict[str, str] = {}
        for block in blocks:
            assert isinstance(block, Message)
            fields.update({name.lower(): str(value) for name, value in block.items()})
        payload = returned.get_payload()
        inner = payload[0] if isinstance(payload, list) else payload
        text = inner.as_string() if isinstance(inner, Message) else str(inner)
        return cls(fields, returned.get_content_type(), text)
