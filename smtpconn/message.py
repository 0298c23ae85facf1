"""An `EmailMessage` to a `Mail`: envelope out of its headers, octets as the server can take them (users MS1-MS10).

Knows the `email` package; refuses to compose or to repair. The message object is never modified.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import email.errors
import email.generator
import email.header
import email.message
import email.policy
import io
import quopri
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from smtpconn.protocol.errors import InvalidInputError, SmtpError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Mail, Recipient, recipients_of, sender_of
from smtpconn.protocol.result import nobody_has_it

_ADDRESSES = ("From", "Sender", "Reply-To", "To", "Cc", "Bcc")
# What `email` raises for a header or a part that it does not understand; a soft time limit is none of these.
_FAILURES = (
    email.errors.MessageError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
)
_HIDDEN = ("Bcc", "Resent-Bcc")
_ENCODING = "Content-Transfer-Encoding"
_IDENTITIES = ("7bit", "8bit", "binary")  # the encodings that encode nothing (RFC 2045 section 6.2)


def mail_of(
    message: object, *, sender: Any = None, recipients: Any = None, params: Any = None, tag: Any = None
) -> Mail:
    """The `Mail` of an email message, its envelope read from the headers where it is not given; not serialised yet.

    Raises TypeError for anything else, `InvalidInputError` for headers that give no clear envelope.
    """
    if not isinstance(message, email.message.Message):
        raise TypeError(f"send_message takes an EmailMessage, not {type(message).__name__}: octets go through send")
    given = None if recipients is None else recipients_of(recipients)
    try:
        return addressed(Mail.from_message(message, sender=sender, recipients=given, params=params, tag=tag))
    except SmtpError as error:
        error.recipients = nobody_has_it(given or ())
        raise


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
    mail = addressed(mail)
    assert mail.sender is not None
    assert mail.recipients is not None
    message: email.message.Message = mail.email_message
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
    name = f"{prefix}Sender"
    found = list(_addresses(message, name))
    if len(found) > 1:
        raise InvalidInputError(f"message: the header {name} has more than one address: give sender")
    found = found or list(_addresses(message, f"{prefix}From"))
    if not found:
        raise InvalidInputError(f"message has neither {prefix}Sender nor {prefix}From: give sender")
    return found[0]


def _recipients(message: email.message.Message, prefix: str) -> list[str | Recipient]:
    found: list[str | Recipient] = []
    for name in (f"{prefix}To", f"{prefix}Cc", f"{prefix}Bcc"):
        found.extend(_addresses(message, name))
    if not found:
        raise InvalidInputError(f"message has no mailbox in {prefix}To, {prefix}Cc or {prefix}Bcc: give recipients")
    return found


def _addresses(message: email.message.Message, name: str) -> Iterator[str]:
    """The addr-specs of every header of this name; `InvalidInputError` where one parses to none (MS5)."""
    for header in _parsed(message, name):
        if any(isinstance(defect, email.errors.InvalidHeaderDefect) for defect in header.defects):
            raise InvalidInputError(f"message: the header {name} is not a list of addresses")
        for address in header.addresses:
            if not address.username or not address.domain:
                raise InvalidInputError(f"message: the header {name} has an address without local part or domain")
            yield address.addr_spec


def _parsed(message: email.message.Message, name: str) -> list[Any]:
    """Every header of this name in its parsed form; the parser of `email` raises whatever it likes."""
    try:
        values = [value for each, value in message.raw_items() if each.lower() == name.lower()]
        return [value if _is_parsed(value) else _header(name, value) for value in values]
    except _FAILURES as error:
        raise InvalidInputError(f"message: the header {name} is not a list of addresses") from error


def _is_parsed(value: object) -> bool:
    """Also `EmailMessage` keeps a list of texts unparsed (`message["To"] = ["ben@example.net"]`)."""
    addresses = getattr(value, "addresses", None)
    return addresses is not None and not any(isinstance(address, str) for address in addresses)


def _header(name: str, value: object) -> Any:
    """A header in its parsed form.

    A `Header` is parsed as it would be sent, encoded: in its plain text a display name with a comma would become
    recipients. Octets above 127 are UTF-8 if they can be.
    """
    text = value.encode(maxlinelen=0) if isinstance(value, email.header.Header) else str(value)
    with contextlib.suppress(UnicodeError):
        text = text.encode("ascii", "surrogateescape").decode("utf-8")
    return email.policy.SMTPUTF8.header_factory(name, "".join(text.splitlines()))


def _has_ascii_addresses(message: email.message.Message) -> bool:
    """True unless an address in a header needs SMTPUTF8; what is ASCII as a whole need not be an address."""
    names = {f"{prefix}{name}".lower() for prefix in ("", "Resent-") for name in _ADDRESSES}
    suspects = {name for name, value in message.raw_items() if name.lower() in names and not str(value).isascii()}
    return all(address.isascii() for name in suspects for address in _addresses(message, name))


def _octets(message: email.message.Message, *, eight_bit: bool, international: bool) -> bytes:
    """The message on the wire; raises `InvalidInputError` for one that `email` cannot write."""
    try:
        shown = copy.deepcopy(message)  # writing gives nested parts their boundaries; payloads are shared
        for name in _HIDDEN:
            del shown[name]
        converted = [_encode_headers(part) for part in shown.walk()]
        _encode_content(shown, shown, eight_bit=eight_bit)
        options: dict[str, Any] = {"linesep": "\r\n", "cte_type": "8bit" if eight_bit else "7bit"}
        policy: Any = message.policy
        if not isinstance(policy, email.policy.EmailPolicy) and (international or any(converted)):
            policy = email.policy.SMTP.clone(max_line_length=policy.max_line_length)
        if isinstance(policy, email.policy.EmailPolicy):
            options["utf8"] = international
        buffer = io.BytesIO()
        email.generator.BytesGenerator(buffer, mangle_from_=False, policy=policy.clone(**options)).flatten(shown)
    except _FAILURES as error:
        raise InvalidInputError(f"message cannot be serialised: {error}") from error
    return buffer.getvalue()


def _encode_headers(part: email.message.Message) -> bool:
    """Give the headers of a part that are not ASCII their parsed form, which `email` writes by RFC 2047 and RFC 2231.

    As they are it would write raw octets, or encode an address with its display name. True if there were any.
    """
    items = list(part.raw_items())
    if all(hasattr(value, "fold") or str(value).isascii() for _, value in items):
        return False
    for name in {name for name, _ in items}:
        del part[name]
    for name, value in items:
        part.set_raw(name, value if hasattr(value, "fold") else _header(name, value))
    return True


def _encode_content(part: email.message.Message, root: email.message.Message, *, eight_bit: bool) -> None:
    """Encode what cannot go as it is (MS7): 8-bit octets where 8BITMIME is not offered, and parts that are binary.

    `email` encodes 8-bit octets only where the charset is one that it knows, and writes binary parts line by line.
    `root`: the message of which it is a part; without MIME-Version nobody would decode it.
    """
    encoding = str(part.get(_ENCODING, "7bit")).strip().lower()
    content: object = vars(part).get("_payload")  # the octets as they were parsed; `get_payload` decodes, and guesses
    if isinstance(content, list):
        if encoding == "binary" or (encoding == "8bit" and not eight_bit):
            part.replace_header(_ENCODING, "8bit" if eight_bit else "7bit")
        if not eight_bit:  # these are no content, and nobody reads them (RFC 2046 section 5.1.1)
            part.preamble, part.epilogue = _in_ascii(part.preamble), _in_ascii(part.epilogue)
        is_message = part.get_content_maintype() == "message"
        for child in content:
            _encode_content(child, child if is_message else root, eight_bit=eight_bit)
        return
    if not isinstance(content, str) or encoding not in _IDENTITIES:
        return
    if encoding != "binary" and (eight_bit or content.isascii()):
        return
    octets = content.encode("ascii", "surrogateescape")
    if part.get_content_maintype() == "text":
        encoding, encoded = "quoted-printable", quopri.encodestring(octets.replace(b"\r\n", b"\n"))
    else:
        encoding, encoded = "base64", base64.encodebytes(octets)
    part.set_payload(encoded.decode("ascii"))
    del part[_ENCODING]
    part[_ENCODING] = encoding
    if "MIME-Version" not in root:
        root["MIME-Version"] = "1.0"


def _in_ascii(text: str | None) -> str | None:
    return text and text.encode("ascii", "replace").decode("ascii")
