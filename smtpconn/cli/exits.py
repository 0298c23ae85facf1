"""Exit statuses, by the names of sysexits.h where it has one, and which of them an outcome means.

Knows what a caller does with a status: repeat on 75, never on 74. Refuses to know how anything is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpconn import (
    AuthenticationError,
    Delivery,
    ExtensionUnavailableError,
    InvalidInputError,
    PolicyError,
    ProtocolError,
    RecipientResult,
    ResolveError,
    SmtpError,
    StartTlsInjectionError,
    UsageError,
)

EX_OK = 0
NOT_ALL_DELIVERED = 1
EX_USAGE = 64
EX_DATAERR = 65
EX_NOINPUT = 66
EX_NOHOST = 68
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_IOERR = 74
"""At least one recipient is UNKNOWN. Never 75: a caller that repeats on 75 would duplicate the mail."""
EX_TEMPFAIL = 75
EX_PROTOCOL = 76
EX_NOPERM = 77
EX_CONFIG = 78
INTERRUPTED = 130
"""128 + SIGINT, as a shell has it."""


class CommandError(Exception):
    """The command ends before a server was spoken to; `status` is the exit status, the text is for people.

    Its text never quotes what may be a secret: a URL, a password, what stands in a file.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of_verdicts(recipients: Sequence[RecipientResult]) -> int:
    """The status of an attempt that came to its end: only the verdicts count."""
    verdicts = {entry.delivery for entry in recipients}
    if Delivery.UNKNOWN in verdicts:
        return EX_IOERR
    if Delivery.DELIVERED in verdicts:
        return EX_OK if verdicts == {Delivery.DELIVERED} else NOT_ALL_DELIVERED
    return EX_UNAVAILABLE if all(entry.permanent for entry in recipients) else EX_TEMPFAIL


def status_of_error(error: SmtpError) -> int:
    """The status of an attempt that was given up; what became of the mail stands above who erred."""
    if error.delivery is not Delivery.NOT_DELIVERED:
        return status_of_verdicts(error.recipients)
    if isinstance(error, (ProtocolError, StartTlsInjectionError)):
        return EX_PROTOCOL
    if isinstance(error, (PolicyError, UsageError)):  # AUTH in clear is a UsageError; no other can occur here
        return EX_NOPERM
    if isinstance(error, AuthenticationError):
        return EX_NOPERM if error.permanent else EX_TEMPFAIL
    if isinstance(error, ResolveError) and error.permanent:
        return EX_NOHOST
    if isinstance(error, InvalidInputError):
        return EX_DATAERR
    if isinstance(error, ExtensionUnavailableError) and error.scope == "message":
        return EX_DATAERR
    return EX_UNAVAILABLE if error.permanent else EX_TEMPFAIL
