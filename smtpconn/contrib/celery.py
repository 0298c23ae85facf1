"""Mails as tasks of Celery: what is tried again, what never is, and when pools are closed. Needs the extra `celery`.

Knows tasks, their retries and the signals of a worker. Refuses to know what a verdict means (`decisions`) and how it is
kept (`claims`). Its laws: nothing is sent again that anybody may have; nothing connects before the first task runs, so
no child of a worker inherits a connection; an interrupt passes as it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NoReturn

try:
    from celery import signals
except ImportError as error:
    raise ImportError("smtpconn.contrib.celery needs celery: pip install smtpconn[celery]") from error

from smtpconn.contrib.claims import Claims, Journal, JournalError, MemoryJournal, RedisJournal
from smtpconn.contrib.decisions import Action, Decision, Outcome, backoff, decide, error_of, is_permanent, judge
from smtpconn.deadline import Timeouts
from smtpconn.pool import ConnectionPool
from smtpconn.protocol.errors import Delivery, DeliveryUnknownError, SmtpError
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import RecipientResult, refusal

__all__ = [
    "Action",
    "Decision",
    "Journal",
    "JournalError",
    "MemoryJournal",
    "RedisJournal",
    "backoff",
    "close_on_shutdown",
    "decide",
    "deliver",
    "recorded",
    "retry_if_safe",
]


def retry_if_safe(
    task: Any,
    outcome: Outcome,
    *,
    countdown: float | None = None,
    max_retries: int | None = None,
    at_least_once: bool = False,
) -> Decision:
    """Return the decision about this outcome, or raise: `task.retry` where nobody can have the mail, else the error.

    `task`: the bound task. `countdown`: seconds until the next attempt, `backoff` by default. `max_retries`: the task's
    own by default; when they are used up the error is raised. `at_least_once`: consent to duplicates, UNKNOWN is tried
    again, too. A decision that is returned is `DONE`, `RETRY_SOME` (send to its `recipients`, as a new task) or
    `BOUNCE`.
    """
    decision, error = decide(outcome), error_of(outcome)
    again = decision.action is Action.RETRY or (decision.action is Action.UNKNOWN and at_least_once)
    if again and (error is None or isinstance(error, Exception)):
        _try_again(task, error or _in_doubt(decision.results), countdown, max_retries)
    if decision.action in (Action.RETRY, Action.FAIL, Action.UNKNOWN):
        raise error or _in_doubt(decision.results)
    return decision


def deliver(
    task: Any,
    pool: ConnectionPool,
    mail: Mail,
    *,
    journal: Journal,
    key: str | None = None,
    timeout: float | Timeouts | None = None,
    countdown: float | None = None,
    max_retries: int | None = None,
    at_least_once: bool = False,
) -> Decision:
    """Send a mail from a task that may be delivered to workers more than once: to each recipient at most once.

    The journal has a claim from just before the end of the data is written, and the verdicts from just after they are
    known. A worker that is given the task again sends to those only who provably do not have the mail; who was
    claimed without a verdict is UNKNOWN. So is the task tried again (`task.retry`) while there are recipients that were
    put off; then the decision is returned, `DONE` or `BOUNCE`.

    `key`: what the mail is called in the journal, the task's id by default, which retries and redeliveries share.
    `mail`: with its octets in it. `timeout`: as for `pool.send`. Others as for `retry_if_safe`.

    Raises:
        DeliveryUnknownError: somebody may have the mail or not, and for nobody else anything is left to do.
        SmtpError: nobody has it, and trying again cannot help, or was tried too often.
    """
    error: SmtpError | None = None
    results: Sequence[RecipientResult] = ()
    try:
        claims = Claims(journal, key or task.request.id or uuid.uuid4().hex, mail)
    except JournalError as failure:
        _try_again(task, failure, countdown, max_retries)
    pending = claims.pending(unknown=at_least_once)
    if pending:
        try:
            claims.send(pool, pending, timeout)
        except SmtpError as failure:
            error = failure
    results = claims.verdicts()
    left = [] if is_permanent(error) else claims.pending(unknown=at_least_once)
    decision = judge(results, error)
    if left or decision.action in (Action.UNKNOWN, Action.FAIL) or decision.delivery is Delivery.NOT_DELIVERED:
        explained = _explained(results, error)
        if left:
            _try_again(task, explained, countdown, max_retries)
        raise explained
    return decision


def recorded(mail: Mail, *, journal: Journal, key: str) -> Decision:
    """What the journal knows of a mail under this key, without sending anything: for people, and for reports.

    Recipients that nothing was tried for, or that were put off, are `NOT_DELIVERED`.

    Raises:
        JournalError: the journal does not answer.
        InvalidInputError: the journal has another mail under this key.
    """
    return judge(Claims(journal, key, mail).verdicts(), None)


def close_on_shutdown(*pools: ConnectionPool, timeout: float = 5.0) -> None:
    """Close these pools when a worker, or a child of it, ends: QUIT to what is idle, `timeout` seconds for the rest.

    Children of a prefork worker end without running `atexit`. A warm shutdown waits for its tasks first.
    """

    def close(**_: Any) -> None:
        for pool in pools:
            pool.close(timeout=timeout)

    signals.worker_process_shutdown.connect(close, weak=False)
    signals.worker_shutdown.connect(close, weak=False)


def _try_again(task: Any, error: BaseException, countdown: float | None, max_retries: int | None) -> NoReturn:
    wait = backoff(error, task.request.retries) if countdown is None else countdown
    raise task.retry(exc=error, countdown=wait, max_retries=max_retries)


def _explained(results: Sequence[RecipientResult], error: SmtpError | None) -> SmtpError:
    """The error that tells what is known of every recipient of the mail, not of the last attempt only."""
    told: SmtpError
    if any(entry.delivery is Delivery.UNKNOWN for entry in results) and not isinstance(error, DeliveryUnknownError):
        told = _in_doubt(results)
        told.__cause__ = error
    else:
        told = error or refusal(tuple(results))
    told.recipients = tuple(results)
    return told


def _in_doubt(results: Sequence[RecipientResult]) -> DeliveryUnknownError:
    doubtful = sum(entry.delivery is Delivery.UNKNOWN for entry in results)
    text = f"an attempt left {doubtful} of {len(results)} recipients in doubt: its worker died, or is at it still"
    return DeliveryUnknownError(text, recipients=results)
