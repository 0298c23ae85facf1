"""From the verdicts of an attempt to what a queue does with the mail. Needs no extra and knows no queue.

Knows the table of actions; refuses to know how a task is tried again. Its laws: what may be at a recipient already is
never `RETRY`; a recipient that has the mail, or was refused for good, is in no list of recipients to try again.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smtpconn.attempts import attempt_of
from smtpconn.contrib.border import original
from smtpconn.outcomes import MailOutcome
from smtpconn.protocol.errors import (
    Delivery,
    DeliveryUnknownError,
    PoolOverloadedError,
    PoolTimeoutError,
    RecipientsRefusedError,
    SmtpError,
    summary,
)
from smtpconn.protocol.result import RecipientResult, SendResult

Outcome = SendResult | MailOutcome | BaseException

_FIRST = 60.0  # seconds: servers that put mail off do it for minutes
_FIRST_OF_POOL = 5.0  # seconds: a place in our own pool comes free when a mail is through
_LONGEST = 3600.0
# Without their recipients, as result back ends make them anew from their text, they prove nothing.
_OF_SOMEBODY = (DeliveryUnknownError, RecipientsRefusedError)
_SPREAD = 0.2  # so that what failed together does not come back together


class Action(str, enum.Enum):
    """What to do with a mail.

    `DONE`: every recipient has it. `RETRY_SOME`: send again, but to `Decision.recipients` only. `BOUNCE`: tell the
    sender of `Decision.recipients`, which were refused for good. `RETRY`: nobody has it, and trying again may help.
    `FAIL`: nobody has it, and trying again cannot help. `UNKNOWN`: `Decision.recipients` may have it or not; never
    send again without somebody's consent to duplicates.
    """

    DONE = "DONE"
    RETRY_SOME = "RETRY_SOME"
    BOUNCE = "BOUNCE"
    RETRY = "RETRY"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Decision:
    """What to do, and for whom.

    `recipients`: those that `action` speaks of. `results`: every recipient of the mail, as far as they are known.
    `delivery`: the verdict as one value.
    """

    action: Action
    recipients: tuple[RecipientResult, ...]
    delivery: Delivery
    results: tuple[RecipientResult, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The decision in JSON types, for a result back end. It has addresses and the server's texts in it."""
        return {
            "action": self.action.value,
            "recipients": [entry.to_dict() for entry in self.recipients],
            "delivery": self.delivery.value,
            "results": [entry.to_dict() for entry in self.results],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Decision:
        """The inverse of `to_dict`."""
        recipients, results = (
            tuple(RecipientResult.from_dict(entry) for entry in data[name]) for name in ("recipients", "results")
        )
        return cls(Action(data["action"]), recipients, Delivery(data["delivery"]), results)


def decide(outcome: Outcome) -> Decision:
    """What to do after this outcome of one mail.

    `outcome`: a `SendResult`, a `MailOutcome`, an `SmtpError`, one of the exceptions that the smtplib-shaped classes
    raise, or a foreign exception that struck during a send; one that carries no verdicts means UNKNOWN.
    """
    error = error_of(outcome)
    if isinstance(outcome, (SendResult, MailOutcome)):
        return judge(outcome.recipients, error)
    if not isinstance(outcome, BaseException):
        raise TypeError(f"outcome must be a SendResult, a MailOutcome or an exception, not {type(outcome).__name__}")
    ours = smtp_error_of(outcome)
    attempt = attempt_of(outcome) if ours is None else ours
    if attempt is None or (not attempt.recipients and isinstance(ours, _OF_SOMEBODY)):
        return Decision(Action.UNKNOWN, (), Delivery.UNKNOWN)
    return judge(attempt.recipients, error)


def judge(results: Sequence[RecipientResult], error: BaseException | None) -> Decision:
    """The decision for these verdicts, and the error that came with them."""
    results = tuple(results)
    delivery = summary([entry.delivery for entry in results])
    missing = [entry for entry in results if entry.delivery is not Delivery.DELIVERED]
    waiting = [entry for entry in missing if entry.permanent is not True]
    if delivery is Delivery.UNKNOWN:
        action, about = Action.UNKNOWN, [entry for entry in missing if entry.delivery is Delivery.UNKNOWN]
    elif error is None or delivery is Delivery.DELIVERED:
        if not missing:
            action, about = Action.DONE, missing
        else:
            action, about = (Action.RETRY_SOME, waiting) if waiting else (Action.BOUNCE, missing)
    elif is_permanent(error):
        action, about = Action.FAIL, missing
    else:
        action, about = Action.RETRY, waiting
    return Decision(action, tuple(about), delivery, results)


def error_of(outcome: object) -> BaseException | None:
    """The exception of an outcome, as it was raised; None if there is none."""
    if isinstance(outcome, MailOutcome):
        return outcome.error
    return outcome if isinstance(outcome, BaseException) else None


def smtp_error_of(error: BaseException | None) -> SmtpError | None:
    """The `SmtpError` that this is, or that it was translated from; None if it is neither."""
    if error is None or isinstance(error, SmtpError):
        return error
    return original(error)


def is_permanent(error: BaseException | None) -> bool:
    """True if it is known that trying again cannot help."""
    ours = smtp_error_of(error)
    return ours is not None and ours.permanent is True


def backoff(
    error: BaseException | None, retries: int, *, spread: Callable[[float, float], float] = random.uniform
) -> float:
    """Seconds to wait before the next attempt, after `retries` of them: doubling, spread by 20 %, at most an hour.

    It begins with 60 s, or with 5 s where only the own pool had no place. Not shorter than the error's `retry_after`.
    """
    ours = smtp_error_of(error)
    first = _FIRST_OF_POOL if isinstance(ours, (PoolTimeoutError, PoolOverloadedError)) else _FIRST
    seconds = first * 2.0 ** min(retries, 20) * spread(1 - _SPREAD, 1 + _SPREAD)
    asked = ours.retry_after if ours is not None and ours.retry_after is not None else 0.0
    return min(max(seconds, asked), _LONGEST)
