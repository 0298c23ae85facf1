"""Many mails through servers that fail at random, judged by the servers' ledgers (faults G-S-1, G-T-1, G-T-2).

Every mail has an id of its own. `soak` sends from threads and remembers each verdict; `judge` compares it with what the
server booked: DELIVERED is once, NOT_DELIVERED never, UNKNOWN at most once.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from smtpconn import ConnectionPool, Delivery, Mail, Pipelining, SmtpConnection, SmtpError, TlsMode
from smtpconn.protocol.result import RecipientResult
from smtpconn.testing import ServerProcess

TIMEOUT = 20.0  # seconds of a call; the faults of a soak are none that keep silent
LATE = 0.1  # seconds that a call may take more (G-S-1)
RECIPIENTS = ("a@x.test", "b@x.test", "c@x.test")


@dataclass(frozen=True)
class Setting:
    """How mails are sent."""

    name: str
    protocol: Literal["smtp", "lmtp"] = "smtp"
    chunking: bool = False
    pipelining: Pipelining = Pipelining.GROUPED
    batch: bool = False  # `send_many` on a connection of the thread's own; else `send` of one pool for all threads


SETTINGS = (
    Setting("SMTP DATA"),
    Setting("SMTP BDAT", chunking=True),
    Setting("LMTP DATA", protocol="lmtp"),
    Setting("LMTP BDAT", protocol="lmtp", chunking=True),
    Setting("SMTP DATA, PREFETCH", pipelining=Pipelining.PREFETCH, batch=True),
    Setting("SMTP BDAT, PREFETCH", chunking=True, pipelining=Pipelining.PREFETCH, batch=True),
    Setting("LMTP DATA, PREFETCH", protocol="lmtp", pipelining=Pipelining.PREFETCH, batch=True),
    Setting("SMTP BDAT, BURST", chunking=True, pipelining=Pipelining.BURST, batch=True),
    Setting("LMTP BDAT, BURST", protocol="lmtp", chunking=True, pipelining=Pipelining.BURST, batch=True),
)


@dataclass
class Report:
    """What came of a soak."""

    setting: Setting
    seed: int
    mails: int = 0
    seconds: float = 0.0
    verdicts: dict[tuple[str, str], Delivery] = field(default_factory=dict)  # (id, recipient) of the one attempt
    errors: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    connections: int = 0
    booked: int = 0

    @property
    def counts(self) -> Counter[Delivery]:
        return Counter(self.verdicts.values())

    def line(self) -> str:
        counts = self.counts
        return (
            f"{self.setting.name:20} seed {self.seed}: {self.mails} mails in {self.seconds:.0f} s over "
            f"{self.connections} connections; recipients {counts[Delivery.DELIVERED]} delivered, "
            f"{counts[Delivery.NOT_DELIVERED]} not, {counts[Delivery.UNKNOWN]} unknown; "
            f"{self.booked} booked; {len(self.wrong)} wrong"
        )


def _mail(setting: Setting, number: int) -> Mail:
    recipients = RECIPIENTS[: 1 + number % 3]
    body = f"X-Id: {number}\r\n\r\n".encode() + b".line\r\n" * (number % 40)
    return Mail("s@client.test", recipients, body, chunking=setting.chunking, tag=str(number))


def soak(setting: Setting, *, mails: int, threads: int, rate: float, seed: int) -> Report:
    """Send so many mails and judge them. `rate`: probability of a fault at each reply of a transaction."""
    report = Report(setting, seed, mails)
    numbers, lock = iter(range(mails)), threading.Lock()

    def next_numbers(count: int) -> list[int]:
        with lock:
            return list(itertools.islice(numbers, count))

    began = time.monotonic()
    with ServerProcess(protocol=setting.protocol, fault_rate=rate, seed=seed, keep=0) as server:
        workers: list[Callable[[], None]]
        if setting.batch:
            workers = [_Batches(report, server, next_numbers, lock).run for _ in range(threads)]
            _in_threads(workers)
        else:
            with ConnectionPool(
                server.host, server.port, TlsMode.NONE, protocol=setting.protocol, timeout=TIMEOUT, max_size=8,
                ehlo_domain="client.test",
            ) as pool:  # fmt: skip
                _in_threads([_Sends(report, pool, next_numbers, lock).run for _ in range(threads)])
        report.seconds = time.monotonic() - began
        said = server.report()
    report.violations = said["violations"]
    report.connections = said["connections_total"]
    _judge(report, {(entry[0], entry[1]): entry[2] for entry in said["ledger"]})
    return report


def _in_threads(workers: Iterable[Callable[[], None]]) -> None:
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def guarded(worker: Callable[[], None]) -> None:
        try:
            worker()
        except BaseException as error:  # handed to the caller's thread
            failures.put(error)

    running = [threading.Thread(target=guarded, args=(worker,)) for worker in workers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if not failures.empty():
        raise failures.get()


class _Worker:
    """One thread's share."""

    def __init__(self, report: Report, target: Any, next_numbers: Callable[[int], list[int]], lock: Any) -> None:
        self.report = report
        self.target = target
        self.next_numbers = next_numbers
        self.lock = lock

    def note(self, number: str, recipients: Iterable[RecipientResult], error: BaseException | None) -> None:
        with self.lock:
            for entry in recipients:
                key = number, entry.address
                if key in self.report.verdicts:
                    self.report.wrong.append(f"{key}: a second verdict")
                self.report.verdicts[key] = entry.delivery
            if error is not None:
                self.report.errors[type(error).__name__] += 1


