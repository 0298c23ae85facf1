# ruff: noqa: E701  # critical sections are one line each, as in `slots`
"""`ConnectionPool.send_many`: mails spread over connections, outcomes as they are asked for.

Knows mails, outcomes and the threads of one iterator. Refuses to know how a connection is found. Its laws: the input
is iterated in the thread that asks; at most `window` mails are pulled and not yet yielded; each pulled mail has one
outcome; a worker keeps its connection from mail to mail, but callers outside the batch wait for one mail at most, and
for one more where its envelope is announced already; an envelope is never open while the consumer has the turn; no
worker outlives the batch.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator

from smtpconn.chain import check_mail, check_mails
from smtpconn.deadline import Budget, Timeouts
from smtpconn.outcomes import MailOutcome
from smtpconn.pooling import process
from smtpconn.pooling.calls import Calls
from smtpconn.pooling.claims import Claim
from smtpconn.pooling.settings import whole
from smtpconn.pooling.train import Train, not_begun, refused
from smtpconn.protocol.burst import TRANSACTIONS
from smtpconn.protocol.errors import (
    AuthenticationError,
    PoolClosedError,
    PoolTimeoutError,
    SmtpError,
    TlsError,
    UsageError,
)
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import SendResult

WINDOW = 4  # mails pulled and not yet yielded, for each worker (SM3)
BURST_WINDOW = 2 * TRANSACTIONS  # the same at BURST: one flight under way, and the next one at hand
_LAST_FLIGHTS = 5.0  # seconds that mails under way may take once nobody wants outcomes any more (SM8)
_IN_A_ROW = 3  # SM7
_LOOK_AGAIN = 0.05  # seconds


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
        check_mails(mails)
        self._calls = calls
        self._mails = mails
        self._concurrency = None if concurrency is None else whole("concurrency", concurrency, 1)
        self.timeout = timeout
        self._ordered = ordered
        self.level = calls.level
        self._window = BURST_WINDOW if self.level is Pipelining.BURST else WINDOW
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
        self._pid = process.pid()

    def close(self, source: Generator[MailOutcome, None, None]) -> None:
        """SM8: end what `outcomes` gave; nothing new is begun, and this returns when the workers are gone.

        The batch does not know its iterator: its workers, who know the batch, would keep a dropped iterator alive.
        """
        self._explicit = True
        source.close()

    def stop(self) -> None:
        """The pool closes: what was not begun fails with `PoolClosedError`."""
        fault = PoolClosedError("the pool was closed while send_many ran")
        with self._lock: self._fault = self._fault or fault

    # ---- the consumer's thread

    def outcomes(self) -> Generator[MailOutcome, None, None]:
        """The one iterator of the batch. Collected, it does not wait for its workers; closed by `close`, it does."""
        _require_process(self._pid)
        limit = self._calls.max_size
        workers = limit if self._concurrency is None else min(self._concurrency, limit)
        pulled = self._pulled()
        try:
            if workers == 1 and self.level is Pipelining.BURST:
                for outcome in Train(self, self._calls, self.timeout, lambda: next(pulled, None)).outcomes():
                    yield outcome
                    _require_process(self._pid)
            elif workers == 1:
                for index, mail in pulled:
                    yield self._send_alone(index, mail)
            else:
                yield from self._spread(pulled, workers)
            self._finish(_LAST_FLIGHTS)
        except BaseException as stop:
            try:
                self._finish(0.0 if isinstance(stop, GeneratorExit) and not self._explicit else _LAST_FLIGHTS)
            except BaseException:  # an interrupt while it waits for the workers: they are let go all the same
                self._finish(0.0)
                raise
            raise
        error = self._fault or self._ending
        if error is not None:
            raise error

    def _pulled(self) -> Iterator[tuple[int, Mail]]:
        """The input, until it is dry, or raises, or the batch ends for another reason."""
        try:
            for index, mail in enumerate(self._mails):
                check_mail(mail)
                yield index, mail
                _require_process(self._pid)
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
            while not dry and under_way < self._window * workers and not self._yieldable(ready, turn):
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
            _require_process(self._pid)

    def _yieldable(self, ready: dict[int, MailOutcome], turn: int) -> bool:
        return turn in ready if self._ordered else bool(ready)

    def _collect(self, ready: dict[int, MailOutcome]) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                outcome = self._done.get_nowait()
                ready[outcome.index] = outcome

    def _dispatch(self, job: tuple[int, Mail], most: int) -> None:
        with self._lock: worker = self._recruit(job, most)
        if worker is not None:
            try:
                worker.start()
            except RuntimeError:  # no more threads to be had: those that there are do the work, or we do it ourselves
                self._workers.remove(worker)
                if not self._workers:
                    self._jobs.pop()
                    self.report(self._send_alone(*job))
                    return
        self._work.release()

    def _recruit(self, job: tuple[int, Mail], most: int) -> _Worker | None:
        """Put the job into the queue; a worker to start, if one more is needed. Caller holds the lock."""
        self._jobs.append(job)
        if self._resting >= len(self._jobs) or len(self._workers) >= min(most, self._calls.limit):
            return None
        worker = _Worker(self, self._calls, f"{self._calls.name}-send_many-{len(self._workers) + 1}")
        self._workers.append(worker)
        return worker

    def _finish(self, patience: float) -> None:
        """No further mail is begun; wait for the workers, then cut them off (CL4)."""
        if self._pid != process.pid():  # no worker is here, and another thread of the parent's may hold the lock
            return
        with self._lock: workers = self._end()
        for _ in workers:
            self._work.release()
        for worker in workers:
            worker.cancel_waiting()
        if not patience:
            return
        until = self._calls.clock() + patience
        for worker in workers:
            while worker.is_alive() and self._calls.clock() < until:
                worker.cancel_waiting()  # it may have begun to wait just now
                worker.join(min(_LOOK_AGAIN, max(0.0, until - self._calls.clock())))
        for worker in workers:
            if worker.is_alive():
                worker.abort()

    def _end(self) -> list[_Worker]:
        """Nothing more is begun; who is still at work. Caller holds the lock."""
        self._over = True
        self._jobs.clear()
        return list(self._workers)

    def cancel(self, claim: Claim) -> None:
        """The claim waits for a connection no longer."""
        self._calls.supply.slots.cancel(claim)

    # ---- a worker's thread, or the consumer's with concurrency 1

    def admit(self, *, wait: bool) -> bool:
        """A worker asks whether there is a mail to send, which he then takes by `next_job`; False without waiting."""
        if not wait:
            return self._work.acquire(blocking=False)
        with self._lock: self._resting += 1
        self._work.acquire()
        with self._lock: self._resting -= 1
        return True

    def next_job(self) -> tuple[int, Mail] | None:
        """The mail whose turn it is; None when there is nothing more to do."""
        with self._lock: return self._jobs.popleft() if self._jobs and not self._over else None

    def take_ahead(self) -> tuple[int, Mail] | None:
        """A worker takes a mail behind the one in hand, if one is ready."""
        if not self.admit(wait=False):
            return None
        job = self.next_job()
        if job is None:
            self._work.release()  # that was the sign of the end: it is looked for once more
        return job

    def has_lease(self, apart_from: _Worker) -> bool:
        """True while another worker sends, or is about to: the mails go on without this one."""
        return not self._over and any(
            worker is not apart_from and worker.stay.has_slot for worker in list(self._workers)
        )

    def budget(self) -> Budget:
        """What the next mail may spend."""
        return self._calls.budget(self.timeout)

    @property
    def is_over(self) -> bool:
        """Nobody wants outcomes any more."""
        return self._over

    @property
    def fault(self) -> BaseException | None:
        """Why nothing more is begun."""
        return self._fault

    def _send_alone(self, index: int, mail: Mail) -> MailOutcome:
        """One mail, one outcome (SM6), in the consumer's thread: its connection is back before the outcome is there."""

        def send(mail: Mail) -> SendResult:
            return self._calls.perform(self.timeout, lambda held, budget: held.send_mail(mail, budget), mail)

        outcome = MailOutcome.of(index, mail, send)
        self.judge(outcome)
        return outcome

    def judge(self, outcome: MailOutcome) -> None:
        """SM7: is the service gone, rather than this mail refused?"""
        error = outcome.error
        without_connection = isinstance(error, SmtpError) and error.__dict__.get("_without_connection", False)
        with self._lock: self._count_failure(error, without_connection)

    def _count_failure(self, error: BaseException | None, without_connection: bool) -> None:
        """Caller holds the lock."""
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


