"""Many messages from many threads through one sender, with what became of each.

Knows threads and a clock; refuses to know where the sender sends. Laws: a message is attempted once; a run that only
fails ends early; an interrupt ends the run at the next message boundary, so that every message begun has its verdict.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from smtpconn import Delivery, Sender, SmtpError

GIVE_UP = 20
"""Failures before the first success after which a run ends."""

_LINE = 74
_SHOWN_ERRORS = 3


@dataclass(kw_only=True)
class Load:
    """What to send, and from how many threads."""

    sender: str
    recipient: str
    messages: int
    threads: int
    size: int
    seed: int
    timeout: float

    def __post_init__(self) -> None:
        source = random.Random(self.seed)  # noqa: S311 - filler text, the same for the same seed
        letters = "abcdefghijklmnopqrstuvwxyz ."
        lines = ("".join(source.choices(letters, k=_LINE)) for _ in range(self.size // (_LINE + 2) + 1))
        # A dot at the start of a line is what a transport may lose (RFC 5321 section 4.5.2); every third line has one.
        self._text = "\r\n".join("." + line[1:] if n % 3 == 0 else line for n, line in enumerate(lines)).encode()

    def key(self, index: int) -> str:
        """The Message-ID of one message."""
        return f"<{self.seed}.{index}@demo.invalid>"

    def message(self, index: int) -> bytes:
        """The octets of one message: `size` of them, unless the header alone is longer."""
        addresses = f"From: {self.sender}\r\nTo: {self.recipient}\r\n"
        head = f"{addresses}Subject: message {index}\r\nMessage-ID: {self.key(index)}\r\n\r\n".encode()
        text = self._text[: max(self.size - len(head) - 2, 0)]
        if text.endswith(b"\r"):  # the cut went through the end of a line
            text = text[:-1] + b"."
        return head + text + b"\r\n"


@dataclass
class Outcome:
    """What became of a load."""

    verdicts: dict[int, Delivery] = field(default_factory=dict)  # by index of the message
    latencies: list[float] = field(default_factory=list)  # seconds
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False

    def count(self, verdict: Delivery) -> int:
        """How many messages have this verdict."""
        return sum(found is verdict for found in self.verdicts.values())

    def first_errors(self) -> list[str]:
        """The commonest errors, one line each."""
        return [f"{number:,} x {text}" for text, number in self.errors.most_common(_SHOWN_ERRORS)]

    def percentile(self, share: float) -> float | None:
        """The latency in seconds that this share of the messages did not exceed; None if nothing was sent."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


class _Run:
    """One load under way: hands out indices and collects outcomes."""

    def __init__(self, load: Load, sender: Sender) -> None:
        self._load = load
        self._sender = sender
        self._lock = threading.Lock()
        self._next = 0
        self.stopped = threading.Event()
        self.defects: list[BaseException] = []
        self.outcome = Outcome()

    def _take(self) -> int | None:
        with self._lock:
            if self.stopped.is_set() or self._next == self._load.messages:
                return None
            self._next += 1
            return self._next - 1

    def _book(self, index: int, verdict: Delivery, seconds: float, error: str | None) -> None:
        with self._lock:
            outcome = self.outcome
            outcome.verdicts[index] = verdict
            outcome.latencies.append(seconds)
            if error is not None:
                outcome.errors[error] += 1
            if len(outcome.verdicts) == GIVE_UP and not outcome.count(Delivery.DELIVERED):
                self.stopped.set()

    def _send(self, index: int) -> tuple[Delivery, str | None]:
        load = self._load
        try:
            result = self._sender.send(load.sender, [load.recipient], load.message(index), timeout=load.timeout)
        except SmtpError as error:
            return error.delivery, f"{type(error).__name__}: {error}"
        return result.delivery, None

    def work(self) -> None:
        """Send until there is nothing left: the body of each thread."""
        try:
            while (index := self._take()) is not None:
                started = time.perf_counter()
                verdict, error = self._send(index)
                self._book(index, verdict, time.perf_counter() - started, error)
        except BaseException as defect:  # not SMTP's doing: raised again in the thread that waits
            self.defects.append(defect)
            self.stopped.set()


def send_all(load: Load, sender: Sender, progress: Callable[[int], None]) -> Outcome:
    """Send the load; `progress` is called with the number of messages done, ten times a second, in this thread."""
    run = _Run(load, sender)
    threads: list[threading.Thread] = []
    started = time.perf_counter()
    try:
        for n in range(load.threads):
            thread = threading.Thread(target=run.work, name=f"demo-{n}")
            thread.start()
            threads.append(thread)
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                progress(len(run.outcome.verdicts))
    except KeyboardInterrupt:
        run.outcome.interrupted = True
    finally:
        run.stopped.set()
        for thread in threads:
            thread.join()
        progress(len(run.outcome.verdicts))  # the last threads may have ended while an earlier number was shown
    run.outcome.seconds = time.perf_counter() - started
    if run.defects:
        raise run.defects[0]
    return run.outcome