class _Sends(_Worker):
    """`send` on the pool of all threads. A mail that failed is not sent again, so that each has one attempt."""

    def run(self) -> None:
        while numbers := self.next_numbers(1):
            mail = _mail(self.report.setting, numbers[0])
            began = time.monotonic()
            try:
                verb = self.target.send_bdat if mail.chunking else self.target.send
                result = verb(mail.sender, mail.recipients, mail.message)
                self.note(str(mail.tag), result.recipients, None)
            except SmtpError as error:
                self.note(str(mail.tag), error.recipients, error)
            took = time.monotonic() - began
            if took > TIMEOUT + LATE:
                self.report.late.append(took)


class _Batches(_Worker):
    """`send_many`, ten mails on a connection of this thread's own. What its end leaves over is NOT_DELIVERED."""

    def run(self) -> None:
        while numbers := self.next_numbers(10):
            mails = [_mail(self.report.setting, number) for number in numbers]
            with self._connected() as connection, connection.send_many(iter(mails), timeout=TIMEOUT) as outcomes:
                for outcome in outcomes:
                    self.note(str(outcome.mail.tag), outcome.recipients, outcome.error)

    def _connected(self) -> SmtpConnection:
        setting = self.report.setting
        connect = SmtpConnection.connect_lmtp if setting.protocol == "lmtp" else SmtpConnection.connect
        return connect(
            self.target.host, self.target.port, TlsMode.NONE, timeout=TIMEOUT, pipelining=setting.pipelining,
            ehlo_domain="client.test",
        )  # fmt: skip


def _judge(report: Report, ledger: dict[tuple[str, str], int]) -> None:
    report.booked = sum(ledger.values())
    for number in range(report.mails):
        for recipient in RECIPIENTS[: 1 + number % 3]:
            key = str(number), recipient
            verdict, count = report.verdicts.get(key), ledger.get(key, 0)
            if verdict is None:
                report.wrong.append(f"{key}: lost, no verdict; booked {count} times")
            elif not fits(verdict, count):
                report.wrong.append(f"{key}: {verdict.name}, booked {count} times")
    report.wrong += [f"{key}: booked, never sent" for key in ledger.keys() - report.verdicts.keys()]


def fits(verdict: Delivery, count: int) -> bool:
    """Whether a recipient of this verdict may have been booked so many times."""
    if verdict is Delivery.UNKNOWN:
        return count <= 1
    return count == int(verdict is Delivery.DELIVERED)

