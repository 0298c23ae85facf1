"""What `send_many` yields: one `MailOutcome` per mail, out of `MailOutcomes`; close it when nobody wants more."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from smtpconn.attempts import attempt_of
from smtpconn.deadline import Budget, Timeouts
from smtpconn.protocol.errors import Delivery, SmtpError, summary
from smtpconn.protocol.mail import Mail, Recipient, recipients_of
from smtpconn.protocol.result import RecipientResult, SendResult, nobody_has_it


@dataclass(frozen=True, kw_only=True)
class MailOutcome:
    """What became of the mail with this `index` in the input: a `result`, or an `error`.

    `error` is an `SmtpError`, or whatever the mail's own body raised.
    """

    index: int
    mail: Mail
    result: SendResult | None = None
    error: BaseException | None = None

    @classmethod
    def of(cls, index: int, mail: Mail, send: Callable[[Mail], SendResult]) -> MailOutcome:
        """Send the mail; whatever it raises is its outcome, because a mail fails alone (SM6).

        What cut the attempt off from outside (a soft time limit, MemoryError) is not the mail's, and passes (CE9).
        """
        result: SendResult | None = None
        failure: Exception | None = None
        try:
            result = send(mail)
        except SmtpError as error:
            failure = error
        except Exception as error:
            verdict = attempt_of(error)
            if verdict is not None and verdict.cut_off:
                raise
            failure = error
        return cls(index=index, mail=mail, result=result, error=failure)

    @property
    def recipients(self) -> tuple[RecipientResult, ...]:
        """One verdict per recipient of the mail, in order."""
        if self.result is not None:
            return self.result.recipients
        verdict = None if self.error is None else attempt_of(self.error)
        found = verdict.recipients if verdict is not None else getattr(self.error, "recipients", ())
        if found:
            return tuple(found)
        return nobody_has_it(self.mail.recipients or ())

    @property
    def delivery(self) -> Delivery:
        """The verdicts as one value."""
        return summary([entry.delivery for entry in self.recipients])

    @property
    def retry_safe(self) -> bool:
        """True if sending the mail again cannot duplicate anything."""
        return self.delivery is Delivery.NOT_DELIVERED

    @property
    def permanent(self) -> bool | None:
        """The `permanent` of the error; None without an error, or where it does not say."""
        return self.error.permanent if isinstance(self.error, SmtpError) else None

    @property
    def scope(self) -> str | None:
        """Whose fault: the `scope` of the error; `caller` where the mail's body raised it; None without an error."""
        if self.error is None:
            return None
        return self.error.scope if isinstance(self.error, SmtpError) else "caller"

    def __repr__(self) -> str:
        what = "" if self.error is None else f", error={type(self.error).__name__}"
        return f"<MailOutcome {self.index}: {self.delivery.value}{what}>"


def mail_of_call(sender: Any, recipients: Any, message: Any, **options: Any) -> Mail:
    """The `Mail` that the arguments of a verb mean. An error about its content has a verdict for each recipient."""
    given = recipients_of(recipients)
    try:
        return Mail(sender, given, message, **options)
    except SmtpError as error:
        error.recipients = nobody_has_it(given)
        raise


def budget_of_call(timeout: float | Timeouts, recipients: Callable[[], Iterable[Recipient] | None]) -> Budget:
    """The `Budget` that the timeout of a verb means, from now on. A wrong one has a verdict for each recipient."""
    try:
        return Budget.of(timeout)
    except SmtpError as error:
        with contextlib.suppress(Exception):  # where they are wrong, too, the timeout is what is told
            error.recipients = nobody_has_it(recipients() or ())
        raise


class MailOutcomes(Iterator[MailOutcome]):
    """The outcomes of a batch, made while they are asked for. Nothing happens before the first `next()`.

    Close it, or use it in a `with` statement, when you stop before its end.
    """

    def __init__(
        self,
        source: Generator[MailOutcome, None, None],
        name: str = "send_many()",
        close: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self._close = source.close if close is None else close
        self._name = name
        self._begun = False

    def __iter__(self) -> MailOutcomes:
        return self

    def __next__(self) -> MailOutcome:
        self._begun = True
        return next(self._source)

    def close(self) -> None:
        """Stop: nothing new is begun; what is under way may end within 5 seconds, then it is cut off. Idempotent."""
        self._begun = True
        self._close()

    def __enter__(self) -> MailOutcomes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_begun", True):
            text = f"the outcomes of {self._name} were never asked for: no mail was sent"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<MailOutcomes of {self._name}>"
