"""What became of the message of `smtpconn send`, and how it is shown: a table, lines with tabs, or JSON.

Knows verdicts and streams; refuses to know how they came about. Its laws: stdout has one line per recipient (or one
JSON object) and stderr says why; what cannot be written any more changes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from smtpconn import Delivery, RecipientResult, Reply, SmtpError, TlsInfo
from smtpconn.cli import render, shapes
from smtpconn.cli.exits import EX_IOERR, EX_TEMPFAIL, EX_USAGE, CommandError
from smtpconn.protocol.reply import safe_text

_TEXT = 160  # characters of a reply in the table; a pipe and --json have all of it
_ADDRESS = 34  # characters of an address there
_HEADER = ("verdict", "code", "status", "recipient", "text")


@dataclass(kw_only=True)
class Report:
    """All that is known so far of the message that is sent."""

    status: int = EX_USAGE
    recipients: Sequence[RecipientResult] = ()
    reply: Reply | None = None
    queue_id: str | None = None
    is_lmtp: bool = False
    error: SmtpError | None = None
    refused: CommandError | None = None
    interrupted: bool = False
    endpoint: str | None = None
    tls: TlsInfo | None = None
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def delivery(self) -> Delivery:
        """The verdict of the whole: UNKNOWN if any recipient is, else DELIVERED if any is, else NOT_DELIVERED."""
        verdicts = {entry.delivery for entry in self.recipients}
        for verdict in (Delivery.UNKNOWN, Delivery.DELIVERED):
            if verdict in verdicts:
                return verdict
        return Delivery.NOT_DELIVERED

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        error = None
        if self.error is not None:
            error = shapes.error(self.error)
        elif self.refused is not None:
            error = shapes.refusal(str(self.refused))
        return {
            "schema": shapes.SCHEMA,
            "command": "send",
            "exit": self.status,
            "delivery": self.delivery.value,
            "reply": shapes.reply(self.reply),
            "queue_id": self.queue_id,
            "recipients": [shapes.recipient(entry, queue_id=self.is_lmtp) for entry in self.recipients],
            "error": error,
            "endpoint": self.endpoint,
            "tls": shapes.tls(self.tls),
            "seconds": round(self.seconds, 3),
        }


def show(report: Report, *, as_json: bool, quiet: bool) -> None:
    """Write it all. A reader that is gone, or a full disk, is not the mail's fault: nothing is raised for them."""
    lines = list(_diagnostics(report))
    try:
        if as_json:
            print(json.dumps(report.to_json(), indent=2))
        else:
            _show_rows(report, quiet=quiet)
        sys.stdout.flush()
    except OSError as error:
        render.stop_writing(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            lines.append(f"stdout: {error.strerror}")
    try:
        for line in lines:
            print(f"smtpconn send: {line}", file=sys.stderr, flush=True)
    except OSError:
        render.stop_writing(sys.stderr)


def _show_rows(report: Report, *, quiet: bool) -> None:
    missing = [entry for entry in report.recipients if entry.delivery is not Delivery.DELIVERED]
    rows = [_row(entry) for entry in (missing if quiet else report.recipients)]
    final = [] if report.reply is None or quiet else [_final(report.reply, report.queue_id)]
    if not sys.stdout.isatty():
        for row in (*rows, *final):
            print("\t".join(row))
    elif rows:
        have = len(report.recipients) - len(missing)
        title = f"{have} of {len(report.recipients)} recipients have the message"
        shown = [(*row[:3], _cut(row[3]), _clipped(row[4])) for row in (*rows, *final)]
        render.table(title, shown, header=_HEADER, wrap=True)


def _row(entry: RecipientResult) -> tuple[str, ...]:
    text = entry.reply.message if entry.reply else "-"
    return entry.delivery.name, *_status(entry.reply), safe_text(entry.address), text


def _final(reply: Reply, queue_id: str | None) -> tuple[str, ...]:
    """The line of the final reply; where the others have an address it has the queue id."""
    return "REPLY", *_status(reply), queue_id or "-", reply.message


def _status(reply: Reply | None) -> tuple[str, str]:
    if reply is None:
        return "-", "-"
    return str(reply.code), str(reply.enhanced or "-")


def _cut(address: str) -> str:
    if len(address) <= _ADDRESS:
        return address
    end = _ADDRESS * 2 // 5
    return f"{address[: _ADDRESS - end - 3]}...{address[-end:]}"


def _clipped(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."


def _diagnostics(report: Report) -> Iterator[str]:
    """Why, and what the caller may do now."""
    if report.refused is not None:
        yield str(report.refused)
    if report.error is not None:
        yield f"{type(report.error).__name__}: {report.error}"
    if report.interrupted:
        counts = [(sum(each.delivery is verdict for each in report.recipients), verdict) for verdict in Delivery]
        yield f"interrupted: {', '.join(f'{count} {verdict.value}' for count, verdict in counts)}"
    if report.delivery is Delivery.UNKNOWN:
        yield "UNKNOWN: the server may have the message; sending it again may duplicate it" + (
            f" (exit status {EX_IOERR})" if report.status == EX_IOERR else ""
        )
    elif report.status == EX_TEMPFAIL:
        yield "nobody has the message; it is safe to try again later"
