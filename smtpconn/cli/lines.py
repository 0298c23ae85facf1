"""One line of JSONL to an envelope and a message: octets that are given, a file, or fields to put together.

Knows the keys of a line; refuses keys that it does not know, because a misspelt one would send something else. The
law: the same line is the same mail, whenever it is put together.
"""

from __future__ import annotations

import base64
import binascii
import email.errors
import email.message
import email.policy
import email.utils
import json
import re
from pathlib import Path
from typing import Any

from smtpconn.cli.exits import EX_DATAERR, CommandError
from smtpconn.protocol.reply import safe_text

_ENVELOPE = ("id", "sender", "recipients")
_MESSAGES = ("message", "message_base64", "file")
_ADDRESSES = ("from", "to", "cc", "bcc", "reply_to")
_FIELDS = (*_ADDRESSES, "subject", "text", "html", "headers")
KEYS = (*_ENVELOPE, *_MESSAGES, *_FIELDS)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "recipients": list,
    **dict.fromkeys(_ADDRESSES, (str, list)),
    "headers": dict,
}
_POLICY = email.policy.SMTP.clone(cte_type="7bit")  # any server takes it
_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 section 3.6.8
# What `email` raises for a header that it does not understand.
_FAILURES = (email.errors.MessageError, ValueError, LookupError, TypeError, AttributeError)


class Line:
    """One line. `sender` and `recipients` are None and () where it names none; `id` is its own name for the mail.

    Raises:
        CommandError: it is no JSON object of the keys that are documented. The text quotes nothing but keys.
    """

    def __init__(self, octets: bytes, directory: Path) -> None:
        self._octets = octets
        self._directory = directory
        try:
            data = json.loads(octets)
        except (ValueError, RecursionError):
            raise _wrong("this is not JSON") from None
        if not isinstance(data, dict):
            raise _wrong("this is no JSON object")
        self._data = data
        self._check()
        self.id: str | None = data.get("id")
        self.sender: str | None = data.get("sender")
        self.recipients: tuple[str, ...] = tuple(data.get("recipients", ()))
        self._file = self._read_file()

    def _check(self) -> None:
        data = self._data
        for key, value in data.items():
            if key not in KEYS:
                raise _wrong(f"the key {safe_text(key)!r:.60} is unknown")
            if not isinstance(value, _KINDS.get(key, str)):
                raise _wrong(f"the value of {key} is of a wrong type")
            members = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
            if not all(isinstance(member, str) for member in members):
                raise _wrong(f"the value of {key} has a member that is no text")
        given = [key for key in _MESSAGES if key in data]
        fields = [key for key in _FIELDS if key in data]
        if len(given) > 1 or (given and fields):
            raise _wrong(f"{given[0]} and {(given[1:] or fields)[0]} are two messages")
        if not given and not fields:
            raise _wrong(f"there is no message: one of {', '.join(_MESSAGES)}, or fields")

    def _read_file(self) -> bytes | None:
        if "file" not in self._data:
            return None
        try:
            return self._directory.joinpath(str(self._data["file"])).read_bytes()
        except (OSError, ValueError) as error:
            raise _wrong(f"file cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None

    @property
    def identity(self) -> bytes:
        """What makes this mail this mail: its id, else all of its octets."""
        if self.id is not None:
            return b"id\0" + self.id.encode("utf-8", "surrogatepass")
        return self._octets if self._file is None else self._octets + b"\0" + self._file

    def message(self, key: str) -> tuple[bytes, bool]:
        """The octets, and whether its header needs SMTPUTF8. `key`: what a Message-ID is made of."""
        data = self._data
        if self._file is not None:
            return self._file, False
        if "message" in data:
            return data["message"].encode("utf-8", "replace"), False
        if "message_base64" in data:
            try:
                return base64.b64decode(data["message_base64"], validate=True), False
            except (binascii.Error, ValueError):
                raise _wrong("message_base64 is not base64") from None
        try:
            return self._composed(key)
        except _FAILURES as error:
            raise _wrong(f"the fields make no message: {type(error).__name__}: {safe_text(str(error))[:100]}") from None

    def _composed(self, key: str) -> tuple[bytes, bool]:
        data = self._data
        found = email.message.EmailMessage(policy=_POLICY)
        for name in _ADDRESSES:
            if name in data:
                value = data[name]
                header = name.replace("_", "-").title()
                found[header] = value if isinstance(value, str) else ", ".join(value)
        if "subject" in data:
            found["Subject"] = data["subject"]
        for name, value in data.get("headers", {}).items():
            if not _NAME.fullmatch(name):
                raise ValueError("a name of headers is none of a header field")
            found[name] = value
        if "Date" not in found:
            found["Date"] = email.utils.localtime()
        if "Message-ID" not in found:  # the same in every run: a reader of both copies of an UNKNOWN mail sees one
            found["Message-ID"] = f"<{key}@smtpconn.invalid>"
        if "text" in data or "html" not in data:
            found.set_content(data.get("text", ""))
            if "html" in data:
                found.add_alternative(data["html"], subtype="html")
        else:
            found.set_content(data["html"], subtype="html")
        international = not all(
            address.addr_spec.isascii() for name in _ADDRESSES for address in _addresses(found, name)
        )
        return found.as_bytes(policy=_POLICY.clone(utf8=True) if international else _POLICY), international


def _addresses(message: email.message.EmailMessage, name: str) -> tuple[Any, ...]:
    header: Any = message[name.replace("_", "-")]
    return () if header is None else header.addresses


def _wrong(text: str) -> CommandError:
    return CommandError(EX_DATAERR, text)
