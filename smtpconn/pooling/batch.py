"""`ConnectionPool.send_many`: mails spread over connections, outcomes as they are asked for.

Knows mails, outcomes and the threads of one iterator. Refuses to know how a connection is found. Its laws: the input
is iterated in the thread that asks; at most `window` mails are pulled and not yet yielded; each pulled mail has one
outcome; a connection goes back to the pool at the end of each mail, so callers outside the batch wait for one mail at
most; no worker outlives the batch.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator

from smtpconn.deadline import Budget, Timeouts
from smtpconn.outcomes import MailOutcome
from smtpconn.pooling.calls import Calls
from smtpconn.pooling.claims import Claim
from smtpconn.pooling.endpoints import without_traceback
from smtpconn.pooling.pooled import PooledConnection
from smtpconn.pooling.settings import whole
from smtpconn.protocol.errors import (
    AuthenticationError,
    Delivery,
    PoolClosedError,
    SmtpError,
    TlsError,
    UsageError,
)
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import RecipientResult, SendResult

WINDOW = 4  # mails pulled and not yet yielded, for each worker (SM3)
_LAST_FLIGHTS = 5.0  # seconds that mails under way may take once nobody wants outcomes any more (SM8)
_IN_A_ROW = 3  # SM7


class Batch:
    """One call of `send_many`."""

    def __init__(
        self,
        calls: Calls,
        mails: Iterable[Mail],
        concurrency: int | None,
        timeout: float | Timeouts | None,
        *,
        ordered: bool,
    ) -> None:
        if not isinstance(ordered, bool):
            raise TypeError(f"ordered must be a bool, not {type(ordered).__name__}")
        if isinstance(mails, (str, bytes, Mail)) or not isinstance(mails, Iterable):
            raise TypeError(f"send_many takes an iterable of Mail objects, not {type(mails).__name__}")
        self._calls = calls
        self._mails = mails
        self._concurrency = None if concurrency is None else whole("concurrency", concurrency, 1)
        self._timeout = timeout
        self._ordered = ordered
        self._lock = threading.Lock()
        self._jobs: deque[tuple[int, Mail]] = deque()
        self._work = threading.Semaphore(0)
        self._done: queue.SimpleQueue[MailOutcome] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._resting = 0  # workers that wait for a job
        self._failed_in_a_row = 0
        self._fault: BaseException | None = None  # the service is gone: nothing more is begun (SM7)
        self._ending: BaseException | None = None  # the input or a body ended the batch: what was pulled is sent (SM9)
        self._over = False
        self._explicit = False
        self._pid = os.getpid()

    def close(self, source: Generator[MailOutcome, None, None]) -> None:
        """SM8: end what `outcomes` gave; nothing new is begun, and this returns when the workers are gone.

        The batch does not know its iterator: its workers, who know the batch, would keep a dropped iterator alive.
        """
        self._explicit = True
        source.close()

    def stop(self) -> None:
        """The pool closes: what was not begun fails with `PoolClosedError`."""
        with self._lock:
            if self._fault is None:
                self._fault = PoolClosedError("the pool was closed while send_many ran")

    # ---- the consumer's thread

    def outcomes(self) -> Generator[MailOutcome, None, None]:
        """The one iterator of the batch. Collected, it does not wait for its workers; closed by `close`, it does."""
        if self._pid != os.getpid():
            raise UsageError("this batch belongs to the parent process: a forked child must begin its own")
        limit = self._calls.max_size
        workers = limit if self._concurrency is None else min(self._concurrency, limit)
        pulled = self._pulled()
        try:
            if workers == 1:
                for index, mail in pulled:
                    yield self.send(index, mail, None)
            else:
                yield from self._spread(pulled, workers)
        except GeneratorExit:
            self._finish(_LAST_FLIGHTS if self._explicit else 0.0)
            raise
        except BaseException:
            self._finish(_LAST_FLIGHTS)
            raise
        self._finish(_LAST_FLIGHTS)
        error = self._fault or self._ending
        if error is not None:
            raise error

    def _pulled(self) -> Iterator[tuple[int, Mail]]:
        """The input, until it is dry, or raises, or the batch ends for another reason."""
        try:
            for index, mail in enumerate(self._mails):
                if not isinstance(mail, Mail):
                    raise TypeError(f"send_many takes Mail objects, not {type(mail).__name__}")
                yield index, mail
                if self._fault is not None or self._ending is not None:
                    return
        except Exception as error:  # SM9: the outcomes of what was pulled come first
            self._ending = error

    def _spread(self, pulled: Iterator[tuple[int, Mail]], workers: int) -> Generator[MailOutcome, None, None]:
        under_way = 0
        turn = 0
        dry = False
        ready: dict[int, MailOutcome] = {}
        while True:
            while not dry and under_way < WINDOW * workers and not self._yieldable(ready, turn):
                job = next(pulled, None)
                if job is None:
                    dry = True
                else:
                    under_way += 1
                    self._dispatch(job, workers)
                self._collect(ready)
            if not under_way:
                return
            while not self._yieldable(ready, turn):
                outcome = self._done.get()
                ready[outcome.index] = outcome
            outcome = ready.pop(turn if self._ordered else next(iter(ready)))
            turn += 1
            under_way -= 1
            yield outcome

    def _yieldable(self, ready: dict[int, MailOutcome], turn: int) -> bool:
        return turn in ready if self._ordered else bool(ready)

    def _collect(self, ready: dict[int, MailOutcome]) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                outcome = self._done.get_nowait()
                ready[outcome.index] = outcome

    def _dispatch(self, job: tuple[int, Mail], most: int) -> None:
        self._jobs.append(job)
        with self._lock:
            start = self._resting < len(self._jobs) and len(self._workers) < most
            if start:
                worker = _Worker(self, f"{self._calls.name}-send_many-{len(self._workers) + 1}")
                self._workers.append(worker)
        if start:
            try:
                worker.start()
            except RuntimeError:  # no more threads to be had: those that there are do the work, or we do it ourselves
                self._workers.remove(worker)
                if not self._workers:
                    self._jobs.pop()
                    self.report(self.send(*job, None))
                    return
        self._work.release()

    def _finish(self, patience: float) -> None:
        """No further mail is begun; wait for the workers, then cut them off (CL4)."""
        with self._lock:
            self._over = True
            workers = list(self._workers)
            self._jobs.clear()
        for _ in workers:
            self._work.release()
        for worker in workers:
            worker.cancel_waiting()
        if not patience:
            return
        until = self._calls.clock() + patience
        for worker in workers:
            worker.join(max(0.0, until - self._calls.clock()))
        for worker in workers:
            if worker.is_alive():
                worker.abort()

    def cancel(self, claim: Claim) -> None:
        """The claim waits for a connection no longer."""
        self._calls.supply.slots.cancel(claim)

    # ---- a worker's thread, or the consumer's with concurrency 1

    def next_job(self) -> tuple[int, Mail] | None:
        """Wait for a mail to send; None when there is nothing more to do."""
        with self._lock:
            self._resting += 1
        self._work.acquire()
        with self._lock:
            self._resting -= 1
            return self._jobs.popleft() if self._jobs and not self._over else None

    def send(self, index: int, mail: Mail, worker: _Worker | None) -> MailOutcome:
        """One mail, one outcome (SM6)."""
        fault = self._fault
        if fault is not None:
            return _not_begun(index, mail, fault)
        claim = self._calls.supply.claim()
        if worker is not None:
            worker.claim = claim

        def verb(connection: PooledConnection, budget: Budget) -> SendResult:
            if worker is not None:
                worker.connection = connection
            return connection.send_mail(mail, budget)

        outcome = MailOutcome.of(index, mail, lambda mail: self._calls.perform(self._timeout, verb, mail, claim))
        if worker is not None:
            worker.claim = worker.connection = None
        self._judge(outcome)
        return outcome

    def _judge(self, outcome: MailOutcome) -> None:
        """SM7: is the service gone, rather than this mail refused?"""
        error = outcome.error
        without_connection = isinstance(error, SmtpError) and error.__dict__.get("_without_connection", False)
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if without_connection else 0
            if not without_connection or self._fault is not None:
                return
            at_once = isinstance(error, PoolClosedError) or (
                isinstance(error, (AuthenticationError, TlsError)) and error.permanent is True
            )
            if at_once or (self._failed_in_a_row >= _IN_A_ROW and not self._calls.has_live):
                self._fault = error

    def report(self, outcome: MailOutcome) -> None:
        """A worker has an outcome."""
        self._done.put(outcome)

    def broke(self, index: int, mail: Mail, error: BaseException) -> None:
        """A BaseException came out of a mail's body in a worker: it ends the batch (SM9)."""
        self._ending = error
        self._done.put(MailOutcome(index=index, mail=mail, error=error))


