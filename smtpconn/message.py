"""An `EmailMessage` to a `Mail`: envelope out of its headers, octets as the server can take them (users MS1-MS10).

Knows the `email` package; refuses to compose or to repair. The message object is never modified.
"""

from __future__ import annotations

import copy
import email.errors
import email.generator
import email.message
import email.policy
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Mail, Recipient, recipients_of, sender_of

_ADDRESSES = ("From", "Sender", "Reply-To", "To", "Cc", "Bcc")
_HIDDEN = ("Bcc", "Resent-Bcc")


def mail_of(
    message: object, *, sender: Any = None, recipients: Any = None, params: Any = None, tag: Any = None
) -> Mail:
    """The `Mail` of an email message, its envelope read from the headers where it is not given; not serialised yet.

    Raises TypeError for anything else, `InvalidInputError` for headers that give no clear envelope.
    """
    if not isinstance(message, email.message.Message):
        raise TypeError(f"send_message takes an EmailMessage, not {type(message).__name__}: octets go through send")
    return addressed(Mail.from_message(message, sender=sender, recipients=recipients, params=params, tag=tag))


def addressed(mail: Mail) -> Mail:
    """The mail with an envelope: what `Mail.from_message` left open comes from the headers."""
    message: email.message.Message = mail.email_message
    if not isinstance(message, email.message.Message):
        raise TypeError(f"Mail.from_message takes an EmailMessage, not {type(message).__name__}")
    prefix = _block(message)
    sender = mail.sender if mail.sender is not None else sender_of(_sender(message, prefix))
    recipients = mail.recipients if mail.recipients is not None else recipients_of(_recipients(message, prefix))
    return Mail.from_message(message, sender=sender, recipients=recipients, params=mail.params, tag=mail.tag)


def serialised(mail: Mail, capabilities: ServerCapabilities) -> Mail:
    """The mail with the octets of its message: CRLF, without Bcc, in 7 bits where the server needs that.

    Raises `InvalidInputError` if a NUL or a bare CR survives, or if `params` contradicts what the message is.
    """
    if mail.sender is None or mail.recipients is None:
        mail = addressed(mail)
    assert mail.sender is not None
    assert mail.recipients is not None
    message: email.message.Message = mail.email_message
    if mail.params.body == "BINARYMIME":
        raise InvalidInputError("params.body BINARYMIME is not possible for an email message: it is sent as text")
    paths = (mail.sender, *(recipient.path for recipient in mail.recipients))
    international = any(path.requires_smtputf8 for path in paths) or not _has_ascii_addresses(message)
    if international and mail.params.smtputf8 is False:
        raise InvalidInputError("params.smtputf8 is False, but the message has an address that is not ASCII")
    if international:
        capabilities.require("SMTPUTF8")
    international = international or bool(mail.params.smtputf8)
    eight_bit = (capabilities.supports_8bitmime and mail.params.body != "7BIT") or international
    octets = _octets(message, eight_bit=eight_bit, international=international)
    params = replace(mail.params, smtputf8=True) if international else mail.params
    return Mail(mail.sender, mail.recipients, octets, params=params, tag=mail.tag)


def _block(message: email.message.Message) -> str:
    """MS2: "" for the plain headers, "Resent-" where the message has one resent block."""
    count = len(message.get_all("Resent-Date") or ())
    if count > 1:
        raise InvalidInputError("message has more than one Resent-Date: which block is the last cannot be known")
    return "Resent-" if count else ""


def _sender(message: email.message.Message, prefix: str) -> str:
    for name in (f"{prefix}Sender", f"{prefix}From"):
        for address in _addresses(message, name):
            return address
    raise InvalidInputError(f"message has neither {prefix}Sender nor {prefix}From: give sender")


def _recipients(message: email.message.Message, prefix: str) -> list[str | Recipient]:
    found: list[str | Recipient] = []
    for name in (f"{prefix}To", f"{prefix}Cc", f"{prefix}Bcc"):
        found.extend(_addresses(message, name))
    if not found:
        raise InvalidInputError(f"message has no mailbox in {prefix}To, {prefix}Cc or {prefix}Bcc: give recipients")
    return found


def _addresses(message: email.message.Message, name: str) -> Iterator[str]:
    """The addr-specs of every header of this name; `InvalidInputError` where one parses to none (MS5)."""
    for value in message.get_all(name) or ():
        header: Any = value
        if not hasattr(header, "addresses"):
            header = email.policy.SMTPUTF8.header_factory(name, str(value))
        if any(isinstance(defect, email.errors.InvalidHeaderDefect) for defect in header.defects):
            raise InvalidInputError(f"message: the header {name} is not a list of addresses")
        for address in header.addresses:
            if not address.username or not address.domain:
                raise InvalidInputError(f"message: the header {name} has an address without local part or domain")
            yield address.addr_spec


def _has_ascii_addresses(message: email.message.Message) -> bool:
    names = [f"{prefix}{name}" for prefix in ("", "Resent-") for name in _ADDRESSES]
    return all(address.isascii() for name in names if name in message for address in _addresses(message, name))


def _octets(message: email.message.Message, *, eight_bit: bool, international: bool) -> bytes:
    shown = copy.copy(message)  # shallow: deleting a header rebinds the list of the copy only
    for name in _HIDDEN:
        del shown[name]
    options: dict[str, Any] = {"linesep": "\r\n", "cte_type": "8bit" if eight_bit else "7bit"}
    policy: Any = message.policy
    if not isinstance(policy, email.policy.EmailPolicy) and international:
        policy = email.policy.SMTPUTF8.clone(max_line_length=policy.max_line_length)
    if isinstance(policy, email.policy.EmailPolicy):
        options["utf8"] = international
    buffer = io.BytesIO()
    try:
        email.generator.BytesGenerator(buffer, mangle_from_=False, policy=policy.clone(**options)).flatten(shown)
    except (email.errors.MessageError, UnicodeError, ValueError, LookupError) as error:
        raise InvalidInputError(f"message cannot be serialised: {error}") from error
    return buffer.getvalue()
