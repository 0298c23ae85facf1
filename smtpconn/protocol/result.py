"""What a send gives back: one verdict for every recipient given, in the order given (D9, D18)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smtpconn.protocol.address import setter_of
from smtpconn.protocol.errors import Delivery, RecipientsRefusedError, summary
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.reply import Reply, safe_text

_QUEUE_ID = re.compile(r"[A-Za-z0-9-]{6,}")
_QUEUE_ID_MARKS = ("queued as ", " id=", " id ")
_TOO_MANY_RECIPIENTS = 552  # a 452 in an older server's words (RFC 5321 section 4.5.3.1.10)
_SHOWN = 500


def queue_id(reply: Reply | None) -> str | None:
    """The queue id that a final reply names in one of the usual wordings, or None (F69)."""
    if reply is None:
        return None
    text = reply.text
    for mark in _QUEUE_ID_MARKS:
        at = text.find(mark)
        while at >= 0:
            found = _QUEUE_ID.match(text, at + len(mark))
            if found:
                return found.group()
            at = text.find(mark, at + len(mark))
    return None


@dataclass(frozen=True, init=False, slots=True)
class RecipientResult:
    """What became of one recipient.

    `reply` is the reply that decided it, or None where none was read; `stage` where that was (`MAIL`, `RCPT`, `DATA`,
    `BDAT`, `end of data`), or None.
    """

    recipient: Recipient
    delivery: Delivery
    reply: Reply | None
    stage: str | None

    def __init__(
        self, recipient: Recipient, delivery: Delivery, reply: Reply | None = None, stage: str | None = None
    ) -> None:
        _put_recipient(self, recipient)
        _put_delivery(self, delivery)
        _put_reply(self, reply)
        _put_stage(self, stage)

    @property
    def address(self) -> str:
        """The address as it was given."""
        return self.recipient.address

    @property
    def permanent(self) -> bool | None:
        """True if refused by 5yz, False by 4yz, None otherwise; 552 to RCPT counts as temporary."""
        if self.delivery is not Delivery.NOT_DELIVERED or self.reply is None:
            return None
        if self.stage == "RCPT" and self.reply.code == _TOO_MANY_RECIPIENTS:
            return False
        return self.reply.is_permanent if self.reply.is_permanent or self.reply.is_transient else None

    @property
    def queue_id(self) -> str | None:
        """The queue id in this recipient's final reply, or None."""
        return queue_id(self.reply) if self.delivery is Delivery.DELIVERED else None

    def __str__(self) -> str:
        line = f"{self.address}: {self.delivery.value}"
        return safe_text(line if self.reply is None else f"{line} ({self.reply})")[:_SHOWN]

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON types."""
        return {
            "recipient": self.recipient.to_dict(),
            "delivery": self.delivery.value,
            "reply": self.reply.to_dict() if self.reply else None,
            "stage": self.stage,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RecipientResult:
        """The inverse of `to_dict`."""
        reply = Reply.from_dict(data["reply"]) if data["reply"] else None
        return cls(Recipient.from_dict(data["recipient"]), Delivery(data["delivery"]), reply, data["stage"])


_put_recipient, _put_delivery = setter_of(RecipientResult, "recipient"), setter_of(RecipientResult, "delivery")
_put_reply, _put_stage = setter_of(RecipientResult, "reply"), setter_of(RecipientResult, "stage")


@dataclass(frozen=True)
class SendResult:
    """The outcome of one mail: `recipients` has one entry per recipient given, in order; `reply` is the final reply.

    Over LMTP every recipient has a final reply of its own and `reply` is None (RFC 2033 section 4.2).
    """

    recipients: tuple[RecipientResult, ...]
    reply: Reply | None = None

    @property
    def accepted(self) -> tuple[RecipientResult, ...]:
        """The recipients that have the mail."""
        return tuple(entry for entry in self.recipients if entry.delivery is Delivery.DELIVERED)

    @property
    def rejected(self) -> tuple[RecipientResult, ...]:
        """The recipients that do not have it."""
        return tuple(entry for entry in self.recipients if entry.delivery is not Delivery.DELIVERED)

    @property
    def delivery(self) -> Delivery:
        """DELIVERED if at least one recipient has the mail, else NOT_DELIVERED."""
        return summary([entry.delivery for entry in self.recipients])

    @property
    def all_delivered(self) -> bool:
        """True if every recipient has the mail."""
        return all(entry.delivery is Delivery.DELIVERED for entry in self.recipients)

    @property
    def queue_id(self) -> str | None:
        """The server's queue id, where its final reply names one in a known wording (over LMTP: the first one)."""
        if self.reply is not None:
            return queue_id(self.reply)
        return next((found for found in (entry.queue_id for entry in self.recipients) if found), None)

    def raise_for_refused(self) -> SendResult:
        """Itself if every recipient has the mail; else raises `RecipientsRefusedError`, which says who has it."""
        if self.all_delivered:
            return self
        raise refusal(self.recipients)

    def __str__(self) -> str:
        accepted, total = len(self.accepted), len(self.recipients)
        parts = [] if accepted == total else [f"{accepted} of {total} recipients"]
        reply = self.reply or next((entry.reply for entry in self.accepted + self.rejected if entry.reply), None)
        if reply is not None:
            identity = queue_id(reply)
            parts += [f"{reply.code} (queue id {identity})"] if identity else [str(reply.code), reply.message]
        return safe_text(": ".join(part for part in parts if part))[:_SHOWN]

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON types."""
        entries = [entry.to_dict() for entry in self.recipients]
        return {"recipients": entries, "reply": self.reply.to_dict() if self.reply else None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SendResult:
        """The inverse of `to_dict`."""
        entries = tuple(RecipientResult.from_dict(entry) for entry in data["recipients"])
        return cls(entries, Reply.from_dict(data["reply"]) if data["reply"] else None)


def nobody_has_it(recipients: Iterable[Recipient]) -> tuple[RecipientResult, ...]:
    """The verdicts of a mail of which nothing was written."""
    return tuple(RecipientResult(given, Delivery.NOT_DELIVERED) for given in recipients)


def refusal(recipients: tuple[RecipientResult, ...]) -> RecipientsRefusedError:
    """The error that says which recipients were refused; permanent only if every refusal is (F56)."""
    refused = [entry for entry in recipients if entry.delivery is not Delivery.DELIVERED]
    verdicts = {entry.permanent for entry in refused}
    permanent = True if verdicts == {True} else False if False in verdicts else None
    first = refused[0]
    why = first.reply or "no reply"
    message = f"{len(refused)} of {len(recipients)} recipients refused, first {first.address}: {why}"
    reply = first.reply if len(refused) == 1 else None
    return RecipientsRefusedError(message, reply=reply, recipients=recipients, permanent=permanent)
