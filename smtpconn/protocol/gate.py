"""The capability gate: what a mail asks for against what the server offers, before anything is written.

Knows which parameter needs which extension, and the limits that the server announced (RFC 4865, RFC 2852, RFC 9422).
Refuses to know how a parameter is spelt. Its law: a parameter is never dropped and never sent on the chance: real
servers answer 501 or 555, and some hang up (F78).
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.errors import ExtensionUnavailableError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Recipient, domains_of, wants_smtputf8
from smtpconn.protocol.params import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams

_NULL_PATH = ReversePath("")

# RFC 3030 section 3: BINARYMIME goes by BDAT. RFC 6152: BODY= itself came with 8BITMIME.
_BODY_NEEDS = {"7BIT": ("8BITMIME",), "8BITMIME": ("8BITMIME",), "BINARYMIME": ("BINARYMIME", "CHUNKING")}


def check(
    params: MailParams,
    recipients: Sequence[Recipient],
    capabilities: ServerCapabilities,
    *,
    secure: bool,
    sender: ReversePath = _NULL_PATH,
) -> bool:
    """Pass if the server offers all that the mail asks for; True if that is SMTPUTF8, too (F65).

    `secure`: TLS with a verified certificate is active.

    Raises:
        ExtensionUnavailableError: it does not; `extension` names what is missing.
        InvalidInputError: `smtputf8=False`, and a path is not ASCII.
    """
    smtputf8 = wants_smtputf8(sender, recipients, params)
    if smtputf8:
        capabilities.require("SMTPUTF8")
    if params is not NO_MAIL_PARAMS:
        _check_mail(params, capabilities, secure)
    for recipient in recipients:
        if recipient.params is not NO_RCPT_PARAMS:
            _check_rcpt(recipient, capabilities)
    if capabilities.limits:
        _check_limits(recipients, capabilities)
    return smtputf8


def _check_mail(params: MailParams, capabilities: ServerCapabilities, secure: bool) -> None:
    for extension in _BODY_NEEDS[params.body] if params.body else ():
        capabilities.require(extension)
    if params.ret is not None or params.envid is not None:
        capabilities.require("DSN")
    if params.auth is not None:
        capabilities.require("AUTH")
    if params.requiretls:
        capabilities.require("REQUIRETLS")
        if not secure:
            raise _beyond("REQUIRETLS", "requiretls needs TLS on this connection (RFC 8689 section 2)")
    if params.hold_for is not None or params.hold_until is not None:
        _check_hold(params, capabilities)
    if params.deliver_by is not None:
        capabilities.require("DELIVERBY")
        least = capabilities.deliver_by_minimum
        if params.deliver_by.mode == "R" and least is not None and params.deliver_by.seconds < least:
            raise _beyond("DELIVERBY", f"deliver_by is {params.deliver_by.seconds} s, the server's least is {least} s")
    if params.mt_priority is not None:
        capabilities.require("MT-PRIORITY")


def _check_hold(params: MailParams, capabilities: ServerCapabilities) -> None:
    capabilities.require("FUTURERELEASE")
    most, latest = capabilities.hold_for_maximum, capabilities.hold_until_maximum
    if params.hold_for is not None and most is not None and params.hold_for > most:
        raise _beyond("FUTURERELEASE", f"hold_for is {params.hold_for} s, the server's most is {most} s")
    if params.hold_until is not None and latest is not None and params.hold_until > latest:
        asked, last = params.hold_until.isoformat(), latest.isoformat()
        raise _beyond("FUTURERELEASE", f"hold_until is {asked}, the server's latest is {last}")


def _check_rcpt(recipient: Recipient, capabilities: ServerCapabilities) -> None:
    if recipient.params.needs_dsn:
        capabilities.require("DSN")
    if recipient.params.needs_smtputf8:
        capabilities.require("SMTPUTF8")


def _check_limits(recipients: Sequence[Recipient], capabilities: ServerCapabilities) -> None:
    """RFC 9422; LI3, LI4. One mail is one transaction: it is never split."""
    most = capabilities.limits.get("RCPTMAX")
    if most is not None and len(recipients) > most:
        count = len({recipient.key for recipient in recipients})
        if count > most:
            raise _beyond("LIMITS", f"{count} recipients, the server takes {most} (RCPTMAX): make several mails")
    most = capabilities.limits.get("RCPTDOMAINMAX")
    if most is not None and len(recipients) > most:
        count = len(domains_of(recipients))
        if count > most:
            raise _beyond("LIMITS", f"{count} domains, the server takes {most} (RCPTDOMAINMAX): make several mails")


def _beyond(extension: str, message: str) -> ExtensionUnavailableError:
    return ExtensionUnavailableError(message, extension=extension)
