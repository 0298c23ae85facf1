"""The journal of `smtpconn bulk`: for which mails the end of data may have been written, and what became of them.

Knows lines of a file and who has settled what; refuses to know how mails are sent. Its laws: a line is handed to the
kernel in one write before the call returns, so that it outlives this process however that ends; an INTENT without a
VERDICT is UNKNOWN; a line that was torn never let a mail go on, and is dropped; one run at a time holds the file;
neither content nor a word of the server's is in it.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from smtpconn import Delivery, ForwardPath, SmtpError
from smtpconn.cli.exits import EX_CANTCREAT, EX_DATAERR, EX_TEMPFAIL, CommandError

_HEADER = b'{"smtpconn-journal": 1}\n'
_MARK = 16  # octets of the digest of a mail and a recipient: a million of them are some 100 MB


class State(enum.Enum):
    """Where a mail and one of its recipients stand."""

    OPEN = "open"  # not tried yet, or by an earlier run without an end
    LATER = "later"  # not delivered, and another attempt may help
    DELIVERED = "delivered"
    REFUSED = "refused"  # for good
    UNKNOWN = "unknown"


class Settled(NamedTuple):
    """The verdict for one recipient. `final`: another run has no reason to try again."""

    recipient: str
    state: State
    code: int | None = None
    enhanced: str | None = None
    final: bool = True

    @property
    def delivery(self) -> Delivery:
        """The verdict in the library's words."""
        if self.state is State.DELIVERED:
            return Delivery.DELIVERED
        return Delivery.UNKNOWN if self.state is State.UNKNOWN else Delivery.NOT_DELIVERED


class JournalError(Exception):
    """A line could not be written: nothing may be sent any more."""


class Intent(NamedTuple):
    """What was about to be sent: the name of the mail in its source, and to whom."""

    name: str
    recipients: tuple[str, ...]


