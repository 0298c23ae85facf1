"""`smtpconn send`: one message to its recipients, in the manner of sendmail, and what became of each of them.

Knows options, and in which order a message, an envelope and a server are found wrong. Refuses to queue and to repeat:
the exit status tells the caller whether he may. Its laws: nothing is connected before all that can be refused was
refused; once a verdict is known, nothing that fails afterwards (a closed pipe, a full disk, Ctrl-C) changes the status
to one that would make a caller repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

from smtpconn import (
    Delivery,
    InvalidInputError,
    Mail,
    MailParams,
    Notify,
    RcptParams,
    Recipient,
    RecipientResult,
    SmtpError,
    attempt_of,
)
from smtpconn.cli import letter, logs, server
from smtpconn.cli.exits import (
    EX_DATAERR,
    EX_USAGE,
    INTERRUPTED,
    CommandError,
    status_of_error,
    status_of_verdicts,
)
from smtpconn.cli.report import Report, show
from smtpconn.deadline import Budget
from smtpconn.oneshot import send_over
from smtpconn.protocol.mail import sender_of
from smtpconn.protocol.result import nobody_has_it


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "send",
        help="send one message, in the manner of sendmail",
        description="Send one message from a file or standard input, and say for every recipient what became of it.",
        epilog="Exit status: 0 all delivered, 1 some, 69 nobody for good, 74 unknown (do not repeat), 75 try later; "
        "the others are in the documentation.",
    )
    parser.add_argument("recipients", nargs="*", metavar="RECIPIENT", help="address of a recipient")
    group = parser.add_argument_group("message")
    group.add_argument("--file", metavar="PATH", help="the message (default: standard input)")
    group.add_argument("--newlines", choices=("crlf", "strict"), default="crlf", help="default: LF becomes CR LF")
    group.add_argument("-i", "-oi", action="store_true", help="no effect: a line with a single dot ends nothing")
    group = parser.add_argument_group("envelope")
    group.add_argument("-f", "--from", "--sender", dest="sender", metavar="ADDRESS", help="sender; <> is the null path")
    group.add_argument("-t", action="store_true", dest="from_header", help="recipients also from To, Cc, Bcc")
    group.add_argument("-N", "--notify", metavar="WHEN", help="DSN: never, or success,failure,delay")
    group.add_argument("-R", "--ret", choices=("full", "hdrs"), help="what a DSN returns")
    group.add_argument("-V", "--envid", metavar="ID", help="envelope id for DSNs")
    group.add_argument("--requiretls", action="store_true", help="RFC 8689: TLS, verified, on every hop")
    group.add_argument("--smtputf8", action="store_true", help="ask for SMTPUTF8, whatever the addresses are")
    group.add_argument("--bdat", action="store_true", help="BDAT instead of DATA")
    server.add_to(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    group.add_argument("-q", "--quiet", action="store_true", help="print only who does not have the message")
    logs.add_to(group)
    parser.set_defaults(run=run, command="send")


def run(arguments: argparse.Namespace) -> int:
    """Send the message, show what became of it, and return the exit status."""
    report = Report()
    with logs.shown(arguments):
        try:
            _prepare_and_post(arguments, report)
        except CommandError as error:
            report.refused, report.status = error, error.status
        except SmtpError as error:
            report.error = error
            report.recipients = error.recipients or report.recipients
            report.status = status_of_error(error)
        except KeyboardInterrupt as interrupt:  # what is known of the mail is on the exception
            attempt = attempt_of(interrupt)
            report.recipients = report.recipients if attempt is None else attempt.recipients
            report.interrupted, report.status = True, INTERRUPTED
    report.seconds = time.monotonic() - report.began
    with contextlib.suppress(KeyboardInterrupt):
        show(report, as_json=arguments.json, quiet=arguments.quiet)
    return report.status


def _prepare_and_post(arguments: argparse.Namespace, report: Report) -> None:
    _check_streams(arguments)
    target = server.server_of(arguments)
    mail = mail_of(arguments, letter.read(arguments.file))
    assert mail.recipients is not None
    report.recipients = nobody_has_it(mail.recipients)
    report.is_lmtp = target.opening.protocol == "lmtp"
    report.endpoint = target.endpoints[-1].name
    report.began = time.monotonic()
    budget = Budget.of(target.timeouts)
    endpoint, connection = target.connected(budget)
    report.endpoint, report.tls = endpoint.name, connection.tls
    # From here on an interrupt that carries no verdicts proves nothing.
    report.recipients = tuple(RecipientResult(given, Delivery.UNKNOWN) for given in mail.recipients)
    result = send_over(connection, mail, budget)
    report.recipients, report.reply, report.queue_id = result.recipients, result.reply, result.queue_id
    report.status = status_of_verdicts(result.recipients)


# --- what is sent ---


def _check_streams(arguments: argparse.Namespace) -> None:
    if arguments.password_stdin and arguments.file in (None, "-"):
        raise CommandError(EX_USAGE, "--password-stdin: the message stands there; give it as --file PATH")
    if not arguments.recipients and not arguments.from_header:
        raise CommandError(EX_USAGE, "no recipients: give them as arguments, or -t to take those of the header")


def mail_of(arguments: argparse.Namespace, octets: bytes) -> Mail:
    """The mail that the options and the message make. Raises `CommandError`."""
    envelope = letter.Envelope(octets)
    try:
        params, notify = _params(arguments)
        given = [Recipient(address, notify) for address in arguments.recipients]
        sender = "" if arguments.sender == "<>" else arguments.sender
        if sender is not None:
            sender_of(sender)  # an option that is wrong is found before the message is
    except (InvalidInputError, TypeError) as error:
        raise CommandError(EX_USAGE, str(error)) from None
    if arguments.from_header:
        given += [Recipient(address, notify) for address in envelope.recipients]
        octets = letter.without_bcc(octets)
    if sender is None:
        sender = envelope.sender
    try:
        return Mail(sender, given, octets, params=params, newlines=arguments.newlines, chunking=arguments.bdat)
    except InvalidInputError as error:
        raise CommandError(EX_DATAERR, str(error)) from None


def _params(arguments: argparse.Namespace) -> tuple[MailParams, RcptParams]:
    params = MailParams(
        ret=arguments.ret.upper() if arguments.ret else None,
        envid=arguments.envid,
        requiretls=arguments.requiretls,
        smtputf8=True if arguments.smtputf8 else None,
    )
    if arguments.notify is None:
        return params, RcptParams()
    try:
        wanted = [Notify[word.strip().upper()] for word in arguments.notify.split(",")]
    except KeyError:
        raise CommandError(EX_USAGE, "-N: one or more of success,failure,delay, or never alone") from None
    return params, RcptParams(notify=wanted)
