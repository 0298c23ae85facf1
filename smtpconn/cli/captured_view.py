"""What is shown of a captured mail: envelope, header, text, HTML, attachments; out of octets that anybody wrote.

Knows MIME; refuses to know HTTP and pages. Its laws: whatever the octets are, there is something to show; a name that a
mail gives to an attachment is only ever a name, with no directory, no control character and no trick of direction.
"""

from __future__ import annotations

import base64
import contextlib
import email.errors
import email.parser
import email.policy
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Protocol

_NAME = 100  # characters
_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)  # devices of Windows
_PARTS = 1_000
_LEVELS = 100  # the parser's time grows with the square of these
_MULTIPART = re.compile(rb"^content-type:\s*multipart/", re.IGNORECASE | re.MULTILINE)
_EMBEDDED = 2_000_000  # octets of an image that is put into the HTML
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_CID = re.compile(r"cid:([^\s\"'<>)]{1,200})", re.IGNORECASE)
_LINK = re.compile(r"<(?=/?link\b)", re.IGNORECASE)
# What the standard library's parser raises for a mail that was made to break it.
_FAILURES = (
    email.errors.MessageError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
)


class Captured(Protocol):
    """A captured mail, as far as it matters here."""

    sender: str
    recipients: list[str]
    content: bytes
    queue_id: str
    at: float

    @property
    def message(self) -> Message:
        """The content, parsed."""
        ...


@dataclass(frozen=True)
class Attachment:
    """A part that is neither the text nor the HTML."""

    name: str
    kind: str
    octets: bytes
    content_id: str | None = None


@dataclass
class View:
    """What is shown of one mail."""

    mail: Captured
    header: list[tuple[str, str]] = field(default_factory=list)
    text: str | None = None
    html: str | None = None
    attachments: list[Attachment] = field(default_factory=list)
    is_whole: bool = True

    @classmethod
    def of(cls, mail: Captured) -> View:
        """The view of a mail. What cannot be parsed is not there, and `is_whole` is False."""
        view = cls(mail)
        with contextlib.suppress(*_FAILURES):
            header = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(mail.content)
            view.header = [(str(name), _one_line(_text(name, value))) for name, value in header.raw_items()]
        try:
            if len(_MULTIPART.findall(mail.content)) > _LEVELS:
                raise ValueError("too many levels")
            for number, part in enumerate(_leaves(mail.message), 1):
                view._take(number, part)
        except _FAILURES:
            view.is_whole = False
        return view

    def _take(self, number: int, part: Message) -> None:
        kind = part.get_content_type()
        is_body = part.get_content_disposition() != "attachment" and part.get_filename() is None
        if is_body and kind == "text/plain" and self.text is None:
            self.text = _decoded(part)
        elif is_body and kind == "text/html" and self.html is None:
            self.html = _decoded(part)
        else:
            name = safe_name(part.get_filename(), f"part-{number}")
            given = part.get("Content-ID")
            content_id = None if given is None else str(given).strip().strip("<>")
            self.attachments.append(Attachment(name, kind, _octets(part), content_id))

    def first(self, name: str) -> str:
        """The first field of this name, or nothing."""
        return next((value for each, value in self.header if each.lower() == name.lower()), "")

    @property
    def framed_html(self) -> str:
        """The HTML with the images of the mail itself inside, and no element that asks the browser to look elsewhere.

        That nothing of it runs or loads is the matter of the headers it is served with; a `link` can make a browser
        look up a name or connect without loading anything.
        """
        images = {each.content_id: each for each in self.attachments if each.kind in _IMAGES and each.content_id}

        def embedded(found: re.Match[str]) -> str:
            image = images.get(html.unescape(found[1]))
            if image is None or len(image.octets) > _EMBEDDED:
                return found[0]
            return f"data:{image.kind};base64,{base64.b64encode(image.octets).decode('ascii')}"

        return _CID.sub(embedded, _LINK.sub("<x-", self.html or ""))

    def summary(self) -> dict[str, Any]:
        """The line of a list, in JSON types."""
        return {
            "id": self.mail.queue_id,
            "at": self.mail.at,
            "sender": self.mail.sender,
            "recipients": self.mail.recipients,
            "from": self.first("From"),
            "to": self.first("To"),
            "subject": self.first("Subject"),
            "size": len(self.mail.content),
            "attachments": len(self.attachments),
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, in JSON types; of the attachments what they are."""
        attachments = [
            {"name": each.name, "type": each.kind, "size": len(each.octets), "number": number}
            for number, each in enumerate(self.attachments, 1)
        ]
        return {
            **self.summary(),
            "header": self.header,
            "text": self.text,
            "html": self.html,
            "attachments": attachments,
            "is_whole": self.is_whole,
        }


def safe_name(given: str | None, otherwise: str) -> str:
    """A file name without a path, control and format characters, and names that a system takes for something else."""
    text = unicodedata.normalize("NFC", given or "")
    text = "".join(each for each in text if unicodedata.category(each)[0] != "C")
    text = _FORBIDDEN.sub("_", re.split(r"[\\/]", text)[-1]).strip(" .")
    if len(text) > _NAME:
        stem, dot, suffix = text.rpartition(".")
        suffix = dot + suffix[-10:] if stem else ""
        text = text[: _NAME - len(suffix)] + suffix
    if not text:
        return otherwise
    return f"_{text}" if _RESERVED.match(text) else text


def _leaves(message: Message) -> Iterator[Message]:
    """The parts that have content, in their order; a mail inside a mail is one. Without recursion."""
    left = [message]
    for _ in range(_PARTS):
        if not left:
            return
        part = left.pop()
        payload = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(payload, list):
            left.extend(each for each in reversed(payload) if isinstance(each, Message))
        else:
            yield part
    raise ValueError("too many parts")


def _octets(part: Message) -> bytes:
    payload = part.get_payload()
    if isinstance(payload, list):
        return b"\r\n".join(each.as_bytes() for each in payload if isinstance(each, Message))
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""


def _decoded(part: Message) -> str:
    octets = _octets(part)
    try:
        return octets.decode(part.get_content_charset() or "utf-8", "replace")
    except (LookupError, ValueError):
        return octets.decode("utf-8", "replace")


def _text(name: str, value: object) -> str:
    """The value of a field for people: encoded words decoded, octets above 127 as what they probably are."""
    text = str(value)
    with contextlib.suppress(UnicodeEncodeError):
        text = text.encode("ascii", "surrogateescape").decode("utf-8", "replace")
    text = "".join(text.splitlines())
    try:
        return str(email.policy.default.header_factory(name, text))
    except _FAILURES:
        return text


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)
