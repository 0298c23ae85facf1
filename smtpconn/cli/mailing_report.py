"""How a run of `smtpconn bulk` is shown: a bar and tables on a terminal, lines with tabs in a pipe, or JSON.

Knows streams and counts; refuses to know how verdicts come about. Its laws: what cannot be written any more changes
nothing, because the journal has it; what is kept for the end is bounded.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from smtpconn.cli import render, shapes
from smtpconn.cli.exits import EX_IOERR, CommandError
from smtpconn.cli.mailing import Mailing, Shown
from smtpconn.cli.sources import Unusable
from smtpconn.cli.verdict_journal import State
from smtpconn.protocol.reply import safe_text

_KEPT = 1_000  # recipients without the mail, and mails that cannot be sent, that --json lists
_TABLE = 20  # of these on a terminal
_CELL = 30  # characters of a name or an address there
_TEXT = 120
_HEADER = ("verdict", "code", "mail", "recipient", "text")


class MailingReport:
    """What a run tells while it goes on, and at its end."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._on_terminal = sys.stdout.isatty()
        self._began = time.monotonic()
        self._gone = False
        self._bar: Callable[[int], None] = lambda done: None
        self._missing: list[dict[str, Any]] = []
        self._unusable: list[dict[str, str]] = []
        self._rows: list[tuple[str, ...]] = []
        self._hidden = 0

    @contextlib.contextmanager
    def bar(self, count: Callable[[], int]) -> Iterator[None]:
        """A progress bar on a terminal, for as long as the block runs."""
        wanted = self._on_terminal and not (self._as_json or self._quiet)
        if not wanted:
            yield
            return
        with render.progress(count(), wanted=True) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = lambda done: None

    # --- while it goes on ---

    def settled(self, shown: Shown) -> None:
        """One recipient has his verdict."""
        verdict, is_missing = shown.verdict, shown.verdict.state is not State.DELIVERED
        text = shown.reply.message if shown.reply else shown.text or "-"
        if is_missing and len(self._missing) < _KEPT:
            about = {"mail": safe_text(shown.name), "recipient": verdict.recipient, "delivery": verdict.delivery.value}
            facts = {"code": verdict.code, "enhanced": verdict.enhanced, "text": text, "later": _may_be_tried(verdict)}
            self._missing.append({**about, **facts})
        if self._as_json or (self._quiet and not is_missing):
            return
        name, recipient = safe_text(shown.name), safe_text(verdict.recipient)
        code, enhanced = str(verdict.code or "-"), verdict.enhanced or "-"
        if not self._on_terminal:
            self._print("\t".join((verdict.delivery.name, code, enhanced, name, recipient, text)))
        elif is_missing:
            self._keep_row(verdict.delivery.name, code, name, recipient, text)

    def unusable(self, mail: Unusable) -> None:
        """A mail of the source cannot be sent."""
        name, reason = safe_text(mail.name), safe_text(mail.reason)
        if len(self._unusable) < _KEPT:
            self._unusable.append({"mail": name, "reason": reason})
        if self._as_json:
            return
        if not self._on_terminal:
            self._print("\t".join(("UNUSABLE", "-", "-", name, "-", reason)))
        else:
            self._keep_row("UNUSABLE", "-", name, "-", reason)

    def progress(self, done: int) -> None:
        """So many mails are done."""
        if not self._gone:
            try:
                self._bar(done)
            except OSError:
                self._lose()

    def _keep_row(self, verdict: str, code: str, name: str, recipient: str, text: str) -> None:
        if len(self._rows) < _TABLE:
            self._rows.append((verdict, code, _cut(name, _CELL), _cut(recipient, _CELL), _cut(text, _TEXT)))
        else:
            self._hidden += 1

    def _print(self, line: str) -> None:
        if self._gone:
            return
        try:
            print(line, flush=True)
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Nobody reads stdout any more, or its disk is full: the mails go on."""
        self._gone = True
        render.stop_writing(sys.stdout)

    # --- at the end ---

    def end(self, mailing: Mailing, *, status: int, journal: str, left: int, why: str | None) -> None:
        """The counts, and on stderr what the caller may do now. `why`: what ended the run before its end."""
        try:
            if self._as_json:
                print(json.dumps(self._json(mailing, status, journal, left), indent=2))
            elif self._on_terminal:
                self._tables(mailing, left)
            elif not self._quiet:
                counts = {**_counts(mailing), "unusable": mailing.unusable, "left": left}
                self._print("\t".join(["SUMMARY", *(f"{name}={number}" for name, number in counts.items())]))
            sys.stdout.flush()
        except OSError:
            self._lose()
        try:
            for line in _advice(mailing, status, left, why):
                print(f"smtpconn bulk: {line}", file=sys.stderr, flush=True)
        except OSError:
            render.stop_writing(sys.stderr)

    def _tables(self, mailing: Mailing, left: int) -> None:
        if self._rows:
            render.table("Without the mail", self._rows, header=_HEADER, wrap=True)
            if self._hidden:
                print(f"... and {self._hidden:,} more; --json lists up to {_KEPT:,}, the journal all\n")
        if self._quiet:
            return
        rows = [("mails", f"{mailing.mails:,}")]
        rows += [(f"  {name.replace('_', ' ')}", f"{number:,}") for name, number in _counts(mailing).items()]
        rows += [("mails that cannot be sent", f"{mailing.unusable:,}")] if mailing.unusable else []
        rows += [("mails not looked at", f"{left:,}")] if left else []
        rows += [("seconds", f"{time.monotonic() - self._began:.1f}")]
        render.table("Recipients", rows)

    def _json(self, mailing: Mailing, status: int, journal: str, left: int) -> dict[str, Any]:
        fault = mailing.fault
        return {
            "schema": shapes.SCHEMA,
            "command": "bulk",
            "exit": status,
            "mails": mailing.mails,
            "left": left,
            "recipients": _counts(mailing),
            "missing": self._missing,
            "unusable": {"mails": mailing.unusable, "first": self._unusable},
            "error": None if fault is None else shapes.error(fault),
            "journal": journal,
            "seconds": round(time.monotonic() - self._began, 3),
        }


def show_refusal(error: CommandError, *, as_json: bool) -> None:
    """The run ends before a server was spoken to."""
    try:
        if as_json:
            about = {"schema": shapes.SCHEMA, "command": "bulk", "exit": error.status}
            print(json.dumps({**about, "error": shapes.refusal(str(error))}, indent=2), flush=True)
        print(f"smtpconn bulk: {safe_text(str(error))}", file=sys.stderr, flush=True)
    except OSError:
        render.stop_writing(sys.stdout)
        render.stop_writing(sys.stderr)


def _counts(mailing: Mailing) -> dict[str, int]:
    tally = mailing.tally
    return {
        "delivered": tally[State.DELIVERED],
        "refused": tally[State.REFUSED],
        "later": tally[State.LATER] + tally[State.OPEN],
        "unknown": tally[State.UNKNOWN],
        "delivered_earlier": mailing.earlier[State.DELIVERED],
    }


def _may_be_tried(verdict: Any) -> bool:
    return verdict.state in (State.OPEN, State.LATER)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _advice(mailing: Mailing, status: int, left: int, why: str | None) -> Iterator[str]:
    if why is not None:
        yield why
    counts = _counts(mailing)
    if counts["unknown"]:
        told = f" (exit status {EX_IOERR})" if status == EX_IOERR else ""
        unknown = f"recipients for whom it is UNKNOWN: {counts['unknown']:,}"
        yield f"{unknown}; the server may have the mail, and only --resend-unknown sends it again{told}"
    if counts["later"] or left:
        mails = f", and {left:,} mails that were not looked at" if left else ""
        yield f"recipients to try again: {counts['later']:,}{mails}; the same command goes on where this one ended"