def _require_process(owner: int) -> None:
    """LE6: what is left of a batch is the parent's to send, and its workers are not in a forked child."""
    if owner != process.pid():
        raise UsageError("this batch belongs to the parent process: a forked child must begin its own")


class _Worker(threading.Thread):
    """Sends mails of the batch until there are no more. It is its iterator's, not the pool's (D14).

    SM4: its connection carries mail after mail. It goes back when no mail is there, when it is not fit any more, and
    when a caller outside the batch waits. A worker without a connection takes no mail up before it has one: meanwhile
    the others send what is there.
    """

    def __init__(self, batch: Batch, calls: Calls, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._batch = batch
        self._context = contextvars.copy_context()  # the caller's: a new thread would begin with an empty one
        self._around = calls.around
        self._train = Train(batch, calls, batch.timeout, batch.take_ahead)
        self.stay = self._train.stay

    def run(self) -> None:
        """Mail after mail."""
        self._context.run(self._work)

    def _work(self) -> None:
        batch, stay, train = self._batch, self.stay, self._train
        while True:
            if not train.has_more and not batch.admit(wait=False):
                stay.end()
                batch.admit(wait=True)
            budget, refusal = self._connected()
            job = None if batch.is_over else train.next() or batch.next_job()
            if job is None:
                stay.end()
                return
            index, mail = job
            try:
                if refusal is not None and not isinstance(refusal, Exception):
                    raise refusal
                outcome = self._send(index, mail, budget, refusal)
                batch.judge(outcome)
                batch.report(outcome)
            except BaseException as error:
                stay.failed(error, mail)
                stay.end(None, error)
                batch.broke(index, mail, error)

    def _connected(self) -> tuple[Budget, BaseException | None]:
        """What the next mail may spend, once there is a connection for it, or the reason why there is none."""
        batch, stay = self._batch, self.stay
        while True:
            budget = batch.budget()
            if stay.connection is not None or batch.fault is not None or batch.is_over:
                return budget, None
            try:
                stay.begin(budget)
            except BaseException as error:
                stay.failed(error, None)
                stay.end(budget.total, error)
                if not (isinstance(error, PoolTimeoutError) and batch.has_lease(self)):
                    return budget, error
            else:
                return (batch.budget() if batch.has_lease(self) else budget), None

    def _send(self, index: int, mail: Mail, budget: Budget, refusal: BaseException | None) -> MailOutcome:
        """One mail, one outcome (SM6)."""
        stay, fault = self.stay, self._batch.fault
        if refusal is not None:
            return refused(index, mail, refusal)
        if fault is not None and not stay.has_outcome(mail):
            stay.end()
            return not_begun(index, mail, fault)
        outcome = MailOutcome.of(index, mail, lambda mail: self._around(lambda: self._perform(mail, budget)))
        error = outcome.error
        if error is not None:
            stay.failed(error, mail)
        if not self._train.goes_on():
            stay.end(budget.total, error)
        return outcome

    def _perform(self, mail: Mail, budget: Budget) -> SendResult:
        stay = self.stay
        if not stay.awaits(mail) and not stay.suits(mail):
            stay.end(budget.total)
            stay.begin(budget, mail)
        return self._train.carry(mail, budget)

    def cancel_waiting(self) -> None:
        """If it waits for a connection, it waits no longer."""
        claim = self.stay.claim
        if claim is not None:
            self._batch.cancel(claim)

    def abort(self) -> None:
        """Cut its conversation off."""
        connection = self.stay.connection
        if connection is not None:
            connection.abort()