class VerdictJournal:
    """One open journal. `sync`: the disk has an intent before the mail goes on, so that it outlives the machine, too.

    `resend_unknown`: what an earlier run left UNKNOWN is open again. `unknown`: what is not, by key and recipient: the
    name of the mail.

    Raises:
        CommandError: the file cannot be used, is none of ours, or another run has it.
    """

    def __init__(self, path: Path, *, sync: bool = False, resend_unknown: bool = False) -> None:
        self.path = path
        self._sync = sync
        self._lock = threading.Lock()
        self._marks: dict[bytes, State] = {}
        self._pending: dict[str, Intent] = {}
        self.unknown: dict[tuple[str, str], str] = {}
        self._broken: str | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            self._file = os.open(path, flags, 0o600)
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from None
        try:
            if not _locked(self._file):
                raise CommandError(EX_TEMPFAIL, f"{path}: another run is using this journal")
            self._load(resend_unknown=resend_unknown)
        except OSError as error:
            os.close(self._file)
            raise _unusable(path, error) from None
        except BaseException:
            os.close(self._file)
            raise

    # --- what is known ---

    def state(self, key: str, recipient: str) -> State:
        """Where this recipient of the mail with this key stands."""
        return self._marks.get(_mark(key, recipient), State.OPEN)

    @property
    def pending(self) -> list[Intent]:
        """The intents of this run that have no verdict."""
        with self._lock:
            return list(self._pending.values())

    # --- what is written ---

    def intend(self, key: str, name: str, recipients: Iterable[str]) -> None:
        """The end of this mail's data is about to be written. Any thread; raises `JournalError`."""
        intent = Intent(name, tuple(recipients))
        with self._lock:
            self._append({"intent": key, "name": name, "to": intent.recipients})
            if self._sync:
                self._flush_to_disk()
            self._pending[key] = intent

    def settle(self, key: str, name: str, verdicts: Iterable[Settled]) -> None:
        """The verdicts for these recipients of the mail. Raises `JournalError`."""
        settled = list(verdicts)
        with self._lock:
            self._append({"verdict": key, "name": name, "to": [_to_json(each) for each in settled]})
            self._pending.pop(key, None)
        for each in settled:
            self._marks[_mark(key, each.recipient)] = each.state

    def close(self) -> None:
        """Let the file go: whoever is still about to end a mail's data is refused. Idempotent."""
        with self._lock:
            if self._broken is None and self._sync:
                with contextlib.suppress(OSError):
                    os.fsync(self._file)
            self._broken = "it is closed"
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _append(self, entry: dict[str, Any]) -> None:
        """One line, whole or not at all. Caller holds the lock."""
        if self._broken is not None:
            raise JournalError(f"{self.path}: {self._broken}")
        line = json.dumps(entry, separators=(",", ":")).encode("ascii") + b"\n"
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(0, "the disk is full")
        except OSError as error:
            self._broken = f"cannot be written: {error.strerror}"
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise JournalError(f"{self.path}: {self._broken}") from None

    def _flush_to_disk(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            self._broken = f"cannot be written: {error.strerror}"
            raise JournalError(f"{self.path}: {self._broken}") from None

    # --- what an earlier run has written ---

    def _load(self, *, resend_unknown: bool) -> None:
        size = os.fstat(self._file).st_size
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            head = file.readline(len(_HEADER))
            if head == _HEADER:
                kept = self._read(file)
            elif _HEADER.startswith(head):  # empty, or torn in its first line
                kept = 0
            else:
                raise CommandError(EX_DATAERR, f"{self.path}: this is no journal of smtpconn bulk")
        if kept < size:
            os.ftruncate(self._file, kept)
        if not kept and os.write(self._file, _HEADER) != len(_HEADER):
            raise OSError(0, "the disk is full")
        for key, intent in self._pending.items():
            self._note(key, intent.name, (Settled(recipient, State.UNKNOWN) for recipient in intent.recipients))
        self._pending.clear()
        if resend_unknown:
            for key, recipient in self.unknown:
                del self._marks[_mark(key, recipient)]
            self.unknown.clear()

    def _read(self, file: IO[bytes]) -> int:
        """Take every whole line in; the octets that they have, the header included."""
        kept = len(_HEADER)
        for number, line in enumerate(file, 2):
            if not line.endswith(b"\n"):
                break
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, SmtpError):
                raise CommandError(EX_DATAERR, f"{self.path}: line {number} is none of a journal") from None
            kept += len(line)
        return kept

    def _take(self, entry: dict[str, Any]) -> None:
        key = entry.get("intent")
        if key is not None:
            self._pending[key] = Intent(entry["name"], tuple(map(str, entry["to"])))
            return
        key = entry["verdict"]
        self._pending.pop(key, None)
        self._note(
            key,
            entry["name"],
            [
                Settled(each["recipient"], State(each["state"]), each["code"], each["enhanced"], each["final"] is True)
                for each in entry["to"]
            ],
        )

    def _note(self, key: str, name: str, verdicts: Iterable[Settled]) -> None:
        """What an earlier run found stands above what one before it did."""
        for each in verdicts:
            mark = _mark(key, each.recipient)
            self.unknown.pop((key, each.recipient), None)
            if each.final:
                self._marks[mark] = each.state
            else:
                self._marks.pop(mark, None)
            if each.state is State.UNKNOWN:
                self.unknown[key, each.recipient] = name


def _to_json(settled: Settled) -> dict[str, Any]:
    return {
        "recipient": settled.recipient,
        "state": settled.state.value,
        "code": settled.code,
        "enhanced": settled.enhanced,
        "final": settled.final,
    }


def _mark(key: str, recipient: str) -> bytes:
    """One digest for a mail and a recipient, whose domain may be written in capitals or not."""
    local, domain = ForwardPath(recipient).key
    return hashlib.blake2b(b"\0".join((key.encode("ascii"), local, domain)), digest_size=_MARK).digest()


def _unusable(path: Path, error: Exception) -> CommandError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return CommandError(EX_CANTCREAT, f"{path}: the journal cannot be used: {reason}")


if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30  # an octet that no journal has: locked octets cannot be read

    def _locked(file: int) -> bool:
        """Hold the file as long as it is open; False if another process does."""
        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _locked(file: int) -> bool:
        """Hold the file as long as it is open; False if another process does."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

