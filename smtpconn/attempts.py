"""What became of an attempt that a foreign exception cut off: a soft time limit, KeyboardInterrupt, SystemExit.

Such an exception passes unchanged, so the verdicts travel on it; `attempt_of` reads them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smtpconn.protocol.errors import Delivery, SmtpError, summary
from smtpconn.protocol.result import RecipientResult

_ATTRIBUTE = "_smtpconn_attempt"


@dataclass(frozen=True)
class AttemptVerdict:
    """The verdicts of one attempt: one entry in `recipients` per recipient given, in order."""

    recipients: tuple[RecipientResult, ...]
    cut_off: bool = False  # from outside, in mid-attempt: neither the mail nor its body raised it

    @property
    def delivery(self) -> Delivery:
        """The attempt's verdict as one value."""
        return summary([entry.delivery for entry in self.recipients])

    @property
    def retry_safe(self) -> bool:
        """True if repeating the mail cannot duplicate anything."""
        return self.delivery is Delivery.NOT_DELIVERED

    def to_dict(self) -> dict[str, Any]:
        """The verdicts in JSON types."""
        return {"recipients": [entry.to_dict() for entry in self.recipients], "cut_off": self.cut_off}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AttemptVerdict:
        """The inverse of `to_dict`."""
        return cls(tuple(RecipientResult.from_dict(entry) for entry in data["recipients"]), data["cut_off"])


def attempt_of(error: BaseException) -> AttemptVerdict | None:
    """What became of the mail that this exception cut off, or None if it cut off none."""
    found = getattr(error, _ATTRIBUTE, None)
    return found if isinstance(found, AttemptVerdict) else None


def recipients_of(error: BaseException) -> tuple[RecipientResult, ...]:
    """The verdicts that an exception carries, ours or foreign; empty if it cut off no mail."""
    if isinstance(error, SmtpError):
        return error.recipients
    verdict = attempt_of(error)
    return () if verdict is None else verdict.recipients


def attach(
    error: BaseException, stage: str, recipients: Sequence[RecipientResult], *, cut_off: bool = False
) -> None:
    """Put the verdicts on an exception, and a note for people where Python has notes (3.11)."""
    verdict = AttemptVerdict(tuple(recipients), cut_off)
    with contextlib.suppress(AttributeError, TypeError):  # an exception class may refuse attributes
        setattr(error, _ATTRIBUTE, verdict)
        add_note = getattr(error, "add_note", None)
        if add_note is not None:
            add_note(f"smtpconn: cut off at {stage}; the mail is {verdict.delivery.value}")