class _Worker(threading.Thread):
    """Sends mails of the batch, one at a time, until there are no more. It is its iterator's, not the pool's (D14)."""

    def __init__(self, batch: Batch, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._batch = batch
        self._context = contextvars.copy_context()  # the caller's: a new thread would begin with an empty one
        self.claim: Claim | None = None
        self.connection: PooledConnection | None = None

    def run(self) -> None:
        """Job after job."""
        self._context.run(self._work)

    def _work(self) -> None:
        batch = self._batch
        while (job := batch.next_job()) is not None:
            index, mail = job
            try:
                batch.report(batch.send(index, mail, self))
            except BaseException as error:
                batch.broke(index, mail, error)

    def cancel_waiting(self) -> None:
        """If it waits for a connection, it waits no longer."""
        claim = self.claim
        if claim is not None:
            self._batch.cancel(claim)

    def abort(self) -> None:
        """Cut its conversation off."""
        connection = self.connection
        if connection is not None:
            connection.abort()


def _not_begun(index: int, mail: Mail, fault: BaseException) -> MailOutcome:
    """The fault of the batch as the outcome of a mail of which nothing was written."""
    error = without_traceback(fault)
    if isinstance(error, SmtpError):
        error.recipients = tuple(RecipientResult(given, Delivery.NOT_DELIVERED) for given in mail.recipients or ())
    return MailOutcome(index=index, mail=mail, error=error)
