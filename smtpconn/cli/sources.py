"""The mails of `smtpconn bulk`: a directory of `.eml` files, an mbox, or JSONL, read one by one, again and again.

Knows where one mail ends and the next begins, who is in its envelope, and by what it is known again. Refuses to know
what became of it. Its laws: one mail is held at a time; a mail that cannot be used costs no other; a mail is known
again by its own octets (or the `id` of its line), so that no option and no mail in front of it makes it another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from smtpconn.cli import letter, lines
from smtpconn.cli.exits import EX_DATAERR, EX_NOINPUT, EX_USAGE, CommandError

FORMATS = ("auto", "eml", "mbox", "jsonl")

_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
_DIGEST = 16  # octets


class Letter(NamedTuple):
    """One mail of a source. `key`: what it is known by again; `name`: where people find it."""

    key: str
    name: str
    sender: str
    recipients: tuple[str, ...]
    octets: bytes
    international: bool = False


class Unusable(NamedTuple):
    """A mail of a source that cannot be sent as it is."""

    name: str
    reason: str


class _Entry(NamedTuple):
    name: str
    octets: bytes | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What the command line says for all mails: None and () where each mail says it itself."""

    sender: str | None = None
    recipients: tuple[str, ...] = ()


class Source:
    """All mails of a path, in an order that stays the same. Raises `CommandError` where there is nothing to read."""

    def __init__(self, path: Path, kind: str, envelope: Envelope) -> None:
        self.path = path
        self._envelope = envelope
        self.kind = _kind_of(path) if kind == "auto" else kind
        if (self.kind == "eml") is not path.is_dir():
            what = "a directory is read as --format eml" if path.is_dir() else "--format eml reads a directory"
            raise CommandError(EX_USAGE, f"{path}: {what}")
        self._entries: Callable[[], Iterator[_Entry]] = {
            "eml": self._files,
            "mbox": self._mbox,
            "jsonl": self._lines,
        }[self.kind]

    def count(self) -> int:
        """How many mails there are."""
        if self.kind == "eml":
            return len(self._names())
        with _opened(self.path) as file:
            if self.kind == "jsonl":
                return sum(not line.isspace() for line in file)
            return sum(1 for _ in _starts(file))

    def __iter__(self) -> Iterator[Letter | Unusable]:
        seen: Counter[str] = Counter()
        for entry in self._entries():
            if entry.octets is None:
                yield Unusable(entry.name, entry.reason)
                continue
            try:
                yield self._read(entry.name, entry.octets, seen)
            except CommandError as error:
                yield Unusable(entry.name, str(error))

    def _read(self, name: str, octets: bytes, seen: Counter[str]) -> Letter:
        given = self._envelope
        if self.kind == "jsonl":
            line = lines.Line(octets, self.path.parent)
            key = _digest(line.identity)
            seen[key] += 1
            if line.id is not None and seen[key] > 1:
                raise CommandError(EX_DATAERR, f"the id {line.id!r:.60} is there twice")
            key = f"{key}.{seen[key]}"
            name = name if line.id is None else line.id
            message, international = line.message(key)
            sender, recipients = line.sender, line.recipients
        else:
            key = _digest(octets)
            seen[key] += 1
            key = f"{key}.{seen[key]}"
            message, international, sender, recipients = octets, False, None, ()
        header = letter.Envelope(message)
        sender = given.sender if sender is None and given.sender is not None else sender
        recipients = recipients or given.recipients
        return Letter(
            key,
            name,
            header.sender if sender is None else sender,
            recipients or tuple(header.recipients),
            letter.without_bcc(message),
            international,
        )

    # --- the three kinds ---

    def _names(self) -> list[str]:
        try:
            names = (each.name for each in self.path.iterdir())
            return sorted(name for name in names if name.lower().endswith(".eml") and name[0] != ".")
        except OSError as error:
            raise CommandError(EX_NOINPUT, f"{self.path}: cannot be read: {error.strerror}") from None

    def _files(self) -> Iterator[_Entry]:
        for name in self._names():
            try:
                yield _Entry(name, (self.path / name).read_bytes())
            except OSError as error:  # noqa: PERF203  # one turn per file
                yield _Entry(name, None, f"cannot be read: {error.strerror}")

    def _mbox(self) -> Iterator[_Entry]:
        """RFC 4155: a mail begins with a `From ` line behind an empty one, and its own such lines have a `>` more."""
        with _opened(self.path) as file:
            for number, octets in enumerate(_starts(file), 1):
                yield _Entry(f"message {number}", _QUOTED.sub(rb"\1", octets))

    def _lines(self) -> Iterator[_Entry]:
        with _opened(self.path) as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield _Entry(f"line {number}", line.strip())


def _starts(file: Iterable[bytes]) -> Iterator[bytes]:
    """The octets of each mail of an mbox, without its `From ` line and the empty line behind it."""
    held: list[bytes] | None = None
    empty = True
    for line in file:
        if empty and line.startswith(b"From "):
            if held is not None:
                yield _joined(held)
            held = []
        elif held is None:
            if line.strip():
                raise CommandError(EX_DATAERR, "this is no mbox: it does not begin with a From line")
        else:
            held.append(line)
        empty = line in (b"\n", b"\r\n")
    if held is not None:
        yield _joined(held)


def _joined(held: list[bytes]) -> bytes:
    if held and held[-1] in (b"\n", b"\r\n"):
        held.pop()
    return b"".join(held)


def _kind_of(path: Path) -> str:
    if path.is_dir():
        return "eml"
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix in (".mbox", ".mbx"):
        return "mbox"
    with _opened(path) as file:
        head = file.read(5)
    if head == b"From ":
        return "mbox"
    if head.lstrip()[:1] == b"{":
        return "jsonl"
    raise CommandError(EX_USAGE, f"{path}: neither a directory, an mbox nor JSONL; say which by --format")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file for reading; `CommandError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise CommandError(EX_NOINPUT, f"{path}: cannot be read: {reason}") from None


def _digest(octets: bytes) -> str:
    return hashlib.blake2b(octets, digest_size=_DIGEST).hexdigest()
