"""`smtpconn bulk`: many mails through one pool, with a journal by which a run that was killed is taken up again.

Knows options, and how a run ends. Refuses to compose campaigns and to throttle. The law: what the journal says stands
above what the caller hopes; a status that makes a caller repeat is given only where a repetition can do no harm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smtpconn import InvalidInputError, Pipelining, SmtpError
from smtpconn.cli import logs, server, sources, values
from smtpconn.cli.exits import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_DATAERR,
    EX_IOERR,
    EX_NOINPUT,
    EX_OK,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    INTERRUPTED,
    NOT_ALL_DELIVERED,
    CommandError,
    status_of_error,
)
from smtpconn.cli.mailing import Mailing
from smtpconn.cli.mailing_report import MailingReport, show_refusal
from smtpconn.cli.verdict_journal import State, VerdictJournal

_STOPPING = b"smtpconn bulk: ending when the mails under way have their verdicts; once more cuts them off\n"
_LEVELS = [level.name.lower() for level in Pipelining]


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "bulk",
        help="send many mails through one pool; a run that was killed is taken up again",
        description="Send the mails of a directory, an mbox or a JSONL file, and say for every recipient what became "
        "of it. The same command, given again, goes on where a run was ended or killed, and sends nothing twice.",
        epilog="Exit status: as that of send, over all mails of the source; 74 if any is unknown.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a directory of .eml files, an mbox, or a JSONL file")
    group = parser.add_argument_group("mails")
    group.add_argument("--format", choices=sources.FORMATS, default="auto", help="of SOURCE (default: %(default)s)")
    group.add_argument("--newlines", choices=("crlf", "strict"), default="crlf", help="default: LF becomes CR LF")
    group.add_argument("-f", "--from", "--sender", dest="sender", metavar="ADDRESS", help="sender; <> is the null path")
    group.add_argument("--to", action="append", metavar="ADDRESS", help="send every mail here, not to its header's")
    group.add_argument("--bdat", action="store_true", help="BDAT instead of DATA")
    group = parser.add_argument_group("journal")
    group.add_argument("--journal", metavar="PATH", help="the journal of verdicts (default: SOURCE.journal)")
    group.add_argument("--fsync", action="store_true", help="let it outlive a power failure, too")
    group.add_argument("--resend-unknown", action="store_true", help="send again what may have been delivered")
    group = parser.add_argument_group("pool")
    group.add_argument("--max-size", type=values.positive, metavar="N", help="connections at most (default: 4)")
    group.add_argument("--pipelining", choices=_LEVELS, help="how far commands run ahead (default: grouped)")
    group.add_argument("--retries", type=values.count, metavar="N", default=0, help="turns for what may come later")
    group.add_argument(
        "--retry-wait",
        type=values.seconds,
        metavar="SECONDS",
        default=60.0,
        help="between these turns (default: %(default)s)",
    )
    server.add_to(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    group.add_argument("-q", "--quiet", action="store_true", help="print only who does not have a mail")
    logs.add_to(group)
    parser.set_defaults(run=run, command="bulk")


def run(arguments: argparse.Namespace) -> int:
    """Send what is not settled yet, show what became of it, and return the exit status."""
    with logs.shown(arguments):
        try:
            return _run(arguments)
        except CommandError as error:
            show_refusal(error, as_json=arguments.json)
            return error.status


def _run(arguments: argparse.Namespace) -> int:
    source = sources.Source(Path(arguments.source), arguments.format, _envelope(arguments))
    target = server.server_of(arguments)
    pool = _pool(arguments, target)
    journal = VerdictJournal(
        _journal_path(arguments), sync=arguments.fsync, resend_unknown=arguments.resend_unknown
    )
    report = MailingReport(as_json=arguments.json, quiet=arguments.quiet)
    mailing = Mailing(source, journal, report, newlines=arguments.newlines, chunking=arguments.bdat)
    why: str | None = None
    with contextlib.closing(journal):
        try:
            with pool, _stopped_by_signals(mailing), report.bar(source.count):
                mailing.run(pool, retries=arguments.retries, wait=arguments.retry_wait)
        except KeyboardInterrupt:
            mailing.stop()
        if mailing.journal_error is not None:
            why = str(mailing.journal_error)
        elif mailing.stopped:
            why = "interrupted"
        elif mailing.source_error is not None:
            why = str(mailing.source_error)
        elif mailing.fault is not None:
            why = f"{type(mailing.fault).__name__}: {mailing.fault}"
        journal.close()
        mailing.abandon()
        mailing.finish()
    left = mailing.left if why is not None else 0
    status = _status(mailing, left)
    report.end(mailing, status=status, journal=str(journal.path), left=left, why=why)
    return status


def _status(mailing: Mailing, left: int) -> int:
    """The status of all mails of the source, those of earlier runs included."""
    tally = mailing.tally
    open_ones = tally[State.OPEN] + tally[State.LATER] + left
    if mailing.journal_error is None and mailing.stopped:
        return INTERRUPTED
    if tally[State.UNKNOWN]:
        return EX_IOERR
    if mailing.journal_error is not None:
        return EX_CANTCREAT
    if tally[State.DELIVERED]:
        return EX_OK if _is_complete(mailing, open_ones) else NOT_ALL_DELIVERED
    if mailing.source_error is not None:
        return mailing.source_error.status
    if mailing.fault is not None:
        return status_of_error(mailing.fault)
    if open_ones:
        return EX_TEMPFAIL
    if tally[State.REFUSED]:
        return EX_UNAVAILABLE if mailing.refusal is None else status_of_error(mailing.refusal)
    return EX_DATAERR if mailing.unusable else EX_NOINPUT


def _is_complete(mailing: Mailing, open_ones: int) -> bool:
    return not (open_ones or mailing.tally[State.REFUSED] or mailing.unusable or mailing.source_error)


@contextlib.contextmanager
def _stopped_by_signals(mailing: Mailing) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets what was begun come to its end; the second cuts it off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if mailing.stopped:
            raise KeyboardInterrupt
        mailing.stop()
        with contextlib.suppress(OSError):
            os.write(2, _STOPPING)  # past the stream, which may be in the middle of a line of ours

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- options ---


def _envelope(arguments: argparse.Namespace) -> sources.Envelope:
    try:
        sender = None
        if arguments.sender is not None:
            sender = values.sender("" if arguments.sender == "<>" else arguments.sender)
        recipients = tuple(map(values.recipient, arguments.to or ()))
    except InvalidInputError as error:
        raise CommandError(EX_USAGE, str(error)) from None
    return sources.Envelope(sender=sender, recipients=recipients)


def _journal_path(arguments: argparse.Namespace) -> Path:
    if arguments.journal is not None:
        return Path(arguments.journal)
    source = Path(arguments.source).resolve()
    return source.with_name(f"{source.name}.journal")


def _pool(arguments: argparse.Namespace, target: server.Server) -> Any:
    keywords: dict[str, Any] = {}
    if arguments.max_size is not None:
        keywords["max_size"] = arguments.max_size
    if arguments.pipelining is not None:
        keywords["pipelining"] = Pipelining[arguments.pipelining.upper()]
    try:
        return target.pool(**keywords)
    except (SmtpError, TypeError) as error:
        raise CommandError(EX_CONFIG, str(error)) from None
